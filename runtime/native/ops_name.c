/* What belongs to the container's namespaces and is no mount: names, sysctls, the loopback device. */
#include <fcntl.h>
#include <linux/magic.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "launch.h"
#include "sys.h"

int op_hostname(struct child *c, const struct op *op, struct fault *f)
{
	(void)c;
	long err = syscall(op->code == OP_HOSTNAME ? SYS_sethostname : SYS_setdomainname, op->a[0].s.p, op->a[0].s.n);
	return err < 0 ? fail(f, op, "sethostname", op->a[0].s.p) : 0;
}

static int new_proc(void)
{
	AUTOFD fs = sys_fsopen("proc", FSOPEN_CLOEXEC);
	if (fs < 0 || sys_fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -1;
	return sys_fsmount(fs, FSMOUNT_CLOEXEC, 0);
}

/* A proc that nobody else can have put something over; the host's own where fsopen refuses it. Before PIVOT only. */
static int trusted_proc(struct child *c, const struct op *op, struct fault *f)
{
	if (c->proc >= 0)
		return 0;
	AUTOFD proc = new_proc();
	if (proc < 0 && !c->pivoted)
		proc = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct statfs fs;
	struct stat st;
	if (proc < 0 || fstatfs(proc, &fs) < 0 || fstat(proc, &st) < 0)
		return fail(f, op, "fsopen", "proc");
	if (fs.f_type != PROC_SUPER_MAGIC || st.st_ino != 1)
		return fail_as(f, op, EXDEV, "fstatfs", "proc");
	c->proc = take_fd(&proc);
	return 0;
}

/* The first separator of a key is the separator; with dots, a slash stands for a dot in a name, sysctl.d(5). */
int op_sysctl(struct child *c, const struct op *op, struct fault *f)
{
	const char *key = op->a[0].s.p;
	char path[256] = "sys/";
	if (op->a[0].s.n + 5 > sizeof path)
		return fail_as(f, op, ENAMETOOLONG, "openat2", key);
	bool dots = key[strcspn(key, "./")] == '.';
	for (size_t i = 0; key[i]; i++)
		path[4 + i] = !dots ? key[i] : (char)(key[i] == '.' ? '/' : key[i] == '/' ? '.' : key[i]);
	if (trusted_proc(c, op, f) < 0)
		return -1;
	struct open_how how = {.flags = O_WRONLY | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
	AUTOFD fd = sys_openat2(c->proc, path, &how);
	if (fd < 0)
		return fail(f, op, "openat2", key);
	if (write(fd, op->a[1].s.p, op->a[1].s.n) != (ssize_t)op->a[1].s.n)
		return fail(f, op, "write", key);
	return 0;
}

/* Any socket can ask a network device's flags; a Unix one needs no module. */
int op_loopback(struct child *c, const struct op *op, struct fault *f)
{
	(void)c;
	AUTOFD fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_name = "lo"};
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return fail(f, op, "SIOCGIFFLAGS", "lo");
	if (request.ifr_flags & IFF_UP)
		return 0;
	request.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return fail(f, op, "SIOCSIFFLAGS", "lo");
	return 0;
}
