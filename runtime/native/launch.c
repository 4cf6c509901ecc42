#include "launch.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "console.h"
#include "sys.h"

enum { UNDO_MS = 10000, AGAIN_LATE = -2 };

pid_t clone_into(uint64_t flags, int cgroup, int *pidfd, bool *late)
{
	struct sys_clone_args args = {
		.flags = flags | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
	};
	*pidfd = -1;
	if (cgroup < 0)
		return sys_clone3(&args);
	if (!*late) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup;
		pid_t pid = sys_clone3(&args);
		/* other errors are the process's; these are the cgroup's (runc#4812 lists them) */
		if (pid >= 0 ||
		    !(errno == ENOSYS || errno == EOPNOTSUPP || errno == EBUSY || errno == EINVAL || errno == E2BIG))
			return pid;
	}
	*late = true;
	/* a cgroup namespace must be made inside the cgroup that it is to show as its root */
	args.flags &= ~((uint64_t)CLONE_INTO_CGROUP | CLONE_NEWCGROUP);
	args.cgroup = 0;
	return sys_clone3(&args);
}

/* "PID/file" below the host's proc. */
static int write_proc(int proc, pid_t pid, const char *file, const char *text)
{
	char path[48];
	struct out o = {path, 0, sizeof path - 1};
	out_u64(&o, (uint64_t)pid);
	out_text(&o, "/");
	out_text(&o, file);
	path[o.n] = '\0';
	return write_small(proc, path, text);
}

static int adjust_oom(const struct op *op, pid_t pid, int proc, struct fault *f)
{
	char text[16];
	int64_t score = op->a[0].i;
	struct out o = {text, 0, sizeof text - 1};
	if (score < 0)
		out_text(&o, "-");
	out_u64(&o, (uint64_t)(score < 0 ? -score : score));
	text[o.n] = '\0';
	return write_proc(proc, pid, "oom_score_adj", text) < 0 ? fail(f, op, "write", "oom_score_adj") : 0;
}

int finish_clone(const struct plan *plan, pid_t pid, int cgroup_late, int proc, bool reset_oom, struct fault *f)
{
	struct op op;
	char text[24];
	struct out o = {text, 0, sizeof text - 1};
	out_u64(&o, (uint64_t)pid);
	text[o.n] = '\0';
	if (cgroup_late >= 0 && write_small(cgroup_late, "cgroup.procs", text) < 0)
		return fail(f, NULL, "write", "cgroup.procs");
	if (plan_find(plan, OP_USERMAP, &op) &&
	    (write_proc(proc, pid, "uid_map", op.a[0].s.p) < 0 || write_proc(proc, pid, "gid_map", op.a[1].s.p) < 0))
		return fail(f, &op, "write", "uid_map or gid_map");
	/* the score is the shim's own, protected one until now */
	bool asked = plan_find(plan, OP_OOMADJ, &op);
	if (!asked && !reset_oom)
		return 0;
	return adjust_oom(&op, pid, proc, f) < 0 && asked ? -1 : 0;
}

void undo_launch(int cgroup, int pidfd, pid_t pid, int *status)
{
	if (cgroup >= 0 && write_small(cgroup, "cgroup.kill", "1") < 0 && errno != ENOENT)
		errno = 0; /* SIGKILL to the process itself does for all but what it had forked: nothing, before exec */
	sys_pidfd_signal(pidfd, SIGKILL);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	while (poll(&p, 1, UNDO_MS) < 0 && errno == EINTR)
		;
	while (waitpid(pid, status, WNOHANG) < 0 && errno == EINTR)
		;
}

struct attempt {
	int trees[PLAN_BINDS_MAX + 1];
	unsigned n_trees;
	int out[2][2]; /* stdout and stderr: read end, write end */
	int in[2];     /* stdin likewise */
	int master;    /* of the terminal, once the child has made it */
	struct child_fds fds;
	int sync[2];
	int pidfd;
	pid_t pid;
	bool late;   /* the process is moved into its cgroup after clone */
	bool born;   /* it has run */
	bool helped; /* pid is a helper's until init is born */
};

void keep_readable(int *end, int proc)
{
	char name[32];
	struct out o = {name, 0, sizeof name - 1};
	out_text(&o, "self/fd/");
	out_u64(&o, (uint64_t)*end);
	name[o.n] = '\0';
	int both = openat(proc, name, O_RDWR | O_CLOEXEC);
	if (both >= 0) {
		close(*end);
		*end = both;
	}
}

/* Opening /dev/stdout again asks the pipe's owner and mode. */
static int own_pipe(int fd, uint32_t uid, uint32_t gid)
{
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISFIFO(st.st_mode) || st.st_uid == uid)
		return 0;
	return fchown(fd, uid, gid);
}

