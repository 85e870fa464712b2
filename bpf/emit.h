/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The tail that both payload sources share: positions, turns, verdicts, the
 * record, and the counter that says what became of the transfer. Every transfer
 * passes here once and is counted once (WS_UNSEEN comes on top, for bytes that
 * were no transfer).
 */
#ifndef WS_EMIT_H
#define WS_EMIT_H

#include "call.h"
#include "filter.h"
#include "payload.h"
#include "socket.h"

#define WS_ROOMY 2 /* a buffer filled less than so many times wake_bytes has room */
#define WS_LARGE 512 /* captured bytes from which on the buffer's filling is looked at */

struct ws_transfer {
	struct ws_place place;
	struct ws_peer peer;
	__u64 pid_tgid;
	__u32 direction;
	__u32 size; /* 0: the end of the stream */
	__u32 end; /* sequence number one past the last byte */
	__u32 rtt_us;
	__u16 nr;
	__u8 cause; /* of a gap; WS_DELIVERED if `place` says where the bytes are */
	bool counted; /* `end` is not known: positions are counted */
	bool has_peer;
	bool kernel_tls; /* the bytes are those before encryption or after decryption */
	__u8 pad[2];
};

static __always_inline bool has_wanted_port(const void *sk)
{
	return !filter_ports || is_wanted_port(local_port(sk)) || is_wanted_port(remote_port(sk));
}

/*
 * Whether the ports filter lets a transfer pass. A datagram that was received into no
 * address (recvfrom with NULL) does not say who sent it; it passes where the socket has
 * sent to a wanted port. `socket` may be NULL.
 */
static __always_inline bool passes_ports(const void *sk, struct ws_socket *socket,
					 const struct ws_transfer *transfer)
{
	if (has_wanted_port(sk))
		return true;
	if (!transfer->has_peer)
		return socket && socket->answers && transfer->direction == WS_INGRESS;
	return is_wanted_port(transfer->peer.port);
}

static __always_inline void count(__u32 cause, const struct ws_socket *socket,
				  const struct ws_transfer *transfer, bool is_first)
{
	struct ws_counter *counter = bpf_map_lookup_elem(&counters, &cause);

	if (!counter)
		return;
	counter->events += 1;
	counter->bytes += transfer->size;
	if (!is_first)
		return;
	if (socket->role == WS_ROLE_UNKNOWN)
		counter->turns += 1;
	else if ((socket->role == WS_CLIENT) == (transfer->direction == WS_EGRESS))
		counter->requests += 1;
	else
		counter->responses += 1;
}

static __always_inline void count_bytes(__u32 cause, __u64 bytes)
{
	struct ws_counter *counter = bpf_map_lookup_elem(&counters, &cause);

	if (counter) {
		counter->events += 1;
		counter->bytes += bytes;
	}
}

/* The position of the transfer's first byte; *unseen is what no hook saw before. */
static __always_inline __u32 move_position(struct ws_socket *socket,
					   const struct ws_transfer *transfer, __u32 *unseen)
{
	__u32 *end = position_of(socket, transfer->direction);
	__u32 start;

	*unseen = 0;
	if (transfer->counted) {
		if (atomics)
			return __sync_fetch_and_add(end, transfer->size);
		start = *end;
		*end = start + transfer->size;
		return start;
	}
	start = transfer->end - transfer->size;
	/* Behind us when two threads write at once and finish the other way round. */
	if (socket->positioned && (__s32)(start - *end) > 0)
		*unseen = start - *end;
	*end = transfer->end;
	return start;
}

/*
 * The number of the turn that the transfer belongs to; *is_first if it begins it.
 * Of two threads that work on one socket, exactly one begins a turn.
 */
