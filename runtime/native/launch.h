/* From a plan to a running process: what the parent prepares, what the child does, how both agree. */
#ifndef WHARF_LAUNCH_H
#define WHARF_LAUNCH_H

#include <sys/types.h>

#include "plan.h"

/* What a child is to keep; all borrowed, -1 where absent. */
struct child_fds {
	int stdio[3];    /* -1: as they are; a missing stdin is the container's own /dev/null */
	const int *kept; /* these become 3, 4 and so on of the program */
	unsigned n_kept;
	int gate; /* a listening socket: the program starts only when somebody connects to it */
};
#define NO_CHILD_FDS ((struct child_fds){.stdio = {-1, -1, -1}, .gate = -1})

/* The child's side while it sets itself up. All fds borrowed from the parent's struct launch or owned by the process,
 * which closes them by close_range before exec. */
struct child {
	const struct plan *plan;
	int sync;  /* to the parent: a fault, or "ready" */
	int root;  /* O_PATH of the container's root */
	int null;  /* the host's /dev/null, verified; after PIVOT a mount of it, which masks files */
	int proc;  /* a proc of our own that is mounted nowhere; opened when first needed */
	int empty; /* the read-only tmpfs that masks directories, from the first mask on */
	bool null_attached, empty_attached;
	const int *trees; /* a detached mount for each BIND, a user namespace for each IDMAP, in order */
	unsigned next_tree;
	struct op idmap; /* for the next MOUNT, if userns is not -1 */
	int userns;      /* borrowed from trees */
	bool pivoted;
	bool gated;     /* the parent's go was read */
	bool arranged;  /* fds.stdio are 0 to 2 by now */
	bool cut_hooks; /* what hooks write goes to the container's stderr, cut; else they have stdio as it is */
	bool tied;      /* an exec of a shim: dies with it */
	pid_t pid;      /* our own as the parent sees it; known after its go */
	struct child_fds fds;
};
#define NO_CHILD                                                                                                       \
	((struct child){.sync = -1,                                                                                    \
			.root = -1,                                                                                    \
			.null = -1,                                                                                    \
			.proc = -1,                                                                                    \
			.empty = -1,                                                                                   \
			.userns = -1,                                                                                  \
			.next_tree = 1,                                                                                \
			.fds = NO_CHILD_FDS})

typedef int op_fn(struct child *c, const struct op *op, struct fault *f);

/* ops_name.c */
op_fn op_hostname, op_sysctl, op_loopback;

/* console.c */
op_fn op_console;

/* ops_mount.c: run the operations up to and with ROOTATTR. PIVOT lets go of the host's root. */
MUST_CHECK int run_mount_ops(struct child *c, struct fault *f);
/* What only the parent can do for them: a detached copy of the root and of each bind source, in the host's mount
 * namespace. trees[0] is the root's; -1 where there is none. *n counts them, also on error. */
MUST_CHECK int open_trees(const struct plan *plan, int *trees, unsigned *n, struct fault *f);

/* ops_cred.c: limits, session, working directory; then users, capabilities and the filter, in the safe order.
 * set_labels: the label that the next execve takes on, told while the host's /proc is in sight. */
MUST_CHECK int set_labels(const struct plan *plan, struct fault *f);
MUST_CHECK int run_self_ops(struct child *c, struct fault *f);
MUST_CHECK int apply_credentials(const struct plan *plan, struct fault *f);
MUST_CHECK int apply_filter(const struct plan *plan, bool last, struct fault *f);
/* A fault when there is no such program in the root that is now ours, nor an executable file: `create` tells it. */
MUST_CHECK int look_for_program(const struct plan *plan, struct fault *f);
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
/* stdio and what is kept get their numbers, then come sync and *extra (may be -1); all else is closed: nothing of the
 * host can be reached from inside (CVE-2024-21626). */
MUST_CHECK int arrange_fds(struct child *c, int *extra, struct fault *f);
_Noreturn void child_main(struct child *c, bool wait_first, uint64_t late_namespaces);

/* namespaces.c: those of others. The parent enters them for the clone, so that a new user namespace does not stand
 * between. */
enum { JOINS_MAX = 10 };
struct joined {
	int old[JOINS_MAX];
	int kind[JOINS_MAX];
	unsigned n;
	uint64_t flags;
	int userns; /* owned; the one that init is to be born in, else -1 */
};
#define NO_JOINED ((struct joined){.userns = -1})
/* A new network namespace with loopback up, or -1: making it is 1 ms of a start. Owned by the caller. */
int make_netns(int proc);
/* Whether the plan's network namespace can be such a one: a new one with loopback, and no user namespace's. */
bool takes_made_netns(const struct plan *plan);
MUST_CHECK int join_all(struct joined *j, const struct plan *plan, int netns, int proc, struct fault *f);
void leave_all(struct joined *j);
/* The uid and gid of the plan's USER as the host sees them; false where the map has no place for them. */
bool host_ids(const struct plan *plan, uint32_t *uid, uint32_t *gid);

/* launch.c */
enum {
	LAUNCH_GATE = 'g',
	LAUNCH_BORN = 'b',
	LAUNCH_HOOKS = 'h',
	LAUNCH_CREATED = 'c',
	LAUNCH_KNOWN = 'k',
	LAUNCH_READY = 'r',
	LAUNCH_TERMINAL = 't' /* with its master */
};

/* The parent's word to its child. */
struct go {
	char word;
	int32_t pid;
};

/* Takes a line of a hook's output, without its newline. */
typedef void say_fn(void *arg, const char *line);

