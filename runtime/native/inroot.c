#include "inroot.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "sys.h"

enum { LINKS_MAX = 8, RETRIES = 32 };
#define IN_ROOT ((uint64_t)(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))

static bool is_below(const char *path, const char *top)
{
	while (*path == '/')
		path++;
	size_t n = strlen(top);
	return strncmp(path, top, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* Directories whose real place matters to the host's safety. */
static bool is_trusted_place(const char *path)
{
	return is_below(path, "proc") || is_below(path, "sys") || is_below(path, "dev");
}

static int open_how(int dir, const char *path, int flags, uint64_t resolve)
{
	struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC), .resolve = resolve};
	int fd = -1;
	for (int i = 0; i < RETRIES; i++) { /* EAGAIN: something was renamed meanwhile, openat2(2) */
		fd = sys_openat2(dir, path, &how);
		if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
			break;
	}
	return fd;
}

/* Something of /proc or /sys, or /dev itself. What lies in /dev is not meant: /run/shm is a link to /dev/shm. */
static bool is_trusted_thing(int root, int fd)
{
	struct statfs fs;
	struct stat st, dev;
	if (fstatfs(fd, &fs) < 0 || fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC)
		return true;
	AUTOFD at_dev = open_how(root, "dev", O_PATH | O_DIRECTORY, IN_ROOT | RESOLVE_NO_SYMLINKS);
	if (at_dev < 0)
		return false;
	return fstat(fd, &st) < 0 || fstat(at_dev, &dev) < 0 || (st.st_dev == dev.st_dev && st.st_ino == dev.st_ino);
}

int in_root(int root, const char *path, int flags)
{
	path = *path ? path : "/";
	int fd = open_how(root, path, flags, IN_ROOT | RESOLVE_NO_SYMLINKS);
	if (fd >= 0 || errno != ELOOP || is_trusted_place(path))
		return fd;
	AUTOFD led = open_how(root, path, flags, IN_ROOT);
	if (led >= 0 && is_trusted_thing(root, led)) {
		errno = ELOOP;
		return -1;
	}
	return take_fd(&led);
}

static int open_child(int dir, const char *name)
{
	return open_how(dir, name, O_PATH | O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

/* Replace path[0..end), whose last component is a symlink that leads nowhere, by what it says; the rest is kept.
 * False: not a symlink, or too long. */
static bool follow_link(int dir, const char *name, char path[PATH_MAX], size_t start, size_t end)
{
	char link[PATH_MAX], rest[PATH_MAX];
	ssize_t n = readlinkat(dir, name, link, sizeof link - 1);
	if (n <= 0)
		return false;
	link[n] = '\0';
	struct out o = {rest, 0, sizeof rest - 1};
	if (link[0] != '/')
		out_bytes(&o, path, start);
	out_text(&o, link);
	out_text(&o, path + end);
	if (o.n >= sizeof rest - 1)
		return false;
	rest[o.n] = '\0';
	memcpy(path, rest, o.n + 1);
	return true;
}

/* Make the missing directories (and the leaf). 0: done, fd in *made; 1: a dangling link was followed, path is new. */
static int make_parts(int root, char path[PATH_MAX], bool file, int *made)
{
	AUTOFD dir = open_how(root, "/", O_PATH | O_DIRECTORY, RESOLVE_IN_ROOT);
	size_t at = 0;
	while (dir >= 0) {
		size_t start = at + strspn(path + at, "/");
		size_t end = start + strcspn(path + start, "/");
		bool last = path[end + strspn(path + end, "/")] == '\0';
		if (start == end) {
			*made = take_fd(&dir);
			return 0;
		}
		char kept = path[end];
		path[end] = '\0';
		AUTOFD next = in_root(root, path, O_PATH);
		if (next < 0 && errno == ENOENT) {
			const char *name = path + start;
			int err = last && file ? mknodat(dir, name, S_IFREG | 0644, 0) : mkdirat(dir, name, 0755);
			if (err < 0 && errno == EEXIST && !is_trusted_place(path)) {
				char copy[NAME_MAX + 1];
				copy_text(copy, sizeof copy, name);
				path[end] = kept;
				return follow_link(dir, copy, path, start, end) ? 1 : -1;
			}
			if (err == 0)
				next = open_child(dir, name);
		}
		path[end] = kept;
		close_fd(&dir);
		dir = take_fd(&next);
		at = end;
	}
	return -1;
}

int make_in_root(int root, const char *path, bool file)
{
	int fd = in_root(root, path, O_PATH);
	if (fd >= 0 || errno != ENOENT)
		return fd;
	char copy[PATH_MAX];
	if (strlen(path) >= sizeof copy) {
		errno = ENAMETOOLONG;
		return -1;
	}
	copy_text(copy, sizeof copy, path);
	for (int i = 0; i < LINKS_MAX; i++) {
		int made = -1, err = make_parts(root, copy, file, &made);
		if (err <= 0)
			return err == 0 ? made : -1;
	}
	errno = ELOOP;
	return -1;
}

int parent_in_root(int root, const char *path, char name[256])
{
	const char *slash = strrchr(path, '/');
	const char *leaf = slash ? slash + 1 : path;
	size_t n = slash ? (size_t)(slash - path) : 0;
	char dir[PATH_MAX];
	if (!*leaf || strlen(leaf) > NAME_MAX || n >= sizeof dir || !strcmp(leaf, ".") || !strcmp(leaf, "..")) {
		errno = EINVAL;
		return -1;
	}
	memcpy(name, leaf, strlen(leaf) + 1);
	memcpy(dir, path, n);
	dir[n] = '\0';
	return make_in_root(root, n ? dir : "/", false);
}
