/* The start message and its answer, for both programs. */
#ifndef WHARF_STARTMSG_H
#define WHARF_STARTMSG_H

#include "wire.h"

enum { STARTED_FDS_MAX = 4 };
#define START_AGAIN "--again" /* argument of the second exec */

struct start_fds {
	int tag[TAG_COUNT];      /* owned; -1 where absent */
	int kept[START_FDS_MAX]; /* those with TAG_FDS, in order */
	unsigned n_kept;
};

/* Returns only where the kernel does not let us; then the program runs on as it is. */
void run_from_read_only_mount(char **argv, const char *again_word);
/* The one start message. 1: got it, 0: the other end is closed, -1: not a start message. */
MUST_CHECK int receive_start(int sock, struct start *start, struct start_fds *fds);
/* The answer; fds borrowed. -1 when nobody takes it. */
MUST_CHECK int send_started(int sock, const struct started *started, const int *fds, unsigned n_fds);

#endif
