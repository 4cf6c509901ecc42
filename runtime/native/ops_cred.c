#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "launch.h"
#include "sys.h"

static int op_rlimit(const struct op *op, struct fault *f)
{
	/* struct rlimit is 64 bits wide in the kernel's prlimit64, whatever the C library's is */
	const uint64_t limit[2] = {op->a[1].u, op->a[2].u};
	if (syscall(SYS_prlimit64, 0, (int)op->a[0].u, limit, NULL) == 0)
		return 0;
	char name[32];
	struct out o = {name, 0, sizeof name - 1};
	out_text(&o, "resource ");
	out_u64(&o, op->a[0].u);
	name[o.n] = '\0';
	return fail(f, op, "prlimit", name);
}

/* Keys of the host must not be possessed by the container. Where the quota is used up or the kernel has none, go on:
 * the container then shares ours, which holds nothing. */
static int op_keyring(const struct op *op, struct fault *f)
{
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) >= 0 || errno == ENOSYS || errno == EDQUOT)
		return 0;
	return fail(f, op, "keyctl", "");
}

/* The directory must be inside the root: getcwd(2) says "(unreachable)" of one that is not (CVE-2024-21626). */
static int change_directory(const struct op *op, struct fault *f)
{
	char cwd[PATH_MAX];
	if (chdir(op->a[0].s.p) < 0)
		return fail(f, op, "chdir", op->a[0].s.p);
	if (syscall(SYS_getcwd, cwd, sizeof cwd) < 0 || cwd[0] != '/')
		return fail_as(f, op, EXDEV, "getcwd", op->a[0].s.p);
	return 0;
}

/* sched_setattr(2) has no C library wrapper in older ones. */
static int op_sched(const struct op *op, struct fault *f)
{
	const struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = {.size = sizeof attr,
		  .policy = (uint32_t)op->a[0].u,
		  .flags = op->a[3].u,
		  .nice = (int32_t)op->a[1].i,
		  .priority = (uint32_t)op->a[2].u,
		  .runtime = op->a[4].u,
		  .deadline = op->a[5].u,
		  .period = op->a[6].u};
	_Static_assert(sizeof attr == 48, "SCHED_ATTR_SIZE_VER0");
	return syscall(SYS_sched_setattr, 0, &attr, 0) < 0 ? fail(f, op, "sched_setattr", "") : 0;
}

static int op_ioprio(const struct op *op, struct fault *f)
{
	const int who_process = 1, class_shift = 13;
	long value = (long)(op->a[0].u << class_shift | op->a[1].u);
	return syscall(SYS_ioprio_set, who_process, 0, value) < 0 ? fail(f, op, "ioprio_set", "") : 0;
}

