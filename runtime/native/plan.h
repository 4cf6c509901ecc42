/* The launch plan: a flat list of operations with resolved arguments (docs/runtime.md, "Plan"). */
#ifndef WHARF_PLAN_H
#define WHARF_PLAN_H

#include "base.h"

enum {
	OP_NONE,
	OP_NAMESPACES,
	OP_USERMAP,
	OP_JOINNS,
	OP_ROOT,
	OP_MOUNT,
	OP_BIND,
	OP_DEVNODE,
	OP_SYMLINK,
	OP_HOSTNAME,
	OP_DOMAINNAME,
	OP_SYSCTL,
	OP_LOOPBACK,
	OP_PIVOT,
	OP_MASK,
	OP_READONLY,
	OP_ROOTATTR,
	OP_RLIMIT,
	OP_OOMADJ,
	OP_UMASK,
	OP_SETSID,
	OP_KEYRING,
	OP_CAPS,
	OP_USER,
	OP_CWD,
	OP_NNP,
	OP_SECCOMP,
	OP_ENV,
	OP_ARG,
	OP_EXEC,
	OP_JOIN,
	OP_STATE,
	OP_HOOK,
	OP_HOOKARG,
	OP_HOOKENV,
	OP_CONSOLE,
	OP_IDMAP,
	OP_TIMENS,
	OP_PERSONALITY,
	OP_IOPRIO,
	OP_SCHED,
	OP_APPARMOR,
	OP_SELINUX,
	OP_PROPAGATION,
	OP_MOUNTATTR,
	OP_PEER,
	OP_OVERLAY,
	OP_COUNT
};

enum {
	PLAN_MAGIC = 0x4E4C5057,
	PLAN_VERSION = 1,
	PLAN_MAX = 4 << 20,
	PLAN_OPS_MAX = 16384,
	PLAN_ARGS_MAX = 7,
	PLAN_WORDS_MAX = 4096, /* ARG, and as many ENV */
	PLAN_BINDS_MAX = 256,
};

/* An argument. Text is NUL-terminated and points into the plan, as do bytes. */
union arg {
	uint64_t u;
	int64_t i;
	struct {
		const char *p;
		uint32_t n;
	} s;
};

struct op {
	uint16_t code, step;
	union arg a[PLAN_ARGS_MAX];
};

struct plan {
	const uint8_t *base; /* borrowed */
	uint32_t length, count;
};

/* What another runtime is asked to do: the kind of a PEER, whose ARGs follow it. */
enum { PEER_CREATE, PEER_START, PEER_DELETE, PEER_KINDS };
enum { PEER_INSIDE = 1 }; /* it runs in the leaf, and what it makes is born there */

struct cursor {
	uint32_t at, step;
};

struct op_kind {
	const char *name, *schema;
};
extern const struct op_kind op_kinds[OP_COUNT];

/* Check the whole plan once: magic, bounds, text, values that an operation could trip over. After it plan_next cannot
 * fail. 0, or -1 with *f. The bytes must not change any more: callers hold them in a sealed memfd. */
MUST_CHECK int plan_check(struct plan *plan, const uint8_t *base, size_t size, struct fault *f);

/* The next operation; false at the end. Start with a zero cursor. */
MUST_CHECK bool plan_next(const struct plan *plan, struct cursor *c, struct op *op);

/* The first operation of this code; false if there is none. */
bool plan_find(const struct plan *plan, uint16_t code, struct op *op);

/* Map the plan in a sealed memfd and check it. The mapping is released by plan_unmap. */
MUST_CHECK int plan_map(struct plan *plan, int memfd, struct fault *f);
void plan_unmap(struct plan *plan);

#endif
