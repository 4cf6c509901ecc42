/* What is changed of mounts: id maps, attributes, propagation. */
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "inroot.h"
#include "mounts.h"
#include "sys.h"

enum { IDMAP_RECURSIVE = 1, MOUNTATTR_RECURSIVE = 1 };

static int mount_setattr(int mount, const struct sys_mount_attr *attr, bool recursive)
{
	return sys_mount_setattr(mount, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), attr);
}

int set_attr(int mount, uint64_t set, uint64_t clr, bool recursive)
{
	struct sys_mount_attr attr = {.attr_set = set, .attr_clr = clr};
	if (!set && !clr)
		return 0;
	/* the time attributes are a field, not bits: any change must clear the whole field, mount_setattr(2) */
	if (set & MOUNT_ATTR__ATIME || clr & MOUNT_ATTR__ATIME)
		attr.attr_clr |= MOUNT_ATTR__ATIME;
	return mount_setattr(mount, &attr, recursive);
}

int set_propagation(int mount, uint64_t propagation)
{
	struct sys_mount_attr attr = {.propagation = propagation & PROPAGATION};
	return attr.propagation ? mount_setattr(mount, &attr, propagation & WHARF_MS_REC) : 0;
}

/* "PID/file" below proc. */
static void proc_path(char path[48], pid_t pid, const char *file)
{
	struct out o = {path, 0, 47};
	out_u64(&o, (uint64_t)pid);
	out_text(&o, "/");
	out_text(&o, file);
	path[o.n] = '\0';
}

static int write_map(int proc, pid_t pid, const char *file, const char *map, const struct op *op, struct fault *f)
{
	char path[48];
	proc_path(path, pid, file);
	return write_small(proc, path, map) < 0 ? fail(f, op, "write", file) : 0;
}

static int map_and_open(pid_t pid, const struct op *op, struct fault *f)
{
	char path[48];
	AUTOFD proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (proc < 0)
		return fail(f, op, "open", "/proc");
	if (write_map(proc, pid, "uid_map", op->a[0].s.p, op, f) < 0 ||
	    write_map(proc, pid, "gid_map", op->a[1].s.p, op, f) < 0)
		return -1;
	proc_path(path, pid, "ns/user");
	int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? fail(f, op, "open", "ns/user") : fd;
}

/* A namespace needs a process to be born with. This one waits to be killed, and no signal tells of its end. */
int open_userns(const struct op *op, struct fault *f)
{
	int pidfd = -1, status;
	struct sys_clone_args args = {.flags = CLONE_NEWUSER | CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&pidfd};
	pid_t pid = sys_clone3(&args);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		for (;;)
			pause();
	}
	if (pid < 0)
		return fail(f, op, "clone3", "user namespace");
	int fd = map_and_open(pid, op, f);
	sys_pidfd_signal(pidfd, SIGKILL);
	while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		;
	close_fd(&pidfd);
	return fd;
}

int apply_idmap(int mount, int userns, const struct op *idmap, const char *path, struct fault *f)
{
	struct sys_mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)userns};
	if (mount_setattr(mount, &attr, idmap->a[2].u & IDMAP_RECURSIVE) < 0)
		return fail(f, idmap, "mount_setattr", path);
	return 0;
}

/* For a MOUNT, which the child makes: of a BIND the parent took care. */
int op_idmap(struct child *c, const struct op *op, struct fault *f)
{
	(void)f;
	c->idmap = *op;
	c->userns = c->trees[c->next_tree++];
	return 0;
}

int op_mountattr(struct child *c, const struct op *op, struct fault *f)
{
	const char *path = op->a[0].s.p;
	AUTOFD target = in_root(c->root, path, O_PATH);
	if (target < 0)
		return fail(f, op, "openat2", path);
	if (set_attr(target, op->a[1].u, op->a[2].u, op->a[3].u & MOUNTATTR_RECURSIVE) < 0)
		return fail(f, op, "mount_setattr", path); /* EINVAL: no mount is there */
	return 0;
}

int op_propagation(struct child *c, const struct op *op, struct fault *f)
{
	const char *path = op->a[0].s.p;
	AUTOFD target = in_root(c->root, path, O_PATH);
	if (target < 0)
		return fail(f, op, "openat2", path);
	return set_propagation(target, op->a[1].u) < 0 ? fail(f, op, "propagation", path) : 0;
}
