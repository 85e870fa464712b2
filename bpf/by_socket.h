/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The socket source: transfers seen where the kernel has just made them.
 *
 * sock_send_length and sock_recv_length run in the thread that does the I/O, once
 * for each message, and say which socket and how many bytes. The bytes themselves
 * are where the arguments of the thread's system call say, if that call is really
 * the one that moves them: io_uring work may run inside or at the end of another
 * call, kernel threads use sockets too, and the descriptor may have been closed by
 * another thread. What cannot be proven becomes a gap of known length.
 */
#ifndef WS_BY_SOCKET_H
#define WS_BY_SOCKET_H

#include "tls.h"
#include <bpf/bpf_tracing.h>

static __always_inline bool is_batch(__s32 nr)
{
	return nr == NR_sendmmsg || nr == NR_recvmmsg;
}

static __always_inline void end_batch(struct task_struct *task)
{
	struct ws_batch *batch = bpf_task_storage_get(&batches, task, 0, 0);

	if (batch)
		batch->index = 0;
}

static __always_inline __u64 message_at(__u64 vector, __u32 index)
{
	return vector + index * sizeof(struct ws_mmsghdr);
}

/* Is the call that `batch` tells of still running, so that this is its next message?
 * The kernel has then written the length of the message before, and the next message
 * is as it was when the kernel was about to read it. */
static __always_inline bool is_continued(struct ws_batch *batch, __u32 nr, __u64 cookie,
					 __u64 vector, __u32 length)
{
	__u32 before;

	if (!batch->index || batch->cookie != cookie || batch->vector != vector ||
	    batch->length != length || batch->nr != nr)
		return false;
	return !bpf_probe_read_user(&before, sizeof(before),
				    (void *)(message_at(vector, batch->index - 1) +
					     __builtin_offsetof(struct ws_mmsghdr, length))) &&
	       before == batch->size && batch->mark == ws_mark(message_at(vector, batch->index));
}

/*
 * Which message of sendmmsg or recvmmsg has just been moved: the hook runs once a
 * message and is not told the index, so it is counted for each thread. The count
 * begins again when the call must have ended: the array is through, a message failed
 * or was cut short, or the next is one that the kernel refuses before any hook.
 *
 * A recvmmsg whose timeout runs out ends without a sign, and the next call may look
 * the same: of such calls only a message that must be the first is located.
 *
 * Returns false if the place is not known.
 */
static __always_inline bool place_in_batch(struct ws_place *place, struct task_struct *task,
					   struct pt_regs *regs, __u32 nr, __u64 cookie, __u32 size,
					   bool is_stream)
{
	__u64 vector = REGS_ARG1(regs);
	__u32 length = (__u32)REGS_ARG2(regs);
	bool has_timeout = nr == NR_recvmmsg && REGS_ARG4(regs);
	struct ws_batch *batch;
	__u32 index = 0;
	__u32 total;

	if (length > UIO_MAXIOV) /* as the kernel does */
		length = UIO_MAXIOV;
	if (length <= 1)
		return place_of_message(place, vector);
	batch = bpf_task_storage_get(&batches, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!batch)
		return false;
	if (has_timeout) {
		if (batch->index && batch->cookie == cookie && batch->vector == vector &&
		    batch->length == length && batch->nr == nr)
			return false;
	} else if (is_continued(batch, nr, cookie, vector, length)) {
		index = batch->index;
	}
	batch->cookie = cookie;
	batch->vector = vector;
	batch->length = length;
	batch->nr = nr;
	batch->size = size;
	batch->index = 0;
	if (!place_of_message(place, message_at(vector, index)))
		return false;
	total = ws_mark(message_at(vector, index)) >> 32;
	if (nr == NR_sendmmsg && (is_stream ? size > total : size != total))
		return false;
	if (nr == NR_sendmmsg && size != total) /* cut short: the call ends here */
		return true;
	if (has_timeout) {
		batch->index = 1;
	} else if (index + 1 < length) {
		batch->mark = ws_mark(message_at(vector, index + 1));
		if (batch->mark)
			batch->index = index + 1;
	}
	return true;
}

