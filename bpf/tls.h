/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which socket carries which TLS object. by_library.h sees the calls into TLS libraries,
 * the payload sources see the sockets; here they meet:
 *
 * 1. A socket call inside of a TLS call, by the same thread or goroutine, that moves TLS
 *    records: it is the object's socket.
 * 2. A descriptor that was given to the object (SSL_set_fd), or that a Go connection holds.
 * 3. Where the library works on memory, and the program moves the records (Python's
 *    asyncio, Node): what the thread reads right before the object takes it, or sends right
 *    after the object made it, if the lengths of the records fit, in both directions. Then
 *    each socket has one object at most.
 *
 * 2 and 3 are likely, 1 is sure and corrects them. What is bound stays so until the object
 * begins anew or the socket is closed.
 */
#ifndef WS_TLS_H
#define WS_TLS_H

#include "neighbours.h"
#include "objects.h"
#include "records.h"

#define WS_MAX_LOOKS 64 /* at transfers of a socket, before it is left alone */

/* Data may be written before the last of the handshake has left. */
#define WS_MAX_SHOWN 4

enum ws_tls_state {
	WS_TLS_UNLIKE = 0, /* so far */
	WS_TLS_LIKE = 1, /* moves TLS records */
	WS_TLS_BOUND = 2, /* carries an object that has said nothing so far */
	WS_TLS_SEALED = 3, /* carries an object whose plaintext is seen */
};

/* The object that the socket carries; NULL if there is none, or another process has it. */
static __always_inline struct ws_socket *carried_by(__u64 cookie, __u32 tgid)
{
	struct ws_object *object = bpf_map_lookup_elem(&carried, &cookie);
	struct ws_socket *stream;

	if (!object || object->tgid != tgid)
		return NULL;
	stream = bpf_map_lookup_elem(&objects, object);
	return stream && stream->carrier == cookie ? stream : NULL;
}

/* A call into a TLS library made this transfer: its object has this socket. */
static __always_inline bool bind_nested(const struct ws_frame *frame, struct ws_carrier *carrier,
					__u32 tgid)
{
	struct ws_object object = { .address = frame->object, .tgid = tgid };
	struct ws_socket *stream = bpf_map_lookup_elem(&objects, &object);

	carrier->is_sure = true;
	return stream && bind(&object, stream, carrier);
}

/* As `innermost`, of a goroutine. */
static __always_inline struct ws_frame *frame_of_goroutine(__u64 g, __u64 stack, __u32 tgid)
{
	struct ws_goroutine key = { .g = g, .tgid = tgid };
	struct ws_thread *thread = bpf_map_lookup_elem(&goroutines, &key);

	return thread ? innermost(thread, goroutine_depth(g, stack)) : NULL;
}

/* A Read that was under way before it was probed takes in what nobody will see: a turn of
 * unknown length. */
static __always_inline void pass_unseen(struct ws_socket *stream)
{
	bool is_first;

	move_turn(stream, WS_INGRESS, &is_first);
}

/*
 * The socket is not known to carry what is seen in clear: does it, and what? `stack` and `g`
 * are of the thread that makes the transfer. Returns 1 if the transfer is ciphertext of which
 * the plaintext is seen. Global, so that the verifier walks it once.
 */
__noinline int ws_meet(struct ws_socket *socket, struct ws_transfer *transfer, __u64 stack, __u64 g,
		       __u32 wanted)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct ws_carrier carrier = {};
	struct ws_records records = {};
	struct ws_thread *thread;
	struct ws_socket *stream = NULL;
	struct ws_frame *frame = NULL;
	__u32 tgid;

	if (!socket || !transfer)
		return 0;
	tgid = transfer->pid_tgid >> 32;
	carrier.cookie = socket->cookie;
	carrier.rtt_us = transfer->rtt_us;
	carrier.role = socket->role;
	carrier.transport = socket->transport;
	carrier.ignored = !wanted || socket->ignored;
	if (socket->tls == WS_TLS_SEALED) {
		/* Another process has it now, or an object on a socket like it was freed. */
		socket->freed = freed[socket->cookie % WS_FREED];
		if (socket->sealer == tgid && carried_by(socket->cookie, tgid))
			return 1;
		socket->tls = WS_TLS_LIKE;
		socket->looks = 0;
		socket->shown = 0;
	}
	if (socket->tls == WS_TLS_BOUND) {
		stream = carried_by(socket->cookie, tgid);
		if (stream) {
			stream->rtt_us = transfer->rtt_us;
			/* With kTLS it would be the same bytes again. */
			if (transfer->kernel_tls ||
			    (stream->turn && socket->shown++ >= WS_MAX_SHOWN)) {
				socket->tls = WS_TLS_SEALED;
				socket->sealer = tgid;
				socket->freed = freed[socket->cookie % WS_FREED];
				return 1;
			}
			if (stream->is_go && stream->late && transfer->direction == WS_INGRESS &&
			    !frame_of_goroutine(g, stack, tgid))
				pass_unseen(stream);
			if (stream->is_sure)
				return 0;
		}
	}
	if (socket->tls_epoch != (__u8)tls_epoch) {
		socket->tls_epoch = tls_epoch;
		socket->looks = 0;
	}
	if (transfer->cause != WS_DELIVERED || !transfer->size || socket->looks >= WS_MAX_LOOKS)
		return 0;
	socket->looks += 1;
	if (!read_records(&records, &transfer->place, transfer->size)) {
		thread = thread_of(task);
		if (thread && transfer->direction == WS_INGRESS)
			forget_last(thread);
		return 0;
	}
	if (!socket->tls)
		socket->tls = WS_TLS_LIKE;
	thread = bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread)
		return 0;
	frame = innermost(thread, stack_depth(stack));
	if (!frame && has_go)
		frame = frame_of_goroutine(g, stack, tgid);
	if (frame ? bind_nested(frame, &carrier, tgid) :
		    carried_by(socket->cookie, tgid) ||
			    bind_neighbour(thread, &records, &carrier, transfer->direction, tgid))
		socket->tls = WS_TLS_BOUND;
	/* Even if it will never say anything: that it could be heard is worth knowing. */
	stream = carried_by(socket->cookie, tgid);
	if (stream && !stream->opened && !stream->ignored)
		stream->opened = send_open(stream, NULL, task, tgid);
	return 0;
}

/* Is the transfer ciphertext of what is seen in clear at the library? `wanted`: the filters let
 * it pass. */
static __always_inline bool is_ciphertext(struct ws_socket *socket, struct pt_regs *regs,
					  struct ws_transfer *transfer, bool wanted)
{
	if (socket->tls == WS_TLS_SEALED && socket->sealer == (__u32)(transfer->pid_tgid >> 32) &&
	    socket->freed == freed[socket->cookie % WS_FREED])
		return true;
	if (socket->looks >= WS_MAX_LOOKS && socket->tls < WS_TLS_BOUND &&
	    socket->tls_epoch == (__u8)tls_epoch)
		return false;
	return ws_meet(socket, transfer, CALL_STACK(regs), GO_GOROUTINE(regs), wanted);
}

/* The ciphertext of a stream that is seen: nobody wants it, but who is at its ends. */
static __always_inline void drop_ciphertext(struct ws_socket *socket, const void *sk,
					    struct task_struct *task,
					    const struct ws_transfer *transfer)
{
	__u32 unseen;

	move_position(socket, transfer, &unseen);
	if (transfer->size)
		count_bytes(WS_CIPHERTEXT, transfer->size);
	if (!socket->opened)
		socket->opened = send_open(socket, sk, task, transfer->pid_tgid >> 32);
}

#endif /* WS_TLS_H */