static int write_label(const char *file, const char *verb, const struct op *op, struct fault *f)
{
	char text[4096];
	struct out o = {text, 0, sizeof text - 1};
	out_text(&o, verb);
	out_text(&o, op->a[0].s.p);
	text[o.n] = '\0';
	if (o.n >= sizeof text - 1)
		return fail_as(f, op, ENAMETOOLONG, "write", file);
	AUTOFD proc = open("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct statfs fs;
	if (proc < 0 || fstatfs(proc, &fs) < 0)
		return fail(f, op, "open", "/proc");
	if (fs.f_type != PROC_SUPER_MAGIC) /* what is written elsewhere confines nothing (CVE-2019-16884) */
		return fail_as(f, op, EXDEV, "fstatfs", "/proc");
	return write_small(proc, file, text) < 0 ? fail(f, op, "write", file) : 0;
}

int set_labels(const struct plan *plan, struct fault *f)
{
	struct op op;
	if (plan_find(plan, OP_APPARMOR, &op) && write_label("self/attr/apparmor/exec", "exec ", &op, f) < 0 &&
	    (f->err != ENOENT || write_label("self/attr/exec", "exec ", &op, f) < 0))
		return -1;
	if (plan_find(plan, OP_SELINUX, &op) && write_label("self/attr/exec", "", &op, f) < 0)
		return -1;
	return 0;
}

static int run_self_op(const struct op *op, struct fault *f)
{
	switch (op->code) {
	case OP_RLIMIT:
		return op_rlimit(op, f);
	case OP_UMASK:
		umask((mode_t)op->a[0].u);
		return 0;
	case OP_SETSID:
		return setsid() < 0 && errno != EPERM ? fail(f, op, "setsid", "") : 0;
	case OP_KEYRING:
		return op_keyring(op, f);
	case OP_PERSONALITY:
		return personality((unsigned long)op->a[0].u) < 0 ? fail(f, op, "personality", "") : 0;
	case OP_IOPRIO:
		return op_ioprio(op, f);
	case OP_SCHED:
		return op_sched(op, f);
	default:
		return 0;
	}
}

int run_self_ops(struct child *c, struct fault *f)
{
	struct cursor at = {0};
	struct op op;
	umask(022);
	while (plan_next(c->plan, &at, &op))
		if (run_self_op(&op, f) < 0)
			return -1;
	return 0;
}

/* Capabilities that this kernel has not end the loop; those that we have not are gone already. */
static int drop_bounding(const struct op *op, uint64_t keep, struct fault *f)
{
	for (int cap = 0; cap < 64; cap++) {
		if (keep >> cap & 1)
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0)
			continue;
		if (errno == EINVAL)
			break;
		return fail(f, op, "PR_CAPBSET_DROP", "");
	}
	return 0;
}

static int set_caps(const struct op *op, struct fault *f)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{0}};
	if (syscall(SYS_capget, &head, data) < 0)
		return fail(f, op, "capget", "");
	/* what the host cannot grant is left out, runtime-spec config.md "capabilities" */
	uint64_t have = data[0].permitted | (uint64_t)data[1].permitted << 32;
	uint64_t effective = op->a[1].u & have, permitted = op->a[2].u & have;
	uint64_t inheritable = op->a[3].u & have, ambient = op->a[4].u & permitted & inheritable;
	for (int i = 0; i < 2; i++) {
		data[i].effective = (uint32_t)(effective >> (32 * i));
		data[i].permitted = (uint32_t)(permitted >> (32 * i));
		data[i].inheritable = (uint32_t)(inheritable >> (32 * i));
	}
	if (syscall(SYS_capset, &head, data) < 0)
		return fail(f, op, "capset", "");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return fail(f, op, "PR_CAP_AMBIENT", "");
	for (int cap = 0; cap < 64; cap++)
		if (ambient >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return fail(f, op, "PR_CAP_AMBIENT", "");
	return 0;
}

static int set_user(const struct op *op, struct fault *f)
{
	uid_t uid = (uid_t)op->a[0].u;
	gid_t gid = (gid_t)op->a[1].u;
	if (syscall(SYS_setgroups, op->a[2].s.n / 4, op->a[2].s.p) < 0)
		return fail(f, op, "setgroups", "");
	if (syscall(SYS_setresgid, gid, gid, gid) < 0)
		return fail(f, op, "setresgid", "");
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || syscall(SYS_setresuid, uid, uid, uid) < 0)
		return fail(f, op, "setresuid", "");
	return 0;
}

