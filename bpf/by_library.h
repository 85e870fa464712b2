/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The source for what is encrypted on the wire: calls into TLS libraries, seen at their
 * boundary by uprobes. The plaintext of each TLS object is a stream with an identity of its
 * own, and passes the same tail as that of a socket.
 *
 * One program serves many functions: the attach cookie says what the function does. In C a
 * call is seen at its entry and at its return; in Go at its entry and at each of its return
 * instructions, for a return probe would change a stack that the runtime moves. Bytes are
 * copied at the return: only then it is known how many there are, and the library has just
 * touched them, so that they are in memory. Linux 5.15, for bpf_get_attach_cookie.
 */
#ifndef WS_BY_LIBRARY_H
#define WS_BY_LIBRARY_H

#include "notices.h"
#include "tls.h"
#include <bpf/bpf_tracing.h>

/* What a function does: the attach cookie. tracer/tls_libraries.py is the twin. */
enum ws_tls_call {
	WS_TLS_READ = 1, /* (object, buffer, length), returns a count as int */
	WS_TLS_WRITE = 2,
	WS_TLS_READ_EX =
		3, /* (object, buffer, length, size_t *count), returns 1 if it has worked */
	WS_TLS_WRITE_EX = 4,
	WS_TLS_HANDSHAKE = 5, /* (object), moves nothing */
	WS_TLS_SENDFILE = 6, /* (object, fd, offset, size, flags), returns a count */
	WS_TLS_WRITE_EX2 = 11, /* (object, buffer, length, flags, size_t *count), returns 1 */
	WS_TLS_WRITTEN = 12, /* moves bytes that another call has told: GnuTLS's uncork */
	WS_TLS_CONNECT = 13, /* (object), a connection begins that is the client's end */
	WS_TLS_ACCEPT = 14, /* the server's */
	WS_TLS_BEGIN = 15, /* a handshake, and the first thing that is done with the object */
};

#define WS_PLAIN_RECORD 16384 /* RFC 8446 5.1: no record holds more */

static __always_inline bool is_handshake(__u32 call)
{
	return call == WS_TLS_HANDSHAKE || call == WS_TLS_BEGIN;
}

/* An object that is met in the middle of its work is older than the probes. */
static __always_inline struct ws_socket *stream_of(const struct ws_object *object, __u32 call)
{
	struct ws_socket *stream = bpf_map_lookup_elem(&objects, object);

	/* An object that begins again, or another at the same address. */
	if (!stream || (is_handshake(call) && stream->ended) ||
	    (call == WS_TLS_BEGIN && stream->is_go && (stream->turn || stream->carrier)))
		stream = begin_object(object, call != WS_TLS_BEGIN);
	return stream;
}

static __always_inline bool is_reading(__u32 call)
{
	return call == WS_TLS_READ || call == WS_TLS_READ_EX;
}

/* Do both do the same to the same object? Then one of them is how the library does the other. */
static __always_inline bool is_same_work(const struct ws_frame *outer, const struct ws_frame *inner)
{
	return outer->object == inner->object &&
	       is_reading(outer->call) == is_reading(inner->call) &&
	       is_handshake(outer->call) == is_handshake(inner->call);
}

/* TLS inside of TLS: what the outer call carries goes the way of the inner call's object. */
static __always_inline void lend_carrier(const struct ws_frame *outer, const struct ws_frame *inner,
					 __u32 tgid)
{
	struct ws_object object = { .address = outer->object, .tgid = tgid };
	struct ws_carrier carrier = { .is_sure = true };
	struct ws_socket *to, *from;

	to = bpf_map_lookup_elem(&objects, &object);
	object.address = inner->object;
	from = bpf_map_lookup_elem(&objects, &object);
	if (!to || !from || to->carrier || !from->carrier)
		return;
	carrier.cookie = from->carrier;
	carrier.rtt_us = from->rtt_us;
	carrier.role = from->role;
	carrier.transport = from->transport;
	carrier.ignored = from->ignored;
	adopt(to, &carrier);
}

/*
 * A call begins. Inside of another it is the library's own, or a callback's: Node writes its
 * first request while SSL_read is finishing the handshake.
 */
static __always_inline void enter_call(struct ws_thread *thread, __u64 depth,
				       const struct ws_frame *call, __u32 tgid)
{
	struct ws_frame *outer = innermost(thread, depth);

	if (!outer) {
		thread->frames[0] = *call;
		thread->frames[1].object = 0;
	} else if (!is_same_work(outer, call)) {
		lend_carrier(outer, call, tgid);
		if (outer == &thread->frames[0])
			thread->frames[1] = *call;
		else if (!is_same_work(&thread->frames[0], call))
			count_lost(WS_LOST_CALL);
	}
}

