/* Packets between the supervisor and the shim (docs/runtime.md, "Protocol"); runtime/wire.py has the same. */
#ifndef WHARF_WIRE_H
#define WHARF_WIRE_H

#include "base.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#	error "the protocol is little endian and structs are sent as they are"
#endif

enum { START_MAGIC = 0x54525453, STARTED_MAGIC = 0x4E525453, WIRE_VERSION = 1 };
enum {
	TAG_PLAN = 1,
	TAG_RUNDIR,
	TAG_LOGDIR,
	TAG_CGROUP,
	TAG_CGPARENT,
	TAG_CGTOP,
	TAG_SHIMCG,
	TAG_NETNS,
	TAG_GATE,
	TAG_STDIN,
	TAG_STDOUT,
	TAG_STDERR,
	TAG_CONSOLE_SOCKET,
	TAG_INIT,
	TAG_OUT_PIPE,
	TAG_ERR_PIPE,
	TAG_TTY,
	TAG_FDS, /* may come several times */
	TAG_BUNDLE,
	TAG_COUNTS,
	TAG_COUNT
};
enum { START_OOM_GROUP = 1, START_CREATE = 2, START_EXEC = 4, START_TAKEOVER = 8, START_STDIN = 16 };
enum { STARTED_RUNS = 1, STARTED_FAULT = 2 };

struct start {
	uint32_t magic;
	uint16_t version, nfds;
	uint64_t generation, log_max_size;
	uint32_t log_max_files, flags;
	char name[64];
	uint8_t tags[START_FDS_MAX];
};
_Static_assert(sizeof(struct start) == 160, "struct start is part of the protocol");

struct started {
	uint32_t magic;
	uint16_t version, kind;
	uint64_t generation;
	int64_t pid;
	uint64_t started_ns;
	struct fault fault;
};
_Static_assert(sizeof(struct started) == 160, "struct started is part of the protocol");

enum {
	CMD_HELLO = 1,
	CMD_SIGNAL,
	CMD_EXEC,
	CMD_LOGCONF,
	CMD_LOGSTAT,
	CMD_SIGNALEXEC,
	CMD_REOPEN,
	CMD_RESIZE,
	CMD_CLOSESTDIN,
	CMD_ATTACH,
	CMD_COUNT
};
/* Packets of an attached client: the first byte is the kind. */
enum { ATTACH_INPUT = 'i', ATTACH_SIZE = 's', ATTACH_CLOSE = 'c' };  /* data; rows and columns, u16 each; none */
enum { ATTACH_STDOUT = 'o', ATTACH_STDERR = 'e', ATTACH_END = 'x' }; /* data; data; how and status, u8 each */
enum { ATTACHED_TTY = 1, ATTACHED_INPUT = 2 };
enum { EVENT_EXIT = 0x100, EVENT_EXECEXIT = 0x102 };
#define REPLY 0x80000000u
enum { REP_ENDED = 1, REP_FAULT = 2, REP_RECORD = 4, REP_UNSAVED = 8 };
enum { HOW_EXITED = 1, HOW_SIGNALED = 2, HOW_CORE = 3, HOW_UNKNOWN = 4 };

struct req {
	uint32_t cmd, seq;
	uint64_t arg, arg2;
};
_Static_assert(sizeof(struct req) == 24, "struct req is part of the protocol");

struct rep {
	uint32_t cmd, seq;
	int32_t err;
	uint32_t flags;
	uint64_t a, b, c, d;
};
_Static_assert(sizeof(struct rep) == 48, "struct rep is part of the protocol");

#endif
