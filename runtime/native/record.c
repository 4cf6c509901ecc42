#include "record.h"

#include <fcntl.h>
#include <stdio.h> /* renameat only */
#include <sys/stat.h>
#include <sys/wait.h>

/* Value of "key N" in a flat-keyed file, or of "key=N". */
static int64_t value_after(const char *text, const char *key, char separator)
{
	size_t n = strlen(key);
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, n) != 0 || line[n] != separator)
			continue;
		int64_t value = 0;
		const char *p = line + n + 1;
		for (; *p >= '0' && *p <= '9' && value < INT64_MAX / 16; p++)
			value = value * 10 + (*p - '0');
		return p == line + n + 1 ? UNKNOWN : value;
	}
	return UNKNOWN;
}

static int64_t flat_value(const char *text, const char *key)
{
	return value_after(text, key, ' ');
}

struct mem_counts read_counts(int dir, const char *file)
{
	char text[512];
	if (dir < 0 || read_small(dir, file, text, sizeof text) <= 0)
		return (struct mem_counts){UNKNOWN, UNKNOWN, UNKNOWN};
	return (struct mem_counts){flat_value(text, "oom"), flat_value(text, "oom_kill"),
				   flat_value(text, "oom_group_kill")};
}

static int64_t read_number(int dir, const char *file)
{
	char text[32] = "n ";
	if (dir < 0 || read_small(dir, file, text + 2, sizeof text - 2) <= 0)
		return UNKNOWN;
	return flat_value(text, "n");
}

void record_start(struct record *r, const struct cgroup_dirs *dirs, int proc)
{
	char id[64];
	r->parent_start = read_counts(dirs->parent, "memory.events");
	r->local_start = read_counts(dirs->parent, "memory.events.local");
	r->top_start = read_counts(dirs->top, "memory.events");
	if (proc >= 0 && read_small(proc, "sys/kernel/random/boot_id", id, sizeof id) > 0) {
		id[strcspn(id, "\n")] = '\0';
		copy_text(r->boot_id, sizeof r->boot_id, id);
	}
}

void record_end(struct record *r, const struct cgroup_dirs *dirs)
{
	r->parent_end = read_counts(dirs->parent, "memory.events");
	r->leaf_end = read_counts(dirs->leaf, "memory.events");
	r->local_end = read_counts(dirs->parent, "memory.events.local");
	r->top_end = read_counts(dirs->top, "memory.events");
	r->peak_end = read_number(dirs->parent, "memory.peak");
	r->leaf_peak_end = read_number(dirs->leaf, "memory.peak");
}

static void put(struct out *o, const char *key, int64_t value)
{
	if (value < 0)
		return;
	out_text(o, key);
	out_text(o, "=");
	out_u64(o, (uint64_t)value);
	out_text(o, "\n");
}

static void put_text(struct out *o, const char *key, const char *value)
{
	if (!*value)
		return;
	out_text(o, key);
	out_text(o, "=");
	out_text(o, value);
	out_text(o, "\n");
}

void record_print(struct record *r)
{
	struct out o = {r->text, 0, sizeof r->text};
	bool signaled = WIFSIGNALED(r->status);
	put(&o, "version", 1);
	put(&o, "generation", (int64_t)r->generation);
	put(&o, "pid", r->pid);
	put(&o, "started_ns", (int64_t)r->started_ns);
	put(&o, "ended_ns", (int64_t)r->ended_ns);
	put_text(&o, "boot_id", r->boot_id);
	put_text(&o, "how", r->unknown ? "unknown" : signaled ? "signaled" : "exited");
	put(&o, "status", r->unknown ? UNKNOWN : signaled ? WTERMSIG(r->status) : WEXITSTATUS(r->status));
	put(&o, "core", !r->unknown && signaled && WCOREDUMP(r->status) ? 1 : 0);
	put_text(&o, "told", r->kernel ? "kernel" : "shim");
	put(&o, "oom.group", r->oom_group);
	put(&o, "mem.parent.oom.start", r->parent_start.oom);
	put(&o, "mem.parent.oom.end", r->parent_end.oom);
	put(&o, "mem.parent.oom_kill.start", r->parent_start.oom_kill);
	put(&o, "mem.parent.oom_kill.end", r->parent_end.oom_kill);
	put(&o, "mem.parent.oom_group_kill.start", r->parent_start.oom_group_kill);
	put(&o, "mem.parent.oom_group_kill.end", r->parent_end.oom_group_kill);
	put(&o, "mem.leaf.oom_kill.end", r->leaf_end.oom_kill);
	put(&o, "mem.local.oom.start", r->local_start.oom);
	put(&o, "mem.local.oom.end", r->local_end.oom);
	put(&o, "mem.top.oom.start", r->top_start.oom);
	put(&o, "mem.top.oom.end", r->top_end.oom);
	put(&o, "mem.peak.end", r->peak_end);
	put(&o, "mem.leaf.peak.end", r->leaf_peak_end);
	put(&o, "oom_seen", (int64_t)r->oom_seen);
	r->text_size = (uint32_t)o.n;
}

