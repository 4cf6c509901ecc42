#include "plan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "sys.h"

const struct op_kind op_kinds[] = {
	[OP_NONE] = {"", ""},
	[OP_NAMESPACES] = {"NAMESPACES", "u"},
	[OP_USERMAP] = {"USERMAP", "ss"},
	[OP_JOINNS] = {"JOINNS", "us"},
	[OP_ROOT] = {"ROOT", "su"},
	[OP_MOUNT] = {"MOUNT", "sssusu"},
	[OP_BIND] = {"BIND", "ssuuuu"},
	[OP_DEVNODE] = {"DEVNODE", "suuuuu"},
	[OP_SYMLINK] = {"SYMLINK", "ss"},
	[OP_HOSTNAME] = {"HOSTNAME", "s"},
	[OP_DOMAINNAME] = {"DOMAINNAME", "s"},
	[OP_SYSCTL] = {"SYSCTL", "ss"},
	[OP_LOOPBACK] = {"LOOPBACK", ""},
	[OP_PIVOT] = {"PIVOT", ""},
	[OP_MASK] = {"MASK", "s"},
	[OP_READONLY] = {"READONLY", "s"},
	[OP_ROOTATTR] = {"ROOTATTR", "uu"},
	[OP_RLIMIT] = {"RLIMIT", "uuu"},
	[OP_OOMADJ] = {"OOMADJ", "i"},
	[OP_UMASK] = {"UMASK", "u"},
	[OP_SETSID] = {"SETSID", ""},
	[OP_KEYRING] = {"KEYRING", ""},
	[OP_CAPS] = {"CAPS", "uuuuu"},
	[OP_USER] = {"USER", "uub"},
	[OP_CWD] = {"CWD", "s"},
	[OP_NNP] = {"NNP", ""},
	[OP_SECCOMP] = {"SECCOMP", "ub"},
	[OP_ENV] = {"ENV", "s"},
	[OP_ARG] = {"ARG", "s"},
	[OP_EXEC] = {"EXEC", ""},
	[OP_JOIN] = {"JOIN", "u"},
	[OP_STATE] = {"STATE", "uss"},
	[OP_HOOK] = {"HOOK", "uus"},
	[OP_HOOKARG] = {"HOOKARG", "s"},
	[OP_HOOKENV] = {"HOOKENV", "s"},
	[OP_CONSOLE] = {"CONSOLE", "uu"},
	[OP_IDMAP] = {"IDMAP", "ssu"},
	[OP_TIMENS] = {"TIMENS", "s"},
	[OP_PERSONALITY] = {"PERSONALITY", "u"},
	[OP_IOPRIO] = {"IOPRIO", "uu"},
	[OP_SCHED] = {"SCHED", "uiuuuuu"},
	[OP_APPARMOR] = {"APPARMOR", "s"},
	[OP_SELINUX] = {"SELINUX", "s"},
	[OP_PROPAGATION] = {"PROPAGATION", "su"},
	[OP_MOUNTATTR] = {"MOUNTATTR", "suuu"},
	[OP_PEER] = {"PEER", "uuu"},
	[OP_OVERLAY] = {"OVERLAY", "ssss"},
};
_Static_assert(COUNT(op_kinds) == OP_COUNT, "every operation has a row");

enum { HEADER_SIZE = 16, OP_HEADER_SIZE = 8 };

#define KNOWN_NAMESPACES                                                                                               \
	((uint64_t)(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET) |         \
	 CLONE_NEWCGROUP | CLONE_NEWTIME)

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
	return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

/* Decode one argument of a body of size bytes, at *at. */
static bool decode_arg(const uint8_t *body, uint32_t size, uint32_t *at, char kind, union arg *arg)
{
	uint32_t left = size - *at, width = kind == 'u' || kind == 'i' ? 8 : 4;
	if (left < width)
		return false;
	if (width == 8) {
		arg->u = get64(body + *at);
		*at += 8;
		return true;
	}
	uint32_t n = get32(body + *at), tail = kind == 's';
	if (n > PLAN_MAX || left - 4 < n + tail)
		return false;
	arg->s.p = (const char *)body + *at + 4;
	arg->s.n = n;
	*at += 4 + n + tail;
	return !tail || memchr(arg->s.p, 0, n + 1) == arg->s.p + n;
}

