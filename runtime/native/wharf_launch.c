/* wharf-launch: starts a container, or one more process in it, and ends. Nobody of ours stays: the process is left to
 * the nearest subreaper (conmon, containerd-shim, wharf-oci run). One message in at fd 3, one answer out; any fault
 * undoes everything. */
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/wait.h>

#include "console.h"
#include "launch.h"
#include "startmsg.h"
#include "sys.h"

enum { START_FD = 3 };

struct job {
	struct start start;
	struct start_fds fds;
	int proc;
	pid_t pid;
	int pidfd, sync;
	int master; /* of the terminal of an exec */
};

/* Signals of a terminal end who asked, which hangs up, which undoes the launch. */
static int prepare(struct job *job)
{
	struct statfs fs;
	for (int fd = 0; fd < START_FD; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR | O_NOCTTY) != fd)
			return -1;
	if (fcntl(START_FD, F_SETFD, FD_CLOEXEC) < 0 || sys_close_range(START_FD + 1, ~0U, 0) < 0)
		return -1;
	reset_signals();
	block_signals(true);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	job->proc = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return job->proc >= 0 && fstatfs(job->proc, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC ? 0 : -1;
}

static bool is_populated(int cgroup)
{
	char text[256];
	return cgroup >= 0 && read_small(cgroup, "cgroup.events", text, sizeof text) > 0 && strstr(text, "populated 1");
}

static struct child_fds for_child(const struct job *job)
{
	struct child_fds fds = NO_CHILD_FDS;
	for (int i = 0; i < 3; i++) {
		int given = job->fds.tag[TAG_STDIN + i];
		fds.stdio[i] = given >= 0 ? given : i;
	}
	fds.kept = job->fds.kept;
	fds.n_kept = job->fds.n_kept;
	return fds;
}

static int launch_container(struct job *job, const struct plan *plan, struct fault *f)
{
	struct launch_ask ask = NO_LAUNCH_ASK;
	struct launched run;
	ask.cgroup = job->fds.tag[TAG_CGROUP];
	ask.netns = job->fds.tag[TAG_NETNS];
	ask.proc = job->proc;
	ask.hangup = START_FD;
	ask.others = is_populated(ask.cgroup);
	ask.fds = for_child(job);
	ask.console = job->fds.tag[TAG_CONSOLE_SOCKET];
	if (job->start.flags & START_CREATE)
		ask.fds.gate = job->fds.tag[TAG_GATE];
	if ((job->start.flags & START_CREATE) && ask.fds.gate < 0)
		return fail_as(f, NULL, EINVAL, "start", "no gate");
	if (launch_init(plan, &ask, &run, f) < 0)
		return -1;
	job->pid = run.pid;
	job->pidfd = run.pidfd;
	job->sync = run.sync;
	return 0;
}

static int open_proc_pid(const struct job *job, int init)
{
	char text[24];
	struct out o = {text, 0, sizeof text - 1};
	pid_t pid = pid_of(job->proc, init);
	if (pid <= 0)
		return -1;
	out_u64(&o, (uint64_t)pid);
	text[o.n] = '\0';
	AUTOFD dir = openat(job->proc, text, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return sys_pidfd_signal(init, 0) == 0 ? take_fd(&dir) : -1; /* it lives, so the directory is its own */
}

/* Until the program runs. 0, -1 with a fault, or 1: the helper died before it said anything. */
static int await_join(struct job *job, const struct joining *j, struct fault *f)
{
	for (;;) {
		struct pollfd p[2] = {{.fd = j->sync, .events = POLLIN}, {.fd = START_FD, .events = POLLRDHUP}};
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return fail(f, NULL, "poll", "");
		if (p[1].revents & (POLLRDHUP | POLLHUP | POLLERR))
			return fail_as(f, NULL, ECANCELED, "exec", "given up");
		if (!p[0].revents)
			continue;
		switch (hear_join(j->sync, &job->pid, &job->master, f)) {
		case HEARD_NOTHING:
		case HEARD_MORE:
			break;
		case HEARD_PID:
			job->pidfd = sys_pidfd_open(job->pid);
			if (job->pidfd < 0)
				return fail(f, NULL, "pidfd_open", "");
			break;
		case HEARD_FAULT:
			return -1;
		case HEARD_END:
			return job->pid > 0 ? 0 : 1;
		}
	}
}

static int try_exec(struct job *job, const struct plan *plan, const struct join_ask *ask, struct fault *f)
{
	struct joining j = {.helper = -1, .helper_fd = -1, .sync = -1};
	int status = 0;
	int err = start_join(plan, ask, &j, f);
	if (err == 0)
		err = await_join(job, &j, f);
	if (err == 0 && job->master >= 0)
		err = send_terminal(job->fds.tag[TAG_CONSOLE_SOCKET], job->master, f);
	if (err != 0 && job->pidfd >= 0)
		undo_launch(-1, job->pidfd, job->pid, &status);
	if (j.helper > 0)
		undo_launch(-1, j.helper_fd, j.helper, &status);
	close_fd(&j.helper_fd);
	close_fd(&j.sync);
	if (err > 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !ask->late))
		return fail_as(f, NULL, EOWNERDEAD, "exec", "ended during set-up");
	return err;
}

