/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TLS records as they lie at the beginning of a transfer: type, version, length (RFC 8446
 * 5.1). No key is needed to read those.
 */
#ifndef WS_RECORDS_H
#define WS_RECORDS_H

#include "call.h"

#define WS_RECORD_HEADER 5
#define WS_MAX_RECORD (16384 + 2048) /* RFC 5246 6.2.3 */
#define WS_MIN_OVERHEAD 16 /* ChaCha20-Poly1305 in TLS 1.2: the tag */
#define WS_MAX_OVERHEAD 96 /* CBC with SHA-384: IV 16, MAC 48, padding up to 16, and some */

enum ws_record_type {
	WS_RECORD_FIRST = 20, /* change_cipher_spec */
	WS_RECORD_HANDSHAKE = 22,
	WS_RECORD_DATA = 23,
	WS_RECORD_LAST = 24, /* heartbeat */
};

struct ws_record_header {
	__u8 type;
	__u8 major;
	__u8 minor;
	__u8 length[2]; /* big endian */
};

#define WS_CLIENT_HELLO 1 /* RFC 8446 4: HandshakeType */
#define WS_SERVER_HELLO 2

static __always_inline __u32 record_length(const struct ws_record_header *header)
{
	return (__u32)header->length[0] << 8 | header->length[1];
}

static __always_inline bool is_record(const struct ws_record_header *header)
{
	__u32 length = record_length(header);

	return header->type >= WS_RECORD_FIRST && header->type <= WS_RECORD_LAST &&
	       header->major == 3 && header->minor <= 4 && length && length <= WS_MAX_RECORD;
}

static __always_inline __u8 read_hello(__u64 base, __u32 size)
{
	__u8 type = 0;

	if (size > WS_RECORD_HEADER)
		bpf_probe_read_user(&type, sizeof(type), (void *)(base + WS_RECORD_HEADER));
	return type == WS_CLIENT_HELLO || type == WS_SERVER_HELLO ? type : 0;
}

/*
 * The records at the beginning of a transfer. Returns false if there is none, or if the
 * first buffer has no room for a header.
 */
static __always_inline bool read_records(struct ws_records *records, const struct ws_place *place,
					 __u32 size)
{
	struct ws_record_header header;
	struct ws_iovec first = { .base = place->vector, .length = place->count };
	__u32 offset = 0;

	if (!place->is_buffer && bpf_probe_read_user(&first, sizeof(first), (void *)place->vector))
		return false;
	if (first.length < size)
		size = first.length;
	for (__u32 i = 0; i < WS_RECORDS; i++) {
		if (size < WS_RECORD_HEADER || offset > size - WS_RECORD_HEADER)
			break;
		if (bpf_probe_read_user(&header, sizeof(header), (void *)(first.base + offset)))
			break;
		if (!is_record(&header))
			break;
		records->lengths[i] = header.type == WS_RECORD_DATA ? record_length(&header) : 0;
		if (!i && header.type == WS_RECORD_HANDSHAKE)
			records->hello = read_hello(first.base, size);
		records->number = i + 1;
		offset += WS_RECORD_HEADER + record_length(&header);
	}
	return records->number;
}

/* May one of the records hold a plaintext of this size? Or belong to a handshake, if it is 0. */
static __always_inline bool fits(const struct ws_records *records, __u32 size, __u32 room)
{
	for (__u32 i = 0; i < WS_RECORDS; i++) {
		__u32 length = records->lengths[i];

		if (i >= records->number)
			break;
		if (!size) {
			if (!length)
				return true;
			continue;
		}
		if (length >= size + WS_MIN_OVERHEAD &&
		    (length <= size + WS_MAX_OVERHEAD || size == room))
			return true;
	}
	return false;
}

#endif /* WS_RECORDS_H */
