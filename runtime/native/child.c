/* The child between clone and exec. It can only end in exec or in a fault told to the parent. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "console.h"
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
	struct go go = {0};
	ssize_t n = 0;
	while (!c->gated) {
		n = recv(c->sync, &go, sizeof go, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof go || go.word != LAUNCH_GATE)
			return fail_as(f, NULL, ECANCELED, "gate", "");
		c->pid = go.pid;
		c->gated = true;
	}
	return 0;
}

/* A line for the container's log, by its stderr. Nobody reads there before the program runs: it is lost when there is
 * no room. */
static void say_to_stderr(void *arg, const char *line)
{
	const struct child *c = arg;
	int fd = c->fds.stdio[2] >= 0 && !c->arranged ? c->fds.stdio[2] : STDERR_FILENO;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	char text[HOOK_LINE_MAX + 1];
	struct out o = {text, 0, sizeof text - 1};
	out_text(&o, line);
	text[o.n++] = '\n';
	if (poll(&p, 1, 0) > 0 && p.revents & POLLOUT && write(fd, text, o.n) < 0)
		errno = 0;
}

static int run_ours(struct child *c, unsigned kind, int hangup, struct fault *f)
{
	const struct hook_ask ask = {.kind = kind,
				     .pid = c->pid,
				     .hangup = hangup,
				     .say = c->cut_hooks ? say_to_stderr : NULL,
				     .say_arg = c};
	return run_hooks(c->plan, &ask, f);
}

/* The parent runs its own in the runtime's namespaces; ours see the runtime's root still, but from inside. */
int hooks_before_pivot(struct child *c, struct fault *f)
{
	const unsigned parents = 1u << HOOK_PRESTART | 1u << HOOK_CREATE_RUNTIME;
	const char hooks = LAUNCH_HOOKS;
	struct go go = {0};
	ssize_t n;
	if (!has_hooks(c->plan, parents | 1u << HOOK_CREATE_CONTAINER))
		return 0;
	if (wait_gate(c, f) < 0)
		return -1;
	if (has_hooks(c->plan, parents)) {
		if (send(c->sync, &hooks, 1, MSG_NOSIGNAL) != 1)
			return fail(f, NULL, "send", "hooks");
		do
			n = recv(c->sync, &go, sizeof go, 0);
		while (n < 0 && errno == EINTR);
		if (n != (ssize_t)sizeof go || go.word != LAUNCH_HOOKS)
			return fail_as(f, NULL, ECANCELED, "gate", "hooks");
	}
	return run_ours(c, HOOK_CREATE_CONTAINER, c->sync, f);
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

/* Out of the way of the numbers below base. */
static int move_above(int *fd, int base)
{
	if (*fd >= 0 && *fd < base)
		*fd = fcntl(*fd, F_DUPFD_CLOEXEC, base);
	return *fd;
}

/* dup2 of an fd onto itself would leave its FD_CLOEXEC. */
static int give_number(int fd, int number)
{
	return fd == number ? fcntl(fd, F_SETFD, 0) : dup2(fd, number);
}

int arrange_fds(struct child *c, int *extra, struct fault *f)
{
	const int at = 3 + (int)c->fds.n_kept, end = at + (*extra >= 0 ? 2 : 1);
	int kept[START_FDS_MAX];
	if (c->fds.n_kept > COUNT(kept))
		return fail_as(f, NULL, E2BIG, "fds", "kept");
	for (int i = 0; i < 3; i++) /* all of 0 to 2 are taken, so sources are these or above */
		if (c->fds.stdio[i] >= 0 && give_number(c->fds.stdio[i], i) < 0)
			return fail(f, NULL, "dup2", "stdio");
	for (unsigned i = 0; i < c->fds.n_kept; i++) {
		kept[i] = c->fds.kept[i];
		if (move_above(&kept[i], end) < 0)
			return fail(f, NULL, "dup", "kept");
	}
	if ((c->sync != at && move_above(&c->sync, end) < 0) || (*extra >= 0 && move_above(extra, end) < 0))
		return fail(f, NULL, "dup", "");
	for (unsigned i = 0; i < c->fds.n_kept; i++)
		if (dup2(kept[i], 3 + (int)i) < 0)
			return fail(f, NULL, "dup2", "kept");
	if ((c->sync != at && dup3(c->sync, at, O_CLOEXEC) < 0) || (*extra >= 0 && dup3(*extra, at + 1, O_CLOEXEC) < 0))
		return fail(f, NULL, "dup3", "");
	c->sync = at;
	*extra = *extra >= 0 ? at + 1 : -1;
	if (sys_close_range((unsigned)end, ~0U, 0) < 0)
		return fail(f, NULL, "close_range", "");
	return 0;
}

/* Somebody of the same user as our parent (in a user namespace, both look alike). */
static bool is_ours(int conn, int sync)
{
	struct ucred peer, parent;
	socklen_t size = sizeof peer;
	return getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && size == sizeof peer &&
	       getsockopt(sync, SOL_SOCKET, SO_PEERCRED, &parent, &size) == 0 && peer.uid == parent.uid;
}

/* Until the parent has told of us, we die with it; then nobody needs to be there. */
static int hear_parent(int sync, bool *known, struct fault *f)
{
	char word = 0;
	ssize_t n = recv(sync, &word, 1, 0);
	if (n < 0 && errno == EINTR)
		return 0;
	if (n != 1 || word != LAUNCH_KNOWN)
		return fail_as(f, NULL, ECANCELED, "gate", "");
	*known = true;
	return 0;
}

/* Created. The one who connects to the gate starts the program, and hears what comes of it in the parent's place. */
static int wait_start(struct child *c, int gate, struct fault *f)
{
	const char created = LAUNCH_CREATED;
	bool known = false;
	int conn = -1;
	prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0); /* from here its end of sync tells; it ends as soon as it was told */
	if (send(c->sync, &created, 1, MSG_NOSIGNAL) != 1)
		return fail(f, NULL, "created", "");
	while (conn < 0) {
		struct pollfd p[2] = {{.fd = gate, .events = POLLIN}, {.fd = known ? -1 : c->sync, .events = POLLIN}};
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return fail(f, NULL, "poll", "gate");
		if (p[1].revents && hear_parent(c->sync, &known, f) < 0)
			return -1;
		if (!p[0].revents)
			continue;
		conn = accept4(gate, NULL, NULL, SOCK_CLOEXEC);
		if (conn >= 0 && !is_ours(conn, c->sync))
			close_fd(&conn);
		else if (conn < 0 && errno != EINTR && errno != EAGAIN && errno != ECONNABORTED)
			return fail(f, NULL, "accept4", "gate");
	}
	close(gate);
	close(c->sync);
	c->sync = conn;
	return 0;
}

