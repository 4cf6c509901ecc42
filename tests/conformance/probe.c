/* Says as one line of JSON what a process sees of its container, then does what its arguments ask: "verb:words".
 * Static, so that it runs in a root that holds nothing else. tests/conformance/ocikit.py reads it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static bool comma;

static void text(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c < 32 || c == '"' || c == '\\' || c == 127)
			printf("\\u%04x", c);
		else
			putchar(c);
	}
	putchar('"');
}

/* A member's name, or an element's comma when there is none. */
static void key(const char *name)
{
	if (comma)
		putchar(',');
	comma = true;
	if (name) {
		text(name);
		putchar(':');
	}
}

static void open_with(const char *name, char c)
{
	key(name);
	putchar(c);
	comma = false;
}

static void close_with(char c)
{
	putchar(c);
	comma = true;
}

static void number(const char *name, long long value)
{
	key(name);
	printf("%lld", value);
}

static void string(const char *name, const char *value)
{
	key(name);
	text(value);
}

static char buffer[1 << 16];

/* The start of a file as a string, NULL when it cannot be read. */
static const char *content(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	size_t have = 0;
	ssize_t n;
	while (have < sizeof buffer - 1 && (n = read(fd, buffer + have, sizeof buffer - 1 - have)) > 0)
		have += (size_t)n;
	int e = n < 0 ? errno : 0;
	close(fd);
	errno = e;
	buffer[have] = 0;
	return e ? NULL : buffer;
}

static void file(const char *name, const char *path)
{
	const char *found = content(path);
	key(name);
	if (found)
		text(found);
	else
		fputs("null", stdout);
}

static void list(const char *name, char **values)
{
	open_with(name, '[');
	for (; *values; values++)
		string(NULL, *values);
	close_with(']');
}

static void limits(void)
{
	static const char *const names[] = {"CPU",      "FSIZE",  "DATA",    "STACK", "CORE",  "RSS",
					    "NPROC",    "NOFILE", "MEMLOCK", "AS",    "LOCKS", "SIGPENDING",
					    "MSGQUEUE", "NICE",   "RTPRIO",  "RTTIME"};
	open_with("rlimits", '{');
	for (int i = 0; i < 16; i++) {
		struct rlimit l;
		getrlimit((__rlimit_resource_t)i, &l);
		open_with(names[i], '[');
		number(NULL, (long long)l.rlim_cur);
		number(NULL, (long long)l.rlim_max);
		close_with(']');
	}
	close_with('}');
}

static void capability_set(const char *name, uint64_t bits)
{
	open_with(name, '[');
	for (int i = 0; i < 64; i++)
		if (bits >> i & 1)
			number(NULL, i);
	close_with(']');
}

static void capabilities(void)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2] = {0};
	uint64_t bounding = 0, ambient = 0;
	syscall(SYS_capget, &head, d);
	for (int i = 0; i < 64; i++) {
		if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1)
			bounding |= 1ULL << i;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1)
			ambient |= 1ULL << i;
	}
	open_with("capabilities", '{');
	capability_set("effective", d[0].effective | (uint64_t)d[1].effective << 32);
	capability_set("permitted", d[0].permitted | (uint64_t)d[1].permitted << 32);
	capability_set("inheritable", d[0].inheritable | (uint64_t)d[1].inheritable << 32);
	capability_set("bounding", bounding);
	capability_set("ambient", ambient);
	close_with('}');
}

static void ids(void)
{
	uid_t r, e, s;
	gid_t groups[256];
	getresuid(&r, &e, &s);
	open_with("uids", '[');
	number(NULL, r);
	number(NULL, e);
	number(NULL, s);
	close_with(']');
	getresgid(&r, &e, &s);
	open_with("gids", '[');
	number(NULL, r);
	number(NULL, e);
	number(NULL, s);
	close_with(']');
	int n = getgroups(256, groups);
	open_with("groups", '[');
	for (int i = 0; i < n; i++)
		number(NULL, groups[i]);
	close_with(']');
	mode_t mask = umask(0);
	umask(mask);
	number("umask", mask);
	number("pid", getpid());
	number("ppid", getppid());
	number("sid", getsid(0));
	number("pgid", getpgid(0));
}

