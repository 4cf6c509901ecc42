#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "shim.h"
#include "sys.h"

enum { SEND_BUFFER = 32768, REQUESTS_A_TURN = 8, BACKLOG = 16 };

static const char SOCK_NAME[] = "sock";

uint64_t end_how(int status)
{
	return WIFSIGNALED(status) ? (WCOREDUMP(status) ? HOW_CORE : HOW_SIGNALED) : HOW_EXITED;
}

uint64_t end_status(int status)
{
	return (uint64_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* By way of the directory's fd: sun_path holds 108 bytes, and a run directory's path may be longer. */
int sock_bind(struct shim *s, struct fault *f)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct out o = {addr.sun_path, 0, sizeof addr.sun_path - 1};
	out_text(&o, "/proc/self/fd/");
	out_u64(&o, (uint64_t)s->run_dir);
	out_text(&o, "/");
	out_text(&o, SOCK_NAME);
	AUTOFD fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(f, NULL, "socket", SOCK_NAME);
	if (unlinkat(s->run_dir, SOCK_NAME, 0) < 0 && errno != ENOENT)
		return fail(f, NULL, "unlinkat", SOCK_NAME);
	mode_t old = umask(0177);
	int err = bind(fd, (struct sockaddr *)&addr, sizeof addr);
	umask(old);
	if (err < 0)
		return fail(f, NULL, "bind", SOCK_NAME);
	s->bound = true;
	if (listen(fd, BACKLOG) < 0 || watch(s, fd, ON_LISTEN, 0, EPOLLIN) < 0)
		return fail(f, NULL, "listen", SOCK_NAME);
	s->listener = take_fd(&fd);
	return 0;
}

static void drop_client(struct shim *s, unsigned client)
{
	close_fd(&s->clients[client].fd);
}

void sock_add(struct shim *s, int fd)
{
	const int size = SEND_BUFFER;
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		if (s->clients[i].fd >= 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
		if (watch(s, fd, ON_CLIENT, i, EPOLLIN) < 0)
			break;
		s->clients[i] = (struct client){.fd = fd, .serial = ++s->next_serial};
		return;
	}
	close(fd);
}

void sock_accept(struct shim *s)
{
	AUTOFD fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t size = sizeof peer;
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != 0)
		return;
	sock_add(s, take_fd(&fd));
}

bool sock_send(struct shim *s, unsigned client, const struct rep *rep, const void *tail, size_t tail_size,
	       const int *fds, unsigned n_fds)
{
	struct iovec iov[2] = {{(void *)(uintptr_t)rep, sizeof *rep}, {(void *)(uintptr_t)tail, tail_size}};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int) * EXEC_FDS)];
	} control;
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = tail_size ? 2 : 1};
	if (n_fds) {
		memset(&control, 0, sizeof control);
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		control.head = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * n_fds)};
		memcpy(CMSG_DATA(&control.head), fds, sizeof(int) * n_fds);
	}
	if (s->clients[client].fd < 0)
		return false;
	if (sendmsg(s->clients[client].fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return true;
	drop_client(s, client);
	return false;
}

void sock_tell_all(struct shim *s, const struct rep *rep)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		sock_send(s, i, rep, NULL, 0, NULL, 0);
}

void sock_tell_end(struct shim *s, unsigned client)
{
	const struct record *r = &s->record;
	int64_t before = r->parent_start.oom_kill, after = r->parent_end.oom_kill;
	struct rep rep = {.cmd = EVENT_EXIT,
			  .flags = REP_ENDED | REP_RECORD | (s->saved ? 0 : REP_UNSAVED),
			  .a = r->unknown ? 0 : end_status(r->status),
			  .b = r->unknown ? HOW_UNKNOWN : end_how(r->status),
			  .c = r->ended_ns,
			  .d = before >= 0 && after > before ? (uint64_t)(after - before) : 0};
	s->told |= sock_send(s, client, &rep, r->text, r->text_size, NULL, 0);
}

void sock_close(struct shim *s)
{
	if (s->bound)
		unlinkat(s->run_dir, SOCK_NAME, 0);
	close_fd(&s->listener);
}

/* Commands. Each fills *rep; fds of a reply are borrowed. */

struct call {
	const struct req *req;
	unsigned client;
	int *fds; /* received; borrowed; EXEC_FDS of room */
	unsigned n_fds;
	int reply_fds[3];
	unsigned n_reply;
	bool later; /* no reply now */
	struct fault fault;
};

static int cmd_hello(struct shim *s, struct call *c, struct rep *rep)
{
	rep->a = s->record.generation;
	rep->b = (uint64_t)s->pid;
	rep->c = s->started_ns;
	rep->d = (uint64_t)getpid();
	c->reply_fds[0] = s->pidfd;
	c->reply_fds[1] = s->logs.streams[0].fd;
	c->reply_fds[2] = s->logs.streams[1].fd;
	c->n_reply = 3; /* not stdin: a copy of it would keep it open */
	return 0;
}

static int cmd_signal(struct shim *s, struct call *c, struct rep *rep)
{
	(void)rep;
	if (!c->req->arg || c->req->arg >= NSIG)
		return EINVAL;
	return sys_pidfd_signal(s->pidfd, (int)c->req->arg) < 0 ? errno : 0;
}