/* Ready is queued before the program can end. Without a gate, EPIPE: the parent is gone, and nobody would keep the
 * container. From here on it outlives the shim. */
static int tell_ready(const struct child *c, struct fault *f)
{
	const char ready = LAUNCH_READY;
	bool gated = c->fds.gate >= 0;
	if (!gated)
		die_with_parent();
	if (send(c->sync, &ready, 1, MSG_NOSIGNAL) != 1 && !gated)
		return fail(f, NULL, "ready", "");
	prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
	return 0;
}

/* Steps up to the program; returns only on error. */
static int set_up(struct child *c, bool wait_first, uint64_t late_namespaces, struct fault *f)
{
	int gate = c->fds.gate;
	if (wait_first && wait_gate(c, f) < 0)
		return -1;
	if (late_namespaces && syscall(SYS_unshare, late_namespaces) < 0)
		return fail(f, NULL, "unshare", "cgroup");
	if (become_ns_root(c->plan, f) < 0)
		return -1;
	umask(0); /* modes are the plan's */
	if (run_mount_ops(c, f) < 0 || wait_gate(c, f) < 0)
		return -1;
	if (c->fds.stdio[0] < 0)
		take_own_null(c);
	c->arranged = true;
	if (arrange_fds(c, &gate, f) < 0 || run_self_ops(c, f) < 0 || take_terminal(c->plan, f) < 0)
		return -1;
	if (gate >= 0 && (look_for_program(c->plan, f) < 0 || wait_start(c, gate, f) < 0))
		return -1;
	if (run_ours(c, HOOK_START_CONTAINER, gate < 0 ? c->sync : -1, f) < 0)
		return -1;
	if (apply_filter(c->plan, false, f) < 0 || apply_credentials(c->plan, f) < 0)
		return -1;
	if (tell_ready(c, f) < 0 || apply_filter(c->plan, true, f) < 0)
		return -1;
	return exec_program(c->plan, f);
}

_Noreturn void child_main(struct child *c, bool wait_first, uint64_t late_namespaces)
{
	struct fault f;
	const char born = LAUNCH_BORN;
	memset(&f, 0, sizeof f);
	die_with_parent();
	if (send(c->sync, &born, 1, MSG_NOSIGNAL) != 1)
		_exit(126);
	block_signals(false);
	set_up(c, wait_first, late_namespaces, &f);
	child_fails(c, &f);
}
