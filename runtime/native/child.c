/* The child between clone and exec. It can only end in exec or in a fault told to the parent. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "inroot.h"
#include "launch.h"
#include "sys.h"

_Noreturn void child_fails(const struct child *c, const struct fault *f)
{
	if (send(c->sync, f, sizeof *f, MSG_NOSIGNAL) < 0)
		_exit(126);
	_exit(127);
}

/* A change of user or of capabilities clears it (prctl(2)), so it is said again after each. */
void die_with_parent(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

int wait_gate(struct child *c, struct fault *f)
{
	char go = 0;
	ssize_t n = c->gated ? 1 : -1;
	while (!c->gated) {
		n = recv(c->sync, &go, 1, 0);
		if (n >= 0 || errno != EINTR)
			break;
	}
	if (!c->gated && (n != 1 || go != LAUNCH_GATE))
		return fail_as(f, NULL, ECANCELED, "gate", "");
	c->gated = true;
	return 0;
}

/* In a new user namespace: root of it, where its map has one, so that files made here have an owner. */
int become_ns_root(const struct plan *plan, struct fault *f)
{
	struct op op;
	if (!plan_find(plan, OP_NAMESPACES, &op) && !plan_find(plan, OP_JOIN, &op))
		return 0;
	if (!(op.a[0].u & CLONE_NEWUSER))
		return 0;
	if (syscall(SYS_setgroups, 0, NULL) < 0 && errno != EPERM)
		return fail(f, &op, "setgroups", "");
	if (syscall(SYS_setresgid, 0, 0, 0) < 0 && errno != EINVAL)
		return fail(f, &op, "setresgid", "");
	if (syscall(SYS_setresuid, 0, 0, 0) < 0 && errno != EINVAL)
		return fail(f, &op, "setresuid", "");
	die_with_parent();
	return 0;
}

/* By the system call: the C library keeps two signals to itself, and posix_spawn leaves them ignored. */
void reset_signals(void)
{
	static const char
		by_default[64]; /* struct sigaction of the kernel: all zero is SIG_DFL on every architecture */
	for (int i = 1; i < NSIG; i++)
		syscall(SYS_rt_sigaction, i, by_default, NULL, (NSIG - 1) / 8);
}

void block_signals(bool all)
{
	uint64_t set[2];
	memset(set, all ? 0xff : 0, sizeof set);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, set, NULL, (NSIG - 1) / 8);
}

/* stdin becomes the container's own /dev/null where it has one: the host's mount is not to be held from inside. */
static void take_own_null(const struct child *c)
{
	AUTOFD path = in_root(c->root, "/dev/null", O_PATH);
	struct stat st;
	if (path < 0 || fstat(path, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
		return;
	AUTOFD null = in_root(c->root, "/dev/null", O_RDWR | O_NOFOLLOW | O_NOCTTY);
	if (null >= 0 && fstat(null, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
		dup2(null, STDIN_FILENO);
}

/* After this only stdio and sync, at 3, are open: nothing of the host can be reached from inside (CVE-2024-21626). */
static int keep_stdio_only(struct child *c, struct fault *f)
{
	const int at = 3;
	if (c->sync != at) {
		if (dup3(c->sync, at, O_CLOEXEC) < 0)
			return fail(f, NULL, "dup3", "");
		c->sync = at;
	}
	if (sys_close_range((unsigned)at + 1, ~0U, 0) < 0)
		return fail(f, NULL, "close_range", "");
	return 0;
}

static int take_stdio(const int stdio[3], struct fault *f)
{
	for (int i = 0; i < 3; i++)
		if (stdio[i] >= 0 && dup2(stdio[i], i) < 0)
			return fail(f, NULL, "dup2", "stdio");
	return 0;
}

/* Steps up to the program; returns only on error. */
static int set_up(struct child *c, const int stdio[3], bool wait_first, uint64_t late_namespaces, struct fault *f)
{
	if (wait_first && wait_gate(c, f) < 0)
		return -1;
	if (late_namespaces && syscall(SYS_unshare, late_namespaces) < 0)
		return fail(f, NULL, "unshare", "cgroup");
	if (become_ns_root(c->plan, f) < 0)
		return -1;
	umask(0); /* modes are the plan's */
	if (run_mount_ops(c, f) < 0 || wait_gate(c, f) < 0 || take_stdio(stdio, f) < 0)
		return -1;
	take_own_null(c);
	if (keep_stdio_only(c, f) < 0 || run_self_ops(c, f) < 0)
		return -1;
	if (apply_filter(c->plan, false, f) < 0 || apply_credentials(c->plan, f) < 0)
		return -1;
	/* Ready is queued before the program can end; EPIPE: the parent is gone, and nobody would keep the container.
	 * From here on it outlives the shim. */
	char ready = LAUNCH_READY;
	die_with_parent();
	if (send(c->sync, &ready, 1, MSG_NOSIGNAL) != 1)
		return fail(f, NULL, "ready", "");
	prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
	if (apply_filter(c->plan, true, f) < 0)
		return -1;
	return exec_program(c->plan, f);
}

_Noreturn void child_main(struct child *c, const int stdio[3], bool wait_first, uint64_t late_namespaces)
{
	struct fault f;
	const char born = LAUNCH_BORN;
	memset(&f, 0, sizeof f);
	die_with_parent();
	if (send(c->sync, &born, 1, MSG_NOSIGNAL) != 1)
		_exit(126);
	block_signals(false);
	set_up(c, stdio, wait_first, late_namespaces, &f);
	child_fails(c, &f);
}
