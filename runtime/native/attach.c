/* Those who look at the container's output as it comes, and may write to its stdin. What one of them does not take is
 * held for it by the kernel, up to SEND_BUFFER; then it is dropped. The container waits for none. */
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "shim.h"
#include "sys.h"

enum { SEND_BUFFER = 262144, PACKETS_A_TURN = 8 };

static void drop(struct attached *a)
{
	if (a->fd >= 0)
		shutdown(a->fd, SHUT_RDWR); /* who gave us the fd may still hold it */
	close_fd(&a->fd);
}

static void send_packet(struct attached *a, char kind, const void *data, size_t n)
{
	struct iovec iov[2] = {{&kind, 1}, {(void *)(uintptr_t)data, n}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	if (a->fd >= 0 && sendmsg(a->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		drop(a);
}

static void tell_output(void *arg, unsigned stream, const char *data, size_t n)
{
	struct shim *s = arg;
	for (unsigned i = 0; i < ATTACHED_MAX; i++)
		send_packet(&s->attached[i], stream ? ATTACH_STDERR : ATTACH_STDOUT, data, n);
}

void attach_init(struct shim *s)
{
	s->input.fd = -1;
	s->input.data = s->input_data;
	for (unsigned i = 0; i < ATTACHED_MAX; i++)
		s->attached[i].fd = -1;
	s->logs.tap = tell_output;
	s->logs.tap_arg = s;
}

static bool free_place(const struct shim *s)
{
	for (unsigned i = 0; i < ATTACHED_MAX; i++)
		if (s->attached[i].fd < 0)
			return true;
	return false;
}

/* While the container does not read, those who left are not heard of: what they typed before is still to be taken. They
 * have no right to a place that somebody else wants. */
static void drop_gone(struct shim *s)
{
	for (unsigned i = 0; i < ATTACHED_MAX; i++) {
		struct pollfd p = {.fd = s->attached[i].fd};
		if (p.fd >= 0 && poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR))
			drop(&s->attached[i]);
	}
}

int attach_add(struct shim *s, int fd)
{
	const int size = SEND_BUFFER;
	int type = 0, domain = 0;
	socklen_t length = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 || type != SOCK_SEQPACKET || domain != AF_UNIX)
		return EINVAL;
	if (!free_place(s))
		drop_gone(s);
	for (unsigned i = 0; i < ATTACHED_MAX; i++) {
		if (s->attached[i].fd >= 0)
			continue;
		AUTOFD own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (own < 0)
			return errno;
		if (setsockopt(own, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0 &&
		    setsockopt(own, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) < 0)
			return errno;
		if (!s->input.used && watch(s, own, ON_ATTACHED, i, EPOLLIN) < 0)
			return errno;
		s->attached[i].fd = take_fd(&own);
		return 0;
	}
	return EAGAIN;
}

/* While the container does not read, nobody is asked for more. */
static void hold_writers(struct shim *s)
{
	for (unsigned i = 0; i < ATTACHED_MAX; i++)
		if (s->attached[i].fd >= 0)
			epoll_ctl(s->epoll, EPOLL_CTL_DEL, s->attached[i].fd, NULL);
	if (watch(s, s->input.fd, ON_INPUT, 0, EPOLLOUT) < 0)
		s->input.used = 0;
}

static void free_writers(struct shim *s)
{
	for (unsigned i = 0; i < ATTACHED_MAX; i++)
		if (s->attached[i].fd >= 0 && watch(s, s->attached[i].fd, ON_ATTACHED, i, EPOLLIN) < 0)
			drop(&s->attached[i]);
}

void input_close(struct shim *s)
{
	bool held = s->input.used > 0;
	s->input.used = 0;
	close_fd(&s->input.fd);
	if (held)
		free_writers(s);
}

void input_event(struct shim *s)
{
	struct input *in = &s->input;
	ssize_t n = in->fd < 0 ? -1 : write(in->fd, in->data + in->at, in->used - in->at);
	if (n < 0 && in->fd >= 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) { /* nobody will read it */
		input_close(s);
		return;
	}
	in->at += (uint32_t)n;
	if (in->at < in->used)
		return;
	in->used = 0;
	epoll_ctl(s->epoll, EPOLL_CTL_DEL, in->fd, NULL);
	free_writers(s);
}

static void take_input(struct shim *s, const char *data, size_t size)
{
	struct input *in = &s->input;
	ssize_t n = in->fd < 0 ? (ssize_t)size : write(in->fd, data, size);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		input_close(s);
		return;
	}
	size_t done = n < 0 ? 0 : (size_t)n;
	if (done == size)
		return;
	in->at = 0;
	in->used = (uint32_t)(size - done);
	memcpy(in->data, data + done, size - done);
	hold_writers(s);
}

static uint64_t get16(const char *p)
{
	return (uint64_t)((unsigned char)p[0] | (unsigned char)p[1] << 8);
}

/* One packet of a client; false when there is no more now. */
static bool serve_one(struct shim *s, struct attached *a)
{
	char packet[1 + INPUT_MAX + 1];
	ssize_t n = recv(a->fd, packet, sizeof packet, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0 || n > 1 + INPUT_MAX) {
		drop(a);
		return false;
	}
	if (packet[0] == ATTACH_INPUT)
		take_input(s, packet + 1, (size_t)n - 1);
	else if (packet[0] == ATTACH_SIZE && n == 5)
		console_resize(s, get16(packet + 1), get16(packet + 3));
	else if (packet[0] == ATTACH_CLOSE && !s->tty)
		input_close(s);
	return a->fd >= 0 && !s->input.used;
}

void attach_serve(struct shim *s, unsigned i)
{
	struct attached *a = &s->attached[i];
	for (int n = 0; n < PACKETS_A_TURN && a->fd >= 0 && !s->input.used; n++)
		if (!serve_one(s, a))
			break;
}

int console_resize(const struct shim *s, uint64_t rows, uint64_t columns)
{
	if (!s->tty)
		return ENOTTY;
	if (rows > UINT16_MAX || columns > UINT16_MAX)
		return EINVAL;
	return resize_pty(s->logs.streams[0].fd, rows, columns) < 0 ? errno : 0;
}

/* Nobody in the container has its terminal open now, or somebody hung it up. While init lives it may be opened again
 * (/dev/console), so one slave is kept open: else the master would only ever tell of the end. */
bool console_revive(struct shim *s)
{
	close_fd(&s->kept_slave);
	if (!s->tty || s->ended)
		return false;
	s->kept_slave = open_peer(s->logs.streams[0].fd);
	s->logs.streams[0].eof = s->kept_slave < 0;
	return s->kept_slave >= 0;
}

void attach_finish(struct shim *s)
{
	const struct record *r = &s->record;
	const char end[2] = {(char)(r->unknown ? HOW_UNKNOWN : end_how(r->status)),
			     (char)(r->unknown ? 0 : end_status(r->status))};
	for (unsigned i = 0; i < ATTACHED_MAX; i++) {
		send_packet(&s->attached[i], ATTACH_END, end, sizeof end);
		drop(&s->attached[i]);
	}
}
