/* The floor: what the kernel alone costs. floor ROOT STAMPS PROGRAM COUNT: COUNT times clone3 with six namespaces,
 * the mounts of a default container, pivot_root and exec of PROGRAM; wait. No cgroup, no supervision, no record. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void need(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		_exit(125);
	}
}

static void child(const char *root, const char *stamps, const char *program)
{
	char path[4096];
	static const char *const masked[] = {"proc/kcore", "proc/keys", "proc/timer_list"};
	static const char *const readonly[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};

	need(mount("", "/", "", MS_SLAVE | MS_REC, ""), "slave");
	need(mount(root, root, "", MS_BIND | MS_REC, ""), "bind root");
	need(chdir(root), "chdir");
	need(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""), "proc");
	need(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k"), "dev");
	need(mkdir("dev/pts", 0755), "mkdir");
	need(mkdir("dev/shm", 0755), "mkdir");
	need(mkdir("dev/mqueue", 0755), "mkdir");
	need(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"), "pts");
	need(mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k"), "shm");
	need(mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""), "mqueue");
	need(mount("sysfs", "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, ""), "sysfs");
	need(mount(stamps, "stamps", "", MS_BIND, ""), "stamps");
	for (size_t i = 0; i < sizeof masked / sizeof *masked; i++)
		if (mount("/dev/null", masked[i], "", MS_BIND, "") < 0 && errno != ENOENT)
			need(-1, masked[i]);
	for (size_t i = 0; i < sizeof readonly / sizeof *readonly; i++) {
		if (mount(readonly[i], readonly[i], "", MS_BIND | MS_REC, "") < 0)
			continue;
		snprintf(path, sizeof path, "%s", readonly[i]);
		(void)mount("", path, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
	}
	need((int)syscall(SYS_pivot_root, ".", "."), "pivot_root");
	need(umount2(".", MNT_DETACH), "umount");
	need(chdir("/"), "chdir");
	execl(program, program, (char *)NULL);
	need(-1, "exec");
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	for (long count = strtol(argv[4], NULL, 10); count > 0; count--) {
		struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET |
						   CLONE_NEWCGROUP,
					  .exit_signal = SIGCHLD};
		pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
		int status = 0;

		if (pid == 0)
			child(argv[1], argv[2], argv[3]);
		need(pid, "clone3");
		need(waitpid(pid, &status, 0), "wait");
		if (status != 0)
			return 1;
	}
	return 0;
}
