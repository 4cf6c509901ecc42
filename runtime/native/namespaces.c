/* Who a container's users are on the host, and the namespaces of others that it is put into. */
#include <fcntl.h>
#include <sched.h>

#include "launch.h"
#include "sys.h"

/* The numbers of one map line: inside, outside, count. False at the end or on anything else. */
static bool map_line(const char **p, uint64_t n[3])
{
	for (int i = 0; i < 3; i++) {
		while (**p == ' ')
			(*p)++;
		if (**p < '0' || **p > '9')
			return false;
		for (n[i] = 0; **p >= '0' && **p <= '9' && n[i] <= UINT32_MAX; (*p)++)
			n[i] = n[i] * 10 + (uint64_t)(**p - '0');
	}
	while (**p == '\n' || **p == ' ')
		(*p)++;
	return true;
}

static bool map_id(const char *map, uint64_t id, uint32_t *out)
{
	uint64_t n[3];
	while (map_line(&map, n))
		if (id >= n[0] && id - n[0] < n[2] && n[1] + (id - n[0]) < UINT32_MAX) {
			*out = (uint32_t)(n[1] + (id - n[0]));
			return true;
		}
	return false;
}

bool host_ids(const struct plan *plan, uint32_t *uid, uint32_t *gid)
{
	struct op user, map;
	plan_find(plan, OP_USER, &user); /* zeroed, so root, where there is none */
	if (!plan_find(plan, OP_USERMAP, &map)) {
		*uid = (uint32_t)user.a[0].u;
		*gid = (uint32_t)user.a[1].u;
		return true;
	}
	return map_id(map.a[0].s.p, user.a[0].u, uid) && map_id(map.a[1].s.p, user.a[1].u, gid);
}

static const char *ns_file(uint64_t kind)
{
	switch (kind) {
	case CLONE_NEWNET:
		return "self/ns/net";
	case CLONE_NEWIPC:
		return "self/ns/ipc";
	case CLONE_NEWUTS:
		return "self/ns/uts";
	case CLONE_NEWPID:
		return "self/ns/pid";
	case CLONE_NEWCGROUP:
		return "self/ns/cgroup";
	case CLONE_NEWTIME:
		return "self/ns/time_for_children";
	default:
		return NULL; /* a mount namespace is always a new one; for a user namespace see adopt.c */
	}
}

static int join(struct joined *j, int fd, uint64_t kind, int proc, const struct op *op, struct fault *f)
{
	const char *file = ns_file(kind);
	if (!file || j->n == JOINS_MAX)
		return fail_as(f, op, EOPNOTSUPP, "setns", "");
	AUTOFD old = openat(proc, file, O_RDONLY | O_CLOEXEC);
	if (old < 0)
		return fail(f, op, "open", file);
	if (setns(fd, (int)kind) < 0) /* also refuses a namespace of another kind */
		return fail(f, op, "setns", file + 5);
	j->old[j->n] = take_fd(&old);
	j->kind[j->n++] = (int)kind;
	j->flags |= kind;
	return 0;
}

/* A clone enters the time namespace that is waiting for it, and then its offsets stand: so they are written before. */
static int make_time(struct joined *j, const struct plan *plan, int proc, struct fault *f)
{
	struct op op;
	AUTOFD old = openat(proc, ns_file(CLONE_NEWTIME), O_RDONLY | O_CLOEXEC);
	plan_find(plan, OP_TIMENS, &op);
	if (old < 0 || j->n == JOINS_MAX || syscall(SYS_unshare, CLONE_NEWTIME) < 0)
		return fail(f, NULL, "unshare", "time");
	j->old[j->n] = take_fd(&old);
	j->kind[j->n++] = CLONE_NEWTIME;
	j->flags |= CLONE_NEWTIME;
	if (op.code && write_small(proc, "self/timens_offsets", op.a[0].s.p) < 0)
		return fail(f, &op, "write", "timens_offsets");
	return 0;
}

int join_all(struct joined *j, const struct plan *plan, int netns, int proc, struct fault *f)
{
	struct cursor c = {0};
	struct op op;
	if (netns >= 0 && join(j, netns, CLONE_NEWNET, proc, NULL, f) < 0)
		return -1;
	while (plan_next(plan, &c, &op)) {
		if (op.code != OP_JOINNS)
			continue;
		AUTOFD fd = open(op.a[1].s.p, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return fail(f, &op, "open", op.a[1].s.p);
		if (op.a[0].u == CLONE_NEWUSER) {
			close_fd(&j->userns);
			j->userns = take_fd(&fd);
			continue;
		}
		if (join(j, fd, op.a[0].u, proc, &op, f) < 0)
			return -1;
	}
	if (plan_find(plan, OP_NAMESPACES, &op) && op.a[0].u & CLONE_NEWTIME)
		return make_time(j, plan, proc, f);
	return 0;
}

int make_netns(int proc)
{
	struct op none = {0};
	struct fault f;
	AUTOFD home = openat(proc, ns_file(CLONE_NEWNET), O_RDONLY | O_CLOEXEC);
	if (home < 0 || syscall(SYS_unshare, CLONE_NEWNET) < 0)
		return -1;
	AUTOFD made = openat(proc, ns_file(CLONE_NEWNET), O_RDONLY | O_CLOEXEC);
	bool up = made >= 0 && op_loopback(NULL, &none, &f) == 0;
	if (setns(home, CLONE_NEWNET) < 0)
		_exit(2); /* never to go on in a container's namespace; the daemon takes another shim */
	return up ? take_fd(&made) : -1;
}

bool takes_made_netns(const struct plan *plan)
{
	struct cursor c = {0};
	struct op op;
	bool own = false, loopback = false;
	while (plan_next(plan, &c, &op)) {
		if (op.code == OP_JOINNS && op.a[0].u == CLONE_NEWUSER)
			return false;
		if (op.code == OP_NAMESPACES)
			own = op.a[0].u & CLONE_NEWNET && !(op.a[0].u & CLONE_NEWUSER);
		loopback |= op.code == OP_LOOPBACK;
	}
	return own && loopback;
}

void leave_all(struct joined *j)
{
	close_fd(&j->userns);
	while (j->n) {
		j->n--;
		if (setns(j->old[j->n], j->kind[j->n]) < 0)
			errno = 0; /* only the shim's own view; all that it does goes by fds */
		close_fd(&j->old[j->n]);
	}
}