/*
 * Find out where the bytes of a transfer are. Returns WS_DELIVERED and fills in
 * the place, or the cause of the gap.
 */
static __always_inline __u32 locate(struct ws_place *place, struct sock *sk,
				    struct task_struct *task, struct pt_regs *regs, __s32 nr,
				    __u32 direction, __u32 size, const struct ws_socket *socket)
{
	bool has_ring = bpf_core_field_exists(task->io_uring) && task->io_uring;
	struct ws_call call = call_of(nr);

	if (task->flags & PF_IO_WORKER)
		return WS_IO_URING;
	if (task->flags & PF_KTHREAD)
		return WS_OTHER_CALL;
	if (TASK_IS_COMPAT(task) || NR_IS_COMPAT(call.nr))
		return WS_COMPAT;
	if (!REGS_CALL_IS_RUNNING(regs))
		return has_ring ? WS_IO_URING : WS_OTHER_CALL;
	if (call.shape == WS_NO_BUFFER)
		return call.cause;
	if (call.shape == WS_NO_CALL || call.direction != direction ||
	    file_of(task, (__u32)REGS_ARG0(regs)) != (__u64)sk->sk_socket->file)
		return has_ring ? WS_IO_URING : WS_OTHER_CALL;
	place->is_buffer = call.shape == WS_BUFFER;
	place->vector = REGS_ARG1(regs);
	place->count = REGS_ARG2(regs);
	if (call.named && direction == WS_EGRESS) {
		place->name = REGS_ARG4(regs);
		place->name_length = (__u32)REGS_ARG5(regs);
	}
	if (call.shape == WS_MESSAGE)
		return place_of_message(place, place->vector) ? WS_DELIVERED : WS_FAULT;
	if (call.shape == WS_MESSAGES)
		return place_in_batch(place, task, regs, call.nr, socket->cookie, size,
				      socket->transport != WS_UDP) ?
			       WS_DELIVERED :
			       WS_OTHER_CALL;
	return WS_DELIVERED;
}

/* The sender that the cgroup hook has just seen for this thread, once. */
static __always_inline bool take_sender(struct ws_peer *peer, struct task_struct *task,
					__u64 cookie)
{
	__u64 key = (__u64)task;
	struct ws_sender *sender = bpf_map_lookup_elem(&senders, &key);

	if (!sender || sender->cookie != cookie)
		return false;
	sender->cookie = 0;
	*peer = sender->peer;
	return true;
}