/* The call that returns to where it began; NULL if its entry was not seen. */
static __always_inline struct ws_frame *frame_at(struct ws_thread *thread, __u64 depth)
{
	if (thread->frames[1].object && thread->frames[1].depth == depth)
		return &thread->frames[1];
	if (thread->frames[0].object && thread->frames[0].depth == depth)
		return &thread->frames[0];
	return NULL;
}

/* How many bytes a call has moved. */
static __always_inline __u32 moved(const struct ws_frame *frame, __s32 result)
{
	__u64 count = 0;

	switch (frame->call) {
	case WS_TLS_READ:
	case WS_TLS_WRITE:
	case WS_TLS_SENDFILE:
		return result > 0 ? result : 0;
	case WS_TLS_READ_EX:
	case WS_TLS_WRITE_EX:
	case WS_TLS_WRITE_EX2:
		if (result == 1)
			bpf_probe_read_user(&count, sizeof(count), (void *)frame->count);
		return count;
	default:
		return 0;
	}
}

/* The bytes cannot be captured now; where the stream stands tells of the loss. */
static __always_inline void pass_over(struct ws_socket *stream, const struct ws_transfer *transfer)
{
	bool is_first;
	__u32 unseen;

	move_turn(stream, transfer->direction, &is_first);
	move_position(stream, transfer, &unseen);
	count(WS_NO_STORAGE, stream, transfer, is_first);
}

/* Has a call that moved no data taken the handshake on, so that it has written records? A client
 * does so unasked, once. */
static __always_inline bool is_step(struct ws_socket *stream, __u64 came)
{
	if (stream->late || stream->turn)
		return false;
	return came || (stream->role == WS_CLIENT && !stream->looks++);
}

/* Where the JIT has no compare-and-exchange, uprobes cannot be preempted either. */
static __always_inline bool occupy(struct ws_scratch *room)
{
	if (atomics)
		return !__sync_val_compare_and_swap(&room->busy, 0, 1);
	if (room->busy)
		return false;
	room->busy = 1;
	return true;
}

/* A call has moved bytes, or none. Global, so that the verifier walks the tail once for all
 * kinds of callers. */
__noinline int ws_pass_on(struct ws_thread *thread, struct ws_frame *frame, __s32 result)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct ws_object object = { .tgid = pid_tgid >> 32 };
	__u32 slot = scratch_slot(WS_TLS_SLOT);
	struct ws_transfer transfer = {};
	struct ws_scratch *room;
	struct ws_socket *stream;
	__u32 size;
	bool ended;

	if (!thread || !frame)
		return 0;
	object.address = frame->object;
	stream = bpf_map_lookup_elem(&objects, &object);
	if (!stream)
		return 0;
	ended = stream->ended;
	size = moved(frame, result);
	transfer.direction = is_reading(frame->call) ? WS_INGRESS : WS_EGRESS;
	transfer.pid_tgid = pid_tgid;
	transfer.size = size;
	transfer.counted = true;
	transfer.place.vector = frame->buffer;
	transfer.place.count = size;
	transfer.place.is_buffer = true;
	if (!stream->carrier) {
		bool has_written = size ? !is_reading(frame->call) :
					  is_step(stream, thread->came.cookie);

		/* What came was data for a call that reads. Any call takes the handshake on, and
		 * so does one in whose callback this one is: Node writes in SSL_read. */
		if (is_reading(frame->call) && thread->frames[0].object != object.address)
			bind_to_last(&object, stream, &thread->came, size, frame->length);
		else
			bind_to_last(&object, stream, &thread->came, 0, 0);
		if (!stream->carrier && has_written) {
			thread->left_mixed |= thread->left && thread->left != frame->object;
			thread->left = frame->object;
			thread->left_size = size < WS_PLAIN_RECORD ? size : WS_PLAIN_RECORD;
		}
	}
	/* What came is a neighbour of this call, and of no later one. */
	if (!thread->frames[0].object) {
		thread->came.cookie = 0;
		thread->came.is_mixed = 0;
	}
	if (!size || stream->ignored)
		return 0;
	if (filter_ports && !stream->carrier && !stream->hopeful) {
		stream->late = 1; /* nobody knows whether it is wanted, and it has begun */
		return 0;
	}
	if (frame->call == WS_TLS_SENDFILE)
		transfer.cause = WS_SENDFILE;
	else if (!frame->buffer) /* GnuTLS: what it has kept from a call that would block */
		transfer.cause = WS_FAULT;
	transfer.rtt_us = stream->rtt_us;
	room = bpf_map_lookup_elem(&scratch, &slot);
	if (!room || !occupy(room)) {
		pass_over(stream, &transfer);
		return 0;
	}
	deliver(stream, NULL, bpf_get_current_task_btf(), &transfer);
	room->busy = 0;
	if (!ended && stream->ended) /* the socket was closed meanwhile, on another CPU */
		send_close(stream, WS_CLOSED);
	return 0;
}

