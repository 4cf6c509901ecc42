/* The state of one shim: one container run, its clients, its execs. All of it is here; nothing is allocated. */
#ifndef WHARF_SHIM_H
#define WHARF_SHIM_H

#include "console.h"
#include "launch.h"
#include "logs.h"
#include "record.h"
#include "startmsg.h"

enum { CLIENTS_MAX = 8, EXECS_MAX = 16, EXEC_FDS = 4, ATTACHED_MAX = 4, INPUT_MAX = 4096 };
enum { START_FD = 3, START_CGROUP_FD = 4 /* optional: where the shim is to be */ };

/* What an epoll event is about; the index is in the low byte. */
enum { ON_SIGNAL, ON_STREAM, ON_LISTEN, ON_CLIENT, ON_MEMORY, ON_EXEC, ON_INIT, ON_ATTACHED, ON_INPUT };

struct client {
	int fd;          /* -1: free slot */
	uint32_t serial; /* tells a slot's users apart */
};

struct attached {
	int fd; /* -1: free slot */
};

/* The write end of the container's stdin, or a copy of its terminal's master. */
struct input {
	int fd;            /* -1: it has none, or it was closed */
	uint32_t at, used; /* what the container did not take yet; used 0: nothing */
	char *data;        /* INPUT_MAX bytes */
};

enum exec_state { EXEC_FREE, EXEC_STARTING, EXEC_RUNNING };

struct exec {
	enum exec_state state;
	uint32_t id, seq, client, serial; /* who asked */
	pid_t helper, pid; /* the helper sets up and forks the program's process, whose pid is 0 until told */
	int helper_fd, pidfd, sync;
	int master; /* of its terminal, until the client has it; else -1 */
	bool ended; /* reaped before the client was answered */
	int status;
	uint64_t deadline;
};

struct shim {
	int epoll, signals, listener;
	int lock;   /* held on the run directory: one shim a run */
	int counts; /* memfd of the container's output, for a daemon that has lost it; -1: none */
	int netns;  /* made ahead, while a spare shim waits; -1: none, or used */
	int run_dir, cgroup, parent, top, proc, proc_pid, memory_events;
	pid_t pid;
	int pidfd;
	bool bound, ended, saved, told, late_cgroup;
	bool placed;   /* born in its cgroup */
	bool taken;    /* init was another shim's child, which was lost: its pidfd tells its end */
	bool restless; /* the kernel refused to tell us something: look ourselves, ten times a second */
	uint64_t started_ns, drain_until, retry_at, ask_until, ask_at;
	uint32_t next_exec, next_serial;
	struct plan plan;  /* kept for the late hooks, or the delete of another runtime; else empty */
	int bundle;        /* where hooks run */
	pid_t hook_runner; /* a copy of us that runs them; 0: none */
	int hook_told;     /* its fault comes here */
	bool poststop_due;
	struct client clients[CLIENTS_MAX];
	struct exec execs[EXECS_MAX];
	bool tty;       /* the first stream is the master of init's terminal */
	int kept_slave; /* -1, or ours */
	struct input input;
	struct attached attached[ATTACHED_MAX];
	struct record record;
	struct logs logs;
	/* What is above shares a page; these are on pages of their own, which an idle shim does not have. */
	_Alignas(4096) char log_bufs[LOG_STREAMS][LOG_CHUNK];
	char input_data[INPUT_MAX];
};

/* sock.c */
MUST_CHECK int sock_bind(struct shim *s, struct fault *f);
void sock_accept(struct shim *s);
/* Add a connected client; owns fd, also on failure. */
void sock_add(struct shim *s, int fd);
void sock_serve(struct shim *s, unsigned client);
/* Send, never blocking; a client that does not read is dropped. */
bool sock_send(struct shim *s, unsigned client, const struct rep *rep, const void *tail, size_t tail_size,
	       const int *fds, unsigned n_fds);