/* Text as a whole file: the old one, or the new one, and never a part. */
static int replace_file(const struct record *r, int dir, const char *temp, const char *name, bool sync)
{
	AUTOFD fd = openat(dir, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, r->text, r->text_size) != (ssize_t)r->text_size || (sync && fsync(fd) < 0))
		return -1;
	return renameat(dir, temp, dir, name);
}

static const char *const STARTS[] = {"mem.parent.oom.start", "mem.parent.oom_kill.start",
				     "mem.parent.oom_group_kill.start", "mem.local.oom.start", "mem.top.oom.start"};

static void starts_of(struct record *r, int64_t *at[COUNT(STARTS)])
{
	int64_t *const all[] = {&r->parent_start.oom, &r->parent_start.oom_kill, &r->parent_start.oom_group_kill,
				&r->local_start.oom, &r->top_start.oom};
	memcpy(at, all, sizeof all);
}

int record_note(struct record *r, int dir, const struct init_note *note)
{
	struct out o = {r->text, 0, sizeof r->text};
	int64_t *at[COUNT(STARTS)];
	put(&o, "version", 1);
	put(&o, "generation", (int64_t)r->generation);
	put(&o, "pid", r->pid);
	put(&o, "start_ticks", (int64_t)note->start_ticks);
	put(&o, "started_ns", (int64_t)r->started_ns);
	put_text(&o, "boot_id", r->boot_id);
	put(&o, "pipe.stdout", (int64_t)note->pipes[0]);
	put(&o, "pipe.stderr", (int64_t)note->pipes[1]);
	put(&o, "late", note->late);
	starts_of(r, at);
	for (unsigned i = 0; i < COUNT(STARTS); i++)
		put(&o, STARTS[i], *at[i]);
	r->text_size = (uint32_t)o.n;
	return replace_file(r, dir, "init.tmp", "init", false);
}

bool record_recall(struct record *r, int dir, struct init_note *note)
{
	char text[RECORD_SIZE];
	int64_t *at[COUNT(STARTS)];
	starts_of(r, at);
	for (unsigned i = 0; i < COUNT(STARTS); i++)
		*at[i] = UNKNOWN;
	if (read_small(dir, "init", text, sizeof text) <= 0 || value_after(text, "version", '=') != 1 ||
	    value_after(text, "generation", '=') != (int64_t)r->generation)
		return false;
	r->pid = (pid_t)value_after(text, "pid", '=');
	r->started_ns = (uint64_t)value_after(text, "started_ns", '=');
	note->start_ticks = (uint64_t)value_after(text, "start_ticks", '=');
	note->late = value_after(text, "late", '=') != 0;
	for (unsigned i = 0; i < COUNT(STARTS); i++)
		*at[i] = value_after(text, STARTS[i], '=');
	return true;
}

int record_write(const struct record *r, int dir)
{
	if (replace_file(r, dir, "exit.tmp", "exit", true) < 0)
		return -1;
	AUTOFD self = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* dir itself may be O_PATH */
	return self < 0 ? -1 : fsync(self);
}