/* The call that began at this depth of the stack returns. */
static __always_inline bool leave_call(struct ws_thread *thread, __u64 depth, __s32 result)
{
	struct ws_frame *at = thread ? frame_at(thread, depth) : NULL;
	struct ws_frame frame;

	if (!at)
		return false;
	frame = *at;
	at->object = 0;
	ws_pass_on(thread, &frame, result);
	return true;
}

/* A function that moves data or does the handshake begins. */
SEC("uprobe")
int tls_enter(struct pt_regs *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct ws_object object = { .address = CALL_ARG0(ctx), .tgid = pid_tgid >> 32 };
	struct ws_frame call = {
		.object = object.address,
		.buffer = CALL_ARG1(ctx),
		.length = CALL_ARG2(ctx),
		.count = CALL_ARG3(ctx),
		.depth = stack_depth(CALL_STACK(ctx)),
		.call = bpf_get_attach_cookie(ctx),
	};
	__u64 fourth = CALL_ARG4(ctx);
	struct ws_thread *thread;

	barrier_var(fourth); /* else clang reads either through a pointer into the context */
	if (!object.address || !is_wanted_call(task, pid_tgid))
		return 0;
	if (call.call == WS_TLS_WRITE_EX2)
		call.count = fourth;
	thread = bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread || !stream_of(&object, call.call)) {
		count_lost(WS_LOST_CALL);
		return 0;
	}
	enter_call(thread, call.depth, &call, object.tgid);
	return 0;
}

/* It returns. */
SEC("uretprobe")
int tls_exit(struct pt_regs *ctx)
{
	leave_call(thread_of(bpf_get_current_task_btf()),
		   stack_depth(CALL_STACK(ctx) - CALL_PUSHED), CALL_RESULT(ctx));
	return 0;
}

/* An object that begins a connection. What sets one up is called several times in a row. */
static __always_inline struct ws_socket *fresh_object(const struct ws_object *object)
{
	struct ws_socket *stream = bpf_map_lookup_elem(&objects, object);

	if (!stream || stream->turn || stream->ended)
		stream = begin_object(object, false);
	return stream;
}

/* SSL_set_connect_state and its like: the object begins a connection. */
SEC("uprobe")
int tls_fresh(struct pt_regs *ctx)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct ws_object object = { .address = CALL_ARG0(ctx), .tgid = pid_tgid >> 32 };
	__u32 call = bpf_get_attach_cookie(ctx);
	struct ws_socket *stream;

	if (!is_wanted_call(bpf_get_current_task_btf(), pid_tgid))
		return 0;
	stream = fresh_object(&object);
	if (!stream)
		return 0;
	stream->late = 0;
	if (!stream->carrier && call == WS_TLS_CONNECT)
		stream->role = WS_CLIENT;
	if (!stream->carrier && call == WS_TLS_ACCEPT)
		stream->role = WS_SERVER;
	return 0;
}

/* Take the socket behind a descriptor for that of the object, until a nested call tells. */
static __always_inline void bind_descriptor(const struct ws_object *object,
					    struct ws_socket *stream, struct task_struct *task,
					    __u32 fd)
{
	struct ws_carrier carrier = {};
	const void *sk = (const void *)sock_of(task, fd);

	/* The ports of one that is yet to connect are not known. */
	if (!sk || transport_of(sk) != WS_TCP || (filter_ports && !remote_port(sk)))
		return;
	carrier.cookie = by_syscall ? identity_of(sk) : COMMON_FIELD(sk, skc_cookie.counter);
	if (!carrier.cookie)
		return;
	carrier.role = late_role(sk);
	carrier.transport = WS_TCP;
	carrier.ignored = (exclude_self && is_own_peer(sk)) || !has_wanted_port(sk);
	bind(object, stream, &carrier);
}

/* SSL_set_fd and its like: the object is given a descriptor. */
SEC("uprobe")
int tls_set_fd(struct pt_regs *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct ws_object object = { .address = CALL_ARG0(ctx), .tgid = pid_tgid >> 32 };
	struct ws_socket *stream;

	if (!is_wanted_call(task, pid_tgid))
		return 0;
	stream = fresh_object(&object);
	if (stream && !stream->carrier)
		bind_descriptor(&object, stream, task, CALL_ARG1(ctx));
	return 0;
}

/* SSL_free and its like: another object may get the same address. */
SEC("uprobe")
int tls_free(struct pt_regs *ctx)
{
	struct ws_object object = { .address = CALL_ARG0(ctx),
				    .tgid = bpf_get_current_pid_tgid() >> 32 };
	struct ws_socket *stream = bpf_map_lookup_elem(&objects, &object);

	if (!stream)
		return 0;
	if (stream->opened && !stream->ended)
		send_close(stream, WS_CLOSED);
	if (stream->carrier)
		release(&object, stream->carrier);
	bpf_map_delete_elem(&objects, &object);
	return 0;
}

#endif /* WS_BY_LIBRARY_H */
