#include "logs.h"

#include <fcntl.h>
#include <stdio.h> /* renameat only */
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#define SECOND 1000000000ull
enum { PAGE_SIZE = 4096, BATCH_LINES = 120, READS_A_TURN = 4, HOLD_SECONDS = 2, NAME_SIZE = 32 };

static const char CURRENT[] = "current.log";
static const char *const NAMES[LOG_STREAMS] = {"stdout", "stderr"};

/* Lines that go out in one writev: each is a header and its text; P lines get a newline as a third piece. */
struct batch {
	struct iovec iov[BATCH_LINES * 3];
	struct {
		uint32_t iovs, bytes, text;
	} line[BATCH_LINES];
	unsigned iovs, lines;
	size_t bytes;
	char head[2][48]; /* with F and with P */
	size_t head_size;
};

void logs_init(struct logs *l, char (*bufs)[LOG_CHUNK], int dir, uint64_t max_size, uint32_t max_files)
{
	l->dir = dir;
	l->file = -1;
	l->max_size = max_size;
	l->max_files = max_files ? max_files : 1;
	for (int i = 0; i < LOG_STREAMS; i++) {
		l->streams[i].fd = -1;
		l->streams[i].buf = bufs[i];
	}
}

/* A page that nobody can shrink cannot fault for want of a file. Others have it mapped too: an earlier run's shim may
 * still write its last lines. */
void logs_share(struct logs *l, int fd)
{
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size != PAGE_SIZE || !(fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK))
		return;
	void *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED && madvise(page, PAGE_SIZE, MADV_DONTFORK) == 0)
		l->page = page;
}

static void count(struct logs *l, unsigned what, uint64_t n)
{
	l->counts[what] += n;
	if (l->page)
		__atomic_fetch_add(&l->page[what], n, __ATOMIC_RELAXED);
}

static void note_error(struct logs *l, int err)
{
	count(l, COUNT_ERRORS, 1);
	l->last_error = err;
}

/* A file that ends amid a line (its writer was killed) gets its newline first. */
static bool open_file(struct logs *l)
{
	if (l->file >= 0)
		return true;
	uint64_t now = boottime_ns();
	if (now < l->retry_at)
		return false;
	l->file = openat(l->dir, CURRENT, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
	struct stat st;
	if (l->file < 0 || fstat(l->file, &st) < 0) {
		note_error(l, errno);
		close_fd(&l->file);
		l->retry_at = now + SECOND;
		return false;
	}
	l->size = (uint64_t)st.st_size;
	char last;
	if (l->size && pread(l->file, &last, 1, st.st_size - 1) == 1 && last != '\n' && write(l->file, "\n", 1) == 1)
		l->size++;
	return true;
}

void logs_reopen(struct logs *l)
{
	close_fd(&l->file);
	l->retry_at = 0;
	open_file(l);
}

/* current.log.N */
static void numbered(char name[NAME_SIZE], uint32_t n)
{
	struct out o = {name, 0, NAME_SIZE - 1};
	out_text(&o, CURRENT);
	if (n) {
		out_text(&o, ".");
		out_u64(&o, n);
	}
	name[o.n] = '\0';
}

/* current.log becomes .1, .1 becomes .2 ...; with one file only, it is begun anew. */
static void rotate(struct logs *l)
{
	char from[NAME_SIZE], to[NAME_SIZE];
	if (l->max_files == 1 && unlinkat(l->dir, CURRENT, 0) < 0)
		note_error(l, errno);
	for (uint32_t n = l->max_files - 1; n > 0; n--) {
		numbered(from, n - 1);
		numbered(to, n);
		if (renameat(l->dir, from, l->dir, to) < 0 && errno != ENOENT)
			note_error(l, errno);
	}
	close_fd(&l->file);
	open_file(l);
}

/* `2026-11-25T07:04:04.123456789Z stdout F ` */
static size_t make_head(char *head, size_t size, const char *stream, char tag)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	uint64_t seconds = t.tv_sec > 0 ? (uint64_t)t.tv_sec : 0, day = seconds / 86400, rest = seconds % 86400;
	/* days since 0000-03-01 in eras of 400 years: Howard Hinnant's civil_from_days */
	uint64_t z = day + 719468, era = z / 146097, doe = z % 146097;
	uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
	uint64_t month = mp < 10 ? mp + 3 : mp - 9, year = yoe + era * 400 + (month <= 2);
	const struct {
		uint64_t value;
		unsigned width;
		const char *after;
	} parts[] = {{year, 4, "-"},
		     {month, 2, "-"},
		     {doy - (153 * mp + 2) / 5 + 1, 2, "T"},
		     {rest / 3600, 2, ":"},
		     {rest / 60 % 60, 2, ":"},
		     {rest % 60, 2, "."},
		     {(uint64_t)t.tv_nsec, 9, "Z "}};
	struct out o = {head, 0, size};
	for (size_t i = 0; i < COUNT(parts); i++) {
		out_digits(&o, parts[i].value, parts[i].width);
		out_text(&o, parts[i].after);
	}
	out_text(&o, stream);
	out_bytes(&o, (const char[]){' ', tag, ' '}, 3);
	return o.n;
}

