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
	bool kernel;  /* told by the kernel: the shim was not init's parent */
	bool unknown; /* nobody could tell the status */
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
/* What a later shim has to know: r's own numbers, and these. */
struct init_note {
	uint64_t start_ticks; /* field 22 of /proc/PID/stat: with the pid, who init is */
	uint64_t pipes[2];    /* inodes of stdout and stderr */
	bool late;            /* processes cannot be cloned into the leaf */
};
/* As "init" in dir, whole or not at all; not synced, since it is of use in this boot only. 0 or -1. */
MUST_CHECK int record_note(struct record *r, int dir, const struct init_note *note);
/* Back into r and *note; false when there is none for r->generation. */
bool record_recall(struct record *r, int dir, struct init_note *note);
/* Make it durable as "exit" in dir: temp file, fsync, rename, fsync of the directory. 0 or -1. */
MUST_CHECK int record_write(const struct record *r, int dir);

#endif
