/* takepid PID: forks until a child has that pid; that child stays, as a stranger with a recycled pid. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int wanted = argc == 2 ? atoi(argv[1]) : 0;
	for (long n = 0; n < 100000 && wanted > 0; n++) {
		pid_t pid = fork();
		if (pid == 0) {
			if (getpid() == wanted)
				for (;;)
					pause();
			_exit(0);
		}
		if (pid == wanted)
			return 0;
		if (pid > 0)
			waitpid(pid, NULL, 0);
	}
	return 1;
}
