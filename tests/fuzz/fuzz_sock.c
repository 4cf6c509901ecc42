/* The socket's packet handler: packets of any content and length, each led by its length in two bytes. */
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "shim.h"

int watch(const struct shim *s, int fd, unsigned kind, unsigned index, uint32_t events)
{
	(void)s, (void)fd, (void)kind, (void)index, (void)events;
	return 0;
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct shim s;
	int pair[2];
	memset(&s, 0, sizeof s);
	init_state(&s); /* no process, no directory: commands are refused by the kernel, but decoded */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
		return 0;
	s.ended = size & 1;
	s.record.text_size = size & 1 ? 100 : 0;
	sock_add(&s, pair[0]);
	while (size >= 2) {
		size_t n = (data[0] | (size_t)data[1] << 8) % 300;
		data += 2;
		size -= 2;
		n = n < size ? n : size;
		if (n && send(pair[1], data, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			break;
		data += n;
		size -= n;
		sock_serve(&s, 0);
		drain(pair[1]);
	}
	close_fd(&s.clients[0].fd);
	close_fd(&s.logs.file);
	close(pair[1]);
	return 0;
}
