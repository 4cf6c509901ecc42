/* One more process in a running container. A helper outside its pid namespace joins everything, drops everything and
 * closes everything; only then it forks the program's process into that pid namespace, as our child. So no process
 * that the container can see, or trace, ever had more than its own (CVE-2016-9962, CVE-2019-5736). */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>

#include "console.h"
#include "launch.h"
#include "sys.h"

/* The program's process. */
static int become_program(struct child *c, struct fault *f)
{
	char ready = LAUNCH_READY;
	setsid();
	if (take_terminal(c->plan, f) < 0)
		return -1;
	if (c->tied)
		die_with_parent();
	if (send(c->sync, &ready, 1, MSG_NOSIGNAL) != 1)
		return fail(f, NULL, "ready", "");
	if (apply_filter(c->plan, true, f) < 0)
		return -1;
	return exec_program(c->plan, f);
}

static pid_t fork_as_sibling(void)
{
	struct sys_clone_args args = {.flags = CLONE_PARENT};
	pid_t pid = sys_clone3(&args);
	if (pid < 0 &&
	    (errno == ENOSYS || errno == EPERM)) /* a filter that is loaded already knows only the old call */
		pid = (pid_t)syscall(SYS_clone, (unsigned long)CLONE_PARENT, 0, 0, 0, 0);
	return pid;
}

/* The program's own terminal, in the devpts of the namespaces that were just joined. */
static int make_terminal(const struct child *c, struct fault *f)
{
	const char word = LAUNCH_TERMINAL;
	struct op op;
	struct pty pty;
	if (!plan_find(c->plan, OP_CONSOLE, &op))
		return 0;
	AUTOFD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return fail(f, &op, "open", "/");
	if (open_pty(root, c->plan, &pty, f) < 0)
		return -1;
	AUTOFD master = pty.master, slave = pty.slave;
	for (int i = 0; i < 3; i++)
		if (dup2(slave, i) < 0)
			return fail(f, &op, "dup2", "stdio");
	return send_fd(c->sync, &word, 1, master) < 0 ? fail(f, &op, "send", "the master") : 0;
}

static int help(struct child *c, int init, struct fault *f)
{
	struct op op;
	if (wait_gate(c, f) < 0 || arrange_fds(c, &init, f) < 0 || set_labels(c->plan, f) < 0)
		return -1;
	plan_find(c->plan, OP_JOIN, &op);
	if (setns(init, (int)op.a[0].u) < 0)
		return fail(f, &op, "setns", "");
	close(init);
	if (become_ns_root(c->plan, f) < 0 || make_terminal(c, f) < 0 || run_self_ops(c, f) < 0)
		return -1;
	if (apply_filter(c->plan, false, f) < 0 || apply_credentials(c->plan, f) < 0)
		return -1;
	pid_t pid = fork_as_sibling();
	if (pid < 0)
		return fail(f, &op, "clone", "");
	if (pid > 0)
		_exit(0);
	return become_program(c, f);
}

static _Noreturn void helper_main(struct child *c, int init)
{
	struct fault f;
	memset(&f, 0, sizeof f);
	die_with_parent();
	block_signals(false);
	help(c, init, &f);
	child_fails(c, &f);
}

/* The cgroup that init is in now, when it moved to one below its leaf (systemd, dind): the leaf takes no processes
 * then. Owned; -1 if it is the leaf or not to be found. */
static int init_cgroup(const struct join_ask *ask)
{
	char link[32], leaf[512], text[1024];
	struct out o = {link, 0, sizeof link - 1};
	out_text(&o, "self/fd/");
	out_u64(&o, (uint64_t)ask->cgroup);
	link[o.n] = '\0';
	ssize_t n = readlinkat(ask->proc, link, leaf, sizeof leaf - 2);
	if (n <= 0 || read_small(ask->proc_pid, "cgroup", text, sizeof text) <= 0)
		return -1;
	leaf[n] = '\0';
	const char *base = strrchr(leaf, '/');
	char *line = strstr(text, "0::/");
	if (!base || !line)
		return -1;
	leaf[n] = '/'; /* base is now "/NAME/" */
	leaf[n + 1] = '\0';
	line[strcspn(line, "\n")] = '\0';
	const char *below = strstr(line, base);
	if (!below || !below[strlen(base)])
		return -1;
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
	return sys_openat2(ask->cgroup, below + strlen(base), &how);
}