void sock_tell_end(struct shim *s, unsigned client);
void sock_tell_all(struct shim *s, const struct rep *rep);
void sock_close(struct shim *s);
uint64_t end_how(int status);
uint64_t end_status(int status);

/* exec.c */
/* Begin; the answer comes later. 0, or an errno with *f. fds: plan, stdin, stdout, stderr; borrowed. */
MUST_CHECK int exec_begin(struct shim *s, unsigned client, uint32_t seq, const int fds[EXEC_FDS], struct fault *f);
void exec_heard(struct shim *s, unsigned i);
/* True when pid was one of ours. */
bool exec_reaped(struct shim *s, pid_t pid, int status);
int exec_signal(struct shim *s, uint64_t id, int signo);
/* Give up those that are over their time; returns the next time to call, 0: none. */
uint64_t exec_expire(struct shim *s, uint64_t now);

/* attach.c */
void attach_init(struct shim *s);
/* 0 or an errno; fd is borrowed. */
MUST_CHECK int attach_add(struct shim *s, int fd);
void attach_serve(struct shim *s, unsigned i);
void input_event(struct shim *s);
void input_close(struct shim *s);
int console_resize(const struct shim *s, uint64_t rows, uint64_t columns);
/* The terminal's stream has ended; true when it goes on. */
bool console_revive(struct shim *s);
/* Tell the end, and let go of all. */
void attach_finish(struct shim *s);

/* start.c */
#define START_PLACED "--placed" /* beside START_AGAIN */
void init_state(struct shim *s);
/* 0 in the shim, -1 without a start socket; the starter's child ends. */
int leave_starter(bool *placed);
MUST_CHECK int prepare(struct shim *s);
/* True when init runs; else everything was undone and told, or there was nothing to start. */
MUST_CHECK bool start_run(struct shim *s);
/* Watch a running init and its output: read ends, which the shim owns from here on. */
void watch_run(struct shim *s, pid_t pid, int pidfd, const int out[LOG_STREAMS]);

/* takeover.c */
/* One shim a run, also when the daemon thinks that there is none. */
MUST_CHECK int lock_run(struct shim *s, struct fault *f);
/* Write down what a later shim has to know of this run. */
void note_init(struct shim *s);
/* Tend a run whose shim was lost. On -1, *f says why, and the container goes on as it was. fds by tag; those of the run
 * are owned by the shim from here on. input: a terminal takes what attached clients type. */
MUST_CHECK int take_over(struct shim *s, const int *fds, bool input, struct fault *f);
enum told { TOLD_RUNS, TOLD_STATUS, TOLD_NOTHING_YET };
/* How an init that is not our child ended. */
enum told ask_end(const struct shim *s, int *status);

/* peer.c */
#define PEER_PID "pid" /* files of the run directory that the other runtime writes */
#define PEER_LOG "peer.log"
/* Have another runtime create and start the container of the plan's PEER steps. On -1, *f says why, and it was undone.
 */
MUST_CHECK int peer_launch(struct shim *s, const struct plan *plan, int hangup, struct launched *done, struct fault *f);
/* Init has ended: have the other runtime, if one made it, forget it. Does not wait. */
void peer_end(const struct shim *s);

/* Whether init has a SIGKILL coming, or is dead already. */
bool init_is_dying(const struct shim *s);

/* late_hooks.c: poststart and poststop. They run in a process of their own, bounded, since the shim waits for nothing.
 */
void start_late_hooks(struct shim *s, unsigned kind);
/* True when pid was the one that runs them. */
bool late_hooks_reaped(struct shim *s, pid_t pid);
/* Of a launch that failed: run poststop and wait. */
void run_undone_hooks(struct shim *s, const struct plan *plan);
/* A line of the container's log; arg: its struct logs. */
say_fn say_to_log;

/* shim.c */
int watch(const struct shim *s, int fd, unsigned kind, unsigned index, uint32_t events);

#endif
