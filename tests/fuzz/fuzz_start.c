/* The start message: of any bytes, with any number of fds, each ends at its tag, or the message is refused.
 * Input: how many fds, then the message. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "shim.h"
#include "sys.h"

int watch(const struct shim *s, int fd, unsigned kind, unsigned index, uint32_t events)
{
	(void)s, (void)fd, (void)kind, (void)index, (void)events;
	return 0;
}

enum { SENT_MAX = START_FDS_MAX + 2 };

static void send_start(int sock, const uint8_t *data, size_t size, int fd, unsigned n_fds)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int) * SENT_MAX)];
	} control = {
		.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * n_fds)}};
	struct iovec iov = {(void *)(uintptr_t)data, size};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = n_fds ? &control : NULL,
			     .msg_controllen = n_fds ? CMSG_SPACE(sizeof(int) * n_fds) : 0};
	for (unsigned i = 0; i < n_fds; i++)
		memcpy(CMSG_DATA(&control.head) + i * sizeof fd, &fd, sizeof fd);
	if (sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		abort();
}

/* Each is open, and none is there twice. */
static unsigned count(const struct start_fds *fds)
{
	const int *const lists[] = {fds->tag, fds->kept};
	const unsigned lengths[] = {TAG_COUNT, fds->n_kept};
	bool seen[1024] = {false};
	unsigned n = 0;
	for (unsigned l = 0; l < COUNT(lists); l++)
		for (unsigned i = 0; i < lengths[l]; i++) {
			int fd = lists[l][i];
			if (fd < 0)
				continue;
			HOLDS((unsigned)fd < sizeof seen && !seen[fd] && fcntl(fd, F_GETFD) == FD_CLOEXEC);
			seen[fd] = true;
			n++;
		}
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct start start;
	struct start_fds fds;
	int pair[2];
	if (size < 2 || size > 4096)
		return 0;
	unsigned n_fds = data[0] % (SENT_MAX + 1);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	send_start(pair[1], data + 1, size - 1, null, n_fds);
	int got = receive_start(pair[0], &start, &fds);
	HOLDS(got == 1 || got == -1);
	HOLDS(fds.n_kept <= START_FDS_MAX && fds.tag[0] == -1 && fds.tag[TAG_FDS] == -1);
	if (got == 1) {
		HOLDS(size - 1 == sizeof start && memchr(start.name, 0, sizeof start.name));
		HOLDS(start.nfds == n_fds && count(&fds) == n_fds);
	}
	/* what a refused message brought the process takes to its end */
	int first = pair[0] < pair[1] ? pair[0] : pair[1];
	close(null);
	if (sys_close_range((unsigned)(null < first ? null : first), ~0U, 0) < 0)
		abort();
	return 0;
}
