/* Hooks of a runtime spec: programs of the host that run at points of a container's life, one after the other, with the
 * container's state on stdin. They inherit working directory and namespaces of who runs them, and stdout and stderr
 * unless somebody takes what they say. */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "launch.h"
#include "sys.h"

#ifndef MFD_NOEXEC_SEAL
#	define MFD_NOEXEC_SEAL 8u
#endif

enum { OUTPUT_MAX = 4096, LINES_MAX = 32, READS_A_TURN = 16 };

/* What a hook wrote: the first of it. fd: -1, or the read end of its stdout and stderr, owned. */
struct output {
	int fd;
	size_t n;
	bool more;
	char text[OUTPUT_MAX];
};

enum { STATE_CREATING, STATE_CREATED, STATE_RUNNING, STATE_STOPPED };

static const uint8_t states[HOOK_KINDS] = {
	[HOOK_PRESTART] = STATE_CREATING,         [HOOK_CREATE_RUNTIME] = STATE_CREATING,
	[HOOK_CREATE_CONTAINER] = STATE_CREATING, [HOOK_START_CONTAINER] = STATE_CREATED,
	[HOOK_POSTSTART] = STATE_RUNNING,         [HOOK_POSTSTOP] = STATE_STOPPED,
};

bool has_hooks(const struct plan *plan, unsigned kinds)
{
	struct cursor at = {0};
	struct op op;
	while (plan_next(plan, &at, &op))
		if (op.code == OP_HOOK && kinds >> op.a[0].u & 1)
			return true;
	return false;
}

static bool write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t done = write(fd, p, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		p += done;
		n -= (size_t)done;
	}
	return true;
}

