/* The log writer: output of any bytes, in pieces of any size, is found again in the files, and no file is too long.
 * Input: limit, then pieces, each led by stream and length. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz_dir.h"
#include "logs.h"
#include "shim.h"

int watch(const struct shim *s, int fd, unsigned kind, unsigned index, uint32_t events)
{
	(void)s, (void)fd, (void)kind, (void)index, (void)events;
	return 0;
}

static struct logs l;
static char bufs[LOG_STREAMS][LOG_CHUNK];
static uint8_t sent[2][1 << 16], found[2][1 << 16], file[1 << 21];
static size_t sent_n[2], found_n[2];
enum { HEAD = 40 }; /* `2026-11-25T07:04:04.123456789Z stdout F ` */

/* Put the lines of one file together again. */
static void read_back(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t size = read(fd, file, sizeof file);
	close(fd);
	unlinkat(dir, name, 0);
	for (ssize_t at = 0; at < size;) {
		uint8_t *end = memchr(file + at, '\n', (size_t)(size - at));
		HOLDS(end && end - (file + at) >= HEAD);
		int stream = memcmp(file + at + 31, "stderr", 6) == 0;
		bool whole = file[at + HEAD - 2] == 'F';
		size_t n = (size_t)(end - (file + at)) - HEAD + whole;
		HOLDS(found_n[stream] + n <= sizeof found[stream]);
		memcpy(found[stream] + found_n[stream], file + at + HEAD, n);
		found_n[stream] += n;
		at = end - file + 1;
	}
}

static void feed(int pipes[2][2], const uint8_t *data, size_t size)
{
	while (size >= 3) {
		int stream = data[0] & 1;
		size_t n = data[1] | (size_t)data[2] << 8;
		bool flush = data[0] & 2;
		data += 3;
		size -= 3;
		n = n % 20000 < size ? n % 20000 : size;
		if (sent_n[stream] + n > sizeof sent[stream])
			break;
		if (n && write(pipes[stream][1], data, n) != (ssize_t)n)
			break;
		memcpy(sent[stream] + sent_n[stream], data, n);
		sent_n[stream] += n;
		data += n;
		size -= n;
		logs_pump(&l, &l.streams[stream]);
		if (flush)
			logs_flush_held(&l, UINT64_MAX / 2);
	}
}

static void check(int dir, uint64_t max_size)
{
	struct stat st;
	bool rotated = fstatat(dir, "current.log.1", &st, 0) == 0;
	if (max_size && fstatat(dir, "current.log", &st, 0) == 0 && max_size > LOG_CHUNK + HEAD)
		HOLDS((uint64_t)st.st_size <= max_size);
	read_back(dir, "current.log.1");
	read_back(dir, "current.log");
	HOLDS(!l.counts[COUNT_DROPPED] && !l.counts[COUNT_ERRORS]);
	for (int i = 0; i < 2; i++) {
		bool open_end = sent_n[i] && sent[i][sent_n[i] - 1] != '\n';
		HOLDS(found_n[i] <= sent_n[i] + open_end);
		if (!rotated) /* with rotation the oldest are gone */
			HOLDS(found_n[i] == sent_n[i] + open_end && !memcmp(found[i], sent[i], sent_n[i]));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int pipes[2][2], dir = fuzz_dir();
	if (size < 1)
		return 0;
	uint64_t max_size = data[0] & 1 ? (uint64_t)data[0] << 8 : 0;
	memset(&l, 0, sizeof l);
	memset(sent_n, 0, sizeof sent_n);
	memset(found_n, 0, sizeof found_n);
	logs_init(&l, bufs, dir, max_size, 2);
	for (int i = 0; i < 2; i++) {
		if (pipe2(pipes[i], O_CLOEXEC | O_NONBLOCK) < 0)
			abort();
		l.streams[i].fd = pipes[i][0];
	}
	feed(pipes, data + 1, size - 1);
	for (int i = 0; i < 2; i++) {
		close(pipes[i][1]);
		while (!logs_pump(&l, &l.streams[i]))
			;
		close(pipes[i][0]);
	}
	logs_finish(&l);
	close_fd(&l.file);
	check(dir, max_size);
	return 0;
}
