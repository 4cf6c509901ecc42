#include "base.h"

#include <fcntl.h>
#include <time.h>

#include "plan.h"

int fail_as(struct fault *f, const struct op *op, int err, const char *call, const char *path)
{
	f->op = op ? op->code : 0;
	f->step = op ? op->step : 0;
	f->err = err ? err : EINVAL;
	copy_text(f->call, sizeof f->call, call);
	copy_text(f->path, sizeof f->path, path);
	return -1;
}

int fail(struct fault *f, const struct op *op, const char *call, const char *path)
{
	return fail_as(f, op, errno, call, path);
}

void out_bytes(struct out *o, const char *p, size_t n)
{
	if (n > o->size - o->n)
		n = o->size - o->n;
	memcpy(o->p + o->n, p, n);
	o->n += n;
}

void out_text(struct out *o, const char *text)
{
	out_bytes(o, text, strlen(text));
}

void out_digits(struct out *o, uint64_t value, unsigned width)
{
	char digits[20];
	unsigned n = 0;
	do {
		digits[sizeof digits - ++n] = (char)('0' + value % 10);
		value /= 10;
	} while (n < sizeof digits && (value || n < width));
	out_bytes(o, digits + sizeof digits - n, n);
}

void out_u64(struct out *o, uint64_t value)
{
	out_digits(o, value, 1);
}

ssize_t read_small(int dir, const char *name, char *buf, size_t size)
{
	AUTOFD fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -1;
	size_t n = 0;
	while (n < size - 1) {
		ssize_t got = read(fd, buf + n, size - 1 - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	buf[n] = '\0';
	return (ssize_t)n;
}

int write_small(int dir, const char *name, const char *text)
{
	AUTOFD fd = openat(dir, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -1;
	size_t n = strlen(text);
	return write(fd, text, n) == (ssize_t)n ? 0 : -1;
}

pid_t pid_of(int proc, int pidfd)
{
	char path[40], text[512];
	struct out o = {path, 0, sizeof path - 1};
	out_text(&o, "self/fdinfo/");
	out_u64(&o, (uint64_t)pidfd);
	path[o.n] = '\0';
	const char *line = read_small(proc, path, text, sizeof text) > 0 ? strstr(text, "\nPid:\t") : NULL;
	pid_t pid = 0;
	for (const char *p = line ? line + 6 : ""; *p >= '0' && *p <= '9'; p++)
		pid = pid * 10 + (*p - '0');
	return pid;
}

uint64_t boottime_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
