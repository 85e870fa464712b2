/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Everything that differs between architectures and kernels.
 *
 * Registers: on x86-64 the arguments of a system call stay in pt_regs until it
 * returns to user space, and ax holds -ENOSYS until the call has a result
 * (arch/x86/entry/entry_64.S). On arm64 x0 is argument and result, and orig_x0
 * keeps the argument.
 *
 * Kernel differences:
 * - sock_send_length, sock_recv_length: Linux 6.3, 6e6eda44b939 ("sock: add
 *   tracepoint for send recv length"). Older kernels take the sys_exit program.
 * - bpf_task_pt_regs: 5.15, dd6e10fbd9fb.
 * - compare-and-exchange in the arm64 JIT: 5.18, 1902472b4fa9; hence `atomics`.
 * - bpf_loop: 5.17, e6f2dd0f8067; hence `loops`.
 * - helpers for the current task in cgroup programs: bpf_get_current_task works
 *   in all of them for CAP_PERFMON, bpf_get_current_pid_tgid only from 6.10,
 *   eb166e522c77. Hence the key of `senders`.
 * - bpf_ringbuf.pending_pos: 6.10, cfa1a2329a69 ("bpf: Fix overrunning
 *   reservations in ringbuf"), and stable kernels since 5.15.
 * - sendfile and splice reach the socket tracepoints from 6.5 on, when they
 *   became sendmsg (2dc334f1a63a, "splice, net: Use sendmsg(MSG_SPLICE_PAGES)
 *   rather than ->sendpage()"); before, their bytes are `unseen`.
 */
#ifndef WS_COMPAT_H
#define WS_COMPAT_H

#include "vmlinux.h"

/* include/uapi/linux */
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_MPTCP 262
#define MSG_OOB 0x1
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000
#define UIO_MAXIOV 1024
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define EPIPE 32
#define ENOSYS 38
#define ECONNRESET 104
#define ETIMEDOUT 110
#define EHOSTUNREACH 113
#define ENETUNREACH 101

/* include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_FIN_WAIT1 4
#define TCP_FIN_WAIT2 5
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9
#define TCP_LISTEN 10
#define TCP_CLOSING 11

/* include/net/sock.h: enum sock_flags, sk_shutdown */
#define SOCK_DONE 1
#define RCV_SHUTDOWN 1

/* include/linux/sched.h */
#define PF_IO_WORKER 0x00000010
#define PF_KTHREAD 0x00200000

#if defined(__TARGET_ARCH_x86)

#define NR_read 0
#define NR_write 1
#define NR_readv 19
#define NR_writev 20
#define NR_sendfile 40
#define NR_sendto 44
#define NR_recvfrom 45
#define NR_sendmsg 46
#define NR_recvmsg 47
#define NR_splice 275
#define NR_tee 276
#define NR_vmsplice 278
#define NR_recvmmsg 299
#define NR_sendmmsg 307
#define NR_preadv2 327
#define NR_pwritev2 328
#define NR_io_uring_enter 426

#define TS_COMPAT 0x0002 /* arch/x86/include/asm/thread_info.h */
#define X32_SYSCALL_BIT 0x40000000

#define REGS_NR(regs) ((__s32)(regs)->orig_ax)
#define REGS_ARG0(regs) ((regs)->di)
#define REGS_ARG1(regs) ((regs)->si)
#define REGS_ARG2(regs) ((regs)->dx)
#define REGS_ARG3(regs) ((regs)->r10)
#define REGS_ARG4(regs) ((regs)->r8)
#define REGS_ARG5(regs) ((regs)->r9)
#define REGS_CALL_IS_RUNNING(regs) ((__s64)(regs)->ax == -ENOSYS)
#define TASK_IS_COMPAT(task) ((task)->thread_info.status & TS_COMPAT)

/* At the entry of a function of the C ABI, and at its return: one past the return address,
 * which the call had pushed. */
#define CALL_ARG0(state) ((state)->di)
#define CALL_ARG1(state) ((state)->si)
#define CALL_ARG2(state) ((state)->dx)
#define CALL_ARG3(state) ((state)->cx)
#define CALL_ARG4(state) ((state)->r8)
#define CALL_RESULT(state) ((state)->ax)
#define CALL_STACK(state) ((state)->sp)
#define CALL_PUSHED 8

/* The same for Go's ABIInternal (src/cmd/compile/abi-internal.md, Go 1.17). */
#define GO_ARG0(state) ((state)->ax)
#define GO_ARG1(state) ((state)->bx)
#define GO_ARG2(state) ((state)->cx)
#define GO_RESULT(state) ((state)->ax)
#define GO_GOROUTINE(state) ((state)->r14)
#define NR_IS_COMPAT(nr) ((nr) & X32_SYSCALL_BIT)

#elif defined(__TARGET_ARCH_arm64)

#define NR_read 63
#define NR_write 64
#define NR_readv 65
#define NR_writev 66
#define NR_sendfile 71
#define NR_vmsplice 75
#define NR_splice 76
#define NR_tee 77
#define NR_sendto 206
#define NR_recvfrom 207
#define NR_sendmsg 211
#define NR_recvmsg 212
#define NR_recvmmsg 243
#define NR_sendmmsg 269
#define NR_preadv2 286
#define NR_pwritev2 287
#define NR_io_uring_enter 426

#define TIF_32BIT 22 /* arch/arm64/include/asm/thread_info.h */

#define REGS_NR(regs) ((regs)->syscallno)
#define REGS_ARG0(regs) ((regs)->orig_x0)
#define REGS_ARG1(regs) ((regs)->regs[1])
#define REGS_ARG2(regs) ((regs)->regs[2])
#define REGS_ARG3(regs) ((regs)->regs[3])
#define REGS_ARG4(regs) ((regs)->regs[4])
#define REGS_ARG5(regs) ((regs)->regs[5])
#define REGS_CALL_IS_RUNNING(regs) ((regs)->regs[0] == (regs)->orig_x0)
#define TASK_IS_COMPAT(task) ((task)->thread_info.flags & (1UL << TIF_32BIT))
#define NR_IS_COMPAT(nr) 0

#define CALL_ARG0(state) ((state)->regs[0])
#define CALL_ARG1(state) ((state)->regs[1])
#define CALL_ARG2(state) ((state)->regs[2])
#define CALL_ARG3(state) ((state)->regs[3])
#define CALL_ARG4(state) ((state)->regs[4])
#define CALL_RESULT(state) ((state)->regs[0])
#define CALL_STACK(state) ((state)->sp)
#define CALL_PUSHED 0

#define GO_ARG0(state) ((state)->regs[0])
#define GO_ARG1(state) ((state)->regs[1])
#define GO_ARG2(state) ((state)->regs[2])
#define GO_RESULT(state) ((state)->regs[0])
#define GO_GOROUTINE(state) ((state)->regs[28])

#endif

/* How far pending_pos lies behind producer_pos; 0 if there is none. */
#define RINGBUF_PENDING_OFFSET                                                                     \
	(bpf_core_field_exists(((struct bpf_ringbuf *)0)->pending_pos) ?                           \
		 __builtin_preserve_field_info(((struct bpf_ringbuf *)0)->pending_pos,             \
					       BPF_FIELD_BYTE_OFFSET) -                            \
			 __builtin_preserve_field_info(((struct bpf_ringbuf *)0)->producer_pos,    \
						       BPF_FIELD_BYTE_OFFSET) :                    \
		 0)

#endif /* WS_COMPAT_H */
