/* Preloaded into the guest's kernel on a CPU whose register state is larger than that kernel has room for (AMX):
 * PTRACE_SETREGSET takes the whole state or nothing. What is past the kernel's room is in its initial state: nobody in
 * the guest is permitted to use tiles. */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cpuid.h>

enum { ROOM = 65536 };

static size_t whole_size(void)
{
	unsigned a, size = 0, c, d;
	return __get_cpuid_count(0xd, 0, &a, &size, &c, &d) && size <= ROOM ? size : 0;
}

static long set_state(pid_t pid, const struct iovec *given)
{
	static char whole[ROOM]; /* not on the stack, which is the guest kernel's own; one thread calls */
	struct iovec all = {whole, whole_size()};
	if (all.iov_len <= given->iov_len)
		return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, given);
	memset(whole, 0, all.iov_len);
	memcpy(whole, given->iov_base, given->iov_len);
	return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list words;
	va_start(words, request);
	pid_t pid = va_arg(words, pid_t);
	void *address = va_arg(words, void *), *data = va_arg(words, void *);
	va_end(words);
	if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
		return set_state(pid, data);
	long word = 0;
	if (request != PTRACE_PEEKTEXT && request != PTRACE_PEEKDATA && request != PTRACE_PEEKUSER)
		return syscall(SYS_ptrace, request, pid, address, data);
	return syscall(SYS_ptrace, request, pid, address, &word) < 0 ? -1 : word; /* as the C library has it */
}
