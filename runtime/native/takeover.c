/* A shim for a container whose own was killed. Init goes on; it is a child of the host's init now, or of another
 * subreaper, so its end is told by its pidfd, and its status by the kernel: from /proc while it is a zombie, from
 * the pidfd once it was reaped (Linux 6.15). */
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "shim.h"
#include "sys.h"

#define TICK_NS (1000000000ull / 100) /* USER_HZ is 100 on every architecture that the kernel still has */

int lock_run(struct shim *s, struct fault *f)
{
	/* an open file of our own: the daemon's goes on after us */
	s->lock = openat(s->run_dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->lock < 0)
		return fail(f, NULL, "open", "run directory");
	if (flock(s->lock, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		return fail_as(f, NULL, EAGAIN, "flock", "another shim has this run");
	return 0; /* a file system without locks is no reason not to run */
}

/* Field n (from 1) of /proc/PID/stat, which comes after the name; false when it is not there. */
static bool stat_field(const char *text, unsigned n, uint64_t *value)
{
	const char *p = strrchr(text, ')');
	for (unsigned at = 2; p && at < n; at++)
		p = strchr(p + 1, ' ');
	if (!p || p[1] < '0' || p[1] > '9')
		return false;
	for (*value = 0, p++; *p >= '0' && *p <= '9'; p++)
		*value = *value * 10 + (uint64_t)(*p - '0');
	return true;
}

static uint64_t start_ticks(const struct shim *s)
{
	char text[1024];
	uint64_t ticks = 0;
	if (read_small(s->proc_pid, "stat", text, sizeof text) > 0 && stat_field(text, 22, &ticks))
		return ticks;
	return 0;
}

static uint64_t inode(int fd)
{
	struct stat st;
	return fstat(fd, &st) < 0 ? 0 : (uint64_t)st.st_ino;
}

void note_init(struct shim *s)
{
	const struct init_note note = {.start_ticks = start_ticks(s),
				       .pipes = {inode(s->logs.streams[0].fd), inode(s->logs.streams[1].fd)},
				       .late = s->late_cgroup};
	if (record_note(&s->record, s->run_dir, &note) < 0)
		errno = 0; /* a later shim knows less then */
}

/* Without this capability /proc says 0 where the status should be. */
static bool may_read_status(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{0}};
	return syscall(SYS_capget, &head, data) == 0 && data[0].effective & 1u << CAP_SYS_PTRACE;
}

enum told ask_end(const struct shim *s, int *status)
{
	struct pollfd p = {.fd = s->pidfd, .events = POLLIN};
	struct sys_pidfd_info info = {.mask = SYS_PIDFD_INFO_EXIT};
	char text[1024];
	uint64_t value;
	if (poll(&p, 1, 0) == 0)
		return TOLD_RUNS;
	const char *name_end = NULL;
	if (read_small(s->proc_pid, "stat", text, sizeof text) > 0)
		name_end = strrchr(text, ')');
	if (name_end && name_end[1] == ' ' && name_end[2] == 'Z' && may_read_status() && stat_field(text, 52, &value)) {
		*status = (int)value;
		return TOLD_STATUS;
	}
	if (ioctl(s->pidfd, SYS_PIDFD_GET_INFO, &info) == 0 && info.mask & SYS_PIDFD_INFO_EXIT) {
		*status = info.exit_code;
		return TOLD_STATUS;
	}
	return TOLD_NOTHING_YET;
}

bool init_is_dying(const struct shim *s)
{
	char text[2048];
	if (s->ended || read_small(s->proc_pid, "status", text, sizeof text) <= 0)
		return true;
	const char *state = strstr(text, "\nState:\t");
	if (!state || state[8] == 'Z' || state[8] == 'X')
		return true;
	static const char *const keys[] = {"\nSigPnd:\t", "\nShdPnd:\t"};
	for (unsigned i = 0; i < COUNT(keys); i++) {
		const char *mask = strstr(text, keys[i]);
		/* 16 hex digits; SIGKILL is bit 8, the lowest of the third from the right */
		if (!mask || strspn(mask + 9, "0123456789abcdef") != 16 || strchr("13579bdf", mask[9 + 13]))
			return true;
	}
	return false;
}

/* Kills that are in the counters already were not init's. */
static void note_kills(struct shim *s)
{
	int64_t before = s->record.parent_start.oom_kill, now = read_counts(s->parent, "memory.events").oom_kill;
	if (before >= 0 && now > before && !init_is_dying(s))
		s->record.oom_seen = (uint64_t)(now - before);
}

int take_over(struct shim *s, const int *fds, bool input, struct fault *f)
{
	const int out[LOG_STREAMS] = {fds[TAG_OUT_PIPE], fds[TAG_ERR_PIPE]};
	struct cgroup_dirs dirs = {s->cgroup, s->parent, s->top};
	struct init_note note = {.late = true};
	if (fds[TAG_INIT] < 0 || out[0] < 0 || out[1] < 0)
		return fail_as(f, NULL, EINVAL, "start", "a takeover needs init and its pipes");
	if (faccessat(s->run_dir, "exit", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return fail_as(f, NULL, EEXIST, "takeover", "exit");
	if (sock_bind(s, f) < 0)
		return -1;
	record_start(&s->record, &dirs, s->proc);
	bool known = record_recall(&s->record, s->run_dir, &note);
	pid_t pid = pid_of(s->proc, fds[TAG_INIT]);
	s->taken = s->record.kernel = true;
	s->late_cgroup = note.late;
	s->input.fd = fds[TAG_STDIN];
	if (input && s->input.fd < 0 && is_master(out[0]))
		s->input.fd = fcntl(out[0], F_DUPFD_CLOEXEC, 0);
	watch_run(s, pid ? pid : s->record.pid, fds[TAG_INIT], out);
	/* the directory is init's only if the pid was still its own after it was opened */
	if (!pid || pid_of(s->proc, s->pidfd) != pid)
		close_fd(&s->proc_pid);
	s->started_ns = known ? s->record.started_ns : start_ticks(s) * TICK_NS;
	s->record.started_ns = s->started_ns;
	s->restless |= watch(s, s->pidfd, ON_INIT, 0, EPOLLIN) < 0;
	note_kills(s);
	return 0;
}
