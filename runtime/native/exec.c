/* The shim's execs: who asked, how far each is (join.c sets them up), what is told of their ends. */
#include <signal.h>
#include <sys/epoll.h>

#include "shim.h"
#include "sys.h"

#define EXEC_LIMIT_NS (10ull * 1000000000u)

static struct exec *free_slot(struct shim *s)
{
	for (unsigned i = 0; i < EXECS_MAX; i++)
		if (s->execs[i].state == EXEC_FREE)
			return &s->execs[i];
	return NULL;
}

static void free_exec(struct exec *e)
{
	close_fd(&e->helper_fd);
	close_fd(&e->pidfd);
	close_fd(&e->sync);
	close_fd(&e->master);
	*e = (struct exec){.helper_fd = -1, .pidfd = -1, .sync = -1, .master = -1};
}

static int start_helper(struct shim *s, struct exec *e, const struct plan *plan, const int fds[EXEC_FDS],
			struct fault *f)
{
	struct child_fds given = NO_CHILD_FDS;
	memcpy(given.stdio, fds + 1, sizeof given.stdio);
	struct join_ask ask = {.cgroup = s->cgroup,
			       .proc = s->proc,
			       .proc_pid = s->proc_pid,
			       .init = s->pidfd,
			       .late = s->late_cgroup,
			       .reset_oom = true,
			       .tied = true,
			       .fds = given};
	struct joining j = {.helper_fd = -1, .sync = -1};
	int err = start_join(plan, &ask, &j, f);
	e->helper = j.helper;
	e->helper_fd = j.helper_fd;
	e->sync = j.sync;
	if (err == 0 && watch(s, e->sync, ON_EXEC, (unsigned)(e - s->execs), EPOLLIN) < 0)
		return fail(f, NULL, "epoll_ctl", "");
	return err;
}

int exec_begin(struct shim *s, unsigned client, uint32_t seq, const int fds[EXEC_FDS], struct fault *f)
{
	struct exec *e = free_slot(s);
	struct plan plan;
	struct op op;
	if (s->ended)
		return ESRCH;
	if (!e)
		return EAGAIN;
	if (is_frozen(s->cgroup, s->parent))
		return EBUSY;
	if (plan_map(&plan, fds[0], f) < 0)
		return f->err;
	int err = check_join(&plan, f);
	if (err == 0 && plan_find(&plan, OP_CONSOLE, &op) != (fds[1] < 0))
		err = fail_as(f, NULL, EINVAL, "plan", "an exec needs CONSOLE or three fds");
	if (err == 0)
		err = start_helper(s, e, &plan, fds, f);
	plan_unmap(&plan);
	if (err < 0) {
		if (e->helper_fd >= 0)
			sys_pidfd_signal(e->helper_fd, SIGKILL);
		free_exec(e);
		return f->err;
	}
	e->state = EXEC_STARTING;
	e->id = ++s->next_exec;
	e->seq = seq;
	e->client = client;
	e->serial = s->clients[client].serial;
	e->deadline = boottime_ns() + EXEC_LIMIT_NS;
	return 0;
}

static void answer(struct shim *s, const struct exec *e, const struct fault *f)
{
	struct rep rep = {.cmd = CMD_EXEC | REPLY,
			  .seq = e->seq,
			  .err = f ? f->err : 0,
			  .flags = f ? REP_FAULT : 0,
			  .a = f ? 0 : e->id,
			  .b = f ? 0 : (uint64_t)e->pid,
			  .c = !f && e->master >= 0};
	int fds[2];
	unsigned n = 0;
	if (e->pidfd >= 0)
		fds[n++] = e->pidfd;
	if (e->master >= 0)
		fds[n++] = e->master;
	if (s->clients[e->client].fd >= 0 && s->clients[e->client].serial == e->serial)
		sock_send(s, e->client, &rep, f, f ? sizeof *f : 0, fds, f ? 0 : n);
}

static void give_up(struct shim *s, struct exec *e, const struct fault *f)
{
	answer(s, e, f);
	sys_pidfd_signal(e->helper_fd, SIGKILL);
	if (e->pidfd >= 0)
		sys_pidfd_signal(e->pidfd, SIGKILL);
	free_exec(e);
}

static void tell_end(struct shim *s, struct exec *e)
{
	struct rep rep = {.cmd = EVENT_EXECEXIT, .a = e->id, .b = end_how(e->status), .c = end_status(e->status)};
	free_exec(e);
	sock_tell_all(s, &rep);
}

/* One message of the helper or of the program's process; false when there is none now. */
static bool hear_one(struct shim *s, struct exec *e)
{
	struct fault told;
	switch (hear_join(e->sync, &e->pid, &e->master, &told)) {
	case HEARD_NOTHING:
		return false;
	case HEARD_MORE:
		return true;
	case HEARD_PID:
		e->pidfd = sys_pidfd_open(e->pid);
		return true;
	case HEARD_FAULT:
		give_up(s, e, &told);
		return false;
	case HEARD_END:
		break;
	}
	if (e->pid <= 0) {
		fail_as(&told, NULL, EOWNERDEAD, "exec", "ended during set-up");
		give_up(s, e, &told);
		return false;
	}
	close_fd(&e->sync);
	close_fd(&e->helper_fd);
	e->state = EXEC_RUNNING;
	answer(s, e, NULL);
	close_fd(&e->master); /* the client's alone: when it goes, the terminal is hung up */
	if (e->ended)
		tell_end(s, e);
	return false;
}

void exec_heard(struct shim *s, unsigned i)
{
	struct exec *e = &s->execs[i];
	while (e->state == EXEC_STARTING && hear_one(s, e))
		;
}

bool exec_reaped(struct shim *s, pid_t pid, int status)
{
	for (unsigned i = 0; i < EXECS_MAX; i++) {
		struct exec *e = &s->execs[i];
		if (e->state == EXEC_FREE || e->pid != pid)
			continue;
		e->ended = true;
		e->status = status;
		if (e->state == EXEC_RUNNING)
			tell_end(s, e);
		return true;
	}
	return false;
}

int exec_signal(struct shim *s, uint64_t id, int signo)
{
	for (unsigned i = 0; i < EXECS_MAX; i++) {
		const struct exec *e = &s->execs[i];
		if (e->state == EXEC_RUNNING && e->id == id)
			return sys_pidfd_signal(e->pidfd, signo) < 0 ? errno : 0;
	}
	return ESRCH;
}

uint64_t exec_expire(struct shim *s, uint64_t now)
{
	uint64_t next = 0;
	for (unsigned i = 0; i < EXECS_MAX; i++) {
		struct exec *e = &s->execs[i];
		struct fault f = {0};
		if (e->state != EXEC_STARTING)
			continue;
		if (e->deadline <= now) {
			fail_as(&f, NULL, ETIMEDOUT, "exec", "set-up took too long");
			give_up(s, e, &f);
		} else if (!next || e->deadline < next) {
			next = e->deadline;
		}
	}
	return next;
}
