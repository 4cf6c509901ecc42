/* How wharf-shim and wharf-launch begin: out of reach, then one message, then one answer. */
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>

#include "startmsg.h"
#include "sys.h"

/* A container may run /proc/self/exe as its program, or find a joining process's: that is this program, of the host. So
 * it runs from a read-only copy of its mount, which is attached nowhere: writing there is refused, and nobody can
 * change that (CVE-2019-5736). Where the kernel does not let us, it runs on as it is: written to it cannot be either
 * while a shim runs (ETXTBSY). */
void run_from_read_only_mount(char **argv, const char *again_word)
{
	char *const again[] = {argv[0], (char *)(uintptr_t)again_word, NULL};
	char *const env[] = {NULL};
	struct sys_mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
	AUTOFD self = sys_open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (self >= 0 && sys_mount_setattr(self, "", AT_EMPTY_PATH, &attr) == 0)
		syscall(SYS_execveat, self, "", again, env, AT_EMPTY_PATH);
}

/* Each fd of the message to its tag. */
static int sort_fds(const struct start *start, const struct cmsghdr *h, size_t count, struct start_fds *fds)
{
	for (size_t i = 0; i < count; i++) {
		unsigned tag = start->tags[i];
		int fd;
		memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
		if (tag == TAG_FDS) {
			fds->kept[fds->n_kept++] = fd;
			continue;
		}
		if (!tag || tag >= TAG_COUNT || fds->tag[tag] >= 0)
			return -1;
		fds->tag[tag] = fd;
	}
	return 1;
}

int receive_start(int sock, struct start *start, struct start_fds *fds)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int) * START_FDS_MAX)];
	} control;
	struct iovec iov = {start, sizeof *start};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	memset(fds, -1, sizeof *fds);
	fds->n_kept = 0;
	ssize_t n;
	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
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
	start->name[sizeof start->name - 1] = '\0';
	return sort_fds(start, h, count, fds);
}

int send_started(int sock, const struct started *started, const int *fds, unsigned n_fds)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int) * STARTED_FDS_MAX)];
	} control;
	struct iovec iov = {(void *)(uintptr_t)started, sizeof *started};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	if (n_fds && n_fds <= STARTED_FDS_MAX) {
		memset(&control, 0, sizeof control);
		control.head = (struct cmsghdr){
			.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * n_fds)};
		memcpy(CMSG_DATA(&control.head), fds, sizeof(int) * n_fds);
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
	}
	const struct timespec pause = {.tv_nsec = 10000000};
	for (int i = 0; i < 20; i++) {
		if (sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno == EPIPE || errno == ECONNRESET)
			return -1;
		nanosleep(&pause, NULL); /* no memory, or no room: an answer that is lost would cost the container */
	}
	return -1;
}
