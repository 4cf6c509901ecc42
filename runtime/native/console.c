/* Terminals. A pty is made in the container's own devpts, and nothing about it goes by a path once that was opened:
 * the master opens the slave, and /dev/console is a copy of the slave's own mount (CVE-2025-52565). */
#include "console.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "inroot.h"
#include "launch.h"
#include "sys.h"

enum { SLAVE_MAJOR_FIRST = 136, SLAVE_MAJOR_LAST = 143 }; /* Documentation/admin-guide/devices.txt */

static bool is_devpts(int fd)
{
	struct statfs fs;
	return fstatfs(fd, &fs) == 0 && fs.f_type == DEVPTS_SUPER_MAGIC;
}

/* The multiplexer of the devpts at /dev/pts. The directory is verified before anything in it is opened: an image's
 * own "ptmx" could be any device. */
static int open_master(int root, const struct op *op, struct fault *f)
{
	static const char place[] = "/dev/pts";
	struct open_how how = {.flags = O_RDWR | O_NOCTTY | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
	struct stat st;
	AUTOFD dir = in_root(root, place, O_PATH | O_DIRECTORY);
	if (dir < 0)
		return fail(f, op, "openat2", place);
	if (!is_devpts(dir))
		return fail_as(f, op, ENODEV, "verify", "/dev/pts is no devpts");
	AUTOFD master = sys_openat2(dir, "ptmx", &how);
	if (master < 0)
		return fail(f, op, "openat2", "/dev/pts/ptmx");
	if (fstat(master, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(5, 2))
		return fail_as(f, op, ENODEV, "verify", "/dev/pts/ptmx");
	return take_fd(&master);
}

int open_peer(int master)
{
	return ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

static bool is_slave(int fd)
{
	struct stat st;
	return is_devpts(fd) && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && major(st.st_rdev) >= SLAVE_MAJOR_FIRST &&
	       major(st.st_rdev) <= SLAVE_MAJOR_LAST;
}

int open_pty(int root, const struct plan *plan, struct pty *pty, struct fault *f)
{
	const int unlocked = 0;
	struct op op, user;
	*pty = (struct pty){-1, -1};
	plan_find(plan, OP_CONSOLE, &op);
	AUTOFD master = open_master(root, &op, f);
	if (master < 0)
		return -1;
	if (ioctl(master, TIOCSPTLCK, &unlocked) < 0)
		return fail(f, &op, "TIOCSPTLCK", "");
	AUTOFD slave = open_peer(master);
	if (slave < 0)
		return fail(f, &op, "TIOCGPTPEER", "");
	if (!is_slave(slave))
		return fail_as(f, &op, ENODEV, "verify", "the slave");
	if ((op.a[0].u || op.a[1].u) && resize_pty(master, op.a[0].u, op.a[1].u) < 0)
		return fail(f, &op, "TIOCSWINSZ", "");
	/* so that its user can open it again by its name */
	if (plan_find(plan, OP_USER, &user) && user.a[0].u && fchown(slave, (uid_t)user.a[0].u, (gid_t)-1) < 0)
		return fail(f, &op, "fchown", "the slave");
	pty->master = take_fd(&master);
	pty->slave = take_fd(&slave);
	return 0;
}

int resize_pty(int master, uint64_t rows, uint64_t columns)
{
	const struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
	return ioctl(master, TIOCSWINSZ, &size);
}

bool is_master(int fd)
{
	unsigned number;
	return ioctl(fd, TIOCGPTN, &number) == 0;
}

/* Put the slave on /dev/console. What is there is never followed, opened, or given to anybody (CVE-2026-88264). */
static int bind_console(int root, int slave, const struct op *op, struct fault *f)
{
	static const char path[] = "/dev/console";
	char name[256];
	struct stat st;
	AUTOFD dir = parent_in_root(root, path, name);
	if (dir < 0)
		return fail(f, op, "openat2", "/dev");
	if (mknodat(dir, name, S_IFREG | 0600, 0) < 0 && errno != EEXIST)
		return fail(f, op, "mknodat", path);
	AUTOFD target = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0 || fstat(target, &st) < 0)
		return fail(f, op, "openat", path);
	if (S_ISLNK(st.st_mode) || S_ISDIR(st.st_mode))
		return fail_as(f, op, S_ISDIR(st.st_mode) ? EISDIR : ELOOP, "verify", path);
	AUTOFD tree = sys_open_tree(slave, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	if (tree < 0)
		return fail(f, op, "open_tree", path);
	if (!is_slave(tree))
		return fail_as(f, op, ENODEV, "verify", path);
	if (sys_move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return fail(f, op, "move_mount", path);
	return 0;
}

int op_console(struct child *c, const struct op *op, struct fault *f)
{
	const char word = LAUNCH_TERMINAL;
	struct pty pty;
	if (open_pty(c->root, c->plan, &pty, f) < 0)
		return -1;
	AUTOFD master = pty.master;
	if (bind_console(c->root, pty.slave, op, f) <
	    0) /* the slave is the process's, which closes it by close_range */
		return -1;
	for (int i = 0; i < 3; i++)
		c->fds.stdio[i] = pty.slave;
	return send_fd(c->sync, &word, 1, master) < 0 ? fail(f, op, "send", "the master") : 0;
}

int take_terminal(const struct plan *plan, struct fault *f)
{
	struct op op;
	if (!plan_find(plan, OP_CONSOLE, &op))
		return 0;
	if (setsid() < 0 && errno != EPERM) /* EPERM: it leads one already */
		return fail(f, &op, "setsid", "");
	return ioctl(STDIN_FILENO, TIOCSCTTY, 0) < 0 ? fail(f, &op, "TIOCSCTTY", "") : 0;
}

int send_fd(int sock, const void *data, size_t size, int fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof fd)];
	} control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)}};
	struct iovec iov = {(void *)(uintptr_t)data, size};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
	memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
	return sendmsg(sock, &msg, MSG_NOSIGNAL) == (ssize_t)size ? 0 : -1;
}

ssize_t recv_fd(int sock, void *data, size_t size, int *fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof *fd)];
	} control;
	struct iovec iov = {data, size};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
	ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	struct cmsghdr *h = n < 0 ? NULL : CMSG_FIRSTHDR(&msg);
	if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS && h->cmsg_len == CMSG_LEN(sizeof *fd)) {
		close_fd(fd);
		memcpy(fd, CMSG_DATA(h), sizeof *fd);
	}
	return n;
}

int send_terminal(int sock, int master, struct fault *f)
{
	static const char name[] = "/dev/ptmx";
	return send_fd(sock, name, sizeof name - 1, master) < 0 ? fail(f, NULL, "sendmsg", "console socket") : 0;
}
