/* The plan decoder: whatever it takes is inside its bounds, and what it accepts it decodes again the same way. */
#include "fuzz.h"
#include "launch.h"
#include "shim.h"

int watch(const struct shim *s, int fd, unsigned kind, unsigned index, uint32_t events)
{
	(void)s, (void)fd, (void)kind, (void)index, (void)events;
	return 0;
}

static void use(const struct op *op, const uint8_t *data, size_t size)
{
	const char *schema = op_kinds[op->code].schema;
	for (unsigned i = 0; schema[i]; i++) {
		if (schema[i] == 'u' || schema[i] == 'i')
			continue;
		const char *p = op->a[i].s.p;
		size_t n = op->a[i].s.n;
		HOLDS(p >= (const char *)data && p + n <= (const char *)data + size);
		HOLDS(schema[i] == 'b' || strlen(p) == n);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plan plan;
	struct fault f = {0};
	if (plan_check(&plan, data, size, &f) < 0) {
		HOLDS(f.err > 0 && memchr(f.path, 0, sizeof f.path) && memchr(f.call, 0, sizeof f.call));
		return 0;
	}
	struct cursor c = {0};
	struct op op;
	uint32_t n = 0, uid, gid;
	for (; plan_next(&plan, &c, &op); n++)
		use(&op, data, size);
	HOLDS(n == plan.count && op.code == OP_EXEC);
	host_ids(&plan, &uid, &gid);
	for (uint16_t code = 1; code < OP_COUNT; code++)
		HOLDS(plan_find(&plan, code, &op) == (op.code == code));
	for (unsigned kind = 0; kind < HOOK_KINDS; kind++)
		HOLDS(!has_hooks(&plan, 1u << kind) || plan_find(&plan, OP_HOOK, &op));
	HOLDS(check_join(&plan, &f) == 0 || f.err == EINVAL);
	return 0;
}
