/* The shim's first regime, before init runs: any fault ends the launch, undoes it, and is told. */
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <time.h>

#include "shim.h"
#include "sys.h"

void init_state(struct shim *s)
{
	s->epoll = s->signals = s->listener = s->lock = -1;
	s->run_dir = s->cgroup = s->parent = s->top = s->proc = s->proc_pid = s->memory_events = s->pidfd = -1;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		s->clients[i].fd = -1;
	for (unsigned i = 0; i < EXECS_MAX; i++)
		s->execs[i] = (struct exec){.helper_fd = -1, .pidfd = -1, .sync = -1};
	logs_init(&s->logs, -1, 0, 1);
}

/* Fork into the cgroup; -1 if that did not work: Linux 6.18 may kill such a child at birth (launch.c). */
static pid_t fork_into(int cgroup)
{
	struct sys_clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cgroup};
	int born[2];
	char byte = LAUNCH_BORN;
	if (pipe2(born, O_CLOEXEC) < 0)
		return -1;
	pid_t pid = sys_clone3(&args);
	if (pid == 0)
		return write(born[1], &byte, 1) == 1 ? 0 : -1;
	close(born[1]);
	bool lives = pid > 0 && read(born[0], &byte, 1) == 1;
	close(born[0]);
	return lives ? pid : -1;
}

/* The starter gets its child back at once, and a shim is nobody's zombie: init reaps it. A shim that is born in its
 * cgroup needs not be moved there later, which takes some ms (cgroup_threadgroup_rwsem waits for RCU). */
int leave_starter(bool *placed)
{
	struct statfs fs;
	if (fcntl(START_FD, F_GETFD) < 0)
		return -1;
	*placed = fstatfs(START_CGROUP_FD, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
	pid_t pid = *placed ? fork_into(START_CGROUP_FD) : -1;
	if (pid < 0) {
		*placed = false;
		pid = fork();
	}
	if (pid > 0)
		_exit(0);
	return pid;
}

/* A container may run /proc/self/exe as its program, or find a joining process's: that is this program, of the host. So
 * it runs from a read-only copy of its mount, which is attached nowhere: writing there is refused, and nobody can
 * change that (CVE-2019-5736). Where the kernel does not let us, it runs on as it is: written to it cannot be either
 * while a shim runs (ETXTBSY). */
void run_from_read_only_mount(char **argv, bool placed)
{
	char *const again[] = {argv[0], (char *)(uintptr_t)(placed ? START_PLACED : START_AGAIN), NULL};
	char *const env[] = {NULL};
	struct sys_mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
	AUTOFD self = sys_open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (self >= 0 && sys_mount_setattr(self, "", AT_EMPTY_PATH, &attr) == 0)
		syscall(SYS_execveat, self, "", again, env, AT_EMPTY_PATH);
}

/* What a shim does once, so that a spare one is ready: it must survive its starter and every signal but SIGKILL. */
int prepare(struct shim *s)
{
	sigset_t child;
	for (int fd = 0; fd < START_FD; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR | O_NOCTTY) != fd)
			return -1;
	if (fcntl(START_FD, F_SETFD, FD_CLOEXEC) < 0 || sys_close_range(START_FD + 1, ~0U, 0) < 0)
		return -1;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	reset_signals();
	block_signals(true);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	s->signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	s->proc = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct statfs fs;
	if (s->epoll < 0 || s->signals < 0 || s->proc < 0 || fstatfs(s->proc, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC)
		return -1;
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if (write_small(s->proc, "self/oom_score_adj", "-999") < 0)
		errno = 0; /* without CAP_SYS_RESOURCE it stays what it was */
	if (chdir("/") < 0)
		return -1;
	return watch(s, s->signals, ON_SIGNAL, 0, EPOLLIN);
}

/* The one start message and its fds by tag. 1: got it, 0: the other end is closed, -1: not a start message. */
static int receive_start(struct start *start, int fds[TAG_COUNT])
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int) * START_FDS_MAX)];
	} control;
	struct iovec iov = {start, sizeof *start};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n;
	do
		n = recvmsg(START_FD, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return 0;
	struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
	size_t count = 0;
	if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS)
		count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	if (n != (ssize_t)sizeof *start || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || start->magic != START_MAGIC ||
	    start->version != WIRE_VERSION || start->nfds != count || count > START_FDS_MAX)
		return -1;
	for (size_t i = 0; i < count; i++) {
		unsigned tag = start->tags[i];
		if (!tag || tag >= TAG_COUNT || fds[tag] >= 0)
			return -1;
		memcpy(&fds[tag], CMSG_DATA(h) + i * sizeof(int), sizeof(int));
	}
	start->name[sizeof start->name - 1] = '\0';
	return 1;
}

