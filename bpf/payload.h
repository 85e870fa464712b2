/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The bounded copy of user memory: one buffer, or the buffers of an iovec array.
 *
 * ws_gather and ws_mark are global functions: the verifier checks them once, by
 * themselves, so that their loops do not multiply with those of the callers. Where the
 * kernel has bpf_loop it checks one round, not a thousand.
 */
#ifndef WS_PAYLOAD_H
#define WS_PAYLOAD_H

#include "maps.h"

/* The user API's structs, of 64-bit programs. */
struct ws_iovec {
	__u64 base;
	__u64 length;
};

struct ws_msghdr {
	__u64 name;
	__u32 name_length;
	__u32 pad;
	__u64 vector;
	__u64 count;
	__u64 control;
	__u64 control_length;
	__u32 flags;
	__u32 pad2;
};

struct ws_mmsghdr {
	struct ws_msghdr header;
	__u32 length;
	__u32 pad;
};

/* iovecs fetched from user memory at a time: one copy for almost every call */
#define WS_FETCH 8
#define WS_TLS_SLOT 2

/* `number` is a direction, or WS_TLS_SLOT. */
static __always_inline __u32 scratch_slot(__u32 number)
{
	return bpf_get_smp_processor_id() * WS_SCRATCH_SLOTS + number;
}

struct ws_gathering {
	struct ws_scratch *room;
	__u64 vector;
	__u64 count;
	__u64 want; /* whole words: the verifier forgets the bounds of half a slot */
	__u64 skip;
	struct ws_iovec fetched[WS_FETCH];
};

/* Copy what iovec `i` holds; returns 1 if that was the last. */
static __always_inline long gather_one(__u32 i, struct ws_gathering *gathering)
{
	/* How far it has come is kept in the map, of which the verifier knows nothing: in
	 * a register, each round would have two ends, and they would be told apart. */
	volatile __u32 *captured = &gathering->room->data.captured;
	__u32 done = *captured;
	__u64 length, base;
	__u32 size;

	barrier_var(i); /* else clang carries count - i and more from round to round */
	if (i >= gathering->count || done >= gathering->want)
		return 1;
	if (i % WS_FETCH == 0) {
		__u64 left = gathering->count - i;

		if (left > WS_FETCH)
			left = WS_FETCH;
		barrier_var(left); /* keep the bound on the register that is used */
		if (bpf_probe_read_user(gathering->fetched, left * sizeof(struct ws_iovec),
					(void *)(gathering->vector + i * sizeof(struct ws_iovec))))
			return 1;
	}
	length = gathering->fetched[i % WS_FETCH].length;
	base = gathering->fetched[i % WS_FETCH].base;
	size = gathering->want - done;
	if (length < size)
		size = length;
	barrier_var(size);
	if (!size)
		return 0;
	if (done >= most || size > most) /* never; says it to the verifier */
		return 1;
	if (bpf_probe_read_user(gathering->room->body + gathering->skip + done, size, (void *)base))
		return 1;
	*captured = done + size;
	return 0;
}

static long gather_callback(__u32 i, void *gathering)
{
	return gather_one(i, gathering);
}

/*
 * Copy up to `want` bytes of the `count` iovecs at `vector` behind the first
 * `skip` bytes of the scratch body. Returns the bytes copied; 0 if the first of
 * them could not be read.
 */
__noinline int ws_gather(__u64 vector, __u64 count, __u32 want, __u32 skip, __u32 slot)
{
	struct ws_scratch *room = bpf_map_lookup_elem(&scratch, &slot);
	struct ws_gathering gathering = { .room = room, .vector = vector, .count = count };

	if (!room || skip > sizeof(struct ws_peer))
		return 0;
	gathering.want = want > most ? most : want;
	gathering.skip = skip;
	room->data.captured = 0;
	if (loops) {
		bpf_loop(UIO_MAXIOV, gather_callback, &gathering, 0);
	} else {
		for (__u32 i = 0; i < UIO_MAXIOV; i++) {
			if (gather_one(i, &gathering))
				break;
		}
	}
	return *(volatile __u32 *)&room->data.captured;
}

/* User addresses have no more bits than these; arm64 may keep a tag above. */
#define WS_USER_BITS 47
#define WS_TAG_BITS 8

static __always_inline bool is_readable(__u64 address)
{
	__u8 byte;

	return !bpf_probe_read_user(&byte, sizeof(byte), (void *)address);
}

struct ws_marking {
	__u64 vector;
	__u64 count;
	__u64 total;
	__u64 beyond;
	__u64 hash;
	__u64 failed;
};

static __always_inline long mark_one(__u32 i, struct ws_marking *marking)
{
	struct ws_iovec one;

	if (i >= marking->count)
		return 1;
	if (bpf_probe_read_user(&one, sizeof(one),
				(void *)(marking->vector + i * sizeof(struct ws_iovec)))) {
		marking->failed = 1;
		return 1;
	}
	one.base = one.base << WS_TAG_BITS >> WS_TAG_BITS;
	marking->beyond |= one.base | one.length | (one.base + one.length);
	marking->total += one.length;
	marking->hash = (marking->hash ^ one.base) * 0x9e3779b97f4a7c15ULL + one.length;
	return 0;
}

static long mark_callback(__u32 i, void *marking)
{
	return mark_one(i, marking);
}

/*
 * A mark of the msghdr at `address` and of its iovecs: the upper half is the number of
 * bytes they hold, up to 2^31 - 1, the lower half changes with whatever else the
 * kernel reads. 0 if the kernel would refuse the message before it comes to the socket
 * (net/socket.c ___sys_sendmsg, copy_msghdr_from_user, lib/iov_iter.c import_iovec).
 */
__noinline __u64 ws_mark(__u64 address)
{
	struct ws_marking marking = {};
	struct ws_msghdr header;

	if (bpf_probe_read_user(&header, sizeof(header), (void *)address))
		return 0;
	if (header.count > UIO_MAXIOV || header.control_length > 0x7fffffff)
		return 0;
	if (header.name && ((__s32)header.name_length < 0 || !is_readable(header.name)))
		return 0;
	if (header.control && header.control_length && !is_readable(header.control))
		return 0;
	marking.vector = header.vector;
	marking.count = header.count;
	marking.hash = header.name + header.control * 3 + header.vector * 5 + header.count * 7;
	if (loops) {
		bpf_loop(UIO_MAXIOV, mark_callback, &marking, 0);
	} else {
		for (__u32 i = 0; i < UIO_MAXIOV; i++) {
			if (mark_one(i, &marking))
				break;
		}
	}
	if (marking.failed || marking.beyond >> WS_USER_BITS)
		return 0;
	if (marking.total > 0x7fffffff)
		marking.total = 0x7fffffff;
	return marking.total << 32 | (__u32)(marking.hash >> 32) | 1;
}

/* As ws_gather, for one buffer. */
static __always_inline __u32 copy_buffer(struct ws_scratch *room, __u64 base, __u64 length,
					 __u32 want, __u32 skip)
{
	__u64 size = want;

	if (length < size)
		size = length;
	barrier_var(size); /* so that the bound below is on all 64 bits */
	if (size > most) /* never; says it to the verifier */
		size = most;
	if (!size || bpf_probe_read_user(room->body + skip, size, (void *)base))
		return 0;
	return size;
}

#endif /* WS_PAYLOAD_H */
