/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ABI between the kernel half and its readers: every record of the ring
 * buffer and of a recording is one of these structs, little or big endian as
 * the machine is. tracer/events.py is the Python twin; tests and the loader
 * compare the two through the object's BTF.
 *
 * Laid out without packed, so that clang uses whole-word stores; every hole is
 * a named pad and -Wpadded keeps it so.
 */
#ifndef WS_EVENTS_H
#define WS_EVENTS_H

#define WS_COMM_SIZE 16
#define WS_PATH_SIZE 108 /* sizeof(sockaddr_un.sun_path) */
#define WS_MAX_SNAPLEN 16384
#define WS_MAX_WHOLE 131072 /* captured of a transfer of a socket that is wanted whole */

enum ws_type {
	WS_OPEN = 1, /* struct ws_open: first sight of a socket */
	WS_DATA = 2, /* struct ws_data: one transfer, or a gap of known length */
	WS_CLOSE = 3, /* struct ws_close: a TCP socket reached TCP_CLOSE */
};

enum ws_direction {
	WS_INGRESS = 0, /* the traced process receives */
	WS_EGRESS = 1, /* the traced process sends */
};

enum ws_role {
	WS_ROLE_UNKNOWN = 0,
	WS_CLIENT = 1, /* connected */
	WS_SERVER = 2, /* accepted */
};

enum ws_transport {
	WS_TCP = 1,
	WS_UDP = 2,
	WS_UNIX = 3,
};

enum ws_open_flag {
	WS_LATE = 1, /* the socket had been in use before it was seen */
	WS_INNER = 2, /* no socket but what a TLS object carries: see ws_open.carrier */
};

enum ws_data_flag {
	WS_EOF = 1, /* recv returned 0: the peer has finished sending */
	WS_HAS_PEER = 2, /* a struct ws_peer stands before the payload (UDP) */
	WS_PLAINTEXT = 4, /* the kernel does TLS for this socket: encrypted on the wire */
	WS_TURN_START = 8, /* the first transfer of its turn, delivered or not */
	/* In recordings only: what was cut off behind the captured bytes was */
	WS_CUT_WAITED = 16, /* too little for a message, and the rest never came */
	WS_CUT_REFUSED = 32, /* not the beginning of a message */
	WS_CUT_LOST = 64, /* a message whose rest was not captured */
};

enum ws_close_reason {
	WS_CLOSED = 0,
	WS_RESET = 1, /* RST received, or sent by us */
	WS_TIMED_OUT = 2, /* retransmissions or keep-alive gave up */
	WS_REFUSED = 3, /* connect() never succeeded */
};

/* What became of a transfer: the key of the counters map, and the cause of a
 * gap in ws_data. Order is ABI. */
enum ws_cause {
	WS_DELIVERED = 0,
	WS_RING_FULL = 1, /* no room in the ring buffer: user space is too slow */
	WS_SENDFILE = 2, /* sendfile(2): no user buffer */
	WS_SPLICE = 3, /* splice(2), vmsplice(2), tee(2): no user buffer */
	WS_IO_URING = 4, /* no syscall whose arguments name the buffer */
	WS_COMPAT = 5, /* 32-bit syscall: other numbers and other pointers */
	WS_FAULT = 6, /* the user buffer could not be read */
	WS_DISCARDED = 7, /* MSG_TRUNC on TCP: the kernel threw the bytes away */
	WS_UNSEEN = 8, /* bytes that passed between two transfers with no hook run */
	WS_OTHER_CALL = 9, /* sent or received by a call that is not known */
	WS_STOPPED = 10, /* verdict: no known protocol */
	WS_SKIPPED = 11, /* verdict: inside a body of known length */
	WS_NO_STORAGE = 12, /* no memory for the per-socket state */
	WS_CIPHERTEXT = 13, /* its plaintext is seen at the TLS library */
	WS_CAUSES = 14,
};

/*
 * Cookies of what is no socket have this bit: the plaintext of one TLS object is a
 * connection of its own, whose open record names the socket that carries it and says
 * nothing of addresses.
 */
#define WS_INNER_BIT (1ULL << 62)