static void begin(struct batch *b, const char *stream)
{
	b->iovs = b->lines = 0;
	b->bytes = 0;
	b->head_size = make_head(b->head[0], sizeof b->head[0], stream, 'F');
	memcpy(b->head[1], b->head[0], sizeof b->head[0]);
	b->head[1][b->head_size - 2] = 'P';
}

static void clear(struct batch *b)
{
	b->iovs = b->lines = 0;
	b->bytes = 0;
}

/* Only whole lines stay in the file: what a full disk cut is taken back. */
static size_t keep_whole_lines(struct logs *l, const struct batch *b, size_t written)
{
	size_t kept = 0;
	uint64_t text = 0, lines = 0, dropped = 0;
	for (unsigned i = 0; i < b->lines; i++) {
		if (kept + b->line[i].bytes <= written) {
			kept += b->line[i].bytes;
			text += b->line[i].text;
			lines++;
		} else {
			dropped += b->line[i].text;
			written = kept; /* none after it either */
		}
	}
	l->size += kept;
	l->untold += dropped;
	count(l, COUNT_BYTES, text);
	count(l, COUNT_LINES, lines);
	if (dropped)
		count(l, COUNT_DROPPED, dropped);
	return kept;
}

static void write_batch(struct logs *l, struct batch *b)
{
	size_t written = 0;
	if (b->lines && open_file(l)) {
		ssize_t n = writev(l->file, b->iov, (int)b->iovs);
		written = n < 0 ? 0 : (size_t)n;
		if (written != b->bytes)
			note_error(l, n < 0 ? errno : ENOSPC);
	}
	size_t kept = keep_whole_lines(l, b, written);
	if (kept < written && ftruncate(l->file, (off_t)l->size) < 0)
		l->size += written - kept;
	clear(b);
}

static bool write_note(struct logs *l, const char *const *words, size_t n_words)
{
	char text[256];
	struct out o = {text, 0, sizeof text - 1};
	if (!open_file(l))
		return false;
	o.n = make_head(text, sizeof text, NAMES[1], 'F');
	out_text(&o, "wharf-shim: ");
	for (size_t i = 0; i < n_words; i++)
		out_text(&o, words[i]);
	text[o.n++] = '\n';
	ssize_t n = write(l->file, text, o.n);
	if (n == (ssize_t)o.n || (n > 0 && ftruncate(l->file, (off_t)l->size) < 0))
		l->size += (uint64_t)n;
	return n == (ssize_t)o.n;
}

void logs_note(struct logs *l, const char *text)
{
	if (!write_note(l, &text, 1))
		note_error(l, errno);
}

/* Once the disk takes lines again, one says what is missing. */
static void tell_dropped(struct logs *l)
{
	char bytes[24], err[24];
	struct out b = {bytes, 0, sizeof bytes - 1}, e = {err, 0, sizeof err - 1};
	if (!l->untold)
		return;
	out_u64(&b, l->untold);
	out_u64(&e, (uint64_t)l->last_error);
	bytes[b.n] = err[e.n] = '\0';
	const char *const words[] = {bytes, " bytes of output dropped, errno ", err};
	if (write_note(l, words, COUNT(words)))
		l->untold = 0;
}

