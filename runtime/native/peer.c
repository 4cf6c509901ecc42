/* A container that another OCI runtime makes. The runtime's commands come from the plan, as PEER steps with their ARGs;
 * the shim runs them one after another, each bounded, and is the subreaper that inherits init, so that its end is told
 * by wait as any other's. Before it believes a pid it asks: is it our child, and in the run's own cgroup? */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "shim.h"
#include "sys.h"

enum { PEER_ARGS_MAX = 64, PEER_LOG_MAX = 1 << 20, LOOK_MS = 100, UNDO_MS = 4000, UNDO_STEP_MS = 5, PID_MAX = 1 << 22 };

static const char *const verbs[PEER_KINDS] = {"create", "start", "delete"};

struct call {
	struct op op;
	char *argv[PEER_ARGS_MAX + 1], *env[PEER_ARGS_MAX + 1];
};

static bool add_word(char **list, unsigned *n, const struct op *op, unsigned arg)
{
	if (*n == PEER_ARGS_MAX)
		return false;
	list[(*n)++] = (char *)(uintptr_t)op->a[arg].s.p; /* execve(2) does not write there */
	return true;
}

static int find_call(const struct plan *plan, uint64_t kind, struct call *call, struct fault *f)
{
	struct cursor c = {0};
	struct op op;
	unsigned args = 0, envs = 0, times = 0;
	bool mine = false, fits = true;
	memset(call, 0, sizeof *call);
	while (plan_next(plan, &c, &op)) {
		if (op.code == OP_PEER) {
			mine = op.a[0].u == kind;
			times += mine;
			call->op = mine ? op : call->op;
		} else if (op.code == OP_ENV) {
			fits &= add_word(call->env, &envs, &op, 0);
		} else if (op.code == OP_ARG && mine) {
			fits &= add_word(call->argv, &args, &op, 0);
		} else if (op.code != OP_ARG && op.code != OP_EXEC) {
			fits = false;
		}
	}
	bool good = fits && times == 1 && args && call->argv[0] && call->argv[0][0] == '/';
	if (!good)
		fail_as(f, NULL, EINVAL, "plan", "PEER: each kind once, with the ARGs of a program by its path");
	return good ? 0 : -1;
}

/* It starts in the cgroup of the shims; what it makes of init's is checked. Nothing of ours is inherited but stdio. */
static _Noreturn void become_peer(const struct shim *s, const struct call *call, const int *stdio)
{
	die_with_parent();
	setsid();
	umask(022);
	if (write_small(s->proc, "self/oom_score_adj", "0") < 0)
		errno = 0;
	if (call->op.a[2].u & PEER_INSIDE && write_small(s->cgroup, "cgroup.procs", "0") < 0)
		_exit(126);
	for (int i = 0; i < 3; i++)
		if (dup2(stdio[i], i) < 0)
			_exit(126);
	if (sys_close_range(3, ~0U, 0) < 0)
		_exit(126);
	block_signals(false);
	execve(call->argv[0], call->argv, call->env);
	_exit(127);
}

static pid_t spawn(const struct shim *s, const struct call *call, const int *stdio, int *pidfd)
{
	struct sys_clone_args args = {
		.flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)pidfd, .exit_signal = SIGCHLD};
	*pidfd = -1;
	pid_t pid = sys_clone3(&args);
	if (pid == 0)
		become_peer(s, call, stdio);
	return pid;
}

static int64_t log_size(const struct shim *s)
{
	struct stat st;
	return fstatat(s->run_dir, PEER_LOG, &st, AT_SYMLINK_NOFOLLOW) == 0 ? st.st_size : 0;
}

