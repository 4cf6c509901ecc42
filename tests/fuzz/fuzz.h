#ifndef WHARF_FUZZ_H
#define WHARF_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HOLDS(what)                                                                                                    \
	do {                                                                                                           \
		if (!(what))                                                                                           \
			__builtin_trap();                                                                              \
	} while (0)

#endif