static void add(struct logs *l, struct batch *b, const char *text, size_t n, bool partial)
{
	bool newline = n && text[n - 1] == '\n';
	size_t bytes = b->head_size + n + !newline;
	if (b->lines == BATCH_LINES)
		write_batch(l, b);
	if (l->max_size && l->size + b->bytes + bytes > l->max_size && l->size + b->bytes > 0) {
		write_batch(l, b);
		if (l->file >= 0 && l->size)
			rotate(l);
	}
	unsigned first = b->iovs;
	b->iov[b->iovs++] = (struct iovec){b->head[partial], b->head_size};
	if (n)
		b->iov[b->iovs++] = (struct iovec){(void *)(uintptr_t)text, n};
	if (!newline)
		b->iov[b->iovs++] = (struct iovec){(void *)(uintptr_t) "\n", 1};
	b->line[b->lines].iovs = b->iovs - first;
	b->line[b->lines].bytes = (uint32_t)bytes;
	b->line[b->lines++].text = (uint32_t)n;
	b->bytes += bytes;
}

/* Write the whole lines of the buffer; a full buffer without any goes as P; all: the rest too. */
static void emit(struct logs *l, struct stream *s, const char *name, bool all, bool last)
{
	struct batch b;
	size_t at = 0;
	tell_dropped(l);
	begin(&b, name);
	while (at < s->used) {
		char *newline = memchr(s->buf + at, '\n', s->used - at);
		bool full = at == 0 && s->used == LOG_CHUNK;
		if (!newline && !full && !all)
			break;
		size_t n = newline ? (size_t)(newline - (s->buf + at)) + 1 : s->used - at;
		bool partial = !newline && !last;
		add(l, &b, s->buf + at, n, partial);
		s->open_line = partial;
		at += n;
	}
	if (last && s->open_line) {
		add(l, &b, "", 0, false);
		s->open_line = false;
	}
	write_batch(l, &b);
	s->used -= (uint32_t)at;
	if (at && s->used)
		memmove(s->buf, s->buf + at, s->used);
	if (at || !s->used)
		s->held_since = s->used ? boottime_ns() : 0;
	else if (!s->held_since)
		s->held_since = boottime_ns();
}

static const char *name_of(const struct logs *l, const struct stream *s)
{
	return NAMES[s - l->streams];
}

/* After a burst the pages of the buffer go back: many idle shims must stay small. */
static void give_back(struct stream *s)
{
	uintptr_t page = 4096, from = ((uintptr_t)s->buf + s->used + page - 1) & ~(page - 1);
	uintptr_t to = ((uintptr_t)s->buf + LOG_CHUNK) & ~(page - 1);
	if (from < to)
		madvise((void *)from, to - from, MADV_DONTNEED);
}

bool logs_pump(struct logs *l, struct stream *s)
{
	bool big = false;
	for (int i = 0; i < READS_A_TURN && !s->eof; i++) {
		size_t room = LOG_CHUNK - s->used;
		ssize_t n = read(s->fd, s->buf + s->used, room);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0 && errno != EIO) /* EIO: a terminal that nobody has open, as an end of file */
			note_error(l, errno);
		s->eof = n <= 0;
		if (n > 0 && l->tap)
			l->tap(l->tap_arg, (unsigned)(s - l->streams), s->buf + s->used, (size_t)n);
		if (n > 0)
			s->used += (uint32_t)n;
		emit(l, s, name_of(l, s), s->eof, s->eof);
		big |= n > 4096;
		if (n > 0 && (size_t)n < room)
			break; /* a pipe that gave less than asked is empty */
	}
	if (big)
		give_back(s);
	return s->eof;
}

uint64_t logs_flush_held(struct logs *l, uint64_t now)
{
	uint64_t next = 0;
	for (int i = 0; i < LOG_STREAMS; i++) {
		struct stream *s = &l->streams[i];
		if (s->held_since && s->held_since + HOLD_SECONDS * SECOND <= now)
			emit(l, s, NAMES[i], true, false);
		uint64_t due = s->held_since ? s->held_since + HOLD_SECONDS * SECOND : 0;
		if (due && (!next || due < next))
			next = due;
	}
	return next;
}

void logs_finish(struct logs *l)
{
	for (int i = 0; i < LOG_STREAMS; i++)
		if (!l->streams[i].eof)
			emit(l, &l->streams[i], NAMES[i], true, true);
	tell_dropped(l);
}