static int open_pipes(struct attempt *a, const struct plan *plan, const struct launch_ask *ask, struct fault *f)
{
	struct op op;
	uint32_t uid, gid;
	bool mapped = host_ids(plan, &uid, &gid) && (uid || gid);
	a->fds = ask->fds;
	bool terminal = plan_find(plan, OP_CONSOLE, &op);
	if (terminal && !ask->pipes && ask->console < 0)
		return fail_as(f, &op, EINVAL, "start", "nobody takes the terminal: no console socket");
	if (ask->input && !terminal) {
		if (pipe2(a->in, O_CLOEXEC) < 0 || fcntl(a->in[1], F_SETFL, O_NONBLOCK) < 0)
			return fail(f, NULL, "pipe2", "stdin");
		a->fds.stdio[0] = a->in[0];
	}
	for (int i = 0; i < 2 && ask->pipes && !terminal; i++) {
		if (pipe2(a->out[i], O_CLOEXEC) < 0)
			return fail(f, NULL, "pipe2", "");
		if (fcntl(a->out[i][0], F_SETFL, O_NONBLOCK) < 0)
			return fail(f, NULL, "fcntl", "");
		keep_readable(&a->out[i][1], ask->proc);
		a->fds.stdio[i + 1] = a->out[i][1];
	}
	for (int i = 0; i < 3; i++)
		if (mapped && own_pipe(a->fds.stdio[i], uid, gid) < 0 && ask->pipes)
			return fail(f, NULL, "fchown", "stdout");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, a->sync) < 0)
		return fail(f, NULL, "socketpair", "");
	return 0;
}

static int start_child(struct attempt *a, const struct plan *plan, const struct launch_ask *ask, struct fault *f)
{
	struct op ns;
	struct joined j = NO_JOINED;
	plan_find(plan, OP_NAMESPACES, &ns);
	int err = join_all(&j, plan, ask->netns, ask->proc, f);
	uint64_t flags = ns.a[0].u & ~j.flags;
	a->helped = j.userns >= 0;
	if (err == 0)
		a->pid = clone_into(a->helped ? 0 : flags, ask->cgroup, &a->pidfd, &a->late);
	if (err == 0 && a->pid == 0) {
		struct child c = NO_CHILD;
		c.plan = plan;
		c.sync = a->sync[1];
		c.trees = a->trees;
		c.fds = a->fds;
		c.cut_hooks = ask->say != NULL;
		close(a->sync[0]);
		if (a->helped) {
			clone_in_userns(&c, j.userns, flags);
			child_main(&c, false, 0);
		}
		bool wait_first = a->late || flags & CLONE_NEWUSER;
		child_main(&c, wait_first, a->late ? flags & CLONE_NEWCGROUP : 0);
	}
	if (err == 0 && a->pid < 0)
		err = fail(f, NULL, "clone3", "");
	leave_all(&j);
	return err;
}

