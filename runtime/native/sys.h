/* System calls and kernel structs that the oldest supported headers or C library lack. One place, so that nothing
 * depends on the build host being newer than the kernel that the program meets. */
#ifndef WHARF_SYS_H
#define WHARF_SYS_H

#include <fcntl.h>
#include <linux/ioctl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_open_tree /* the numbers from 424 on are the same on every architecture but alpha */
#	define SYS_open_tree  428
#	define SYS_move_mount 429
#	define SYS_fsopen     430
#	define SYS_fsconfig   431
#	define SYS_fsmount    432
#endif
#ifndef SYS_pidfd_open
#	define SYS_pidfd_open 434
#endif
#ifndef SYS_clone3
#	define SYS_clone3 435
#endif
#ifndef SYS_close_range
#	define SYS_close_range 436
#endif
#ifndef SYS_openat2
#	define SYS_openat2 437
#endif
#ifndef SYS_mount_setattr
#	define SYS_mount_setattr 442
#endif
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#	define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#ifndef MOUNT_ATTR_IDMAP
#	define MOUNT_ATTR_IDMAP 0x00100000
#endif
#ifndef CLONE_NEWTIME
#	define CLONE_NEWTIME 0x00000080
#endif
#ifndef CLONE_INTO_CGROUP
#	define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef AT_RECURSIVE
#	define AT_RECURSIVE 0x8000
#endif
#ifndef P_PIDFD
#	define P_PIDFD 3
#endif
#ifndef F_GET_SEALS
#	define F_GET_SEALS   1034
#	define F_SEAL_SHRINK 2
#	define F_SEAL_GROW   4
#	define F_SEAL_WRITE  8
#endif
/* <sys/mount.h> clashes with <linux/mount.h> */
#define WHARF_MNT_DETACH 2

struct sys_mount_attr {
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};

struct sys_pidfd_info { /* struct pidfd_info, PIDFD_INFO_SIZE_VER0 */
	uint64_t mask, cgroupid;
	uint32_t pid, tgid, ppid, ids[8];
	int32_t exit_code;
};
#define SYS_PIDFD_GET_INFO  _IOWR(0xFF, 11, struct sys_pidfd_info)
#define SYS_PIDFD_INFO_EXIT (1u << 3) /* Linux 6.15 */

struct sys_clone_args { /* struct clone_args up to cgroup, CLONE_ARGS_SIZE_VER2 */
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
		cgroup;
};

static inline int sys_open_tree(int dir, const char *path, unsigned flags)
{
	return (int)syscall(SYS_open_tree, dir, path, flags);
}

static inline int sys_move_mount(int from, const char *from_path, int to, const char *to_path, unsigned flags)
{
	return (int)syscall(SYS_move_mount, from, from_path, to, to_path, flags);
}

static inline int sys_fsopen(const char *fstype, unsigned flags)
{
	return (int)syscall(SYS_fsopen, fstype, flags);
}

static inline int sys_fsconfig(int fs, unsigned cmd, const char *key, const void *value, int aux)
{
	return (int)syscall(SYS_fsconfig, fs, cmd, key, value, aux);
}

static inline int sys_fsmount(int fs, unsigned flags, unsigned attr)
{
	return (int)syscall(SYS_fsmount, fs, flags, attr);
}

static inline int sys_mount_setattr(int dir, const char *path, unsigned flags, const struct sys_mount_attr *attr)
{
	return (int)syscall(SYS_mount_setattr, dir, path, flags, attr, sizeof *attr);
}

static inline int sys_openat2(int dir, const char *path, const struct open_how *how)
{
	return (int)syscall(SYS_openat2, dir, path, how, sizeof *how);
}

static inline pid_t sys_clone3(struct sys_clone_args *args)
{
	return (pid_t)syscall(SYS_clone3, args, sizeof *args);
}

static inline int sys_pidfd_open(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

static inline int sys_pidfd_signal(int pidfd, int signo)
{
	return (int)syscall(SYS_pidfd_send_signal, pidfd, signo, NULL, 0);
}

static inline int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
	return (int)syscall(SYS_close_range, first, last, flags);
}

static inline int sys_pivot_root(const char *new_root, const char *put_old)
{
	return (int)syscall(SYS_pivot_root, new_root, put_old);
}

static inline int sys_umount2(const char *path, int flags)
{
	return (int)syscall(SYS_umount2, path, flags);
}

#endif