static bool says(int dir, const char *file, const char *what)
{
	char text[256];
	return dir >= 0 && read_small(dir, file, text, sizeof text) > 0 && strstr(text, what);
}

bool is_frozen(int cgroup, int parent)
{
	return says(cgroup, "cgroup.events", "frozen 1") || says(cgroup, "cgroup.freeze", "1") ||
	       says(parent, "cgroup.freeze", "1");
}

/* Whatever else a plan asks for would not be done. */
static const bool for_exec[OP_COUNT] = {
	[OP_JOIN] = true,    [OP_CONSOLE] = true,  [OP_CWD] = true,    [OP_CAPS] = true,   [OP_USER] = true,
	[OP_NNP] = true,     [OP_SECCOMP] = true,  [OP_RLIMIT] = true, [OP_UMASK] = true,  [OP_OOMADJ] = true,
	[OP_SETSID] = true,  [OP_KEYRING] = true,  [OP_SCHED] = true,  [OP_IOPRIO] = true, [OP_PERSONALITY] = true,
	[OP_SELINUX] = true, [OP_APPARMOR] = true, [OP_ARG] = true,    [OP_ENV] = true,    [OP_EXEC] = true,
};

int check_join(const struct plan *plan, struct fault *f)
{
	struct cursor at = {0};
	struct op op;
	if (!plan_find(plan, OP_JOIN, &op))
		return fail_as(f, NULL, EINVAL, "plan", "an exec needs JOIN");
	while (plan_next(plan, &at, &op))
		if (!for_exec[op.code])
			return fail_as(f, &op, EINVAL, "plan", "an exec cannot do this");
	return 0;
}

int start_join(const struct plan *plan, const struct join_ask *ask, struct joining *j, struct fault *f)
{
	const int on = 1;
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return fail(f, NULL, "socketpair", "");
	AUTOFD theirs = pair[1];
	j->sync = pair[0];
	if (setsockopt(j->sync, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
		return fail(f, NULL, "setsockopt", "");
	bool late = ask->late;
	j->helper = clone_into(0, ask->cgroup, &j->helper_fd, &late);
	if (j->helper == 0) {
		struct child c = NO_CHILD;
		c.plan = plan;
		c.sync = theirs;
		c.fds = ask->fds;
		c.tied = ask->tied;
		helper_main(&c, ask->init);
	}
	if (j->helper < 0)
		return fail(f, NULL, "clone3", "");
	AUTOFD below = late ? init_cgroup(ask) : -1;
	int move_to = !late ? -1 : below >= 0 ? below : ask->cgroup;
	struct go go = {.word = LAUNCH_GATE};
	if (finish_clone(plan, j->helper, move_to, ask->proc, ask->reset_oom, f) < 0)
		return -1;
	if (send(j->sync, &go, sizeof go, MSG_NOSIGNAL) != (ssize_t)sizeof go)
		return fail(f, NULL, "gate", "");
	return 0;
}

/* What came beside a message: pid of the sender, in our pid namespace, and a terminal's master. */
static void take_control(struct msghdr *msg, pid_t *pid, int *master)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
		struct ucred peer;
		if (h->cmsg_level != SOL_SOCKET)
			continue;
		if (h->cmsg_type == SCM_CREDENTIALS && h->cmsg_len == CMSG_LEN(sizeof peer)) {
			memcpy(&peer, CMSG_DATA(h), sizeof peer);
			*pid = peer.pid;
		} else if (h->cmsg_type == SCM_RIGHTS && h->cmsg_len == CMSG_LEN(sizeof *master)) {
			close_fd(master);
			memcpy(master, CMSG_DATA(h), sizeof *master);
		}
	}
}

enum heard hear_join(int sync, pid_t *pid, int *master, struct fault *told)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {told, sizeof *told};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(sync, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return HEARD_NOTHING;
	if (n < 0 && errno == ECONNRESET) /* it ended without reading go; what it said stands */
		return HEARD_MORE;
	pid_t from = 0;
	if (n > 0)
		take_control(&msg, &from, master);
	if (n == 1 && *(const char *)told == LAUNCH_TERMINAL)
		return HEARD_MORE;
	if (n == 1) {
		*pid = from;
		return HEARD_PID;
	}
	return n == (ssize_t)sizeof *told && told->err ? HEARD_FAULT : HEARD_END;
}
