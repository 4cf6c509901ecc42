/* A terminal in a container: its pty, /dev/console, the controlling terminal of its session. */
#ifndef WHARF_CONSOLE_H
#define WHARF_CONSOLE_H

#include "plan.h"

struct pty { /* owned */
	int master, slave;
};

/* A pty in the devpts at /dev/pts of root (O_PATH), as the plan's CONSOLE and USER want it. */
MUST_CHECK int open_pty(int root, const struct plan *plan, struct pty *pty, struct fault *f);
/* Where the plan has CONSOLE: a session whose controlling terminal is stdin. */
MUST_CHECK int take_terminal(const struct plan *plan, struct fault *f);
/* Another fd of the slave, owned by the caller; -1 with errno. */
int open_peer(int master);
int resize_pty(int master, uint64_t rows, uint64_t columns);
bool is_master(int fd);
/* To the console socket of an OCI engine, which wants the master and a name. */
MUST_CHECK int send_terminal(int sock, int master, struct fault *f);
/* One packet with an fd beside it. 0 or -1. */
MUST_CHECK int send_fd(int sock, const void *data, size_t size, int fd);
/* One packet as recv(2) takes it, and the fd that may be beside it: owned by the caller, an older one is closed. */
ssize_t recv_fd(int sock, void *data, size_t size, int *fd);

#endif
