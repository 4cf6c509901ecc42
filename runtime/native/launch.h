/* From a plan to a running process: what the parent prepares, what the child does, how both agree. */
#ifndef WHARF_LAUNCH_H
#define WHARF_LAUNCH_H

#include <sys/types.h>

#include "plan.h"

/* The child's side while it sets itself up. All fds borrowed from the parent's struct launch or owned by the process,
 * which closes them by close_range before exec. */
struct child {
	const struct plan *plan;
	int sync;         /* to the parent: a fault, or "ready" */
	int root;         /* O_PATH of the container's root */
	int null;         /* O_PATH of the host's /dev/null, verified */
	int proc;         /* a proc of our own that is mounted nowhere; opened when first needed */
	int empty;        /* the read-only tmpfs that masks directories; attached at the first mask */
	const int *trees; /* a detached mount for each BIND, in order */
	unsigned next_tree;
	bool pivoted;
	bool gated; /* the parent's go was read */
};

typedef int op_fn(struct child *c, const struct op *op, struct fault *f);

/* ops_name.c */
op_fn op_hostname, op_sysctl, op_loopback;

/* ops_mount.c: run the operations up to and with ROOTATTR, then let go of the host's root. */
MUST_CHECK int run_mount_ops(struct child *c, struct fault *f);
/* What only the parent can do for them: a detached copy of the root and of each bind source, in the host's mount
 * namespace. trees[0] is the root's; -1 where there is none. *n counts them, also on error. */
MUST_CHECK int open_trees(const struct plan *plan, int *trees, unsigned *n, struct fault *f);

/* ops_cred.c: limits, session, working directory; then users, capabilities and the filter, in the safe order. */
MUST_CHECK int run_self_ops(struct child *c, struct fault *f);
MUST_CHECK int apply_credentials(const struct plan *plan, struct fault *f);
MUST_CHECK int apply_filter(const struct plan *plan, bool last, struct fault *f);
/* execve of the plan's ARGs with its ENVs; returns only on error. */
int exec_program(const struct plan *plan, struct fault *f);

/* child.c */
_Noreturn void child_fails(const struct child *c, const struct fault *f);
MUST_CHECK int wait_gate(struct child *c, struct fault *f);
MUST_CHECK int become_ns_root(const struct plan *plan, struct fault *f);
void die_with_parent(void);
/* All signals to their defaults, which a child inherits; all blocked, or none. */
void reset_signals(void);
void block_signals(bool all);
_Noreturn void child_main(struct child *c, const int stdio[3], bool wait_first, uint64_t late_namespaces);

/* launch.c */
enum { LAUNCH_GATE = 'g', LAUNCH_BORN = 'b', LAUNCH_READY = 'r' };

struct launch_fds { /* borrowed; -1 where absent */
	int cgroup, netns, proc;
	int hangup; /* readable or hung up when the launch is not wanted any more */
};

struct launched {
	pid_t pid;
	int pidfd;  /* owned */
	int out[2]; /* read ends of stdout and stderr, non-blocking; owned */
	bool late;  /* CLONE_INTO_CGROUP does not work here */
};

/* Run the plan to the point where its program was executed. On -1, *f says why and everything was undone. */
MUST_CHECK int launch_init(const struct plan *plan, const struct launch_fds *fds, struct launched *done,
			   struct fault *f);

/* Shared with exec.c: clone3 with a pidfd, into the cgroup unless *late; *late is set when the cgroup refused that, and
 * the caller is to move the process then. */
pid_t clone_into(uint64_t flags, int cgroup, int *pidfd, bool *late);
/* The parent's part between clone and go: cgroup (if clone could not), user maps, oom_score_adj. */
MUST_CHECK int finish_clone(const struct plan *plan, pid_t pid, int cgroup_late, int proc, struct fault *f);
/* SIGKILL to all in the cgroup and to pidfd, then reap pid, for at most 10 s. */
void undo_launch(int cgroup, int pidfd, pid_t pid, int *status);
/* The uid and gid of the plan's USER as the host sees them; false where the map has no place for them. */
bool host_ids(const struct plan *plan, uint32_t *uid, uint32_t *gid);

#endif
