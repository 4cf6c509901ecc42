/* Readers of files that others write: the note of a run, a cgroup's and a process's files. Whatever is in them, values
 * are in their bounds, and what the shim writes it reads again the same way.
 * Input: files, each led by which one it is and by two bytes of length. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fuzz_dir.h"
#include "shim.h"

int watch(const struct shim *s, int fd, unsigned kind, unsigned index, uint32_t events)
{
	(void)s, (void)fd, (void)kind, (void)index, (void)events;
	return 0;
}

static const char *const NAMES[] = {"init",   "memory.events", "memory.events.local", "memory.peak", "stat",
				    "status", "cgroup.events", "cgroup.freeze",       "init.tmp"};

static void write_files(int dir, const uint8_t *data, size_t size)
{
	while (size >= 3) {
		const char *name = NAMES[data[0] % COUNT(NAMES)];
		size_t n = data[1] | (size_t)data[2] << 8;
		data += 3;
		size -= 3;
		n = n < size ? n : size;
		int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || write(fd, data, n) != (ssize_t)n)
			abort();
		close(fd);
		data += n;
		size -= n;
	}
}

static bool same(struct mem_counts a, struct mem_counts b)
{
	return a.oom == b.oom && a.oom_kill == b.oom_kill && a.oom_group_kill == b.oom_group_kill;
}

/* A record of a run whose numbers are known. */
static void round_trip(struct record *r, int dir, struct init_note *note)
{
	struct record again = {.generation = r->generation};
	struct init_note read = {0};
	if (r->pid <= 0 || r->generation > INT64_MAX / 16 || (int64_t)r->started_ns < 0 ||
	    (int64_t)note->start_ticks < 0)
		return;
	HOLDS(record_note(r, dir, note) == 0 && record_recall(&again, dir, &read));
	HOLDS(again.pid == r->pid && read.late == note->late && same(again.parent_start, r->parent_start));
	HOLDS(again.local_start.oom == r->local_start.oom && again.top_start.oom == r->top_start.oom);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct shim s;
	int dir = fuzz_dir(), status = 0;
	struct init_note note = {0};
	memset(&s, 0, sizeof s);
	init_state(&s);
	write_files(dir, data, size);
	const struct cgroup_dirs dirs = {dir, dir, dir};
	s.run_dir = s.cgroup = s.parent = s.proc_pid = dir;
	s.pidfd = eventfd(1, EFD_CLOEXEC); /* readable, as that of a process that has ended */
	s.record.generation = size & 1;
	if (record_recall(&s.record, dir, &note))
		round_trip(&s.record, dir, &note);
	record_end(&s.record, &dirs);
	record_print(&s.record);
	HOLDS(s.record.text_size <= RECORD_SIZE);
	if (ask_end(&s, &status) == TOLD_STATUS)
		s.record.status = status;
	record_print(&s.record);
	init_is_dying(&s);
	(void)is_frozen(dir, dir);
	close(s.pidfd);
	for (unsigned i = 0; i < COUNT(NAMES); i++)
		unlinkat(dir, NAMES[i], 0);
	return 0;
}
