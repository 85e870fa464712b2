/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TLS objects, the calls on them that are under way, and which socket is whose.
 */
#ifndef WS_OBJECTS_H
#define WS_OBJECTS_H

#include "emit.h"

static __always_inline struct ws_thread *thread_of(struct task_struct *task)
{
	return bpf_task_storage_get(&threads, task, 0, 0);
}

/*
 * The call that is under way in a thread, given where its stack is now; NULL if there is
 * none. One that the stack has left behind ended without a sign: by longjmp, or since the
 * kernel had no room for the return probe.
 */
static __always_inline struct ws_frame *innermost(struct ws_thread *thread, __u64 depth)
{
	if (thread->frames[1].object && thread->frames[1].depth < depth)
		return &thread->frames[1];
	if (thread->frames[0].object && thread->frames[0].depth < depth)
		return &thread->frames[0];
	return NULL;
}

/* How deep a stack is: comparable within one thread. */
static __always_inline __u64 stack_depth(__u64 pointer)
{
	return -pointer;
}

/* Where a goroutine's stack ends; the runtime moves stacks, and the distance stays.
 * runtime.g begins with stack.lo and stack.hi (Go src/runtime/runtime2.go). */
static __always_inline __u64 goroutine_depth(__u64 g, __u64 pointer)
{
	__u64 high = 0;

	bpf_probe_read_user(&high, sizeof(high), (void *)(g + 8));
	return high - pointer;
}

/* An identity for what an object carries: no two are made on one CPU in 256 ns. */
static __always_inline __u64 inner_cookie(void)
{
	return WS_INNER_BIT | (bpf_ktime_get_boot_ns() & ~0xffULL) |
	       (bpf_get_smp_processor_id() & 0xff);
}

static __always_inline bool is_same(const struct ws_object *one, const struct ws_object *other)
{
	return one->address == other->address && one->tgid == other->tgid;
}

/* The socket carries this object no longer. */
static __always_inline void release(const struct ws_object *object, __u64 cookie)
{
	struct ws_object *its = bpf_map_lookup_elem(&carried, &cookie);

	if (!its || !is_same(its, object))
		return;
	freed[cookie % WS_FREED] += 1;
	bpf_map_delete_elem(&carried, &cookie);
}

/* The object begins a connection. What it was before has ended. */
static __always_inline struct ws_socket *begin_object(const struct ws_object *object, bool late)
{
	struct ws_socket fresh = {
		.cookie = inner_cookie(), .inner = 1, .late = late, .transport = WS_TCP
	};
	struct ws_socket *known = bpf_map_lookup_elem(&objects, object);

	if (known) {
		if (known->opened && !known->ended)
			send_close(known, WS_CLOSED);
		if (known->carrier)
			release(object, known->carrier);
		*known = fresh;
		return known;
	}
	bpf_map_update_elem(&objects, object, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&objects, object);
}

/* What an object must know of its socket. */
struct ws_carrier {
	__u64 cookie;
	__u32 rtt_us;
	__u8 role;
	__u8 transport;
	bool ignored; /* whoever filters does not want it */
	bool is_sure;
};

static __always_inline void adopt(struct ws_socket *stream, const struct ws_carrier *carrier)
{
	stream->carrier = carrier->cookie;
	stream->is_sure = carrier->is_sure;
	stream->role = carrier->role;
	stream->transport = carrier->transport;
	stream->ignored = carrier->ignored;
	stream->rtt_us = carrier->rtt_us;
	stream->opened = 0; /* its record has more to say now */
}

/* The object has this socket. Returns false if it is known to have another. */
static __always_inline bool bind(const struct ws_object *object, struct ws_socket *stream,
				 const struct ws_carrier *carrier)
{
	struct ws_object *others;

	if (stream->carrier == carrier->cookie) {
		if (carrier->is_sure && !stream->is_sure)
			adopt(stream, carrier);
		return true;
	}
	if (stream->carrier) {
		if (stream->is_sure || !carrier->is_sure)
			return false;
		release(object, stream->carrier);
	} else if (stream->ended) {
		stream = begin_object(object, true);
		if (!stream)
			return false;
	}
	/* What is only likely takes no socket from another object. */
	others = bpf_map_lookup_elem(&carried, &carrier->cookie);
	if (others && !carrier->is_sure && !is_same(others, object))
		return false;
	bpf_map_update_elem(&carried, &carrier->cookie, object, BPF_ANY);
	adopt(stream, carrier);
	return true;
}

/* The socket that carried an object is closed. The object may give back what it holds. */
static __always_inline void close_carried(__u64 cookie, __u8 reason)
{
	struct ws_object *object = bpf_map_lookup_elem(&carried, &cookie);
	struct ws_socket *stream;

	if (!object)
		return;
	stream = bpf_map_lookup_elem(&objects, object);
	if (stream && stream->carrier == cookie) {
		if (stream->opened)
			send_close(stream, reason);
		stream->opened = 1; /* what comes now is its rest, and no new connection */
		stream->carrier = 0;
		stream->ended = 1;
		stream->is_sure = 0;
	}
	bpf_map_delete_elem(&carried, &cookie);
}

#endif /* WS_OBJECTS_H */