static int take_start(struct shim *s, const struct start *start, const int fds[TAG_COUNT], struct fault *f)
{
	static const uint8_t needed[] = {TAG_RUNDIR, TAG_CGROUP, TAG_CGPARENT, TAG_PLAN};
	unsigned n_needed = COUNT(needed) - (start->flags & START_TAKEOVER ? 1 : 0);
	for (unsigned i = 0; i < n_needed; i++)
		if (fds[needed[i]] < 0)
			return fail_as(f, NULL, EINVAL, "start", "an fd is missing");
	char name[16] = "shim:";
	copy_text(name + 5, sizeof name - 5, start->name);
	prctl(PR_SET_NAME, name, 0, 0, 0);
	s->run_dir = fds[TAG_RUNDIR];
	s->cgroup = fds[TAG_CGROUP];
	s->parent = fds[TAG_CGPARENT];
	s->top = fds[TAG_CGTOP];
	s->record.generation = start->generation;
	s->record.oom_group = start->flags & START_OOM_GROUP;
	logs_init(&s->logs, fds[TAG_LOGDIR], start->log_max_size, start->log_max_files);
	if (!s->placed && fds[TAG_SHIMCG] >= 0 && write_small(fds[TAG_SHIMCG], "cgroup.procs", "0") < 0)
		return fail(f, NULL, "write", "cgroup.procs of the shims");
	return lock_run(s, f);
}

void watch_run(struct shim *s, pid_t init, int pidfd, const int out[LOG_STREAMS])
{
	char pid[24];
	struct out o = {pid, 0, sizeof pid - 1};
	out_u64(&o, (uint64_t)init);
	pid[o.n] = '\0';
	s->pid = s->record.pid = init;
	s->pidfd = pidfd;
	s->proc_pid = openat(s->proc, pid, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (unsigned i = 0; i < LOG_STREAMS; i++) {
		s->logs.streams[i].fd = out[i];
		s->restless |= watch(s, out[i], ON_STREAM, i, EPOLLIN) < 0;
	}
	s->memory_events = openat(s->parent, "memory.events", O_RDONLY | O_CLOEXEC);
	if (s->memory_events >= 0)
		watch(s, s->memory_events, ON_MEMORY, 0, EPOLLPRI | EPOLLET);
}

/* An init that died while it was set up: tell whether its memory limit did it. */
static void explain_death(const struct shim *s, struct fault *f)
{
	int64_t before = s->record.parent_start.oom_kill;
	int64_t after = read_counts(s->parent, "memory.events").oom_kill;
	struct out o = {f->path, strlen(f->path), sizeof f->path - 1};
	if (f->err != EOWNERDEAD || after < 0)
		return;
	out_text(&o, ", oom_kill ");
	out_u64(&o, (uint64_t)(after > before && before >= 0 ? after - before : 0));
	f->path[o.n] = '\0';
}

static int launch(struct shim *s, const int fds[TAG_COUNT], struct fault *f)
{
	struct cgroup_dirs dirs = {s->cgroup, s->parent, s->top};
	struct launch_fds for_launch = {
		.cgroup = s->cgroup, .netns = fds[TAG_NETNS], .proc = s->proc, .hangup = START_FD};
	struct plan plan;
	struct launched run;
	if (sock_bind(s, f) < 0 || plan_map(&plan, fds[TAG_PLAN], f) < 0)
		return -1;
	record_start(&s->record, &dirs, s->proc);
	int err = launch_init(&plan, &for_launch, &run, f);
	plan_unmap(&plan);
	if (err < 0) {
		explain_death(s, f);
		return -1;
	}
	s->late_cgroup = run.late;
	s->started_ns = s->record.started_ns = boottime_ns();
	watch_run(s, run.pid, run.pidfd, run.out);
	note_init(s);
	return 0;
}

/* The answer to the start message. If nobody is there to take it, the container runs on: the socket is in its place. */
static void reply_started(const struct shim *s, const struct fault *fault)
{
	struct started started = {.magic = STARTED_MAGIC,
				  .version = WIRE_VERSION,
				  .kind = fault ? STARTED_FAULT : STARTED_RUNS,
				  .generation = s->record.generation,
				  .pid = fault ? 0 : s->pid,
				  .started_ns = s->started_ns};
	const int fds[3] = {s->pidfd, s->logs.streams[0].fd, s->logs.streams[1].fd};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof fds)];
	} control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fds)}};
	struct iovec iov = {&started, sizeof started};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fault) {
		started.fault = *fault;
	} else {
		memcpy(CMSG_DATA(&control.head), fds, sizeof fds);
		msg.msg_control = &control;
		msg.msg_controllen = sizeof control.space;
	}
	const struct timespec pause = {.tv_nsec = 10000000};
	for (int i = 0; i < 20 && sendmsg(START_FD, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0; i++) {
		if (errno == EPIPE || errno == ECONNRESET)
			return;
		nanosleep(&pause, NULL); /* no memory, or no room: an answer that is lost would cost the container */
	}
}

/* Init runs, or everything was undone and told. */
bool start_run(struct shim *s)
{
	int fds[TAG_COUNT];
	struct start start;
	struct fault f;
	memset(&f, 0, sizeof f);
	memset(fds, -1, sizeof fds);
	int got = receive_start(&start, fds);
	if (got == 0)
		return false;
	int err = got < 0 ? fail_as(&f, NULL, EBADMSG, "start", "") : take_start(s, &start, fds, &f);
	if (err == 0)
		err = start.flags & START_TAKEOVER ? take_over(s, fds, &f) : launch(s, fds, &f);
	if (err < 0)
		sock_close(s);
	reply_started(s, err < 0 ? &f : NULL);
	close_fd(&fds[TAG_PLAN]);
	close_fd(&fds[TAG_SHIMCG]);
	close_fd(&fds[TAG_NETNS]);
	if (err == 0)
		sock_add(s, START_FD);
	return err == 0;
}