static int exec_process(struct job *job, const struct plan *plan, struct fault *f)
{
	struct op op;
	struct join_ask ask = {.cgroup = job->fds.tag[TAG_CGROUP],
			       .proc = job->proc,
			       .init = job->fds.tag[TAG_INIT],
			       .fds = for_child(job)};
	if (ask.init < 0)
		return fail_as(f, NULL, EINVAL, "start", "no init");
	if (check_join(plan, f) < 0)
		return -1;
	if (plan_find(plan, OP_CONSOLE, &op) && job->fds.tag[TAG_CONSOLE_SOCKET] < 0)
		return fail_as(f, &op, EINVAL, "start", "nobody takes the terminal: no console socket");
	if (ask.cgroup >= 0 && is_frozen(ask.cgroup, -1))
		return fail_as(f, NULL, EBUSY, "exec", "the container is frozen");
	AUTOFD proc_pid = open_proc_pid(job, ask.init);
	if (proc_pid < 0)
		return fail_as(f, NULL, ESRCH, "exec", "the container has stopped");
	ask.proc_pid = proc_pid;
	int err = try_exec(job, plan, &ask, f);
	if (err > 0) { /* killed at birth: see launch_init */
		ask.late = true;
		err = try_exec(job, plan, &ask, f);
	}
	return err;
}

static int do_job(struct job *job, struct fault *f)
{
	struct plan plan;
	if (job->fds.tag[TAG_PLAN] < 0)
		return fail_as(f, NULL, EINVAL, "start", "no plan");
	if (job->fds.tag[TAG_BUNDLE] >= 0 && fchdir(job->fds.tag[TAG_BUNDLE]) < 0)
		return fail(f, NULL, "fchdir", "bundle");
	if (plan_map(&plan, job->fds.tag[TAG_PLAN], f) < 0)
		return -1;
	int err = job->start.flags & START_EXEC ? exec_process(job, &plan, f) : launch_container(job, &plan, f);
	plan_unmap(&plan);
	return err;
}

/* What is not known to anybody must not run. */
static void answer(const struct job *job, const struct fault *fault)
{
	const char known = LAUNCH_KNOWN;
	int status = 0;
	struct started started = {.magic = STARTED_MAGIC,
				  .version = WIRE_VERSION,
				  .kind = fault ? STARTED_FAULT : STARTED_RUNS,
				  .generation = job->start.generation,
				  .pid = fault ? 0 : job->pid,
				  .started_ns = boottime_ns()};
	if (fault)
		started.fault = *fault;
	if (send_started(START_FD, &started, &job->pidfd, fault ? 0 : 1) < 0 && !fault)
		undo_launch(-1, job->pidfd, job->pid, &status);
	else if (job->sync >= 0 && send(job->sync, &known, 1, MSG_NOSIGNAL) != 1)
		errno = 0; /* it has ended, or was started already */
}

int main(int argc, char **argv)
{
	static struct job job = {.proc = -1, .pidfd = -1, .sync = -1, .master = -1};
	struct fault f;
	bool again = argc == 2 && strcmp(argv[1], START_AGAIN) == 0;
	memset(&f, 0, sizeof f);
	if (argc == 1 && fcntl(START_FD, F_GETFD) >= 0)
		run_from_read_only_mount(argv, START_AGAIN);
	if (argc > (again ? 2 : 1) || prepare(&job) < 0) {
		static const char text[] = "wharf-launch is started by wharf-oci, with a socket at fd 3\n";
		return write(STDERR_FILENO, text, sizeof text - 1) < 0 ? 3 : 2;
	}
	int got = receive_start(START_FD, &job.start, &job.fds);
	if (got == 0)
		return 0;
	int err = got < 0 ? fail_as(&f, NULL, EBADMSG, "start", "") : do_job(&job, &f);
	answer(&job, err < 0 ? &f : NULL);
	return err < 0;
}
