/* A new tmpfs begins with what the directory below it holds. The root is somebody else's: every step goes by fds, no
 * link is followed. Extended attributes are not kept. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "mounts.h"
#include "sys.h"

enum { DEPTH_MAX = 32, ENTRIES_SIZE = 2048, CHUNK = 1 << 20 };

struct entry { /* struct linux_dirent64 */
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

static int copy_directory(int from, int to, unsigned depth, char name[NAME_MAX + 1]);

static int copy_range(int from, int to, off_t at, off_t end)
{
	if (lseek(to, at, SEEK_SET) < 0)
		return -1;
	while (at < end) {
		ssize_t n = sendfile(to, from, &at, end - at < CHUNK ? (size_t)(end - at) : CHUNK);
		if (n == 0) /* it was cut meanwhile */
			return 0;
		if (n < 0 && errno != EINTR)
			return -1;
	}
	return 0;
}

/* Holes stay holes: an image's file of terabytes would fill the memory. */
static int copy_bytes(int from, int to, off_t size)
{
	off_t at = 0;
	while (at < size) {
		off_t data = lseek(from, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		off_t end = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
		if (end < 0 || copy_range(from, to, data, end < size ? end : size) < 0)
			return -1;
		at = end;
	}
	return ftruncate(to, size);
}

static int copy_file(int from, int to, const char *name, struct stat *st)
{
	AUTOFD in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (in < 0 || fstat(in, st) < 0)
		return -1;
	if (!S_ISREG(st->st_mode)) {
		errno = EAGAIN; /* it was another thing a moment ago */
		return -1;
	}
	AUTOFD out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return out < 0 ? -1 : copy_bytes(in, out, st->st_size);
}

static int copy_link(int from, int to, const char *name)
{
	char text[PATH_MAX];
	ssize_t n = readlinkat(from, name, text, sizeof text - 1);
	if (n < 0)
		return -1;
	text[n] = '\0';
	return symlinkat(text, to, name);
}

static int copy_subdirectory(int from, int to, const char *name, unsigned depth, char failed[NAME_MAX + 1])
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	if (mkdirat(to, name, 0700) < 0)
		return -1;
	AUTOFD in = openat(from, name, flags);
	AUTOFD out = openat(to, name, flags);
	return in < 0 || out < 0 ? -1 : copy_directory(in, out, depth + 1, failed);
}

static int copy_entry(int from, int to, const char *name, unsigned depth, char failed[NAME_MAX + 1])
{
	struct stat st;
	int err;
	copy_text(failed, NAME_MAX + 1, name);
	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	if (S_ISREG(st.st_mode))
		err = copy_file(from, to, name, &st);
	else if (S_ISDIR(st.st_mode))
		err = copy_subdirectory(from, to, name, depth, failed);
	else if (S_ISLNK(st.st_mode))
		err = copy_link(from, to, name);
	else
		err = mknodat(to, name, st.st_mode, st.st_rdev);
	if (err < 0 || fchownat(to, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	/* to is ours alone: what was made there is no link */
	return S_ISLNK(st.st_mode) ? 0 : fchmodat(to, name, st.st_mode & 07777, 0);
}

static bool is_dot(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* failed: the last name that was tried. */
static int copy_directory(int from, int to, unsigned depth, char failed[NAME_MAX + 1])
{
	_Alignas(struct entry) char entries[ENTRIES_SIZE];
	if (depth > DEPTH_MAX) {
		errno = ELOOP;
		return -1;
	}
	for (;;) {
		long n = syscall(SYS_getdents64, from, entries, sizeof entries);
		if (n <= 0)
			return (int)n;
		for (long at = 0; at < n;) {
			const struct entry *e = (const struct entry *)(const void *)(entries + at);
			if (!is_dot(e->name) && copy_entry(from, to, e->name, depth, failed) < 0)
				return -1;
			at += e->reclen;
		}
	}
}

int copy_up(int from, int to, const struct op *op, struct fault *f)
{
	char failed[NAME_MAX + 1] = "";
	struct stat st;
	const int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
	AUTOFD in = openat(from, ".", flags);
	AUTOFD out = openat(to, ".", flags);
	if (in < 0 || out < 0 || fstat(in, &st) < 0)
		return fail(f, op, "open", op->a[2].s.p);
	if (copy_directory(in, out, 0, failed) < 0)
		return fail(f, op, "copy", failed);
	if (fchown(out, st.st_uid, st.st_gid) < 0)
		return fail(f, op, "fchown", op->a[2].s.p);
	return 0;
}