static __always_inline __u32 move_turn(struct ws_socket *socket, __u32 direction, bool *is_first)
{
	__u32 seen = *(volatile __u32 *)&socket->turn;

	*is_first = false;
	for (int i = 0; i < 3; i++) {
		__u32 next = ((seen >> 1) + 1) << 1 | direction;
		__u32 found;

		if (seen >> 1 && (seen & 1) == direction)
			return seen >> 1;
		if (atomics) {
			found = __sync_val_compare_and_swap(&socket->turn, seen, next);
			if (found != seen) {
				seen = found;
				continue;
			}
		} else {
			socket->turn = next;
		}
		*is_first = true;
		return next >> 1;
	}
	return seen >> 1;
}

/* A verdict has had its effect: nothing of it is left but that the socket is wanted whole. */
static __always_inline void settle(struct ws_socket *socket, const __u64 *cookie)
{
	struct ws_verdict *verdict = bpf_map_lookup_elem(&verdicts, cookie);
	__u32 action = socket->action;

	socket->action = WS_FULL;
	/* What was said since is another verdict, and the epoch will bring it. */
	if (!verdict || verdict->action != action || verdict->until != socket->skip_until)
		return;
	if (socket->whole)
		verdict->action = WS_FULL;
	else
		bpf_map_delete_elem(&verdicts, cookie);
}

/* What user space wants of this transfer: WS_DELIVERED, WS_STOPPED or WS_SKIPPED. */
static __always_inline __u32 judge(struct ws_socket *socket, const struct ws_transfer *transfer,
				   __u32 position)
{
	__u32 epoch = *(volatile __u32 *)&verdicts_epoch;
	__u64 cookie = socket->cookie;

	if (socket->epoch != epoch) {
		struct ws_verdict *verdict = bpf_map_lookup_elem(&verdicts, &cookie);

		socket->action = verdict ? verdict->action : WS_FULL;
		socket->skip_direction = verdict ? verdict->direction : 0;
		socket->skip_until = verdict ? verdict->until : 0;
		socket->whole = verdict && verdict->whole;
		if (verdict)
			socket->spent = first_bytes;
		socket->epoch = epoch;
	}
	switch (socket->action) {
	case WS_STOP:
		return WS_STOPPED;
	case WS_SKIP:
		if (socket->skip_direction != transfer->direction)
			break;
		if ((__s32)(socket->skip_until - (position + transfer->size)) >= 0)
			return WS_SKIPPED;
		/* Through: 2 GiB on, `until` would seem to lie ahead again. */
		settle(socket, &cookie);
		break;
	case WS_ANNOUNCE:
		socket->opened = 0;
		settle(socket, &cookie);
		break;
	default:
		break;
	}
	return WS_DELIVERED;
}

/*
 * How much to capture of a transfer. Of a socket that nobody has judged yet the first
 * bytes, since only they can tell whether all of it is needed; but not where the buffer
 * fills up. Then *is_urgent: user space should judge before there is more.
 */
static __always_inline __u32 wanted(struct ws_socket *socket, __u32 size, bool *is_urgent)
{
	if (size <= snaplen)
		return size;
	if (!socket->whole) {
		if (socket->spent >= first_bytes ||
		    bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > WS_ROOMY * wake_bytes)
			return snaplen;
		socket->spent += size < most ? size : most;
		*is_urgent = true;
	}
	return size < most ? size : most;
}

/*
 * Records are handed over without a wake-up, which would cost more than the record.
 * But large ones can fill the buffer before user space looks again by itself.
 */
static __always_inline __u64 wake_flag(__u32 captured, bool is_urgent)
{
	if (captured < WS_LARGE || !*(volatile __u32 *)&is_asleep)
		return BPF_RB_NO_WAKEUP;
	if (!is_urgent && bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < wake_bytes)
		return BPF_RB_NO_WAKEUP;
	is_asleep = 0;
	return BPF_RB_FORCE_WAKEUP;
}

