/* The socket's packet handler and that of attached clients: packets of any content and length, with fds beside them.
 * Input: what the container is (a byte of FLAGS), then packets, each led by two bytes: 13 bits of length, TO_ATTACHED,
 * and how many fds. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuzz.h"
#include "shim.h"
#include "sys.h"

enum { ENDED = 1, TTY = 2, INPUT = 4, ATTACHED = 8 };
enum { LENGTH = 0x1fff, TO_ATTACHED = 0x2000, FDS_SHIFT = 14 };

static struct shim s;
static int client, attached; /* our ends */

int watch(const struct shim *shim, int fd, unsigned kind, unsigned index, uint32_t events)
{
	(void)shim, (void)fd, (void)kind, (void)index, (void)events;
	return 0;
}

static int made(int fd)
{
	if (fd < 0)
		abort();
	return fd;
}

static void drain(int fd)
{
	char reply[4096];
	ssize_t n;
	while ((n = recv(fd, reply, sizeof reply, MSG_DONTWAIT)) > 0) {
		struct rep rep;
		HOLDS((size_t)n >= sizeof rep);
		memcpy(&rep, reply, sizeof rep);
		HOLDS(rep.cmd & REPLY || rep.seq == 0);
		HOLDS((size_t)n == sizeof rep + (rep.flags & REP_FAULT ? sizeof(struct fault) : 0) ||
		      rep.flags & REP_RECORD);
	}
}

/* What an EXEC's plan can be: sealed, of the bytes that come next. */
static int sealed(const uint8_t *data, size_t size)
{
	int fd = made(memfd_create("plan", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	if (size && write(fd, data, size) != (ssize_t)size)
		abort();
	fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	return fd;
}

static void send_packet(int to, const uint8_t *data, size_t n, size_t left, unsigned n_fds)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int) * EXEC_FDS)];
	} control;
	struct iovec iov = {(void *)(uintptr_t)data, n};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	int fds[EXEC_FDS], pair[2] = {-1, -1};
	for (unsigned i = 0; i < n_fds; i++)
		fds[i] = made(open("/dev/null", O_RDWR | O_CLOEXEC));
	if (n_fds && n >= 4 && data[0] == CMD_ATTACH) {
		close(fds[0]);
		made(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
		fds[0] = pair[0];
	} else if (n_fds && n >= 4 && data[0] == CMD_EXEC) {
		close(fds[0]);
		fds[0] = sealed(data + n, left);
	}
	if (n_fds) {
		memset(&control, 0, sizeof control);
		control.head = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * n_fds)};
		memcpy(CMSG_DATA(&control.head), fds, sizeof(int) * n_fds);
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
	}
	if (sendmsg(to, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		errno = 0;
	while (n_fds)
		close(fds[--n_fds]);
	close_fd(&pair[1]);
}

/* A valid plan makes a helper, which cannot join anything: init's pidfd is none. */
static void end_helpers(void)
{
	for (unsigned i = 0; i < EXECS_MAX; i++) {
		struct exec *e = &s.execs[i];
		int status;
		if (e->state != EXEC_STARTING)
			continue;
		pid_t helper = e->helper;
		while (waitpid(helper, &status, 0) < 0 && errno == EINTR)
			;
		exec_heard(&s, i);
		HOLDS(e->state == EXEC_FREE);
	}
}

static void set_up(uint8_t flags)
{
	int pair[2];
	memset(&s, 0, sizeof s);
	init_state(&s); /* no process, no directory: commands are refused by the kernel, but decoded */
	s.ended = flags & ENDED;
	s.record.text_size = s.ended ? 100 : 0;
	made(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	sock_add(&s, pair[0]);
	client = pair[1];
	attached = -1;
	s.tty = flags & TTY;
	if (s.tty)
		s.logs.streams[0].fd = made(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
	if (flags & INPUT) {
		made(pipe2(pair, O_NONBLOCK | O_CLOEXEC));
		s.input.fd = pair[1];
		s.kept_slave = pair[0]; /* its reader; closed with the rest */
	}
	if (flags & ATTACHED) {
		made(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
		HOLDS(attach_add(&s, pair[0]) == 0);
		close(pair[0]);
		attached = pair[1];
	}
}

static void take_down(void)
{
	end_helpers();
	attach_finish(&s);
	for (unsigned i = 0; i < ATTACHED_MAX; i++)
		HOLDS(s.attached[i].fd < 0);
	close_fd(&s.clients[0].fd);
	close_fd(&s.logs.file);
	close_fd(&s.logs.streams[0].fd);
	close_fd(&s.input.fd);
	close_fd(&s.kept_slave);
	close(client);
	close_fd(&attached);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	set_up(*data++);
	size--;
	while (size >= 2) {
		unsigned head = data[0] | (unsigned)data[1] << 8, n_fds = head >> FDS_SHIFT;
		bool other = head & TO_ATTACHED;
		data += 2;
		size -= 2;
		size_t n = (head & LENGTH) < size ? head & LENGTH : size;
		if (n && (!other || attached >= 0))
			send_packet(other ? attached : client, data, n, size - n,
				    other ? 0 : n_fds + (n_fds == 3)); /* EXEC takes four */
		data += n;
		size -= n;
		sock_serve(&s, 0);
		for (unsigned i = 0; i < ATTACHED_MAX; i++)
			if (s.attached[i].fd >= 0)
				attach_serve(&s, i);
		HOLDS(s.input.used <= INPUT_MAX && s.input.at <= s.input.used + INPUT_MAX);
		drain(client);
		end_helpers();
	}
	take_down();
	return 0;
}
