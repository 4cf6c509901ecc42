/* What the parent opens in the host's mount namespace, before there is a child: the root and the sources of binds as
 * detached copies, and a user namespace for each id map. */
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>

#include "mounts.h"
#include "sys.h"

enum { BIND_RECURSIVE = 1, BIND_ATTR_RECURSIVE = 4 };

/* Parent: one detached copy, with its attributes, so that a user namespace needs no access to the source's path. */
static int open_bind(const struct op *op, const struct op *idmap, int userns, struct fault *f)
{
	const char *source = op->a[0].s.p;
	uint64_t flags = op->a[5].u;
	AUTOFD tree = sys_open_tree(AT_FDCWD, source, BIND_TREE_FLAGS | (flags & BIND_RECURSIVE ? AT_RECURSIVE : 0));
	if (tree < 0)
		return fail(f, op, "open_tree", source);
	if (set_propagation(tree, op->a[4].u) < 0)
		return fail(f, op, "propagation", source);
	if (set_attr(tree, op->a[2].u, op->a[3].u, flags & BIND_ATTR_RECURSIVE) < 0)
		return fail(f, op, "mount_setattr", source);
	if (userns >= 0 && apply_idmap(tree, userns, idmap, source, f) < 0)
		return -1;
	/* programs trust what /proc says: nothing else may stand there (CVE-2019-19921) */
	struct statfs fs;
	if (strcmp(op->a[1].s.p, "/proc") == 0 && (fstatfs(tree, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC))
		return fail_as(f, op, EPERM, "fstatfs", "only a proc file system can be bound at /proc");
	return take_fd(&tree);
}

int open_trees(const struct plan *plan, int *trees, unsigned *n, struct fault *f)
{
	struct cursor c = {0};
	struct op op, idmap = {0};
	int userns = -1; /* of the IDMAP just before; borrowed from trees */
	trees[0] = -1;
	*n = 1;
	while (plan_next(plan, &c, &op)) {
		int fd = 0;
		if (op.code == OP_ROOT)
			fd = trees[0] = open_root(plan, &op, &idmap, userns, f);
		else if (op.code == OP_BIND)
			fd = trees[*n] = open_bind(&op, &idmap, userns, f);
		else if (op.code == OP_IDMAP)
			fd = trees[*n] = open_userns(&op, f);
		if (fd < 0)
			return -1;
		*n += op.code == OP_BIND || op.code == OP_IDMAP;
		userns = op.code == OP_IDMAP ? fd : -1;
		idmap = op;
	}
	return 0;
}
