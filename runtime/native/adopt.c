/* A container in a user namespace that is there already. Who enters one cannot go back, so a helper enters it, and
 * clones init there as its own sibling: our child, with namespaces that belong to that user namespace. */
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "launch.h"
#include "sys.h"

static int enter(struct child *c, int userns, struct fault *f)
{
	if (wait_gate(c, f) < 0)
		return -1;
	if (setns(userns, CLONE_NEWUSER) < 0)
		return fail(f, NULL, "setns", "user");
	if (syscall(SYS_setgroups, 0, NULL) < 0 && errno != EPERM)
		return fail(f, NULL, "setgroups", "");
	if (syscall(SYS_setresgid, 0, 0, 0) < 0 && errno != EINVAL)
		return fail(f, NULL, "setresgid", "");
	if (syscall(SYS_setresuid, 0, 0, 0) < 0 && errno != EINVAL)
		return fail(f, NULL, "setresuid", "");
	die_with_parent();
	return 0;
}

void clone_in_userns(const struct child *c, int userns, uint64_t flags)
{
	struct child helper = *c;
	struct fault f = {0};
	struct sys_clone_args args = {.flags = flags | CLONE_PARENT};
	die_with_parent();
	if (enter(&helper, userns, &f) < 0)
		child_fails(&helper, &f);
	pid_t pid = sys_clone3(&args);
	if (pid == 0)
		return;
	if (pid > 0)
		_exit(0);
	fail(&f, NULL, "clone3", "in the user namespace");
	child_fails(&helper, &f);
}

/* Pid of the sender, in our pid namespace; 0 if it is not told. */
static pid_t sender(struct msghdr *msg)
{
	struct cmsghdr *h = CMSG_FIRSTHDR(msg);
	struct ucred peer;
	if (!h || h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_CREDENTIALS)
		return 0;
	memcpy(&peer, CMSG_DATA(h), sizeof peer);
	return peer.pid;
}

static int hear_birth(int sync, pid_t *pid, struct fault *f)
{
	struct fault told;
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec iov = {&told, sizeof told};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t n;
	do
		n = recvmsg(sync, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	*pid = n == 1 ? sender(&msg) : 0;
	if (n == (ssize_t)sizeof told) {
		*f = told;
		return -1;
	}
	return *pid > 0 ? 0 : fail_as(f, NULL, EOWNERDEAD, "init", "");
}

int await_birth(int sync, pid_t *pid, int *pidfd, struct fault *f)
{
	const int on = 1;
	struct go go = {.word = LAUNCH_GATE, .pid = *pid};
	pid_t init;
	int status;
	if (setsockopt(sync, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
		return fail(f, NULL, "setsockopt", "");
	if (send(sync, &go, sizeof go, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		return fail(f, NULL, "send", "gate");
	if (hear_birth(sync, &init, f) < 0)
		return -1;
	/* it cannot be reaped before we do it, so its pid is its own */
	int fd = sys_pidfd_open(init);
	if (fd < 0)
		return fail(f, NULL, "pidfd_open", "");
	while (waitpid(*pid, &status, 0) < 0 && errno == EINTR)
		;
	close_fd(pidfd);
	*pidfd = fd;
	*pid = init;
	return 0;
}
