/* wharf-shim: one process per container. It launches init from a plan, keeps its logs, answers on a socket, and writes
 * the exit record. Two regimes: before init runs (start.c), any fault ends the launch and undoes it; after it (here),
 * none may end the shim (count, go on), since the container's fate hangs on it. */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>

#include "shim.h"
#include "sys.h"

extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden"))); /* by the linker */

#define SECOND 1000000000ull
enum { PAGE = 4096, STACK_KEPT = 1024, STACK_USED = 128 << 10 };
enum { DRAIN_SECONDS = 2, ASK_SECONDS = 2, ASK_MS = 10, EVENTS_A_TURN = 16, RESTLESS_MS = 100 };

int watch(const struct shim *s, int fd, unsigned kind, unsigned index, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = (uint64_t)kind << 8 | index};
	return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event);
}

static void save_record(struct shim *s, uint64_t now)
{
	s->saved = record_write(&s->record, s->run_dir) == 0;
	s->retry_at = s->saved ? 0 : now + SECOND;
}

static void end_run(struct shim *s, int status)
{
	struct cgroup_dirs dirs = {s->cgroup, s->parent, s->top};
	uint64_t now = boottime_ns();
	s->ended = true;
	s->record.status = status;
	s->record.ended_ns = now;
	record_end(&s->record, &dirs);
	record_print(&s->record);
	save_record(s, now);
	write_small(s->cgroup, "cgroup.kill", "1"); /* what init left behind */
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		sock_tell_end(s, i);
	peer_end(s);
	s->drain_until = boottime_ns() + DRAIN_SECONDS * SECOND;
	start_late_hooks(s, HOOK_POSTSTOP);
	close_fd(&s->kept_slave);
}

/* An init that is not our child has ended: what with is told as long as it is a zombie, or (from Linux 6.15 on) once it
 * was reaped. Between the two, or where /proc tells nothing, ask again for a while. */
static void ask_taken(struct shim *s, uint64_t now)
{
	int status = 0;
	enum told told = ask_end(s, &status);
	if (s->ended || told == TOLD_RUNS)
		return;
	if (!s->ask_until) {
		s->ask_until = now + ASK_SECONDS * SECOND;
		epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->pidfd, NULL); /* it is readable from now on */
	}
	if (told == TOLD_NOTHING_YET && now < s->ask_until) {
		s->ask_at = now + ASK_MS * 1000000ull;
		return;
	}
	s->ask_at = 0;
	s->record.unknown = told != TOLD_STATUS;
	end_run(s, status);
}

/* Reap everything that has ended. True while children are left. */
static bool reap(struct shim *s)
{
	for (;;) {
		siginfo_t info = {0};
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0) {
			s->restless |= errno != ECHILD;
			return errno != ECHILD;
		}
		if (!info.si_pid)
			return true;
		/* an exec's process told its pid before it could end: hear it now, while the pid is still its own */
		for (unsigned i = 0; i < EXECS_MAX; i++)
			exec_heard(s, i);
		int status = 0;
		if (waitpid(info.si_pid, &status, WNOHANG | __WALL) != info.si_pid)
			continue;
		if (info.si_pid == s->pid && !s->taken && !s->ended)
			end_run(s, status);
		else if (!late_hooks_reaped(s, info.si_pid))
			exec_reaped(s, info.si_pid, status);
	}
}

/* Kills that are counted while init lives on were not init's. The kernel counts before it sends the signal
 * (__oom_kill_process), hence the pause. */
static void memory_event(struct shim *s)
{
	const struct timespec pause = {.tv_nsec = 2000000};
	char text[512];
	if (pread(s->memory_events, text, sizeof text, 0) < 0) { /* re-arms; ENODEV: the cgroup is gone */
		close_fd(&s->memory_events);
		return;
	}
	int64_t before = s->record.parent_start.oom_kill, now = read_counts(s->parent, "memory.events").oom_kill;
	if (before < 0 || now <= before + (int64_t)s->record.oom_seen)
		return;
	nanosleep(&pause, NULL);
	if (!init_is_dying(s))
		s->record.oom_seen = (uint64_t)(now - before);
}

static void stream_event(struct shim *s, unsigned i)
{
	struct stream *stream = &s->logs.streams[i];
	/* the fd stays open: copies of it are handed out until the end */
	if (logs_pump(&s->logs, stream) && !(i == 0 && console_revive(s)))
		epoll_ctl(s->epoll, EPOLL_CTL_DEL, stream->fd, NULL);
}

static void dispatch(struct shim *s, const struct epoll_event *event, bool *children)
{
	struct signalfd_siginfo info[4];
	unsigned index = event->data.u64 & 0xff;
	switch (event->data.u64 >> 8) {
	case ON_SIGNAL:
		while (read(s->signals, info, sizeof info) > 0)
			;
		*children = reap(s);
		break;
	case ON_STREAM:
		stream_event(s, index);
		break;
	case ON_LISTEN:
		sock_accept(s);
		break;
	case ON_CLIENT:
		sock_serve(s, index);
		break;
	case ON_MEMORY:
		memory_event(s);
		break;
	case ON_EXEC:
		exec_heard(s, index);
		break;
	case ON_INIT:
		ask_taken(s, boottime_ns());
		break;
	case ON_ATTACHED:
		attach_serve(s, index);
		break;
	case ON_INPUT:
		input_event(s);
		break;
	}
}