/* Decode the operation at c and move on. */
static bool decode_op(const struct plan *plan, struct cursor *c, struct op *op)
{
	uint32_t left = plan->length - c->at;
	if (left < OP_HEADER_SIZE)
		return false;
	const uint8_t *p = plan->base + c->at;
	uint32_t size = get32(p + 4);
	if (size > left - OP_HEADER_SIZE)
		return false;
	uint32_t padded = (size + 7) & ~7u, used = 0;
	memset(op, 0, sizeof *op);
	op->code = get16(p);
	op->step = get16(p + 2);
	if (padded > left - OP_HEADER_SIZE || op->code == OP_NONE || op->code >= OP_COUNT || op->step != c->step)
		return false;
	const char *schema = op_kinds[op->code].schema;
	for (unsigned i = 0; schema[i]; i++)
		if (!decode_arg(p + OP_HEADER_SIZE, size, &used, schema[i], &op->a[i]))
			return false;
	for (uint32_t i = size; i < padded; i++)
		if (p[OP_HEADER_SIZE + i])
			return false;
	c->at += OP_HEADER_SIZE + padded;
	c->step++;
	return used == size;
}

static bool value_ok(const struct op *op)
{
	switch (op->code) {
	case OP_NAMESPACES:
	case OP_JOIN:
		return !(op->a[0].u & ~KNOWN_NAMESPACES);
	case OP_JOINNS:
		return op->a[0].u && !(op->a[0].u & ~KNOWN_NAMESPACES) && !(op->a[0].u & (op->a[0].u - 1));
	case OP_USER: /* -1 means "leave it" to setresuid(2) */
		return op->a[0].u < UINT32_MAX && op->a[1].u < UINT32_MAX && op->a[2].s.n % 4 == 0 &&
		       op->a[2].s.n <= 65536 * 4;
	case OP_SECCOMP: /* 8 bytes an instruction, BPF_MAXINSNS; aligned, as decode_op's padding makes it */
		return op->a[0].u <= UINT32_MAX && op->a[1].s.n && op->a[1].s.n % 8 == 0 && op->a[1].s.n <= 4096 * 8;
	case OP_RLIMIT:
		return op->a[0].u < 64;
	case OP_DEVNODE:
		return op->a[1].u <= 0177777 && op->a[2].u <= UINT32_MAX && op->a[3].u <= UINT32_MAX &&
		       op->a[4].u < UINT32_MAX && op->a[5].u < UINT32_MAX;
	case OP_CONSOLE:
		return op->a[0].u <= UINT16_MAX && op->a[1].u <= UINT16_MAX;
	case OP_UMASK:
		return op->a[0].u <= 0777;
	case OP_OOMADJ:
		return op->a[0].i >= -1000 && op->a[0].i <= 1000;
	case OP_MOUNT:
		return op->a[3].u <= UINT32_MAX && op->a[5].u < 4;
	case OP_IDMAP:
		return op->a[0].s.n && op->a[1].s.n && op->a[2].u < 2;
	case OP_TIMENS:
	case OP_APPARMOR:
	case OP_SELINUX:
		return op->a[0].s.n > 0;
	case OP_OVERLAY:
		return op->a[0].s.n && op->a[1].s.n && op->a[2].s.n && op->a[3].s.n;
	case OP_PERSONALITY:
		return op->a[0].u <= UINT32_MAX;
	case OP_IOPRIO:
		return op->a[0].u <= 3 && op->a[1].u <= 7;
	case OP_SCHED:
		return op->a[0].u <= 16 && op->a[1].i >= -20 && op->a[1].i <= 19 && op->a[2].u <= 99;
	case OP_MOUNTATTR:
		return op->a[3].u < 2;
	case OP_STATE:
		return op->a[0].u <= 3;
	case OP_HOOK: /* a timeout of years still fits in ns */
		return op->a[0].u <= 5 && op->a[1].u <= 1ull << 42 && op->a[2].s.p && *op->a[2].s.p == '/';
	case OP_PEER: /* ms, at most a day */
		return op->a[0].u < PEER_KINDS && op->a[1].u && op->a[1].u <= 86400000 && op->a[2].u <= PEER_INSIDE;
	default:
		return true;
	}
}

