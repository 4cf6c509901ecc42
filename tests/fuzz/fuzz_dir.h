/* For targets that work on files. */
#ifndef WHARF_FUZZ_DIR_H
#define WHARF_FUZZ_DIR_H

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "fuzz.h"

static char fuzz_path[] = "/dev/shm/wharf-fuzz-XXXXXX";

static inline void fuzz_remove(void)
{
	rmdir(fuzz_path); /* files stay only after a finding */
}

/* An empty directory of this process. */
static inline int fuzz_dir(void)
{
	static int dir = -1;
	if (dir < 0) {
		HOLDS(mkdtemp(fuzz_path));
		dir = open(fuzz_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		atexit(fuzz_remove);
	}
	return dir;
}

#endif