static void descriptors(void)
{
	open_with("fds", '{');
	for (int fd = 0; fd < 1024; fd++) {
		char name[16], path[64], target[512] = "?";
		if (fcntl(fd, F_GETFD) < 0)
			continue;
		snprintf(name, sizeof name, "%d", fd);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		ssize_t n = readlink(path, target, sizeof target - 1);
		if (n > 0)
			target[n] = 0;
		string(name, target);
	}
	close_with('}');
	open_with("terminals", '[');
	for (int fd = 0; fd < 3; fd++)
		number(NULL, isatty(fd));
	close_with(']');
	struct winsize w = {0};
	if (!ioctl(0, TIOCGWINSZ, &w)) {
		number("rows", w.ws_row);
		number("columns", w.ws_col);
	}
}

static void namespaces(void)
{
	static const char *const kinds[] = {"pid", "net", "mnt", "ipc", "uts", "user", "cgroup", "time"};
	open_with("namespaces", '{');
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		char path[64], target[64];
		snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
		ssize_t n = readlink(path, target, sizeof target - 1);
		if (n > 0) {
			target[n] = 0;
			string(kinds[i], target);
		}
	}
	close_with('}');
}

static void clocks(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	number("monotonic", t.tv_sec);
	clock_gettime(CLOCK_BOOTTIME, &t);
	number("boottime", t.tv_sec);
}

static void scheduling(void)
{
	struct sched_param p = {0};
	sched_getparam(0, &p);
	number("policy", sched_getscheduler(0));
	number("priority", p.sched_priority);
	number("nice", getpriority(PRIO_PROCESS, 0));
	number("ioprio", syscall(SYS_ioprio_get, 1, 0));
	number("personality", personality(0xffffffff));
}

static void report(char **argv)
{
	static char domain[256], cwd[PATH_MAX];
	struct utsname u;
	uname(&u);
	if (!getcwd(cwd, sizeof cwd))
		snprintf(cwd, sizeof cwd, "!%d", errno);
	if (getdomainname(domain, sizeof domain))
		domain[0] = 0;
	list("args", argv);
	list("env", environ);
	string("cwd", cwd);
	string("hostname", u.nodename);
	string("domainname", domain);
	string("machine", u.machine);
	ids();
	limits();
	capabilities();
	descriptors();
	namespaces();
	clocks();
	scheduling();
	number("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	number("seccomp", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
	int sig = 0;
	prctl(PR_GET_PDEATHSIG, &sig);
	number("pdeathsig", sig);
	file("status", "/proc/self/status");
	file("oom_score_adj", "/proc/self/oom_score_adj");
	file("mountinfo", "/proc/self/mountinfo");
	file("cgroup", "/proc/self/cgroup");
	file("uid_map", "/proc/self/uid_map");
	file("gid_map", "/proc/self/gid_map");
	file("interfaces", "/proc/net/dev");
}

static long unsigned_of(const char *s)
{
	return (long)strtoull(s ? s : "0", NULL, 0);
}

/* What a verb gave: 0 or an errno, and words of its own. */
struct outcome {
	long result;
	char words[4096];
};

static void did(struct outcome *o, long rc)
{
	o->result = rc < 0 ? errno : 0;
}

static void do_stat(struct outcome *o, const char *path, bool follow)
{
	struct stat s;
	int rc = follow ? stat(path, &s) : lstat(path, &s);
	did(o, rc);
	if (rc)
		return;
	const char *kind = S_ISCHR(s.st_mode)    ? "c"
			   : S_ISBLK(s.st_mode)  ? "b"
			   : S_ISFIFO(s.st_mode) ? "p"
			   : S_ISDIR(s.st_mode)  ? "d"
			   : S_ISLNK(s.st_mode)  ? "l"
						 : "f";
	snprintf(o->words, sizeof o->words, "%s %u:%u %o %u:%u %lld", kind, major(s.st_rdev), minor(s.st_rdev),
		 s.st_mode & 07777, s.st_uid, s.st_gid, (long long)s.st_size);
}

static void do_list(struct outcome *o, const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	did(o, d ? 0 : -1);
	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			snprintf(o->words + strlen(o->words), sizeof o->words - strlen(o->words), "%s ", e->d_name);
	if (d)
		closedir(d);
}

static void do_open(struct outcome *o, const char *path, int flags, const char *say)
{
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0666);
	did(o, fd);
	if (fd < 0)
		return;
	if (say)
		did(o, write(fd, say, strlen(say)));
	close(fd);
}