static int await_end(const struct shim *s, const struct call *call, int pidfd, int hangup, struct fault *f)
{
	const char *verb = verbs[call->op.a[0].u];
	uint64_t deadline = boottime_ns() + call->op.a[1].u * 1000000u;
	int64_t begun = log_size(s); /* what calls before it wrote is not its doing: the undo must get its turn */
	for (;;) {
		struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = hangup, .events = POLLRDHUP}};
		int n = poll(p, 2, LOOK_MS);
		if (n < 0 && errno != EINTR)
			return fail(f, &call->op, verb, "poll");
		if (n > 0 && p[1].revents)
			return fail_as(f, &call->op, ECANCELED, verb, "given up by the supervisor");
		if (n > 0 && p[0].revents)
			return 0;
		if (log_size(s) - begun > PEER_LOG_MAX)
			return fail_as(f, &call->op, EFBIG, verb, "its log");
		if (boottime_ns() >= deadline)
			return fail_as(f, &call->op, ETIMEDOUT, verb, "");
	}
}

static int run_call(const struct shim *s, const struct call *call, const int *stdio, int hangup, struct fault *f)
{
	const char *verb = verbs[call->op.a[0].u];
	char how[32];
	struct out o = {how, 0, sizeof how - 1};
	int status = 0, pidfd = -1;
	pid_t pid = spawn(s, call, stdio, &pidfd);
	if (pid < 0)
		return fail(f, &call->op, verb, "clone3");
	int err = await_end(s, call, pidfd, hangup, f);
	if (err < 0) {
		kill(-pid, SIGKILL); /* its session; it is our child and not reaped, so the number is its own */
		sys_pidfd_signal(pidfd, SIGKILL);
	}
	struct pollfd gone = {.fd = pidfd, .events = POLLIN};
	while (poll(&gone, 1, UNDO_MS) < 0 && errno == EINTR)
		;
	close_fd(&pidfd);
	while (waitpid(pid, &status, WNOHANG) < 0 && errno == EINTR)
		;
	if (err < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
		return err;
	out_text(&o, WIFSIGNALED(status) ? "signal " : "exit ");
	out_u64(&o, (uint64_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
	how[o.n] = '\0';
	return fail_as(f, &call->op, EIO, verb, how);
}

/* The number in the pid file; 0 for anything else there. */
static pid_t told_pid(const struct shim *s)
{
	char text[24];
	AUTOFD fd = openat(s->run_dir, PEER_PID, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	pid_t pid = 0;
	if (n <= 0)
		return 0;
	text[n] = '\0';
	const char *p = text;
	for (; *p >= '0' && *p <= '9' && pid <= PID_MAX; p++)
		pid = pid * 10 + (*p - '0');
	return (*p == '\0' || *p == '\n') && pid <= PID_MAX ? pid : 0;
}

static bool in_leaf(const struct shim *s, pid_t pid)
{
	char text[4096], line[24];
	struct out o = {line, 0, sizeof line - 1};
	if (read_small(s->cgroup, "cgroup.procs", text, sizeof text) <= 0)
		return false;
	out_u64(&o, (uint64_t)pid);
	out_text(&o, "\n");
	line[o.n] = '\0';
	for (const char *at = text; (at = strstr(at, line)); at++)
		if (at == text || at[-1] == '\n')
			return true;
	return false;
}

static int find_init(const struct shim *s, const struct call *create, struct launched *done, struct fault *f)
{
	siginfo_t info = {0};
	done->pid = told_pid(s);
	if (done->pid <= 1)
		return fail_as(f, &create->op, EBADMSG, "create", "no pid in its pid file");
	done->pidfd = sys_pidfd_open(done->pid);
	if (done->pidfd < 0)
		return fail(f, &create->op, "create", "the pid of its pid file is gone");
	if (waitid(P_PIDFD, (id_t)done->pidfd, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0)
		return fail(f, &create->op, "create", "the pid of its pid file is no child of it");
	if (info.si_pid)
		return fail_as(f, &create->op, EOWNERDEAD, "create", "ended at once");
	if (!in_leaf(s, done->pid))
		return fail_as(f, &create->op, EXDEV, "create", "the pid of its pid file is not in the run's cgroup");
	return 0;
}

/* Everything that is left of a call that was killed comes to us, the subreaper. */
static void kill_children(const struct shim *s)
{
	const struct timespec pause = {.tv_nsec = UNDO_STEP_MS * 1000000L};
	for (int waited = 0; waited < UNDO_MS; waited += UNDO_STEP_MS) {
		char text[4096];
		pid_t ended;
		while ((ended = waitpid(-1, NULL, WNOHANG | __WALL)) > 0)
			;
		if (ended < 0 && errno == ECHILD)
			return;
		if (read_small(s->proc, "thread-self/children", text, sizeof text) <= 0)
			text[0] = '\0'; /* then it was the session and the cgroup that we could kill */
		pid_t pid = 0;
		for (const char *p = text; *p; p++) {
			if (*p >= '0' && *p <= '9' && pid <= PID_MAX) {
				pid = pid * 10 + (*p - '0');
				continue;
			}
			if (pid > 1)
				kill(pid, SIGKILL); /* ours and not reaped: its number is its own */
			pid = 0;
		}
		nanosleep(&pause, NULL);
	}
}

/* Processes first, then what the runtime wrote down of them. */
static void undo_peer(const struct shim *s, const struct call *delete, int null)
{
	const int quiet[3] = {null, null, null};
	struct fault ignored;
	if (write_small(s->cgroup, "cgroup.kill", "1") < 0)
		errno = 0;
	kill_children(s);
	if (run_call(s, delete, quiet, -1, &ignored) < 0)
		errno = 0; /* it may know nothing of it; the daemon removes the directory and the cgroup */
	kill_children(s);
}

static int open_output(const struct shim *s, int out[2][2], struct fault *f)
{
	for (int i = 0; i < 2; i++) {
		if (pipe2(out[i], O_CLOEXEC) < 0)
			return fail(f, NULL, "pipe2", "");
		if (fcntl(out[i][0], F_SETFL, O_NONBLOCK) < 0)
			return fail(f, NULL, "fcntl", "");
		keep_readable(&out[i][1], s->proc);
	}
	return 0;
}

static int create_and_start(const struct shim *s, const struct plan *plan, int hangup, int null, int out[2][2],
			    struct launched *done, struct fault *f)
{
	struct call create, start, delete;
	const int stdio[3] = {null, out[0][1], out[1][1]}, quiet[3] = {null, null, null};
	if (find_call(plan, PEER_CREATE, &create, f) < 0 || find_call(plan, PEER_START, &start, f) < 0 ||
	    find_call(plan, PEER_DELETE, &delete, f) < 0)
		return -1;
	if (run_call(s, &create, stdio, hangup, f) == 0 && find_init(s, &create, done, f) == 0 &&
	    run_call(s, &start, quiet, hangup, f) == 0)
		return 0;
	/* it says no more than that its child died; the kernel knows whether memory was why */
	int64_t before = s->record.parent_start.oom_kill;
	if (f->err == EIO && before >= 0 && read_counts(s->parent, "memory.events").oom_kill > before)
		f->err = EOWNERDEAD;
	undo_peer(s, &delete, null);
	close_fd(&done->pidfd);
	return -1;
}

int peer_launch(struct shim *s, const struct plan *plan, int hangup, struct launched *done, struct fault *f)
{
	int out[2][2] = {{-1, -1}, {-1, -1}};
	*done = (struct launched){.pidfd = -1, .out = {-1, -1}, .in = -1, .sync = -1, .late = true};
	AUTOFD null = open("/dev/null", O_RDWR | O_NOCTTY | O_CLOEXEC);
	int err = null < 0 ? fail(f, NULL, "open", "/dev/null") : open_output(s, out, f);
	if (err == 0)
		err = create_and_start(s, plan, hangup, null, out, done, f);
	for (int i = 0; i < 2; i++) {
		close_fd(&out[i][1]);
		if (err == 0)
			done->out[i] = take_fd(&out[i][0]);
		close_fd(&out[i][0]);
	}
	return err;
}

void peer_end(const struct shim *s)
{
	struct call delete;
	struct fault ignored;
	int pidfd = -1;
	AUTOFD null = open("/dev/null", O_RDWR | O_NOCTTY | O_CLOEXEC);
	const int quiet[3] = {null, null, null};
	if (s->plan.base && null >= 0 && find_call(&s->plan, PEER_DELETE, &delete, &ignored) == 0)
		spawn(s, &delete, quiet, &pidfd); /* reaped by the loop; it dies with us if it takes too long */
	close_fd(&pidfd);
}