static __always_inline struct ws_socket *meet(struct sock *sk, __u8 transport, __u32 direction,
					      __u32 size)
{
	struct ws_socket fresh = { .cookie = bpf_get_socket_cookie(sk) };

	describe(sk, transport, direction, &fresh);
	if (fresh.positioned)
		*position_of(&fresh, direction) -= size;
	return bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline int on_transfer(struct sock *sk, int ret, int flags, __u32 direction)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct ws_transfer transfer = {};
	__u32 tgid = task->tgid;
	struct ws_socket *socket;
	struct tcp_sock *tcp;
	struct pt_regs *regs;
	__u8 transport;
	bool is_wanted;
	__s32 nr;

	if (exclude_self && tgid == self_tgid)
		return 0;
	transport = transport_from(sk->__sk_common.skc_family, sk->sk_type, sk->sk_protocol);
	if (!transport)
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(task);
	nr = REGS_NR(regs);
	if (ret < 0) {
		if (is_batch(nr))
			end_batch(task);
		return 0;
	}
	if (!is_wanted_task(task, tgid))
		return 0;
	if (!sk->sk_socket || !sk->sk_socket->file) /* the kernel's own, such as NFS's */
		return 0;
	socket = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (!socket) {
		socket = meet(sk, transport, direction, ret);
		if (!socket) {
			transfer.size = ret;
			count_bytes(WS_NO_STORAGE, ret);
			return 0;
		}
	}
	if (socket->ignored && !trace_tls)
		return 0;
	transfer.direction = direction;
	transfer.size = ret;
	transfer.nr = nr;
	transfer.pid_tgid = (__u64)tgid << 32 | (__u32)task->pid;
	transfer.cause = locate(&transfer.place, sk, task, regs, nr, direction, ret, socket);
	if (transport == WS_UDP) {
		if (direction == WS_INGRESS)
			transfer.has_peer = take_sender(&transfer.peer, task, socket->cookie);
		else
			transfer.has_peer = read_peer(&transfer.peer, transfer.place.name,
						      transfer.place.name_length);
	}
	/* From here on the call may be forgotten: what follows has no memory of it. */
	if (direction == WS_INGRESS && flags & (MSG_PEEK | MSG_ERRQUEUE | MSG_OOB))
		return 0;
	if (!ret) {
		if (direction == WS_EGRESS || transport == WS_UDP ||
		    !(sk->sk_shutdown & RCV_SHUTDOWN) ||
		    (transfer.cause == WS_DELIVERED && !transfer.place.count))
			return 0;
	} else if (flags & MSG_TRUNC && transport == WS_TCP) {
		transfer.cause = WS_DISCARDED;
	}
	is_wanted = !socket->ignored && passes_ports(sk, socket, &transfer);
	transfer.counted = true;
	if (transport == WS_TCP) {
		tcp = bpf_skc_to_tcp_sock(sk); /* NULL if it is MPTCP */
		if (tcp) {
			/* With a ULP (kTLS) the length is that of the plaintext. */
			transfer.counted = tcp->inet_conn.icsk_ulp_ops;
			transfer.kernel_tls = transfer.counted && trace_tls && has_kernel_tls(tcp);
			transfer.rtt_us = tcp->srtt_us >> 3;
			if (direction == WS_EGRESS)
				transfer.end = tcp->write_seq;
			else
				transfer.end = received_to(tcp->copied_seq, tcp->rcv_nxt,
							   sk->__sk_common.skc_flags);
		}
	}
	if (trace_tls && transport != WS_UDP && is_ciphertext(socket, regs, &transfer, is_wanted)) {
		if (is_wanted)
			drop_ciphertext(socket, sk, task, &transfer);
		return 0;
	}
	if (is_wanted)
		deliver(socket, sk, task, &transfer);
	return 0;
}

/*
 * After every attempt to send on a socket, by any call, io_uring included. Misses
 * sendfile and splice before Linux 6.5. Linux 6.3.
 */
SEC("tp_btf/sock_send_length")
int BPF_PROG(sock_send_length, struct sock *sk, int ret, int flags)
{
	return on_transfer(sk, ret, flags, WS_EGRESS);
}

/*
 * After every attempt to receive from a socket. Misses splice from a socket, whose
 * bytes show as `unseen` on TCP. Linux 6.3.
 */
SEC("tp_btf/sock_recv_length")
int BPF_PROG(sock_recv_length, struct sock *sk, int ret, int flags)
{
	return on_transfer(sk, ret, flags, WS_INGRESS);
}

static __always_inline void keep_sender(const struct ws_sender *sender)
{
	__u64 key = (__u64)bpf_get_current_task();
	struct ws_sender *known = bpf_map_lookup_elem(&senders, &key);

	if (known)
		*known = *sender;
	else
		bpf_map_update_elem(&senders, &key, sender, BPF_ANY);
}

/*
 * The sender of a datagram, for a receiver that asks for it. When sock_recv_length
 * runs, the kernel has it on its stack only; this hook runs just before, in the same
 * thread. Attached to the root of the cgroup v2 tree, changes nothing. Linux 4.20.
 */
SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	struct ws_sender sender = { .cookie = bpf_get_socket_cookie(ctx) };

	sender.peer.port = bpf_ntohs((__u16)ctx->user_port);
	mapped_address(sender.peer.address, ctx->user_ip4);
	keep_sender(&sender);
	return 1;
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	struct ws_sender sender = { .cookie = bpf_get_socket_cookie(ctx) };
	__u32 address[4] = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
			     ctx->user_ip6[3] };

	sender.peer.port = bpf_ntohs((__u16)ctx->user_port);
	__builtin_memcpy(sender.peer.address, address, sizeof(address));
	keep_sender(&sender);
	return 1;
}

#endif /* WS_BY_SOCKET_H */
