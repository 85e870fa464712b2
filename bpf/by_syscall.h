/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The syscall source, for kernels without the socket tracepoints: the end of every
 * system call. The arguments are still in pt_regs and the result is known, so one
 * program is enough; the socket is found through the descriptor.
 *
 * What it cannot see: io_uring, 32-bit calls, and a descriptor that another thread
 * closed during the call; on TCP the bytes show as `unseen`. Linux 5.15.
 */
#ifndef WS_BY_SYSCALL_H
#define WS_BY_SYSCALL_H

#include "tls.h"
#include <bpf/bpf_tracing.h>

/* One transfer of `transfer->size` bytes, followed in the same call by `left`. */
static __always_inline void on_exit(const void *sk, struct task_struct *task, struct pt_regs *regs,
				    struct ws_transfer *transfer, __u32 left)
{
	__u8 transport = transport_of(sk);
	__u64 id = identity_of(sk);
	struct ws_socket *socket;
	bool is_wanted;

	if (!transport)
		return;
	transfer->counted = true;
	if (transport == WS_UDP) {
		if (!transfer->size)
			return;
		transfer->has_peer = read_peer(&transfer->peer, transfer->place.name,
					       transfer->place.name_length);
	} else if (!transfer->size && (transfer->direction == WS_EGRESS ||
				       !(SOCK_FIELD(sk, sk_shutdown) & RCV_SHUTDOWN))) {
		return;
	}
	if (SOCK_FIELD(sk, sk_protocol) == IPPROTO_TCP) {
		transfer->counted = TCP_FIELD(sk, inet_conn.icsk_ulp_ops);
		transfer->rtt_us = TCP_FIELD(sk, srtt_us) >> 3;
		if (transfer->direction == WS_EGRESS)
			transfer->end = TCP_FIELD(sk, write_seq);
		else
			transfer->end = received_to(TCP_FIELD(sk, copied_seq),
						    TCP_FIELD(sk, rcv_nxt),
						    COMMON_FIELD(sk, skc_flags));
		transfer->end -= left;
	}
	socket = bpf_map_lookup_elem(&sockets_by_id, &id);
	is_wanted = passes_ports(sk, socket, transfer);
	if (!is_wanted && (!trace_tls || transport == WS_UDP))
		return;
	if (!socket) {
		struct ws_socket fresh = { .cookie = id };

		describe(sk, transport, transfer->direction, &fresh);
		if (fresh.positioned)
			*position_of(&fresh, transfer->direction) -= transfer->size + left;
		bpf_map_update_elem(&sockets_by_id, &id, &fresh, BPF_NOEXIST);
		socket = bpf_map_lookup_elem(&sockets_by_id, &id);
	}
	if (!socket) {
		count_bytes(WS_NO_STORAGE, transfer->size);
		return;
	}
	is_wanted = is_wanted && !socket->ignored;
	if (trace_tls && transport != WS_UDP && is_ciphertext(socket, regs, transfer, is_wanted)) {
		if (is_wanted)
			drop_ciphertext(socket, sk, task, transfer);
		return;
	}
	if (is_wanted)
		deliver(socket, sk, task, transfer);
}

/* One message of sendmmsg or recvmmsg. Global, so that the verifier does not walk
 * it once for each of the 1024 that a call may have. */
__noinline int ws_exit_message(__u64 sk, __u64 entry, __u32 direction, __u32 nr, __u32 left)
{
	struct ws_transfer transfer = { .pid_tgid = bpf_get_current_pid_tgid() };
	struct task_struct *task = bpf_get_current_task_btf();

	if (bpf_probe_read_user(&transfer.size, sizeof(transfer.size),
				(void *)(entry + __builtin_offsetof(struct ws_mmsghdr, length))))
		return 0;
	transfer.direction = direction & 1;
	transfer.nr = nr;
	if (!place_of_message(&transfer.place, entry))
		transfer.cause = WS_FAULT;
	if (transfer.size) /* an empty datagram; the end of a stream ends no batch of messages */
		on_exit((const void *)sk, task, (struct pt_regs *)bpf_task_pt_regs(task), &transfer,
			left);
	return 0;
}