/* Put the record together and hand it over. Returns what became of it. */
static __always_inline __u32 send_data(struct ws_socket *socket, const struct ws_transfer *transfer,
				       __u32 position, __u32 unseen, __u32 turn, bool is_first)
{
	__u32 slot = scratch_slot(socket->inner ? WS_TLS_SLOT : transfer->direction);
	struct ws_scratch *room = bpf_map_lookup_elem(&scratch, &slot);
	bool is_urgent = false;
	__u32 cause = transfer->cause;
	__u32 captured = 0;
	__u32 want = 0;
	__u32 skip = 0;
	__u8 flags = 0;
	__u64 length;

	if (!room)
		return WS_NO_STORAGE;
	if (transfer->has_peer) {
		__builtin_memcpy(room->body, &transfer->peer, sizeof(transfer->peer));
		skip = sizeof(transfer->peer);
		flags = WS_HAS_PEER;
	}
	if (is_first)
		flags |= WS_TURN_START;
	if (transfer->kernel_tls)
		flags |= WS_PLAINTEXT;
	if (!transfer->size) {
		flags |= WS_EOF;
	} else if (cause == WS_DELIVERED) {
		want = wanted(socket, transfer->size, &is_urgent);
		if (transfer->place.is_buffer)
			captured = copy_buffer(room, transfer->place.vector, transfer->place.count,
					       want, skip);
		else
			captured = ws_gather(transfer->place.vector, transfer->place.count, want,
					     skip, slot);
		if (!captured)
			cause = WS_FAULT;
	}
	room->data.type = WS_DATA;
	room->data.direction = transfer->direction;
	room->data.flags = flags;
	room->data.cause = cause;
	room->data.captured = captured;
	room->data.cookie = socket->cookie;
	room->data.timestamp_ns = bpf_ktime_get_boot_ns();
	room->data.position = position;
	room->data.size = transfer->size;
	room->data.turn = turn;
	room->data.unseen = unseen;
	room->data.tgid = transfer->pid_tgid >> 32;
	room->data.tid = transfer->pid_tgid;
	room->data.rtt_us = transfer->rtt_us;
	room->data.syscall = transfer->nr;
	room->data.pad = 0;
	length = skip + captured;
	barrier_var(length);
	if (length > sizeof(struct ws_peer) + most) /* never; says it to the verifier */
		return WS_FAULT;
	if (bpf_ringbuf_output(&events, &room->data, sizeof(room->data) + length,
			       wake_flag(captured, is_urgent)))
		return WS_RING_FULL;
	return cause;
}

/* One transfer of a wanted task on a known socket. */
static __always_inline void deliver(struct ws_socket *socket, const void *sk,
				    struct task_struct *task, const struct ws_transfer *transfer)
{
	bool is_end = !transfer->size;
	bool is_first = false;
	__u32 position, unseen, turn, became;

	if (is_end && socket->ended)
		return;
	if (transfer->has_peer && transfer->direction == WS_EGRESS)
		socket->answers = 1;
	if (!socket->opened && !socket->positioned && !transfer->counted)
		/* TCP Fast Open: data goes out before the handshake is over */
		*position_of(socket, transfer->direction) = transfer->end - transfer->size;
	turn = is_end ? socket->turn >> 1 : move_turn(socket, transfer->direction, &is_first);
	/* The open record says where the directions stood before this transfer. */
	position = transfer->counted ? *position_of(socket, transfer->direction) :
				       transfer->end - transfer->size;
	became = judge(socket, transfer, position);
	if (became == WS_DELIVERED && !socket->opened) {
		if (send_open(socket, sk, task, transfer->pid_tgid >> 32))
			socket->opened = 1;
		else
			became = WS_RING_FULL;
	}
	position = move_position(socket, transfer, &unseen);
	if (unseen)
		count_bytes(WS_UNSEEN, unseen);
	if (became == WS_DELIVERED)
		became = send_data(socket, transfer, position, unseen, turn, is_first);
	if (!is_end)
		count(became, socket, transfer, is_first);
	else if (became == WS_RING_FULL)
		count_lost(WS_LOST_EOF);
	else
		socket->ended = 1;
}

#endif /* WS_EMIT_H */
