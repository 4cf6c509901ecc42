/* Runs a fuzz target on the files that it is given: corpus and old crashes, without libFuzzer. */
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		FILE *file = fopen(argv[i], "rb");
		uint8_t *data = malloc(1 << 20); /* its end is guarded: each file gets a buffer of its own size */
		if (!file || !data)
			return 2;
		size_t n = fread(data, 1, 1 << 20, file);
		uint8_t *exact = realloc(data, n ? n : 1);
		LLVMFuzzerTestOneInput(exact, n);
		free(exact);
		fclose(file);
	}
	printf("%d replayed\n", argc - 1);
	return 0;
}
