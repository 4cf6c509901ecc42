/* What the operations on mounts share. */
#ifndef WHARF_MOUNTS_H
#define WHARF_MOUNTS_H

#include "launch.h"
#include "sys.h"

/* <sys/mount.h> has these, but clashes with <linux/mount.h> in some C libraries */
enum { PROPAGATION = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 };
#define WHARF_MS_REC 0x4000u

/* Attributes (MOUNT_ATTR_*) and propagation (MS_*, with MS_REC) of a mount by its fd; nothing to do is fine. 0 or -1.
 */
int set_attr(int mount, uint64_t set, uint64_t clr, bool recursive);
int set_propagation(int mount, uint64_t propagation);

/* ops_mount.c */
enum { BIND_TREE_FLAGS = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC };
int move_onto(int tree, int target);
/* A mount that is attached nowhere yet; owned, or -1 with *f. */
MUST_CHECK int new_mount(const char *fstype, const struct op *op, uint64_t attr, const char *mode, struct fault *f);

/* ops_mask.c */
op_fn op_mask, op_readonly;

/* ops_attr.c */
op_fn op_idmap, op_mountattr, op_propagation;
/* A user namespace with IDMAP's maps, in which nothing runs. Owned, or -1 with *f. */
MUST_CHECK int open_userns(const struct op *op, struct fault *f);
/* Give a mount that is attached nowhere the maps of that namespace. path: for the fault. */
MUST_CHECK int apply_idmap(int mount, int userns, const struct op *idmap, const char *path, struct fault *f);

/* ops_root.c: the detached mount that becomes the container's root, mapped when userns is not -1. Owned, or -1 with *f.
 */
MUST_CHECK int open_root(const struct plan *plan, const struct op *op, const struct op *idmap, int userns,
			 struct fault *f);

/* copyup.c: all that is in the directory from, with owners and modes, into the directory to. Both may be O_PATH. */
MUST_CHECK int copy_up(int from, int to, const struct op *op, struct fault *f);

#endif