/* IPv4 is written as ::ffff:a.b.c.d, ports in host order. */
struct ws_open {
	__u8 type;
	__u8 role;
	__u8 transport;
	__u8 flags;
	__u32 tgid;
	__u64 cookie;
	__u64 timestamp_ns; /* CLOCK_BOOTTIME, as in every record */
	__u64 process_start_ns; /* of the thread group leader, CLOCK_BOOTTIME */
	__u64 cgroup_id; /* cgroup v2, 0 if none */
	__u64 carrier; /* WS_INNER: cookie of the socket, 0 while it is not known */
	__u32 netns;
	__u32 egress_position; /* where each direction stood at first sight */
	__u32 ingress_position;
	__u16 local_port;
	__u16 remote_port;
	__u8 local[16];
	__u8 remote[16];
	char comm[WS_COMM_SIZE]; /* of the thread group leader */
	char path[WS_PATH_SIZE]; /* AF_UNIX: '\0...' if abstract, empty if unnamed */
	__u32 pad;
};

struct ws_data {
	__u8 type;
	__u8 direction;
	__u8 flags;
	__u8 cause; /* enum ws_cause when captured is 0 and size is not */
	__u32 captured; /* payload bytes that follow, <= size */
	__u64 cookie;
	__u64 timestamp_ns; /* when the call had done its work */
	__u32 position; /* of the first byte: the sequence number on TCP, else a count */
	__u32 size; /* bytes that the call moved */
	__u32 turn; /* grows by one each time the direction changes; first is 1 */
	__u32 unseen; /* bytes right before position that no hook saw */
	__u32 tgid;
	__u32 tid;
	__u32 rtt_us; /* smoothed RTT, 0 if not TCP */
	__u16 syscall;
	__u16 pad;
};

struct ws_peer {
	__u8 address[16];
	__u16 port;
	__u16 pad;
	__u32 pad2;
};

struct ws_close {
	__u8 type;
	__u8 reason;
	__u16 pad;
	__u32 turns;
	__u64 cookie;
	__u64 timestamp_ns;
	__u32 egress_position; /* one past the last byte */
	__u32 ingress_position;
};

/* Value of the counters map (per CPU), key enum ws_cause. A turn is counted
 * where its first transfer ended up, so that delivered + dropped = made. */
struct ws_counter {
	__u64 events;
	__u64 bytes;
	__u64 requests; /* turns that flow from a client to a server */
	__u64 responses;
	__u64 turns; /* turns on sockets of unknown role */
};

enum ws_action {
	WS_FULL = 0,
	WS_STOP = 1, /* deliver nothing more of this socket but its close */
	WS_SKIP = 2, /* deliver nothing of `direction` that ends at `until` or before */
	WS_ANNOUNCE = 3, /* send the open record again with the next transfer */
};

/* Value of the verdicts map, key cookie. */
struct ws_verdict {
	__u32 action;
	__u32 direction;
	__u32 until;
	__u32 whole; /* 1: many messages come in one transfer, so copy more of each */
};

_Static_assert(sizeof(struct ws_open) == 224, "ws_open");
_Static_assert(__builtin_offsetof(struct ws_open, local) == 64, "ws_open.local");
_Static_assert(__builtin_offsetof(struct ws_open, comm) == 96, "ws_open.comm");
_Static_assert(__builtin_offsetof(struct ws_open, path) == 112, "ws_open.path");
_Static_assert(sizeof(struct ws_data) == 56, "ws_data");
_Static_assert(__builtin_offsetof(struct ws_data, cookie) == 8, "ws_data.cookie");
_Static_assert(__builtin_offsetof(struct ws_data, position) == 24, "ws_data.position");
_Static_assert(__builtin_offsetof(struct ws_data, rtt_us) == 48, "ws_data.rtt_us");
_Static_assert(sizeof(struct ws_peer) == 24, "ws_peer");
_Static_assert(sizeof(struct ws_close) == 32, "ws_close");
_Static_assert(sizeof(struct ws_counter) == 40, "ws_counter");
_Static_assert(sizeof(struct ws_verdict) == 16, "ws_verdict");

#endif /* WS_EVENTS_H */