int plan_check(struct plan *plan, const uint8_t *base, size_t size, struct fault *f)
{
	memset(plan, 0, sizeof *plan);
	if (size < HEADER_SIZE || size > PLAN_MAX)
		return fail_as(f, NULL, EBADMSG, "plan", "size");
	if (get32(base) != PLAN_MAGIC || get16(base + 4) != PLAN_VERSION || get16(base + 6) != 0)
		return fail_as(f, NULL, EPROTONOSUPPORT, "plan", "magic, version or flags");
	plan->base = base;
	plan->length = get32(base + 8);
	plan->count = get32(base + 12);
	if (plan->length != size || plan->count > PLAN_OPS_MAX)
		return fail_as(f, NULL, EBADMSG, "plan", "length or count");
	struct cursor c = {.at = HEADER_SIZE};
	struct op op = {0};
	unsigned seen[OP_COUNT] = {0};
	bool in_hook = false;
	for (uint32_t i = 0; i < plan->count; i++) {
		if (!decode_op(plan, &c, &op))
			return fail_as(f, &op, EBADMSG, "plan", "operation");
		if (!value_ok(&op))
			return fail_as(f, &op, EINVAL, "plan", "value");
		if ((op.code == OP_HOOKARG || op.code == OP_HOOKENV) && !in_hook)
			return fail_as(f, &op, EINVAL, "plan", "not after its HOOK");
		in_hook = op.code == OP_HOOK || op.code == OP_HOOKARG || op.code == OP_HOOKENV;
		seen[op.code]++;
	}
	if (c.at != plan->length)
		return fail_as(f, NULL, EBADMSG, "plan", "bytes after the last operation");
	if (op.code != OP_EXEC || seen[OP_EXEC] != 1 || !seen[OP_ARG])
		return fail_as(f, NULL, EINVAL, "plan", "one EXEC, last, with ARGs before it");
	if (seen[OP_ARG] > PLAN_WORDS_MAX || seen[OP_ENV] > PLAN_WORDS_MAX || seen[OP_HOOKARG] > PLAN_WORDS_MAX ||
	    seen[OP_HOOKENV] > PLAN_WORDS_MAX)
		return fail_as(f, NULL, E2BIG, "plan", "ARG, ENV, HOOKARG or HOOKENV");
	if (seen[OP_BIND] + seen[OP_IDMAP] > PLAN_BINDS_MAX || seen[OP_ROOT] > 1 || seen[OP_PIVOT] > 1 ||
	    seen[OP_OVERLAY] > 1 || seen[OP_JOINNS] > 8)
		return fail_as(f, NULL, E2BIG, "plan", "BIND, ROOT, PIVOT, OVERLAY or JOINNS");
	return 0;
}

bool plan_next(const struct plan *plan, struct cursor *c, struct op *op)
{
	if (!c->at)
		c->at = HEADER_SIZE;
	return c->step < plan->count && decode_op(plan, c, op);
}

bool plan_find(const struct plan *plan, uint16_t code, struct op *op)
{
	struct cursor c = {0};
	while (plan_next(plan, &c, op))
		if (op->code == code)
			return true;
	memset(op, 0, sizeof *op);
	return false;
}

int plan_map(struct plan *plan, int memfd, struct fault *f)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	memset(plan, 0, sizeof *plan);
	int have = fcntl(memfd, F_GET_SEALS);
	if (have < 0 || (have & seals) != seals)
		return fail_as(f, NULL, EPERM, "plan", "the memfd is not sealed");
	struct stat st;
	if (fstat(memfd, &st) < 0)
		return fail(f, NULL, "fstat", "plan");
	if (st.st_size < HEADER_SIZE || st.st_size > PLAN_MAX)
		return fail_as(f, NULL, EBADMSG, "plan", "size");
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, memfd, 0);
	if (p == MAP_FAILED)
		return fail(f, NULL, "mmap", "plan");
	if (plan_check(plan, p, (size_t)st.st_size, f) == 0)
		return 0;
	munmap(p, (size_t)st.st_size);
	memset(plan, 0, sizeof *plan);
	return -1;
}

void plan_unmap(struct plan *plan)
{
	if (plan->base)
		munmap((void *)(uintptr_t)plan->base, plan->length);
	memset(plan, 0, sizeof *plan);
}
