/* The exit record: what ended, how, and the kernel's counters around the run (docs/runtime.md, "Exit record"). */
#ifndef WHARF_RECORD_H
#define WHARF_RECORD_H

#include <sys/types.h>

#include "base.h"

enum { RECORD_SIZE = 1536, UNKNOWN = -1 };

struct mem_counts { /* UNKNOWN: no such file or key */
	int64_t oom, oom_kill, oom_group_kill;
};

struct record {
	uint64_t generation, started_ns, ended_ns;
	pid_t pid;
	int status; /* of waitpid(2) */
	bool oom_group;
	struct mem_counts parent_start, parent_end, leaf_end, local_start, local_end, top_start, top_end;
	int64_t peak_end, leaf_peak_end;
	uint64_t oom_seen;
	char boot_id[40];
	char text[RECORD_SIZE];
	uint32_t text_size;
};

struct cgroup_dirs { /* borrowed; -1 where absent */
	int leaf, parent, top;
};

struct mem_counts read_counts(int dir, const char *file);
/* Before the launch, and after the end while the cgroups are still there. */
void record_start(struct record *r, const struct cgroup_dirs *dirs, int proc);
void record_end(struct record *r, const struct cgroup_dirs *dirs);
/* Fill r->text. */
void record_print(struct record *r);
/* Make it durable as "exit" in dir: temp file, fsync, rename, fsync of the directory. 0 or -1. */
MUST_CHECK int record_write(const struct record *r, int dir);

#endif
