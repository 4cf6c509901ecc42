#include "record.h"

#include <fcntl.h>
#include <stdio.h> /* renameat only */
#include <sys/stat.h>
#include <sys/wait.h>

/* Value of "key N" in a flat-keyed file. */
static int64_t flat_value(const char *text, const char *key)
{
	size_t n = strlen(key);
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, n) != 0 || line[n] != ' ')
			continue;
		int64_t value = 0;
		const char *p = line + n + 1;
		for (; *p >= '0' && *p <= '9' && value < INT64_MAX / 16; p++)
			value = value * 10 + (*p - '0');
		return p == line + n + 1 ? UNKNOWN : value;
	}
	return UNKNOWN;
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
	put_text(&o, "how", signaled ? "signaled" : "exited");
	put(&o, "status", signaled ? WTERMSIG(r->status) : WEXITSTATUS(r->status));
	put(&o, "core", signaled && WCOREDUMP(r->status) ? 1 : 0);
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

int record_write(const struct record *r, int dir)
{
	const char *temp = "exit.tmp";
	AUTOFD fd = openat(dir, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, r->text, r->text_size) != (ssize_t)r->text_size || fsync(fd) < 0)
		return -1;
	if (renameat(dir, temp, dir, "exit") < 0)
		return -1;
	AUTOFD self = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* dir itself may be O_PATH */
	return self < 0 ? -1 : fsync(self);
}
