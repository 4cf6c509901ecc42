#include <fcntl.h>
#include <signal.h>

#include "shim.h"
#include "sys.h"

/* Of a hook without a timeout: the end of a shim, and so the next start, waits for it. */
enum { LATE_HOOK_MS = 10000 };

static int run_late(const struct plan *plan, unsigned kind, pid_t pid, struct fault *f)
{
	const struct hook_ask ask = {.kind = kind, .pid = pid, .hangup = -1, .limit_ms = LATE_HOOK_MS, .go_on = true};
	return run_hooks(plan, &ask, f);
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
	if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
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
		else if (run_late(&s->plan, kind, kind == HOOK_POSTSTOP ? 0 : s->pid, &f) == 0)
			_exit(0);
		_exit(write(START_FD, &f, sizeof f) == (ssize_t)sizeof f ? 1 : 2);
	}
	if (pid > 0) {
		s->hook_runner = pid;
		s->hook_told = take_fd(&told);
	}
}

/* A line of the log says which hook failed; nothing else comes of it. */
static void note_failure(struct shim *s)
{
	struct fault f;
	char text[160];
	struct out o = {text, 0, sizeof text - 1};
	if (read(s->hook_told, &f, sizeof f) != (ssize_t)sizeof f)
		return;
	out_text(&o, "hook ");
	out_text(&o, f.path);
	out_text(&o, " failed: ");
	out_text(&o, f.call);
	text[o.n] = '\0';
	logs_note(&s->logs, text);
}

bool late_hooks_reaped(struct shim *s, pid_t pid)
{
	if (!s->hook_runner || pid != s->hook_runner)
		return false;
	note_failure(s);
	close_fd(&s->hook_told);
	s->hook_runner = 0;
	if (s->poststop_due) {
		s->poststop_due = false;
		start_late_hooks(s, HOOK_POSTSTOP);
	}
	return true;
}

void run_undone_hooks(const struct plan *plan)
{
	struct fault f;
	if (run_late(plan, HOOK_POSTSTOP, 0, &f) < 0)
		errno = 0; /* the fault of the launch is the one to tell */
}