static __always_inline __u32 message_length(__u64 vector, __u32 index)
{
	__u32 length = 0;

	bpf_probe_read_user(&length, sizeof(length),
			    (void *)(vector + index * sizeof(struct ws_mmsghdr) +
				     __builtin_offsetof(struct ws_mmsghdr, length)));
	return length;
}

/* The sum of what the kernel wrote into the first `number` entries. Global, for the
 * same reason. */
__noinline int ws_batch_total(__u64 vector, __u32 number)
{
	__u32 total = 0;

	for (__u32 i = 0; i < UIO_MAXIOV; i++) {
		if (i >= number)
			break;
		total += message_length(vector, i);
	}
	return (int)total;
}

static __always_inline void on_exit_batch(__u64 sk, struct pt_regs *regs, __u32 direction, __u32 nr,
					  __u32 number)
{
	__u64 vector = REGS_ARG1(regs);
	__u32 left = ws_batch_total(vector, number);

	for (__u32 i = 0; i < UIO_MAXIOV; i++) {
		if (i >= number)
			break;
		left -= message_length(vector, i);
		ws_exit_message(sk, vector + i * sizeof(struct ws_mmsghdr), direction, nr, left);
	}
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	struct ws_call call = call_of(REGS_NR(regs));
	struct ws_transfer transfer = {};
	struct task_struct *task;
	__u32 flags = 0;
	__u64 sk;

	if (call.shape == WS_NO_CALL || ret < 0)
		return 0;
	if (call.nr == NR_tee || call.nr == NR_vmsplice || call.nr == NR_io_uring_enter)
		return 0;
	transfer.pid_tgid = bpf_get_current_pid_tgid();
	if (exclude_self && (__u32)(transfer.pid_tgid >> 32) == self_tgid)
		return 0;
	task = bpf_get_current_task_btf();
	if (TASK_IS_COMPAT(task))
		return 0;
	if (!is_wanted_task(task, transfer.pid_tgid >> 32))
		return 0;
	sk = sock_of(task, (__u32)REGS_ARG0(regs));
	if (call.nr == NR_splice) {
		call.direction = WS_INGRESS;
		if (!sk) {
			call.direction = WS_EGRESS;
			sk = sock_of(task, (__u32)REGS_ARG2(regs));
		}
	}
	if (!sk)
		return 0;
	if (call.nr == NR_recvfrom || call.nr == NR_recvmmsg)
		flags = REGS_ARG3(regs);
	else if (call.nr == NR_recvmsg)
		flags = REGS_ARG2(regs);
	if (flags & (MSG_PEEK | MSG_ERRQUEUE | MSG_OOB))
		return 0;
	if (call.shape == WS_MESSAGES) {
		on_exit_batch(sk, regs, call.direction, call.nr, ret);
		return 0;
	}
	transfer.direction = call.direction;
	transfer.size = ret;
	transfer.nr = call.nr;
	transfer.place.is_buffer = call.shape == WS_BUFFER;
	transfer.place.vector = REGS_ARG1(regs);
	transfer.place.count = REGS_ARG2(regs);
	if (call.named) {
		transfer.place.name = REGS_ARG4(regs);
		transfer.place.name_length = sizeof(struct ws_peer) + 4; /* a sockaddr_in6 */
		if (call.direction == WS_EGRESS)
			transfer.place.name_length = (__u32)REGS_ARG5(regs);
	}
	if (call.shape == WS_NO_BUFFER)
		transfer.cause = call.cause;
	else if (call.shape == WS_MESSAGE && !place_of_message(&transfer.place, REGS_ARG1(regs)))
		transfer.cause = WS_FAULT;
	if (!ret && (call.shape == WS_NO_BUFFER || !transfer.place.count))
		return 0;
	if (flags & MSG_TRUNC && transport_of((void *)sk) == WS_TCP)
		transfer.cause = WS_DISCARDED;
	on_exit((void *)sk, task, regs, &transfer, 0);
	return 0;
}

#endif /* WS_BY_SYSCALL_H */
