/* The container's stdout and stderr, to a file in the CRI format, rotated by size. Never blocks the container for a
 * full or broken disk: what cannot be written is dropped and counted. */
#ifndef WHARF_LOGS_H
#define WHARF_LOGS_H

#include "base.h"

enum { LOG_CHUNK = 16384, LOG_STREAMS = 2 };

struct stream {
	int fd; /* read end, non-blocking; owned by the shim, which hands out copies */
	bool eof;
	bool open_line; /* a P line was written last: an F must come */
	uint32_t used;
	uint64_t held_since; /* boottime of the first byte of an unfinished line, 0: none */
	char *buf;           /* LOG_CHUNK bytes */
};

/* What became of the output. Text without headers; dropped: the disk did not take it. */
enum { COUNT_BYTES, COUNT_LINES, COUNT_DROPPED, COUNT_ERRORS, LOG_COUNTS };

/* Told of all output as it is read, before it is a line. */
typedef void log_tap(void *arg, unsigned stream, const char *data, size_t n);

struct logs {
	int dir, file; /* owned; file -1: not open */
	uint32_t max_files;
	uint64_t max_size;           /* 0: no limit */
	uint64_t size;               /* of the file */
	uint64_t retry_at;           /* boottime before which the file is not opened again */
	uint64_t counts[LOG_COUNTS]; /* of this shim */
	uint64_t *page;              /* the same of all runs, for others to read; NULL: there is none */
	uint64_t untold;             /* dropped bytes that no line in the file tells of yet */
	int32_t last_error;
	log_tap *tap;
	void *tap_arg;
	struct stream streams[LOG_STREAMS];
};

void logs_init(struct logs *l, char (*bufs)[LOG_CHUNK], int dir, uint64_t max_size, uint32_t max_files);
/* Count into this memfd too, beside others that do: one page, sealed against shrinking. Another is left alone. fd is
 * borrowed. */
void logs_share(struct logs *l, int fd);
/* Read what is there, a bounded amount, and write it. True when the stream has ended. */
bool logs_pump(struct logs *l, struct stream *s);
/* Write unfinished lines that were held too long; returns the boottime when to call again, 0: never. */
uint64_t logs_flush_held(struct logs *l, uint64_t now);
/* At the end: what is left of unfinished lines. */
void logs_finish(struct logs *l);
/* A line of our own, on stderr. */
void logs_note(struct logs *l, const char *text);
/* Others moved the file away: open a new one. */
void logs_reopen(struct logs *l);

#endif
