/* More processes in a running container. A helper outside its pid namespace joins everything, drops everything and
 * closes everything; only then it forks the program's process into that pid namespace, as the shim's child. So no
 * process that the container can see, or trace, ever had more than its own (CVE-2016-9962, CVE-2019-5736). */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "shim.h"
#include "sys.h"

#define EXEC_LIMIT_NS (10ull * 1000000000u)

/* Owned by the helper: 0 to 2 the program's stdio, then these. */
enum { SYNC_AT = 3, INIT_AT = 4 };

static int arrange_fds(struct child *c, int init, const int *stdio, struct fault *f)
{
	/* 0 to 2 and 4 (epoll) are always taken in the shim, so of all these only one can be at 3 */
	for (int i = 0; i < 3; i++)
		if (dup2(stdio[i], i) < 0)
			return fail(f, NULL, "dup2", "stdio");
	if ((c->sync != SYNC_AT && dup3(c->sync, SYNC_AT, O_CLOEXEC) < 0) || dup3(init, INIT_AT, O_CLOEXEC) < 0)
		return fail(f, NULL, "dup3", "");
	c->sync = SYNC_AT;
	if (sys_close_range(INIT_AT + 1, ~0U, 0) < 0)
		return fail(f, NULL, "close_range", "");
	return 0;
}

