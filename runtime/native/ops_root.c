/* The container's root as a detached mount: a copy of a directory, or an overlay on the layers of an image. Made by the
 * parent, in the host's mount and user namespaces: a new user namespace may not, and nothing is left to unmount. */
#include <fcntl.h>
#include <sys/stat.h>

#include "mounts.h"
#include "sys.h"

enum { TREE_FLAGS = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE };

static int set_string(int fs, const char *key, const char *value)
{
	return sys_fsconfig(fs, FSCONFIG_SET_STRING, key, value, 0);
}

/* The layers by their names in the present directory, the highest first, a colon between. As one text while it fits:
 * before Linux 6.5 there is no other way, and what does not know "lowerdir+" says so only at the mount. */
static int set_layers(int fs, const struct op *op, struct fault *f)
{
	char text[4096];
	if (op->a[1].s.n < 256)
		return set_string(fs, "lowerdir", op->a[1].s.p) < 0 ? fail(f, op, "fsconfig", "lowerdir") : 0;
	if (op->a[1].s.n >= sizeof text)
		return fail_as(f, op, E2BIG, "fsconfig", "lowerdir");
	copy_text(text, sizeof text, op->a[1].s.p);
	char *rest = text;
	for (char *name = strsep(&rest, ":"); name; name = strsep(&rest, ":"))
		if (set_string(fs, "lowerdir+", name) < 0)
			return fail(f, op, "fsconfig", name);
	return 0;
}

/* Layers are a stranger's: nofollow is what keeps a forged redirect from showing other directories of them. */
static int configure_overlay(int fs, const struct op *op, struct fault *f)
{
	static const char *const options[][2] = {{"source", "overlay"},
						 {"index", "off"},
						 {"metacopy", "off"},
						 {"redirect_dir", "nofollow"},
						 {"xino", "auto"}};
	for (size_t i = 0; i < COUNT(options); i++)
		if (set_string(fs, options[i][0], options[i][1]) < 0)
			return fail(f, op, "fsconfig", options[i][0]);
	if (set_layers(fs, op, f) < 0)
		return -1;
	if (set_string(fs, "upperdir", op->a[2].s.p) < 0 || set_string(fs, "workdir", op->a[3].s.p) < 0)
		return fail(f, op, "fsconfig", op->a[2].s.p);
	if (sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		return 0;
	int err = errno;
	char why[sizeof f->path] = "";
	if (read(fs, why, sizeof why - 1) <= 0) /* the kernel's own words, "e overlay: ..." */
		copy_text(why, sizeof why, op->a[2].s.p);
	return fail_as(f, op, err, "overlay", why);
}

static int open_overlay(const struct op *op, struct fault *f)
{
	AUTOFD back = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (back < 0 || chdir(op->a[0].s.p) < 0)
		return fail(f, op, "chdir", op->a[0].s.p);
	AUTOFD fs = sys_fsopen("overlay", FSOPEN_CLOEXEC);
	int done = fs < 0 ? fail(f, op, "fsopen", "overlay") : configure_overlay(fs, op, f);
	if (fchdir(back) < 0)
		return fail(f, op, "fchdir", ".");
	if (done < 0)
		return -1;
	AUTOFD tree = sys_fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (tree < 0)
		return fail(f, op, "fsmount", "overlay");
	return take_fd(&tree);
}

static int open_directory(const struct op *op, struct fault *f)
{
	const char *path = op->a[0].s.p;
	AUTOFD tree = sys_open_tree(AT_FDCWD, path, TREE_FLAGS);
	struct stat st;
	if (tree < 0 || fstat(tree, &st) < 0)
		return fail(f, op, "open_tree", path);
	if (!S_ISDIR(st.st_mode))
		return fail_as(f, op, ENOTDIR, "open_tree", path);
	return take_fd(&tree);
}

int open_root(const struct plan *plan, const struct op *op, const struct op *idmap, int userns, struct fault *f)
{
	struct op overlay;
	AUTOFD tree = plan_find(plan, OP_OVERLAY, &overlay) ? open_overlay(&overlay, f) : open_directory(op, f);
	if (tree < 0)
		return -1;
	if (set_propagation(tree, op->a[1].u) < 0)
		return fail(f, op, "propagation", op->a[0].s.p);
	if (userns >= 0 && apply_idmap(tree, userns, idmap, op->a[0].s.p, f) < 0)
		return -1;
	return take_fd(&tree);
}