/* Bounding first, while CAP_SETPCAP is there; then who it is; then the sets; nothing can grow after that. */
int apply_credentials(const struct plan *plan, struct fault *f)
{
	struct op caps, user, cwd, nnp;
	bool has_caps = plan_find(plan, OP_CAPS, &caps);
	bool has_cwd = plan_find(plan, OP_CWD, &cwd), late_cwd = false;
	if (has_cwd && change_directory(&cwd, f) < 0) {
		late_cwd = f->err == EACCES; /* root may be nobody there (NFS), the user may be let in */
		if (!late_cwd)
			return -1;
	}
	if (has_caps && drop_bounding(&caps, caps.a[0].u, f) < 0)
		return -1;
	if (plan_find(plan, OP_USER, &user) && set_user(&user, f) < 0)
		return -1;
	if (has_caps && set_caps(&caps, f) < 0)
		return -1;
	if (late_cwd && change_directory(&cwd, f) < 0)
		return -1;
	if (plan_find(plan, OP_NNP, &nnp) && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fail(f, &nnp, "no_new_privs", "");
	return 0;
}

/* Without no_new_privs the filter needs CAP_SYS_ADMIN, so it comes before the credentials; else it is the last thing
 * before exec. Each of the two calls does its case. */
int apply_filter(const struct plan *plan, bool last, struct fault *f)
{
	struct op op, nnp;
	if (!plan_find(plan, OP_SECCOMP, &op) || plan_find(plan, OP_NNP, &nnp) != last)
		return 0;
	/* cast: decode guarantees the alignment of struct sock_filter, plan.c value_ok */
	struct sock_fprog prog = {.len = (unsigned short)(op.a[1].s.n / 8),
				  .filter = (struct sock_filter *)(uintptr_t)op.a[1].s.p};
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, (unsigned)op.a[0].u, &prog) != 0)
		return fail(f, &op, "seccomp", "");
	return 0;
}

static const char *search_path(char **envp)
{
	for (char **e = envp; *e; e++)
		if (strncmp(*e, "PATH=", 5) == 0)
			return *e + 5;
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

typedef int try_fn(const char *path, char **argv, char **envp);

/* What execve would say, as far as it can be seen beforehand. */
static int would_run(const char *path, char **argv, char **envp)
{
	struct stat st;
	(void)argv;
	(void)envp;
	if (stat(path, &st) < 0)
		return -1;
	if (S_ISREG(st.st_mode))
		return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS);
	errno = EACCES;
	return -1;
}

static int run(const char *path, char **argv, char **envp)
{
	return execve(path, argv, envp);
}

/* errno of the best try: a file that was there but not executable tells more than those that were not. */
static int try_path(char **argv, char **envp, try_fn *try)
{
	int best = ENOENT;
	size_t name = strlen(argv[0]);
	for (const char *p = search_path(envp);; p++) {
		size_t n = strcspn(p, ":");
		char path[PATH_MAX];
		if (n + name + 2 <= sizeof path) {
			memcpy(path, p, n);
			path[n] = '/';
			memcpy(path + n + 1, argv[0], name + 1);
			if (try(n ? path : argv[0], argv, envp) == 0)
				return 0;
			if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
				return -1;
			if (errno == EACCES)
				best = EACCES;
		}
		p += n;
		if (!*p)
			break;
	}
	errno = best;
	return -1;
}

static int try_program(const struct plan *plan, try_fn *try, struct fault *f)
{
	static char *argv[PLAN_WORDS_MAX + 1], *envp[PLAN_WORDS_MAX + 1]; /* static: touched in the child only */
	size_t args = 0, envs = 0;
	struct cursor at = {0};
	struct op op;
	while (plan_next(plan, &at, &op)) {
		if (op.code == OP_ARG && args < PLAN_WORDS_MAX)
			argv[args++] = (char *)(uintptr_t)op.a[0].s.p;
		else if (op.code == OP_ENV && envs < PLAN_WORDS_MAX)
			envp[envs++] = (char *)(uintptr_t)op.a[0].s.p;
	}
	errno = ENOENT;
	if (*argv[0] && (strchr(argv[0], '/') ? try(argv[0], argv, envp) : try_path(argv, envp, try)) == 0)
		return 0;
	return fail(f, &op, "execve", argv[0]);
}

int look_for_program(const struct plan *plan, struct fault *f)
{
	struct op cwd;
	AUTOFD root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return fail(f, NULL, "open", "/");
	if (plan_find(plan, OP_CWD, &cwd) && chdir(cwd.a[0].s.p) < 0)
		return 0; /* its user may be allowed to; else the start tells */
	int err = try_program(plan, would_run, f);
	return fchdir(root) < 0 ? fail(f, NULL, "fchdir", "/") : err;
}

int exec_program(const struct plan *plan, struct fault *f)
{
	return try_program(plan, run, f);
}
