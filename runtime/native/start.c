/* The shim's first regime, before init runs: any fault ends the launch, undoes it, and is told. */
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
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
	s->epoll = s->signals = s->listener = s->lock = s->netns = s->counts = s->bundle = s->hook_told = -1;
	s->run_dir = s->cgroup = s->parent = s->top = s->proc = s->proc_pid = s->memory_events = s->pidfd = -1;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		s->clients[i].fd = -1;
	for (unsigned i = 0; i < EXECS_MAX; i++)
		s->execs[i] = (struct exec){.helper_fd = -1, .pidfd = -1, .sync = -1, .master = -1};
	logs_init(&s->logs, s->log_bufs, -1, 0, 1);
	s->kept_slave = -1;
	attach_init(s);
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

static int take_start(struct shim *s, const struct start *start, const struct start_fds *fds, struct fault *f)
{
	static const uint8_t needed[] = {TAG_RUNDIR, TAG_CGROUP, TAG_CGPARENT, TAG_PLAN};
	unsigned n_needed = COUNT(needed) - (start->flags & START_TAKEOVER ? 1 : 0);
	for (unsigned i = 0; i < n_needed; i++)
		if (fds->tag[needed[i]] < 0)
			return fail_as(f, NULL, EINVAL, "start", "an fd is missing");
	char name[16] = "shim:";
	copy_text(name + 5, sizeof name - 5, start->name);
	prctl(PR_SET_NAME, name, 0, 0, 0);
	s->run_dir = fds->tag[TAG_RUNDIR];
	s->cgroup = fds->tag[TAG_CGROUP];
	s->parent = fds->tag[TAG_CGPARENT];
	s->top = fds->tag[TAG_CGTOP];
	s->record.generation = start->generation;
	s->record.oom_group = start->flags & START_OOM_GROUP;
	logs_init(&s->logs, s->log_bufs, fds->tag[TAG_LOGDIR], start->log_max_size, start->log_max_files);
	s->counts = fds->tag[TAG_COUNTS];
	logs_share(&s->logs, s->counts);
	if (!s->placed && fds->tag[TAG_SHIMCG] >= 0 && write_small(fds->tag[TAG_SHIMCG], "cgroup.procs", "0") < 0)
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
	s->tty = is_master(out[0]);
	s->logs.streams[1].eof = s->tty; /* all comes by the first */
	for (unsigned i = 0; i < LOG_STREAMS; i++) {
		s->logs.streams[i].fd = out[i];
		s->restless |= !s->logs.streams[i].eof && watch(s, out[i], ON_STREAM, i, EPOLLIN) < 0;
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

static int launch(struct shim *s, const struct start_fds *fds, bool input, struct fault *f)
{
	struct cgroup_dirs dirs = {s->cgroup, s->parent, s->top};
	struct launch_ask ask = NO_LAUNCH_ASK;
	struct plan plan;
	struct op op;
	struct launched run;
	s->bundle = fds->tag[TAG_BUNDLE];
	if (s->bundle >= 0 && fchdir(s->bundle) < 0)
		return fail(f, NULL, "fchdir", "bundle");
	if (sock_bind(s, f) < 0 || plan_map(&plan, fds->tag[TAG_PLAN], f) < 0)
		return -1;
	record_start(&s->record, &dirs, s->proc);
	ask.cgroup = s->cgroup;
	ask.netns = fds->tag[TAG_NETNS];
	if (ask.netns < 0 && takes_made_netns(&plan))
		ask.netns = s->netns;
	ask.proc = s->proc;
	ask.hangup = START_FD;
	ask.pipes = ask.reset_oom = true;
	ask.input = input;
	ask.say = say_to_log;
	ask.say_arg = &s->logs;
	bool peer = plan_find(&plan, OP_PEER, &op);
	int err = peer ? peer_launch(s, &plan, START_FD, &run, f) : launch_init(&plan, &ask, &run, f);
	if (err < 0) {
		explain_death(s, f);
		run_undone_hooks(s, &plan);
	}
	if (err == 0 && (peer || has_hooks(&plan, 1u << HOOK_POSTSTART | 1u << HOOK_POSTSTOP)))
		s->plan = plan;
	else
		plan_unmap(&plan);
	if (chdir("/") < 0)
		errno = 0; /* then the bundle's file system cannot be unmounted while we run */
	if (err < 0)
		return -1;
	s->late_cgroup = run.late;
	s->started_ns = s->record.started_ns = boottime_ns();
	s->input.fd = run.in;
	watch_run(s, run.pid, run.pidfd, run.out);
	note_init(s);
	return 0;
}

/* If nobody is there to take the answer, the container runs on: the socket is in its place. */
static void reply_started(const struct shim *s, const struct fault *fault)
{
	struct started started = {.magic = STARTED_MAGIC,
				  .version = WIRE_VERSION,
				  .kind = fault ? STARTED_FAULT : STARTED_RUNS,
				  .generation = s->record.generation,
				  .pid = fault ? 0 : s->pid,
				  .started_ns = s->started_ns};
	const int fds[3] = {s->pidfd, s->logs.streams[0].fd, s->logs.streams[1].fd};
	if (fault)
		started.fault = *fault;
	if (send_started(START_FD, &started, fds, fault ? 0 : 3) < 0)
		errno = 0;
}

/* Init runs, or everything was undone and told. */
bool start_run(struct shim *s)
{
	struct start_fds fds;
	struct start start;
	struct fault f;
	memset(&f, 0, sizeof f);
	struct pollfd asked = {.fd = START_FD, .events = POLLIN};
	if (poll(&asked, 1, 0) == 0)
		s->netns = make_netns(s->proc);
	int got = receive_start(START_FD, &start, &fds);
	if (got == 0)
		return false;
	int err = got < 0 ? fail_as(&f, NULL, EBADMSG, "start", "") : take_start(s, &start, &fds, &f);
	if (err == 0)
		err = start.flags & START_TAKEOVER ? take_over(s, fds.tag, start.flags & START_STDIN, &f)
						   : launch(s, &fds, start.flags & START_STDIN, &f);
	if (err < 0)
		sock_close(s);
	close_fd(&s->netns);
	reply_started(s, err < 0 ? &f : NULL);
	close_fd(&fds.tag[TAG_PLAN]);
	close_fd(&fds.tag[TAG_SHIMCG]);
	close_fd(&fds.tag[TAG_NETNS]);
	if (err == 0) {
		sock_add(s, START_FD);
		start_late_hooks(s, HOOK_POSTSTART);
	}
	return err == 0;
}
