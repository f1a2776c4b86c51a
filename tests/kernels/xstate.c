/* For user-mode Linux 6.1 on a processor with AMX, loaded into it by LD_PRELOAD.
 *
 * User-mode Linux sets the registers of its processes by ptrace(2), with room for 2,696 bytes of extended state: all that
 * processors had until AVX-512 and protection keys. The machine's kernel takes the whole state or nothing (EFAULT), and with
 * AMX that is 11,008 bytes: without this, user-mode Linux ends with "ptrace set fp regs failed, errno = 14" before its
 * init has begun. Linux 6.10 asks how much it is. Here the rest is filled up with what nothing uses.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/types.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif
/* Where the bits are that say which parts of the state are in use, and those up to the protection keys. */
#define IN_USE 512
#define UP_TO_PKRU 0x2ffULL

static long (*libc_ptrace)(long, pid_t, void *, void *);

__attribute__((constructor)) static void find(void)
{
	libc_ptrace = (long (*)(long, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");
}

long ptrace(enum __ptrace_request request, ...)
{
	static char whole[1 << 16];
	va_list rest;
	va_start(rest, request);
	pid_t pid = va_arg(rest, pid_t);
	void *address = va_arg(rest, void *), *data = va_arg(rest, void *);
	va_end(rest);

	struct iovec *given = data, full = { whole, sizeof(whole) };
	if ((long)request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
		static size_t size;
		if (!size) {
			if (libc_ptrace(PTRACE_GETREGSET, pid, address, &full))
				return -1;
			size = full.iov_len;
		}
		if (size > given->iov_len && given->iov_len > IN_USE + sizeof(uint64_t)) {
			uint64_t *in_use = (uint64_t *)(whole + IN_USE);
			memset(whole, 0, size);
			memcpy(whole, given->iov_base, given->iov_len);
			*in_use &= UP_TO_PKRU;
			full.iov_len = size;
			data = &full;
		}
	}
	return libc_ptrace(request, pid, address, data);
}