/* Those of the runtime's namespaces, when the child's are made and its root is not yet its root. */
static int run_own_hooks(const struct attempt *a, const struct plan *plan, const struct launch_ask *ask,
			 struct fault *f)
{
	const struct go go = {.word = LAUNCH_HOOKS, .pid = a->pid};
	struct hook_ask hooks = {.pid = a->pid, .hangup = ask->hangup, .say = ask->say, .say_arg = ask->say_arg};
	for (hooks.kind = HOOK_PRESTART; hooks.kind <= HOOK_CREATE_RUNTIME; hooks.kind++)
		if (run_hooks(plan, &hooks, f) < 0)
			return -1;
	if (send(a->sync[0], &go, sizeof go, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		return fail(f, NULL, "send", "hooks");
	return 0;
}

/* Until the child waits at its gate, or its end of sync is closed, by exec or by death. */
static int await_child(struct attempt *a, const struct plan *plan, const struct launch_ask *ask, struct fault *f)
{
	struct go go = {.word = LAUNCH_GATE, .pid = a->pid};
	bool ready = false;
	if (send(a->sync[0], &go, sizeof go, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		return fail(f, NULL, "send", "gate");
	for (;;) {
		struct pollfd p[2] = {{.fd = a->sync[0], .events = POLLIN}, {.fd = ask->hangup, .events = POLLRDHUP}};
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return fail(f, NULL, "poll", "");
		if (p[1].revents & (POLLRDHUP | POLLHUP | POLLERR))
			return fail_as(f, NULL, ECANCELED, "launch", "given up by the supervisor");
		if (!p[0].revents)
			continue;
		struct fault told;
		ssize_t n = recv_fd(a->sync[0], &told, sizeof told, &a->master);
		if (n < 0 &&
		    (errno == EINTR || errno == ECONNRESET)) /* it ended without reading go; what it said stands */
			continue;
		if (n == (ssize_t)sizeof told) {
			*f = told;
			return -1;
		}
		if (n <= 0)
			break;
		a->born = true;
		if (*(const char *)&told == LAUNCH_CREATED)
			return 0;
		if (*(const char *)&told == LAUNCH_HOOKS && run_own_hooks(a, plan, ask, f) < 0)
			return -1;
		ready |= *(const char *)&told == LAUNCH_READY;
	}
	/* the caller, which reaps it, completes this one */
	return ready ? 0 : fail_as(f, NULL, EOWNERDEAD, "init", "");
}

static int await_init(struct attempt *a, const struct plan *plan, const struct launch_ask *ask, struct fault *f)
{
	if (a->helped && await_birth(a->sync[0], &a->pid, &a->pidfd, f) < 0)
		return -1;
	a->born = a->helped;
	return await_child(a, plan, ask, f);
}

static void describe_death(int status, struct fault *f)
{
	struct out o = {f->path, 0, sizeof f->path - 1};
	out_text(&o, WIFSIGNALED(status) ? "signal " : "exit ");
	out_u64(&o, (uint64_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
	f->path[o.n] = '\0';
}

static void close_attempt(struct attempt *a)
{
	for (unsigned i = 0; i < a->n_trees; i++)
		close_fd(&a->trees[i]);
	for (int i = 0; i < 2; i++) {
		close_fd(&a->out[i][0]);
		close_fd(&a->out[i][1]);
		close_fd(&a->sync[i]);
	}
	close_fd(&a->in[0]);
	close_fd(&a->in[1]);
	close_fd(&a->master);
	close_fd(&a->pidfd);
}

/* The terminal takes the place of the pipes. */
static int hand_over(struct attempt *a, const struct launch_ask *ask, struct fault *f)
{
	if (a->master < 0)
		return 0;
	if (!ask->pipes)
		return send_terminal(ask->console, a->master, f);
	if (fcntl(a->master, F_SETFL, O_NONBLOCK) < 0)
		return fail(f, NULL, "fcntl", "the master");
	a->out[1][0] = fcntl(a->master, F_DUPFD_CLOEXEC, 0);
	a->in[1] = ask->input ? fcntl(a->master, F_DUPFD_CLOEXEC, 0) : -1;
	a->out[0][0] = take_fd(&a->master);
	if (a->out[1][0] < 0 || (ask->input && a->in[1] < 0))
		return fail(f, NULL, "fcntl", "the master");
	return 0;
}

static int try_launch(struct attempt *a, const struct plan *plan, const struct launch_ask *ask, struct fault *f)
{
	int status = 0;
	if (open_trees(plan, a->trees, &a->n_trees, f) < 0 || open_pipes(a, plan, ask, f) < 0)
		return -1;
	if (start_child(a, plan, ask, f) < 0)
		return -1;
	close_fd(&a->sync[1]);
	close_fd(&a->out[0][1]);
	close_fd(&a->out[1][1]);
	close_fd(&a->in[0]);
	if (finish_clone(plan, a->pid, a->late ? ask->cgroup : -1, ask->proc, ask->reset_oom, f) == 0 &&
	    await_init(a, plan, ask, f) == 0 && hand_over(a, ask, f) == 0)
		return 0;
	undo_launch(a->born && !ask->others ? ask->cgroup : -1, a->pidfd, a->pid, &status);
	if (f->err != EOWNERDEAD)
		return -1;
	describe_death(status, f);
	return !a->born && !a->late && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? AGAIN_LATE : -1;
}

static int attempt_launch(const struct plan *plan, const struct launch_ask *ask, struct launched *done, bool late,
			  struct fault *f)
{
	struct attempt a = {.out = {{-1, -1}, {-1, -1}},
			    .in = {-1, -1},
			    .master = -1,
			    .sync = {-1, -1},
			    .pidfd = -1,
			    .pid = -1,
			    .late = late};
	int err = try_launch(&a, plan, ask, f);
	if (err == 0) {
		done->pid = a.pid;
		done->pidfd = take_fd(&a.pidfd);
		done->out[0] = take_fd(&a.out[0][0]);
		done->out[1] = take_fd(&a.out[1][0]);
		done->in = take_fd(&a.in[1]);
		done->sync = ask->fds.gate >= 0 ? take_fd(&a.sync[0]) : -1;
		done->late = a.late;
	}
	close_attempt(&a);
	return err;
}

int launch_init(const struct plan *plan, const struct launch_ask *ask, struct launched *done, struct fault *f)
{
	struct op op;
	bool whole = plan_find(plan, OP_ROOT, &op) && plan_find(plan, OP_PIVOT, &op) &&
		     plan_find(plan, OP_NAMESPACES, &op) && op.a[0].u & CLONE_NEWNS;
	if (!whole || plan_find(plan, OP_JOIN, &op))
		return fail_as(f, NULL, EINVAL, "plan", "init needs NAMESPACES with mount, ROOT and PIVOT, no JOIN");
	if (plan_find(plan, OP_PEER, &op))
		return fail_as(f, &op, EOPNOTSUPP, "plan", "another runtime does this, for a shim alone");
	int err = attempt_launch(plan, ask, done, false, f);
	/* Linux 6.10 to 6.18 at least: a process that is cloned into a cgroup is killed at birth unless its parent's
	 * cgroup and that one have seen the same number of cgroup.kill writes */
	if (err == AGAIN_LATE)
		err = attempt_launch(plan, ask, done, true, f);
	return err == 0 ? 0 : -1;
}