static void act(char *verb, struct outcome *o)
{
	char *w[8] = {0};
	size_t n = 0;
	for (char *p = verb; p && n < 8;)
		w[n++] = strsep(&p, ":");
	if (!w[1])
		w[1] = "";
	if (!strcmp(w[0], "read")) {
		const char *c = content(w[1]);
		did(o, c ? 0 : -1);
		snprintf(o->words, sizeof o->words, "%s", c ? c : "");
	} else if (!strcmp(w[0], "write")) {
		do_open(o, w[1], O_WRONLY | O_TRUNC, w[2] ? w[2] : "");
	} else if (!strcmp(w[0], "create")) {
		do_open(o, w[1], O_WRONLY | O_CREAT | O_EXCL, NULL);
	} else if (!strcmp(w[0], "open")) {
		do_open(o, w[1], O_RDONLY, NULL);
	} else if (!strcmp(w[0], "rw")) {
		do_open(o, w[1], O_RDWR, NULL);
	} else if (!strcmp(w[0], "stat")) {
		do_stat(o, w[1], true);
	} else if (!strcmp(w[0], "lstat")) {
		do_stat(o, w[1], false);
	} else if (!strcmp(w[0], "list")) {
		do_list(o, w[1]);
	} else if (!strcmp(w[0], "link")) {
		did(o, readlink(w[1], o->words, sizeof o->words - 1));
	} else if (!strcmp(w[0], "mkdir")) {
		did(o, mkdir(w[1], 0777));
	} else if (!strcmp(w[0], "access")) {
		did(o, access(w[1], X_OK));
	} else if (!strcmp(w[0], "mknod")) {
		mode_t kind = *w[2] == 'b' ? S_IFBLK : S_IFCHR;
		did(o, mknod(w[1], kind | 0600, makedev((unsigned)unsigned_of(w[3]), (unsigned)unsigned_of(w[4]))));
	} else if (!strcmp(w[0], "mount")) {
		did(o, mount("none", w[1], "tmpfs", 0, NULL));
	} else if (!strcmp(w[0], "hostname")) {
		did(o, sethostname(w[1], strlen(w[1])));
	} else if (!strcmp(w[0], "fd")) {
		ssize_t got = read((int)unsigned_of(w[1]), o->words, sizeof o->words - 1);
		did(o, got);
	} else if (!strcmp(w[0], "syscall")) {
		did(o, syscall(unsigned_of(w[1]), unsigned_of(w[2]), unsigned_of(w[3]), unsigned_of(w[4])));
	} else {
		o->result = -1;
	}
}

static volatile sig_atomic_t caught;

static void note(int sig)
{
	caught = sig;
}

/* Until a signal comes, then its number as a line. */
static void wait_signal(void)
{
	sigset_t all, none;
	sigfillset(&all);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (int i = 1; i < 65; i++)
		signal(i, note);
	puts("waiting");
	fflush(stdout);
	while (!caught)
		sigsuspend(&none);
	printf("signal %d\n", (int)caught);
}

int main(int argc, char **argv)
{
	int code = 0;
	bool wait = false;
	putchar('{');
	report(argv);
	open_with("did", '[');
	for (int i = 1; i < argc; i++) {
		static struct outcome o;
		static char verb[4096];
		memset(&o, 0, sizeof o);
		if (!strncmp(argv[i], "exit:", 5))
			code = atoi(argv[i] + 5);
		else if (!strcmp(argv[i], "wait"))
			wait = true;
		else if (strchr(argv[i], ':')) {
			snprintf(verb, sizeof verb, "%s", argv[i]);
			act(verb, &o);
			open_with(NULL, '[');
			number(NULL, o.result);
			string(NULL, o.words);
			close_with(']');
		}
	}
	close_with(']');
	puts("}");
	fflush(stdout);
	if (wait)
		wait_signal();
	return code;
}