/* The state as a hook reads it; owned. */
static int make_state(const struct plan *plan, const struct hook_ask *ask, const struct op *hook, struct fault *f)
{
	struct cursor at = {0};
	struct op op;
	char pid[24];
	struct out o = {pid, 0, sizeof pid};
	out_u64(&o, (uint64_t)ask->pid);
	do
		if (!plan_next(plan, &at, &op))
			return fail_as(f, hook, EINVAL, "plan", "a hook without its STATE");
	while (op.code != OP_STATE || op.a[0].u != states[ask->kind]);
	int fd = memfd_create("state", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create("state", MFD_CLOEXEC);
	AUTOFD state = fd;
	if (state < 0)
		return fail(f, hook, "memfd_create", "state");
	if (!write_all(state, op.a[1].s.p, op.a[1].s.n) || !write_all(state, pid, o.n) ||
	    !write_all(state, op.a[2].s.p, op.a[2].s.n) || lseek(state, 0, SEEK_SET) < 0)
		return fail(f, hook, "write", "state");
	return take_fd(&state);
}

/* What is over its place is read and dropped, so that no hook waits. */
static void take_output(struct output *out)
{
	char rest[OUTPUT_MAX];
	for (int i = 0; i < READS_A_TURN && out->fd >= 0; i++) {
		size_t room = sizeof out->text - out->n;
		ssize_t n = room ? read(out->fd, out->text + out->n, room) : read(out->fd, rest, sizeof rest);
		if (n == 0)
			close_fd(&out->fd);
		if (n <= 0)
			return;
		out->n += room ? (size_t)n : 0;
		out->more |= !room;
	}
}

static void say_line(const struct hook_ask *ask, const struct op *hook, const char *text, size_t n)
{
	char line[HOOK_LINE_MAX];
	struct out o = {line, 0, sizeof line - 1};
	out_text(&o, "hook ");
	out_text(&o, hook->a[2].s.p);
	out_text(&o, ": ");
	out_bytes(&o, text, n);
	line[o.n] = '\0';
	ask->say(ask->say_arg, line);
}

static void say_output(const struct hook_ask *ask, const struct op *hook, struct output *out)
{
	static const char cut[] = "(more)";
	unsigned lines = 0;
	size_t at = 0;
	for (; at < out->n && lines < LINES_MAX; lines++) {
		const char *newline = memchr(out->text + at, '\n', out->n - at);
		size_t n = newline ? (size_t)(newline - (out->text + at)) : out->n - at;
		if (n)
			say_line(ask, hook, out->text + at, n);
		at += n + 1;
	}
	if (out->more || at < out->n)
		say_line(ask, hook, cut, sizeof cut - 1);
}

/* The hook's own process, after the HOOK at: executes, or tells why not. */
static _Noreturn void become_hook(const struct plan *plan, struct cursor at, const struct op *hook, int state,
				  int output, int tell)
{
	static char *argv[PLAN_WORDS_MAX + 2], *envp[PLAN_WORDS_MAX + 1]; /* static: touched in this process only */
	const int tell_at = STDERR_FILENO + 1;
	size_t args = 0, envs = 0;
	struct op op;
	while (plan_next(plan, &at, &op) && (op.code == OP_HOOKARG || op.code == OP_HOOKENV)) {
		if (op.code == OP_HOOKARG && args < PLAN_WORDS_MAX)
			argv[args++] = (char *)(uintptr_t)op.a[0].s.p;
		else if (op.code == OP_HOOKENV && envs < PLAN_WORDS_MAX)
			envp[envs++] = (char *)(uintptr_t)op.a[0].s.p;
	}
	if (!args)
		argv[0] = (char *)(uintptr_t)hook->a[2].s.p;
	die_with_parent();
	setsid();
	umask(022);
	block_signals(false);
	for (int fd = STDOUT_FILENO; output >= 0 && fd <= STDERR_FILENO; fd++)
		if (dup2(output, fd) < 0)
			_exit(126);
	if (dup2(state, STDIN_FILENO) >= 0 && (tell == tell_at || dup3(tell, tell_at, O_CLOEXEC) >= 0)) {
		tell = tell_at;
		if (sys_close_range((unsigned)tell_at + 1, ~0U, 0) == 0)
			execve(hook->a[2].s.p, argv, envp);
	}
	_exit(write(tell, &errno, sizeof errno) < 0 ? 126 : 127);
}

/* Wait for the hook to end; what is over its time, or not wanted any more, is killed with its process group. */
static int wait_hook(const struct hook_ask *ask, const struct op *hook, int pidfd, pid_t pid, struct output *out,
		     struct fault *f)
{
	uint64_t ms = hook->a[1].u ? hook->a[1].u : ask->limit_ms;
	uint64_t until = ms ? boottime_ns() + ms * 1000000u : 0, now = 0;
	int err = 0, status = 0;
	for (;;) {
		struct pollfd p[3] = {{.fd = pidfd, .events = POLLIN},
				      {.fd = ask->hangup, .events = POLLRDHUP},
				      {.fd = out->fd, .events = POLLIN}};
		now = boottime_ns();
		uint64_t left = until > now ? (until - now) / 1000000u + 1 : 0;
		int n = poll(p, 3, !until ? -1 : left > 1000000 ? 1000000 : (int)left);
		if (p[2].revents)
			take_output(out);
		if (p[0].revents)
			break;
		if (n < 0 && errno != EINTR)
			err = fail(f, hook, "poll", hook->a[2].s.p);
		else if (n > 0 && p[1].revents & (POLLRDHUP | POLLHUP | POLLERR))
			err = fail_as(f, hook, ECANCELED, "given up", hook->a[2].s.p);
		else if (until && boottime_ns() >= until)
			err = fail_as(f, hook, ETIMEDOUT, "timeout", hook->a[2].s.p);
		if (err < 0)
			break;
	}
	if (err < 0) {
		kill(-pid, SIGKILL); /* it is not reaped, so the number is its own */
		sys_pidfd_signal(pidfd, SIGKILL);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	take_output(out);
	if (err < 0 || status == 0)
		return err;
	char how[16];
	struct out o = {how, 0, sizeof how - 1};
	out_text(&o, WIFSIGNALED(status) ? "signal " : "exit ");
	out_u64(&o, (uint64_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status)));
	how[o.n] = '\0';
	return fail_as(f, hook, ECANCELED, how, hook->a[2].s.p);
}

static int run_hook(const struct plan *plan, struct cursor at, const struct op *hook, const struct hook_ask *ask,
		    struct fault *f)
{
	int tell[2], pair[2] = {-1, -1}, fd = -1, reason = 0;
	struct output out = {.fd = -1};
	AUTOFD state = make_state(plan, ask, hook, f);
	if (state < 0)
		return -1;
	if (pipe2(tell, O_CLOEXEC | O_NONBLOCK) < 0)
		return fail(f, hook, "pipe2", hook->a[2].s.p);
	AUTOFD read_end = tell[0];
	AUTOFD write_end = tell[1];
	if (ask->say && (pipe2(pair, O_CLOEXEC) < 0 || fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0))
		errno = 0; /* then it writes to ours */
	out.fd = pair[0];
	AUTOFD output = pair[1];
	struct sys_clone_args args = {.flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&fd, .exit_signal = SIGCHLD};
	pid_t pid = sys_clone3(&args);
	if (pid == 0)
		become_hook(plan, at, hook, state, output, write_end);
	if (pid < 0) {
		close_fd(&out.fd);
		return fail(f, hook, "clone3", hook->a[2].s.p);
	}
	AUTOFD pidfd = fd;
	close_fd(&write_end);
	close_fd(&output);
	int err = wait_hook(ask, hook, pidfd, pid, &out, f);
	close_fd(&out.fd);
	if (ask->say)
		say_output(ask, hook, &out);
	if (read(read_end, &reason, sizeof reason) == (ssize_t)sizeof reason)
		return fail_as(f, hook, reason, "execve", hook->a[2].s.p);
	return err;
}

int run_hooks(const struct plan *plan, const struct hook_ask *ask, struct fault *f)
{
	struct cursor at = {0};
	struct fault later;
	struct op op;
	int err = 0;
	while (plan_next(plan, &at, &op)) {
		if (op.code != OP_HOOK || op.a[0].u != ask->kind)
			continue;
		if (run_hook(plan, at, &op, ask, err ? &later : f) < 0)
			err = -1;
		if (err < 0 && !ask->go_on)
			break;
	}
	return err;
}