static bool is_over(const struct shim *s, bool children, uint64_t now)
{
	if (!s->ended || !(s->saved || s->told) || s->hook_runner)
		return false;
	bool drained = s->logs.streams[0].eof && s->logs.streams[1].eof && !children;
	return drained || now >= s->drain_until;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
	return !a ? b : !b || a < b ? a : b;
}

/* What is due by time; returns how long epoll may wait, in ms. Idle: for ever. */
static int run_timers(struct shim *s, uint64_t now)
{
	if (s->ended && !s->saved && now >= s->retry_at)
		save_record(s, now);
	if (s->ask_at && now >= s->ask_at)
		ask_taken(s, now);
	uint64_t next = sooner(logs_flush_held(&s->logs, now), exec_expire(s, now));
	next = sooner(next, s->ended ? 0 : s->ask_at);
	if (s->ended) {
		next = sooner(next, s->saved ? 0 : s->retry_at);
		if (now < s->drain_until)
			next = sooner(next, s->drain_until);
	}
	if (!next)
		return -1;
	return next <= now ? 0 : (int)((next - now) / 1000000 + 1);
}

static void look_ourselves(struct shim *s, bool *children)
{
	for (unsigned i = 0; i < LOG_STREAMS; i++)
		stream_event(s, i);
	*children = reap(s);
	if (s->taken)
		ask_taken(s, boottime_ns());
}

static void main_loop(struct shim *s)
{
	struct epoll_event events[EVENTS_A_TURN];
	bool children = reap(s); /* init may have ended before its SIGCHLD was watched for */
	for (;;) {
		uint64_t now = boottime_ns();
		int wait = run_timers(s, now);
		if (is_over(s, children, now))
			return;
		if (s->restless) {
			look_ourselves(s, &children);
			wait = wait < 0 || wait > RESTLESS_MS ? RESTLESS_MS : wait;
		}
		int n = epoll_wait(s->epoll, events, EVENTS_A_TURN, wait);
		for (int i = 0; i < n; i++)
			dispatch(s, &events[i], &children);
	}
}

/* Let go of what only the start needed: the deep end of its stack (what lies below that is no mapping of ours), and the
 * pages of the program, which come back from the page cache as they are used. */
static __attribute__((noinline)) void drop_start(void)
{
	const uintptr_t mask = ~(uintptr_t)(PAGE - 1), ehdr = (uintptr_t)&__ehdr_start;
	const ElfW(Phdr) *ph = (const ElfW(Phdr) *)(ehdr + __ehdr_start.e_phoff);
	uintptr_t stack = ((uintptr_t)__builtin_frame_address(0) - STACK_KEPT) & mask;
	uintptr_t base = __ehdr_start.e_type == ET_DYN ? ehdr : 0;
	int err = madvise((void *)(stack - STACK_USED), STACK_USED, MADV_DONTNEED);
	for (unsigned i = 0; i < __ehdr_start.e_phnum; i++)
		if (ph[i].p_type == PT_LOAD && !(ph[i].p_flags & PF_W)) {
			uintptr_t from = (base + ph[i].p_vaddr) & mask, to = base + ph[i].p_vaddr + ph[i].p_memsz;
			err |= madvise((void *)from, to - from, MADV_DONTNEED);
		}
	if (err < 0)
		errno = 0; /* then it is larger */
}

static void print_ops(void)
{
	char line[64];
	for (unsigned i = 1; i < OP_COUNT; i++) {
		struct out o = {line, 0, sizeof line};
		out_u64(&o, i);
		out_text(&o, " ");
		out_text(&o, op_kinds[i].name);
		out_text(&o, " ");
		out_text(&o, op_kinds[i].schema);
		out_text(&o, "\n");
		if (write(STDOUT_FILENO, line, o.n) < 0)
			return;
	}
}

int main(int argc, char **argv)
{
	static struct shim shim;
	if (argc == 2 && strcmp(argv[1], "--ops") == 0) {
		print_ops();
		return 0;
	}
	bool placed = argc == 2 && strcmp(argv[1], START_PLACED) == 0;
	bool again = placed || (argc == 2 && strcmp(argv[1], START_AGAIN) == 0);
	bool left = argc == 1 && leave_starter(&placed) == 0;
	if (left)
		run_from_read_only_mount(argv, placed ? START_PLACED : START_AGAIN);
	init_state(&shim);
	shim.placed = placed;
	if (!(left || again) || prepare(&shim) < 0) {
		static const char text[] = "wharf-shim is started by wharfingerd, with a socket at fd 3\n";
		return write(STDERR_FILENO, text, sizeof text - 1) < 0 ? 3 : 2;
	}
	if (!start_run(&shim))
		return 0;
	drop_start();
	main_loop(&shim);
	logs_finish(&shim.logs);
	attach_finish(&shim);
	sock_close(&shim);
	return 0;
}