static int cmd_exec(struct shim *s, struct call *c, struct rep *rep)
{
	(void)rep;
	if (c->n_fds != EXEC_FDS && c->n_fds != 1)
		return EINVAL;
	for (unsigned i = c->n_fds; i < EXEC_FDS; i++)
		c->fds[i] = -1;
	int err = exec_begin(s, c->client, c->req->seq, c->fds, &c->fault);
	c->later = !err;
	return err;
}

static int cmd_logconf(struct shim *s, struct call *c, struct rep *rep)
{
	(void)rep;
	if (!c->req->arg2 || c->req->arg2 > 1000)
		return EINVAL;
	s->logs.max_size = c->req->arg;
	s->logs.max_files = (uint32_t)c->req->arg2;
	return 0;
}

static int cmd_logstat(struct shim *s, struct call *c, struct rep *rep)
{
	rep->a = s->logs.counts[COUNT_BYTES];
	rep->b = s->logs.counts[COUNT_LINES];
	rep->c = s->logs.counts[COUNT_DROPPED];
	rep->d = s->logs.counts[COUNT_ERRORS];
	c->reply_fds[0] = s->counts;
	c->n_reply = s->counts >= 0;
	return 0;
}

static int cmd_signalexec(struct shim *s, struct call *c, struct rep *rep)
{
	(void)rep;
	if (!c->req->arg2 || c->req->arg2 >= NSIG)
		return EINVAL;
	return exec_signal(s, c->req->arg, (int)c->req->arg2);
}

static int cmd_reopen(struct shim *s, struct call *c, struct rep *rep)
{
	(void)c;
	(void)rep;
	logs_reopen(&s->logs);
	return s->logs.file < 0 ? s->logs.last_error : 0;
}

static int cmd_resize(struct shim *s, struct call *c, struct rep *rep)
{
	(void)rep;
	return s->ended ? ESRCH : console_resize(s, c->req->arg, c->req->arg2);
}

static int cmd_closestdin(struct shim *s, struct call *c, struct rep *rep)
{
	(void)c;
	(void)rep;
	if (s->tty) /* its end of file is typed */
		return ENOTSUP;
	input_close(s);
	return 0;
}

static int cmd_attach(struct shim *s, struct call *c, struct rep *rep)
{
	if (c->n_fds != 1)
		return EINVAL;
	if (s->ended)
		return ESRCH;
	rep->a = (s->tty ? ATTACHED_TTY : 0) | (s->input.fd >= 0 ? ATTACHED_INPUT : 0);
	return attach_add(s, c->fds[0]);
}

typedef int cmd_fn(struct shim *s, struct call *c, struct rep *rep);

static cmd_fn *const commands[] = {
	[CMD_HELLO] = cmd_hello,     [CMD_SIGNAL] = cmd_signal,   [CMD_EXEC] = cmd_exec,
	[CMD_LOGCONF] = cmd_logconf, [CMD_LOGSTAT] = cmd_logstat, [CMD_SIGNALEXEC] = cmd_signalexec,
	[CMD_REOPEN] = cmd_reopen,   [CMD_RESIZE] = cmd_resize,   [CMD_CLOSESTDIN] = cmd_closestdin,
	[CMD_ATTACH] = cmd_attach,
};
_Static_assert(COUNT(commands) == CMD_COUNT, "every command has a row");

static void answer(struct shim *s, struct call *c)
{
	const struct req *req = c->req;
	struct rep rep = {.cmd = req->cmd | REPLY, .seq = req->seq, .flags = s->ended ? REP_ENDED : 0};
	cmd_fn *run = req->cmd < CMD_COUNT ? commands[req->cmd] : NULL;
	rep.err = run ? run(s, c, &rep) : ENOSYS;
	if (c->later)
		return;
	bool fault = c->fault.err != 0;
	rep.flags |= fault ? REP_FAULT : 0;
	sock_send(s, c->client, &rep, &c->fault, fault ? sizeof c->fault : 0, c->reply_fds, rep.err ? 0 : c->n_reply);
	if (req->cmd == CMD_HELLO && s->ended)
		sock_tell_end(s, c->client);
}

/* Received fds into fds, at most EXEC_FDS; their number. What is over the buffer the kernel closes. */
static unsigned take_fds(struct msghdr *msg, int fds[EXEC_FDS])
{
	unsigned n = 0;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		unsigned count = (unsigned)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		for (unsigned i = 0; i < count; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
			if (n < EXEC_FDS)
				fds[n++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

/* One request. False when there is none, or the client was dropped. */
static bool serve_one(struct shim *s, unsigned client)
{
	struct req req;
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int) * EXEC_FDS)];
	} control;
	int fds[EXEC_FDS] = {-1, -1, -1, -1};
	struct iovec iov = {&req, sizeof req};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(s->clients[client].fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	unsigned n_fds = n < 0 ? 0 : take_fds(&msg, fds);
	bool good = n == (ssize_t)sizeof req && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
	if (good) {
		struct call call = {.req = &req, .client = client, .fds = fds, .n_fds = n_fds};
		answer(s, &call);
	} else {
		drop_client(s, client);
	}
	while (n_fds)
		close(fds[--n_fds]);
	return good && s->clients[client].fd >= 0;
}

void sock_serve(struct shim *s, unsigned client)
{
	for (int i = 0; i < REQUESTS_A_TURN && s->clients[client].fd >= 0; i++)
		if (!serve_one(s, client))
			break;
}
