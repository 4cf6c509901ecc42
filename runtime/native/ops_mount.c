#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "inroot.h"
#include "mounts.h"
#include "sys.h"

enum { MOUNT_CREATE = 1, MOUNT_COPY_UP = 2, BIND_FILE = 2 };

int move_onto(int tree, int target)
{
	return sys_move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* The child's namespace stops telling the host of its mounts; the root's copy is attached over its "/", where host
 * paths do not see it: a lookup of "/" starts below what is mounted there. */
static int op_root(struct child *c, const struct op *op, struct fault *f)
{
	struct sys_mount_attr attr = {.propagation = op->a[1].u & PROPAGATION};
	if (!attr.propagation)
		attr.propagation = 1 << 19; /* MS_SLAVE */
	if (sys_mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, &attr) < 0)
		return fail(f, op, "propagation", "/");
	c->root = c->trees[0];
	c->userns = -1; /* its maps were for the copy, which the parent made */
	/* hooks find the container's mounts below the root's own path */
	bool hooks = has_hooks(c->plan, 1u << HOOK_PRESTART | 1u << HOOK_CREATE_RUNTIME | 1u << HOOK_CREATE_CONTAINER);
	unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | (hooks ? MOVE_MOUNT_T_SYMLINKS : 0);
	if (sys_move_mount(c->root, "", AT_FDCWD, hooks ? op->a[0].s.p : "/", flags) < 0)
		return fail(f, op, "move_mount", op->a[0].s.p);
	AUTOFD null = open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	if (null >= 0 && fstat(null, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
		c->null = take_fd(&null);
	return 0;
}

/* Give comma-separated options to a file system context. */
static int configure(int fs, const struct op *op, struct fault *f)
{
	char data[4096];
	if (op->a[4].s.n >= sizeof data)
		return fail_as(f, op, E2BIG, "fsconfig", op->a[2].s.p);
	copy_text(data, sizeof data, op->a[4].s.p);
	char *next;
	for (char *one = data; one && *one; one = next) {
		char *value = strpbrk(one, "=,");
		value = value && *value == '=' ? value : NULL;
		if (value)
			*value++ = '\0';
		/* commas inside of quotes are the value's: SELinux contexts */
		char *closing = value && *value == '"' ? strchr(value + 1, '"') : NULL;
		next = strchr(closing ? closing : value ? value : one, ',');
		if (next)
			*next++ = '\0';
		if (closing) {
			*closing = '\0';
			value++;
		}
		if (*one && sys_fsconfig(fs, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, one, value, 0) < 0)
			return fail(f, op, "fsconfig", one);
	}
	return 0;
}

int new_mount(const char *fstype, const struct op *op, uint64_t attr, const char *mode, struct fault *f)
{
	AUTOFD fs = sys_fsopen(fstype, FSOPEN_CLOEXEC);
	if (fs < 0)
		return fail(f, op, "fsopen", fstype);
	if (*mode && sys_fsconfig(fs, FSCONFIG_SET_STRING, "mode", mode, 0) < 0)
		return fail(f, op, "fsconfig", "mode");
	if (op->code == OP_MOUNT) {
		const char *source = op->a[1].s.p;
		if (*source && sys_fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0) < 0)
			return fail(f, op, "fsconfig", source);
		if (configure(fs, op, f) < 0)
			return -1;
	}
	const char *where = op->code == OP_MOUNT ? op->a[2].s.p : fstype;
	if (sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return fail(f, op, "fsconfig", where);
	int mount = sys_fsmount(fs, FSMOUNT_CLOEXEC, (unsigned)attr);
	return mount < 0 ? fail(f, op, "fsmount", where) : mount;
}

/* The mode of the directory that a tmpfs covers, in octal, where it is there; what the options say comes after it. */
static void mode_of(int target, char mode[8])
{
	struct stat st;
	struct out o = {mode, 0, 7};
	if (fstat(target, &st) == 0)
		for (int shift = 9; shift >= 0; shift -= 3)
			out_u64(&o, st.st_mode >> shift & 7);
	mode[o.n] = '\0';
}

static int op_mount(struct child *c, const struct op *op, struct fault *f)
{
	const char *fstype = op->a[0].s.p, *path = op->a[2].s.p;
	char mode[8] = "";
	uint64_t flags = op->a[5].u, attr = op->a[3].u;
	AUTOFD target = in_root(c->root, path, O_PATH | O_DIRECTORY);
	if (target >= 0 && strcmp(fstype, "tmpfs") == 0)
		mode_of(target, mode);
	if (target < 0 && errno == ENOENT && flags & MOUNT_CREATE)
		target = make_in_root(c->root, path, false);
	if (target < 0)
		return fail(f, op, "openat2", path);
	/* it must be writable for the copy */
	uint64_t later = flags & MOUNT_COPY_UP ? attr & MOUNT_ATTR_RDONLY : 0;
	AUTOFD mount = new_mount(fstype, op, attr & ~later, mode, f);
	if (mount < 0)
		return -1;
	if (flags & MOUNT_COPY_UP && copy_up(target, mount, op, f) < 0)
		return -1;
	if (set_attr(mount, later, 0, false) < 0)
		return fail(f, op, "mount_setattr", path);
	if (c->userns >= 0 && apply_idmap(mount, c->userns, &c->idmap, path, f) < 0)
		return -1;
	c->userns = -1;
	if (move_onto(mount, target) < 0)
		return fail(f, op, "move_mount", path);
	return 0;
}

static int op_bind(struct child *c, const struct op *op, struct fault *f)
{
	const char *path = op->a[1].s.p;
	int tree = c->trees[c->next_tree++];
	c->userns = -1;
	AUTOFD target = make_in_root(c->root, path, op->a[5].u & BIND_FILE);
	if (target < 0)
		return fail(f, op, "openat2", path);
	struct stat from, to;
	if (fstat(tree, &from) < 0 || fstat(target, &to) < 0)
		return fail(f, op, "fstat", path);
	if (S_ISDIR(from.st_mode) != S_ISDIR(to.st_mode))
		return fail_as(f, op, S_ISDIR(to.st_mode) ? EISDIR : ENOTDIR, "move_mount", path);
	if (move_onto(tree, target) < 0)
		return fail(f, op, "move_mount", path);
	return 0;
}

static bool is_device_path(const char *path)
{
	return strncmp(path, "/dev/", 5) == 0;
}

/* mknod is refused in a user namespace: the host's own node, if it is that device, is bound over an empty file. */
static int bind_device(int dir, const char *name, const struct op *op, dev_t dev, struct fault *f)
{
	const char *path = op->a[0].s.p;
	mode_t type = (mode_t)op->a[1].u & S_IFMT;
	AUTOFD tree = sys_open_tree(AT_FDCWD, path, BIND_TREE_FLAGS | AT_SYMLINK_NOFOLLOW);
	struct stat st;
	if (tree < 0 || fstat(tree, &st) < 0 || (st.st_mode & S_IFMT) != type || st.st_rdev != dev)
		return fail_as(f, op, EPERM, "mknodat", path);
	if (mknodat(dir, name, S_IFREG | 0644, 0) < 0 && errno != EEXIST)
		return fail(f, op, "mknodat", path);
	AUTOFD target = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0 || move_onto(tree, target) < 0)
		return fail(f, op, "move_mount", path);
	return 0;
}

static int op_devnode(struct child *c, const struct op *op, struct fault *f)
{
	const char *path = op->a[0].s.p;
	mode_t mode = (mode_t)op->a[1].u;
	dev_t dev = makedev((unsigned)op->a[2].u, (unsigned)op->a[3].u);
	char name[256];
	AUTOFD dir = parent_in_root(c->root, path, name);
	if (dir < 0)
		return fail(f, op, "openat2", path);
	if (mknodat(dir, name, mode, S_ISCHR(mode) || S_ISBLK(mode) ? dev : 0) < 0) {
		int err = errno;
		struct stat st;
		if (err == EPERM && !c->pivoted)
			return bind_device(dir, name, op, dev, f);
		if (err != EEXIST || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return fail_as(f, op, err, "mknodat", path);
		if (S_ISREG(st.st_mode) && !c->pivoted &&
		    is_device_path(path)) /* an image that was unpacked without the right to make nodes */
			return bind_device(dir, name, op, dev, f);
		if ((st.st_mode & S_IFMT) != (mode & S_IFMT) || st.st_rdev != dev)
			return fail_as(f, op, err, "mknodat", path);
	}
	uid_t uid = (uid_t)op->a[4].u;
	gid_t gid = (gid_t)op->a[5].u;
	if ((uid || gid) && fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(f, op, "fchownat", path);
	return 0;
}

static int op_symlink(struct child *c, const struct op *op, struct fault *f)
{
	const char *text = op->a[0].s.p, *path = op->a[1].s.p;
	char name[256], old[PATH_MAX];
	AUTOFD dir = parent_in_root(c->root, path, name);
	if (dir < 0)
		return fail(f, op, "openat2", path);
	if (symlinkat(text, dir, name) == 0)
		return 0;
	int err = errno;
	ssize_t n = err == EEXIST ? readlinkat(dir, name, old, sizeof old) : -1;
	if (n == (ssize_t)op->a[0].s.n && memcmp(old, text, (size_t)n) == 0)
		return 0;
	/* an image's own, in the place of ours: only in a root that has nothing mounted at /dev */
	if (n >= 0 && is_device_path(path) && unlinkat(dir, name, 0) == 0 && symlinkat(text, dir, name) == 0)
		return 0;
	return fail_as(f, op, err, "symlinkat", path);
}

/* The host's root is stacked over the new one, and a ".." in a link that reaches the top would lead into it: so it goes
 * before anything else is looked up. What masks is copied first. */
static int op_pivot(struct child *c, const struct op *op, struct fault *f)
{
	struct op cwd;
	if (hooks_before_pivot(c, f) < 0)
		return -1;
	if (plan_find(c->plan, OP_CWD, &cwd) && cwd.a[0].s.p[0] == '/') {
		AUTOFD made = make_in_root(c->root, cwd.a[0].s.p, false);
		(void)made; /* CWD itself will tell */
	}
	if (set_labels(c->plan, f) < 0)
		return -1;
	AUTOFD null = c->null < 0 ? -1 : sys_open_tree(c->null, "", BIND_TREE_FLAGS | AT_EMPTY_PATH);
	close_fd(&c->null);
	c->null = take_fd(&null);
	if (fchdir(c->root) < 0)
		return fail(f, op, "fchdir", "root");
	if (sys_pivot_root(".", ".") < 0)
		return fail(f, op, "pivot_root", "root");
	c->pivoted = true;
	if (sys_umount2(".", WHARF_MNT_DETACH) < 0)
		return fail(f, op, "umount2", "the host's root");
	return chdir("/") < 0 ? fail(f, op, "chdir", "/") : 0;
}

static int op_rootattr(struct child *c, const struct op *op, struct fault *f)
{
	if (set_attr(c->root, op->a[0].u, 0, false) < 0)
		return fail(f, op, "mount_setattr", "/");
	if (set_propagation(c->root, op->a[1].u) < 0)
		return fail(f, op, "propagation", "/");
	return 0;
}

static op_fn *const mount_ops[OP_COUNT] = {
	[OP_ROOT] = op_root,           [OP_MOUNT] = op_mount,
	[OP_BIND] = op_bind,           [OP_DEVNODE] = op_devnode,
	[OP_SYMLINK] = op_symlink,     [OP_HOSTNAME] = op_hostname,
	[OP_DOMAINNAME] = op_hostname, [OP_SYSCTL] = op_sysctl,
	[OP_LOOPBACK] = op_loopback,   [OP_PIVOT] = op_pivot,
	[OP_MASK] = op_mask,           [OP_READONLY] = op_readonly,
	[OP_ROOTATTR] = op_rootattr,   [OP_IDMAP] = op_idmap,
	[OP_MOUNTATTR] = op_mountattr, [OP_PROPAGATION] = op_propagation,
	[OP_CONSOLE] = op_console,
};

/* Whether the operation works on c->root, which ROOT sets. */
static bool needs_root(uint16_t code)
{
	return code != OP_ROOT && code != OP_IDMAP && code != OP_HOSTNAME && code != OP_DOMAINNAME &&
	       code != OP_LOOPBACK && code != OP_SYSCTL;
}

int run_mount_ops(struct child *c, struct fault *f)
{
	struct cursor at = {0};
	struct op op;
	while (plan_next(c->plan, &at, &op)) {
		if (!mount_ops[op.code])
			continue;
		if (needs_root(op.code) && c->root < 0)
			return fail_as(f, &op, EINVAL, "plan", "no ROOT before this operation");
		if (mount_ops[op.code](c, &op, f) < 0)
			return -1;
	}
	if (c->root >= 0 && !c->pivoted)
		return fail_as(f, NULL, EINVAL, "plan", "ROOT without PIVOT");
	return 0;
}
