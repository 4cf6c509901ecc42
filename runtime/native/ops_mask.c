/* What is hidden of the root, or cannot be written: the last of its mounts, when it is the process's own root. */
#include <fcntl.h>
#include <sys/stat.h>

#include "inroot.h"
#include "mounts.h"
#include "sys.h"

/* Another mount of the one at *first, which is attached as it is the first time: then it can be copied. */
static int next_of(int first, bool *attached)
{
	bool copy = *attached;
	*attached = true;
	return copy ? sys_open_tree(first, "", BIND_TREE_FLAGS | AT_EMPTY_PATH) : dup(first);
}

/* Cover a directory with the shared empty tmpfs. */
static int mask_directory(struct child *c, int target, const struct op *op, struct fault *f)
{
	const uint64_t attr = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	if (c->empty < 0)
		c->empty = new_mount("tmpfs", op, attr, "", f);
	if (c->empty < 0)
		return -1;
	AUTOFD tree = next_of(c->empty, &c->empty_attached);
	return tree < 0 || move_onto(tree, target) < 0 ? fail(f, op, "move_mount", op->a[0].s.p) : 0;
}

/* A missing target needs no mask. The rootfs may have swapped its /dev/null (CVE-2025-31133): the host's is used. */
int op_mask(struct child *c, const struct op *op, struct fault *f)
{
	const char *path = op->a[0].s.p;
	AUTOFD target = in_root(c->root, path, O_PATH);
	struct stat st;
	if (target < 0 || fstat(target, &st) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : fail(f, op, "openat2", path);
	if (S_ISDIR(st.st_mode))
		return mask_directory(c, target, op, f);
	if (c->null < 0)
		return fail_as(f, op, ENODEV, "verify", "/dev/null");
	AUTOFD tree = next_of(c->null, &c->null_attached);
	return tree < 0 || move_onto(tree, target) < 0 ? fail(f, op, "move_mount", path) : 0;
}

/* A copy with RDONLY added is put over the path; what else was set on the mounts (nosuid, nodev) stays. */
int op_readonly(struct child *c, const struct op *op, struct fault *f)
{
	const char *path = op->a[0].s.p;
	AUTOFD target = in_root(c->root, path, O_PATH);
	if (target < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : fail(f, op, "openat2", path);
	AUTOFD tree = sys_open_tree(target, "", BIND_TREE_FLAGS | AT_EMPTY_PATH | AT_RECURSIVE);
	if (tree < 0)
		return fail(f, op, "open_tree", path);
	if (set_attr(tree, MOUNT_ATTR_RDONLY, 0, true) < 0)
		return fail(f, op, "mount_setattr", path);
	if (move_onto(tree, target) < 0)
		return fail(f, op, "move_mount", path);
	return 0;
}
