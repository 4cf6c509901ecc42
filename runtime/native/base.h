/* What every file here uses: faults, fds that close themselves, bounded text. No allocation, no stdio. */
#ifndef WHARF_BASE_H
#define WHARF_BASE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define COUNT(a)   (sizeof(a) / sizeof(a)[0])

enum { START_FDS_MAX = 64 }; /* of a start message */

/* Which operation failed (0: none of the plan's), with which call, on which path. Sent as is; err is never 0. */
struct fault {
	uint16_t op, step;
	int32_t err;
	char call[16], path[104];
};
_Static_assert(sizeof(struct fault) == 128, "struct fault is part of the protocol");

/* Closes, keeps errno, never retries: the fd is gone even on EINTR, close(2). */
static inline void drop_fd(const int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
}
#define AUTOFD __attribute__((cleanup(drop_fd))) int

static inline void close_fd(int *fd)
{
	drop_fd(fd);
	*fd = -1;
}

/* The fd leaves its AUTOFD: the caller of the caller owns it. */
static inline int take_fd(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}

/* Copy text, cut to size - 1 bytes and NUL-terminated; the rest is zero, since structs are sent whole. */
static inline void copy_text(char *to, size_t size, const char *from)
{
	size_t n = strnlen(from, size - 1);
	memcpy(to, from, n);
	memset(to + n, 0, size - n);
}

struct op;
/* Fill *f from errno (or err) and return -1. */
int fail(struct fault *f, const struct op *op, const char *call, const char *path);
int fail_as(struct fault *f, const struct op *op, int err, const char *call, const char *path);

/* Text built in a fixed buffer; what does not fit is cut, and n tells the length. */
struct out {
	char *p;
	size_t n, size;
};
void out_text(struct out *o, const char *text);
void out_bytes(struct out *o, const char *p, size_t n);
void out_u64(struct out *o, uint64_t value);
void out_digits(struct out *o, uint64_t value, unsigned width);

/* Read a small file below dir (a cgroup or proc directory) whole; NUL-terminated, so at most size - 1 bytes.
 * Returns the length or -1. */
ssize_t read_small(int dir, const char *name, char *buf, size_t size);
/* Write text with one write(2), as kernel files want it. 0 or -1. */
int write_small(int dir, const char *name, const char *text);

/* The pid behind a pidfd, by the host's proc; 0 when the process was reaped. */
pid_t pid_of(int proc, int pidfd);

uint64_t boottime_ns(void);

#endif
