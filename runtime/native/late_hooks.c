#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include "shim.h"
#include "sys.h"

/* Of a hook without a timeout: the end of a shim, and so the next start, waits for it. */
enum { LATE_HOOK_MS = 10000 };

/* Packets of the process that runs them: a line of output, led by this, or the fault. */
enum { OUTPUT = 't' };
_Static_assert((int)OP_COUNT < (int)OUTPUT, "a fault begins with the code of its operation");

static int run_late(const struct plan *plan, unsigned kind, pid_t pid, say_fn *say, void *arg, struct fault *f)
{
	const struct hook_ask ask = {.kind = kind,
				     .pid = pid,
				     .hangup = -1,
				     .limit_ms = LATE_HOOK_MS,
				     .go_on = true,
				     .say = say,
				     .say_arg = arg};
	return run_hooks(plan, &ask, f);
}

/* What is over the socket's room is lost. */
static void send_line(void *arg, const char *line)
{
	char packet[1 + HOOK_LINE_MAX] = {OUTPUT};
	(void)arg;
	copy_text(packet + 1, sizeof packet - 1, line);
	if (send(START_FD, packet, 1 + strlen(packet + 1), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		errno = 0;
}

void say_to_log(void *arg, const char *line)
{
	logs_note(arg, line);
}

void start_late_hooks(struct shim *s, unsigned kind)
{
	struct fault f;
	if (!s->plan.base || !has_hooks(&s->plan, 1u << kind))
		return;
	if (s->hook_runner) { /* poststart still runs */
		s->poststop_due = true;
		return;
	}
	struct sys_clone_args args = {.exit_signal = SIGCHLD};
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return;
	AUTOFD told = pair[0];
	AUTOFD tell = pair[1];
	pid_t pid = sys_clone3(&args);
	if (pid == 0) {
		die_with_parent();
		if (s->bundle >= 0 && fchdir(s->bundle) < 0)
			fail(&f, NULL, "fchdir", "bundle");
		else if (write_small(s->proc, "self/oom_score_adj", "0") < 0)
			fail(&f, NULL, "write", "oom_score_adj");
		else if (dup3(tell, START_FD, O_CLOEXEC) < 0 || sys_close_range(START_FD + 1, ~0U, 0) < 0)
			fail(&f, NULL, "close_range", ""); /* clients must see the shim's end */
		else if (run_late(&s->plan, kind, kind == HOOK_POSTSTOP ? 0 : s->pid, send_line, NULL, &f) == 0)
			_exit(0);
		_exit(write(START_FD, &f, sizeof f) == (ssize_t)sizeof f ? 1 : 2);
	}
	if (pid > 0) {
		s->hook_runner = pid;
		s->hook_told = take_fd(&told);
	}
}

static void note_failure(struct shim *s, const struct fault *f)
{
	char text[160];
	struct out o = {text, 0, sizeof text - 1};
	out_text(&o, "hook ");
	out_text(&o, f->path);
	out_text(&o, " failed: ");
	out_text(&o, f->call);
	text[o.n] = '\0';
	logs_note(&s->logs, text);
}

/* Lines of the log say what the hooks wrote and which one failed; nothing else comes of it. */
static void note_told(struct shim *s)
{
	char packet[sizeof(struct fault) + HOOK_LINE_MAX];
	struct fault f;
	ssize_t n;
	while ((n = recv(s->hook_told, packet, sizeof packet - 1, 0)) > 0) {
		packet[n] = '\0';
		if (packet[0] == OUTPUT) {
			logs_note(&s->logs, packet + 1);
		} else if (n == (ssize_t)sizeof f) {
			memcpy(&f, packet, sizeof f);
			note_failure(s, &f);
		}
	}
}

bool late_hooks_reaped(struct shim *s, pid_t pid)
{
	if (!s->hook_runner || pid != s->hook_runner)
		return false;
	note_told(s);
	close_fd(&s->hook_told);
	s->hook_runner = 0;
	if (s->poststop_due) {
		s->poststop_due = false;
		start_late_hooks(s, HOOK_POSTSTOP);
	}
	return true;
}

void run_undone_hooks(struct shim *s, const struct plan *plan)
{
	struct fault f;
	if (run_late(plan, HOOK_POSTSTOP, 0, say_to_log, &s->logs, &f) < 0)
		errno = 0; /* the fault of the launch is the one to tell */
}
