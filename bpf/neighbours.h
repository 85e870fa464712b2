/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sockets of TLS objects that work on memory, found by what a thread moves right before or
 * after a call on the object.
 */
#ifndef WS_NEIGHBOURS_H
#define WS_NEIGHBOURS_H

#include "objects.h"
#include "records.h"

/*
 * Does what was moved on a socket fit what was done with an object that has none, `size`
 * bytes or a step of the handshake? A handshake begins with the hello of one side, which is
 * that of the object or of the other end.
 */
static __always_inline bool is_likely(const struct ws_socket *stream,
				      const struct ws_records *records,
				      const struct ws_carrier *carrier, __u32 direction, __u32 size,
				      __u32 room)
{
	bool by_client = (direction == WS_EGRESS) == (carrier->role == WS_CLIENT);

	if (size || stream->candidate == carrier->cookie)
		return fits(records, size, room);
	return !stream->late && stream->role && stream->role == carrier->role &&
	       records->hello == (by_client ? WS_CLIENT_HELLO : WS_SERVER_HELLO);
}

/* What is likely is believed when both directions say so: lengths may fit by chance, and two
 * threads may read each other's sockets. */
static __always_inline bool bind_likely(const struct ws_object *object, struct ws_socket *stream,
					const struct ws_carrier *carrier, __u32 direction,
					bool likely)
{
	if (stream->candidate != carrier->cookie || !likely)
		stream->agreed = 0;
	stream->candidate = likely ? carrier->cookie : 0;
	stream->agreed |= likely << direction;
	stream->hopeful = likely && !carrier->ignored;
	return stream->agreed == 3 && bind(object, stream, carrier);
}

/*
 * An object that has no socket yet has just taken in what the thread has read, `size` bytes
 * of plaintext or a step of the handshake.
 */
static __always_inline void bind_to_last(const struct ws_object *object, struct ws_socket *stream,
					 const struct ws_records *came, __u32 size, __u32 room)
{
	struct ws_carrier carrier = {};

	if (!came->cookie || came->is_mixed || (!size && !fits(came, 0, 0)))
		return; /* that nothing was taken says nothing */
	carrier.cookie = came->cookie;
	carrier.role = came->role;
	carrier.transport = came->transport;
	carrier.ignored = came->ignored;
	bind_likely(object, stream, &carrier, WS_INGRESS,
		    is_likely(stream, came, &carrier, WS_INGRESS, size, room));
}

/* A thread has read from another socket, or in the middle of a record: whatever it had read
 * before and no object has taken is no neighbour of any call. */
static __always_inline void forget_last(struct ws_thread *thread)
{
	thread->came.is_mixed |= thread->came.cookie != 0;
	thread->came.cookie = 0;
}

/* No TLS call made this transfer, and its records are there: see 3 above. */
static __always_inline bool bind_neighbour(struct ws_thread *thread, struct ws_records *records,
					   struct ws_carrier *carrier, __u32 direction, __u32 tgid)
{
	struct ws_object object = { .address = thread->left, .tgid = tgid };
	bool is_mixed = thread->left_mixed;
	struct ws_socket *stream;

	if (direction == WS_INGRESS) {
		if (thread->came.cookie != carrier->cookie)
			forget_last(thread);
		records->is_mixed = thread->came.is_mixed;
		records->cookie = carrier->cookie;
		records->role = carrier->role;
		records->transport = carrier->transport;
		records->ignored = carrier->ignored;
		thread->came = *records;
		return false;
	}
	thread->left = 0;
	thread->left_mixed = 0;
	if (!object.address || is_mixed)
		return false;
	stream = bpf_map_lookup_elem(&objects, &object);
	if (!stream || stream->carrier)
		return false;
	return bind_likely(&object, stream, carrier, WS_EGRESS,
			   is_likely(stream, records, carrier, WS_EGRESS, thread->left_size, 0));
}

#endif /* WS_NEIGHBOURS_H */