struct launch_ask { /* fds borrowed; -1 where absent */
	int cgroup, netns, proc;
	int hangup;     /* readable or hung up when the launch is not wanted any more */
	bool pipes;     /* stdout and stderr are to be pipes, or a terminal that is handed back; else as in fds */
	bool input;     /* stdin likewise */
	int console;    /* socket that a terminal's master is sent to */
	bool others;    /* the cgroup holds processes that are not ours to kill */
	bool reset_oom; /* our oom_score_adj is not to be inherited */
	say_fn *say;    /* gets what hooks write; NULL: they have stdio as it is */
	void *say_arg;
	struct child_fds fds;
};
#define NO_LAUNCH_ASK                                                                                                  \
	((struct launch_ask){.cgroup = -1, .netns = -1, .proc = -1, .hangup = -1, .console = -1, .fds = NO_CHILD_FDS})

struct launched {
	pid_t pid;
	int pidfd;  /* owned */
	int out[2]; /* read ends of stdout and stderr, or the master twice; non-blocking; owned; -1 without pipes */
	int in;     /* write end of stdin, or the master; non-blocking; owned; -1 without input */
	int sync;   /* with a gate: init dies with it until LAUNCH_KNOWN is said; owned; else -1 */
	bool late;  /* CLONE_INTO_CGROUP does not work here */
};

/* The container's end of a pipe is a reader too: while no shim reads (it was lost, and the daemon with it), who writes
 * waits for room and does not die of SIGPIPE. Where the kernel refuses, it stays as it is. proc: the host's. */
void keep_readable(int *end, int proc);

/* Run the plan to the point where its program was executed, or where it waits at its gate. On -1, *f says why and
 * everything was undone. */
MUST_CHECK int launch_init(const struct plan *plan, const struct launch_ask *ask, struct launched *done,
			   struct fault *f);

/* Shared with join.c: clone3 with a pidfd, into the cgroup (if there is one) unless *late; *late is set when the cgroup
 * refused that, and the caller is to move the process then. */
pid_t clone_into(uint64_t flags, int cgroup, int *pidfd, bool *late);
/* The parent's part between clone and go: cgroup (if clone could not), user maps, oom_score_adj. */
MUST_CHECK int finish_clone(const struct plan *plan, pid_t pid, int cgroup_late, int proc, bool reset_oom,
			    struct fault *f);
/* SIGKILL to all in the cgroup and to pidfd, then reap pid, for at most 10 s. */
void undo_launch(int cgroup, int pidfd, pid_t pid, int *status);

/* hooks.c */
enum {
	HOOK_PRESTART,
	HOOK_CREATE_RUNTIME,
	HOOK_CREATE_CONTAINER,
	HOOK_START_CONTAINER,
	HOOK_POSTSTART,
	HOOK_POSTSTOP,
	HOOK_KINDS
};

enum { HOOK_LINE_MAX = 200 };

struct hook_ask {
	unsigned kind;
	pid_t pid;         /* for the state: init as the host sees it, 0 when it has ended */
	int hangup;        /* borrowed: as in launch_ask; -1: none */
	uint64_t limit_ms; /* of a hook that has no timeout of its own; 0: none */
	bool go_on;        /* one that fails does not keep the others from running */
	say_fn *say;       /* gets the first lines of what each writes; NULL: they have our stdout and stderr */
	void *say_arg;
};

/* Whether there are hooks of one of the kinds: bits, 1 << HOOK_... */
bool has_hooks(const struct plan *plan, unsigned kinds);
/* Run those of a kind, in order. On -1, *f names the first that failed: call is "exit N", "signal N", "timeout", or
 * what kept it from running. */
MUST_CHECK int run_hooks(const struct plan *plan, const struct hook_ask *ask, struct fault *f);
/* child.c: in the child, before the root becomes its root. */
MUST_CHECK int hooks_before_pivot(struct child *c, struct fault *f);

/* adopt.c: of the child, which is a helper then; returns in init. */
void clone_in_userns(const struct child *c, int userns, uint64_t flags);
/* Of the parent: lets the helper go on; *pid and *pidfd become init's. */
MUST_CHECK int await_birth(int sync, pid_t *pid, int *pidfd, struct fault *f);

/* join.c */
struct join_ask { /* fds borrowed; -1 where absent */
	int cgroup, proc;
	int init;       /* pidfd of the container's init */
	int proc_pid;   /* its directory in the host's proc */
	bool late;      /* do not clone into the cgroup */
	bool reset_oom; /* as in launch_ask */
	bool tied;      /* the program dies with us: nobody else knows it before our answer */
	struct child_fds fds;
};

struct joining {
	pid_t helper;
	int helper_fd, sync; /* owned, also on error */
};

MUST_CHECK int check_join(const struct plan *plan, struct fault *f);
/* A process started in a frozen cgroup would hang in its set-up. "frozen" counts ancestors but lags behind the order.
 */
bool is_frozen(int cgroup, int parent);
/* Begin. What comes of it is heard on sync. */
MUST_CHECK int start_join(const struct plan *plan, const struct join_ask *ask, struct joining *j, struct fault *f);
/* master: of the terminal that it made, owned by the caller. */
enum heard { HEARD_NOTHING, HEARD_MORE, HEARD_PID, HEARD_FAULT, HEARD_END };
/* One message of the helper or of the program's process, without waiting. HEARD_END without a pid before it: the helper
 * died. */
enum heard hear_join(int sync, pid_t *pid, int *master, struct fault *told);

#endif