/* The program's process. */
static int become_program(struct child *c, struct fault *f)
{
	char ready = LAUNCH_READY;
	setsid();
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

static int help(struct child *c, int init, const int *stdio, struct fault *f)
{
	struct op op;
	if (wait_gate(c, f) < 0 || arrange_fds(c, init, stdio, f) < 0)
		return -1;
	plan_find(c->plan, OP_JOIN, &op);
	if (setns(INIT_AT, (int)op.a[0].u) < 0)
		return fail(f, &op, "setns", "");
	close(INIT_AT);
	if (become_ns_root(c->plan, f) < 0 || run_self_ops(c, f) < 0)
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

static _Noreturn void helper_main(struct child *c, int init, const int *stdio)
{
	struct fault f;
	memset(&f, 0, sizeof f);
	die_with_parent();
	block_signals(false);
	help(c, init, stdio, &f);
	child_fails(c, &f);
}

/* The cgroup that init is in now, when it moved to one below its leaf (systemd, dind): the leaf takes no processes
 * then. Owned; -1 if it is the leaf or not to be found. */
static int init_cgroup(const struct shim *s)
{
	char link[32], leaf[512], text[1024];
	struct out o = {link, 0, sizeof link - 1};
	out_text(&o, "self/fd/");
	out_u64(&o, (uint64_t)s->cgroup);
	link[o.n] = '\0';
	ssize_t n = readlinkat(s->proc, link, leaf, sizeof leaf - 2);
	if (n <= 0 || read_small(s->proc_pid, "cgroup", text, sizeof text) <= 0)
		return -1;
	leaf[n] = '/';
	leaf[n + 1] = '\0';
	leaf[n] = '\0';
	const char *base = strrchr(leaf, '/');
	char *line = strstr(text, "0::/");
	if (!base || !line)
		return -1;
	leaf[n] = '/'; /* base is now "/NAME/" */
	line[strcspn(line, "\n")] = '\0';
	const char *below = strstr(line, base);
	if (!below || !below[strlen(base)])
		return -1;
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
	return sys_openat2(s->cgroup, below + strlen(base), &how);
}

static bool says(int dir, const char *file, const char *what)
{
	char text[256];
	return dir >= 0 && read_small(dir, file, text, sizeof text) > 0 && strstr(text, what);
}

/* A process started in a frozen cgroup would hang in its set-up. "frozen" counts ancestors but lags behind the order.
 */
static bool is_frozen(const struct shim *s)
{
	return says(s->cgroup, "cgroup.events", "frozen 1") || says(s->cgroup, "cgroup.freeze", "1") ||
	       says(s->parent, "cgroup.freeze", "1");
}

static struct exec *free_slot(struct shim *s)
{
	for (unsigned i = 0; i < EXECS_MAX; i++)
		if (s->execs[i].state == EXEC_FREE)
			return &s->execs[i];
	return NULL;
}

static void free_exec(struct exec *e)
{
	close_fd(&e->helper_fd);
	close_fd(&e->pidfd);
	close_fd(&e->sync);
	*e = (struct exec){.helper_fd = -1, .pidfd = -1, .sync = -1};
}

static int start_helper(struct shim *s, struct exec *e, const struct plan *plan, const int fds[EXEC_FDS],
			struct fault *f)
{
	const int on = 1;
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return fail(f, NULL, "socketpair", "");
	AUTOFD theirs = pair[1];
	e->sync = pair[0];
	if (setsockopt(e->sync, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
		return fail(f, NULL, "setsockopt", "");
	bool late = s->late_cgroup;
	e->helper = clone_into(0, s->cgroup, &e->helper_fd, &late);
	if (e->helper == 0) {
		struct child c = {.plan = plan, .sync = theirs, .root = -1, .null = -1, .proc = -1, .empty = -1};
		helper_main(&c, s->pidfd, fds + 1);
	}
	if (e->helper < 0)
		return fail(f, NULL, "clone3", "");
	AUTOFD below = late ? init_cgroup(s) : -1;
	int move_to = !late ? -1 : below >= 0 ? below : s->cgroup;
	char go = LAUNCH_GATE;
	if (finish_clone(plan, e->helper, move_to, s->proc, f) < 0)
		return -1;
	if (send(e->sync, &go, 1, MSG_NOSIGNAL) != 1)
		return fail(f, NULL, "gate", "");
	if (watch(s, e->sync, ON_EXEC, (unsigned)(e - s->execs), EPOLLIN) < 0)
		return fail(f, NULL, "epoll_ctl", "");
	return 0;
}

int exec_begin(struct shim *s, unsigned client, uint32_t seq, const int fds[EXEC_FDS], struct fault *f)
{
	struct exec *e = free_slot(s);
	struct plan plan;
	struct op op;
	if (s->ended)
		return ESRCH;
	if (!e)
		return EAGAIN;
	if (is_frozen(s))
		return EBUSY;
	if (plan_map(&plan, fds[0], f) < 0)
		return f->err;
	int err = 0;
	if (!plan_find(&plan, OP_JOIN, &op) || plan_find(&plan, OP_NAMESPACES, &op) || plan_find(&plan, OP_ROOT, &op))
		err = fail_as(f, NULL, EINVAL, "plan", "an exec needs JOIN and no NAMESPACES or ROOT");
	else
		err = start_helper(s, e, &plan, fds, f);
	plan_unmap(&plan);
	if (err < 0) {
		if (e->helper_fd >= 0)
			sys_pidfd_signal(e->helper_fd, SIGKILL);
		free_exec(e);
		return f->err;
	}
	e->state = EXEC_STARTING;
	e->id = ++s->next_exec;
	e->seq = seq;
	e->client = client;
	e->serial = s->clients[client].serial;
	e->deadline = boottime_ns() + EXEC_LIMIT_NS;
	return 0;
}

static void answer(struct shim *s, const struct exec *e, const struct fault *f)
{
	struct rep rep = {.cmd = CMD_EXEC | REPLY,
			  .seq = e->seq,
			  .err = f ? f->err : 0,
			  .flags = f ? REP_FAULT : 0,
			  .a = f ? 0 : e->id,
			  .b = f ? 0 : (uint64_t)e->pid};
	if (s->clients[e->client].fd >= 0 && s->clients[e->client].serial == e->serial)
		sock_send(s, e->client, &rep, f, f ? sizeof *f : 0, &e->pidfd, f || e->pidfd < 0 ? 0 : 1);
}

static void give_up(struct shim *s, struct exec *e, const struct fault *f)
{
	answer(s, e, f);
	sys_pidfd_signal(e->helper_fd, SIGKILL);
	if (e->pidfd >= 0)
		sys_pidfd_signal(e->pidfd, SIGKILL);
	free_exec(e);
}

static void tell_end(struct shim *s, struct exec *e)
{
	struct rep rep = {.cmd = EVENT_EXECEXIT, .a = e->id, .b = end_how(e->status), .c = end_status(e->status)};
	free_exec(e);
	sock_tell_all(s, &rep);
}

/* Pid of the sender, in our pid namespace. */
static pid_t sender(struct msghdr *msg)
{
	struct cmsghdr *h = CMSG_FIRSTHDR(msg);
	struct ucred peer;
	if (!h || h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_CREDENTIALS)
		return 0;
	memcpy(&peer, CMSG_DATA(h), sizeof peer);
	return peer.pid;
}

/* One message of the helper or of the program's process; false when there is none now. */
static bool hear_one(struct shim *s, struct exec *e)
{
	struct fault told;
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec iov = {&told, sizeof told};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(e->sync, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n < 0 && errno == ECONNRESET) /* it ended without reading go; what it said stands */
		return true;
	if (n == 1) {
		e->pid = sender(&msg);
		e->pidfd = sys_pidfd_open(e->pid);
		return true;
	}
	if (n == (ssize_t)sizeof told && told.err) {
		give_up(s, e, &told);
		return false;
	}
	if (e->pid <= 0) {
		fail_as(&told, NULL, EOWNERDEAD, "exec", "ended during set-up");
		give_up(s, e, &told);
		return false;
	}
	close_fd(&e->sync);
	close_fd(&e->helper_fd);
	e->state = EXEC_RUNNING;
	answer(s, e, NULL);
	if (e->ended)
		tell_end(s, e);
	return false;
}

void exec_heard(struct shim *s, unsigned i)
{
	struct exec *e = &s->execs[i];
	while (e->state == EXEC_STARTING && hear_one(s, e))
		;
}

bool exec_reaped(struct shim *s, pid_t pid, int status)
{
	for (unsigned i = 0; i < EXECS_MAX; i++) {
		struct exec *e = &s->execs[i];
		if (e->state == EXEC_FREE || e->pid != pid)
			continue;
		e->ended = true;
		e->status = status;
		if (e->state == EXEC_RUNNING)
			tell_end(s, e);
		return true;
	}
	return false;
}

int exec_signal(struct shim *s, uint64_t id, int signo)
{
	for (unsigned i = 0; i < EXECS_MAX; i++) {
		const struct exec *e = &s->execs[i];
		if (e->state == EXEC_RUNNING && e->id == id)
			return sys_pidfd_signal(e->pidfd, signo) < 0 ? errno : 0;
	}
	return ESRCH;
}

uint64_t exec_expire(struct shim *s, uint64_t now)
{
	uint64_t next = 0;
	for (unsigned i = 0; i < EXECS_MAX; i++) {
		struct exec *e = &s->execs[i];
		struct fault f = {0};
		if (e->state != EXEC_STARTING)
			continue;
		if (e->deadline <= now) {
			fail_as(&f, NULL, ETIMEDOUT, "exec", "set-up took too long");
			give_up(s, e, &f);
		} else if (!next || e->deadline < next) {
			next = e->deadline;
		}
	}
	return next;
}
