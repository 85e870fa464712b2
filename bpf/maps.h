/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Settings and maps. The settings are written before the programs are loaded;
 * the verifier then takes each as a constant and removes what it switches off.
 */
#ifndef WS_MAPS_H
#define WS_MAPS_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "compat.h"
#include "events.h"

#define WS_MAX_SOCKETS 65536 /* of the sys_exit source; LRU */
#define WS_MAX_VERDICTS 65536 /* LRU */
#define WS_MAX_LISTENERS 16384
#define WS_MAX_OWN 1024 /* connections of the tracer itself; LRU */
#define WS_MAX_SENDERS 16384 /* threads that receive datagrams; LRU */
#define WS_MAX_PIDS 65536
#define WS_MAX_COMMS 64
#define WS_MAX_PORTS 1024
#define WS_MAX_CGROUPS 32
#define WS_MAX_OBJECTS 32768 /* of TLS libraries; LRU */
#define WS_MAX_GOROUTINES 32768 /* inside a TLS call; LRU */
#define WS_NOTICE_BYTES 65536

const volatile __u32 snaplen = 4096;
const volatile __u32 most = 4096; /* the same of a socket that is wanted whole; not less */
const volatile __u32 first_bytes = 0; /* of a socket nobody has judged, captured like that */
const volatile bool by_syscall = false; /* the sys_exit source */
const volatile bool atomics = true;
const volatile bool loops = false; /* bpf_loop is there */
const volatile bool exclude_self = true;
const volatile bool trace_tls = false;
const volatile bool filter_pids = false;
const volatile bool filter_comms = false;
const volatile bool filter_ports = false;
const volatile bool filter_cgroups = false;
const volatile __u32 cgroups_count = 0;

/* Written by the iterators, which run inside the tracer: right in every pid
 * namespace. */
__u32 self_tgid = 0;

/* Of bpf_ringbuf.pending_pos behind producer_pos, 0 if the kernel has none: for the
 * reader, see tracer/ring.py. */
__u32 pending_offset = 0;

/* User space adds one after every change of `verdicts`, so that a socket need not be
 * looked up there as long as nothing changes. */
__u32 verdicts_epoch = 0;

/* User space sleeps: set by it, cleared by who wakes it, so that a full buffer costs one
 * wake-up and not one for each record. */
__u32 is_asleep = 0;

/* User space adds one when it has attached to another library: sockets that were left alone
 * may have something to do with it. */
__u32 tls_epoch = 0;

/* Set by user space when it probes the first Go program: until then nothing is looked up
 * by goroutine. */
__u32 has_go = 0;

/* Grows when a TLS object that has a socket is freed, by the cookie of the socket: what
 * comes on it then is no longer ciphertext of that object. */
#define WS_FREED 256
__u8 freed[WS_FREED] = {};

/* How full the buffer may be while user space sleeps. */
const volatile __u32 wake_bytes = 4 << 20;

/* What is remembered of a socket, or of a TLS object in the place of one. One byte a
 * fact: two threads may work on one socket at a time. */
struct ws_socket {
	__u64 cookie;
	__u64 carrier; /* of a TLS object: cookie of its socket, 0 while it is not known */
	__u64 candidate; /* of a TLS object: what was likely to be its socket once, or 0 */
	__u32 turn; /* count << 1 | direction of the latest transfer */
	__u32 position[2]; /* of each direction: one past the latest byte */
	__u32 tgid; /* who called connect(), until it is established */
	__u32 epoch; /* of verdicts, when the next three and `whole` were copied from there */
	__u32 action;
	__u32 skip_direction;
	__u32 skip_until;
	__u32 spent; /* of first_bytes; all of it once there was a verdict */
	__u32 sealer; /* the process whose TLS object this socket carries */
	__u32 rtt_us; /* of a TLS object: smoothed RTT of its socket during the handshake */
	__u8 answers; /* datagrams to a wanted port went out: those that come may be answers */
	__u8 tls; /* of a socket: enum ws_tls_state */
	__u8 looks; /* at a socket: for TLS, in vain; of a TLS object: steps of its handshake */
	__u8 kernel_tls; /* the kernel encrypts what it sends */
	__u8 inner; /* a TLS object */
	__u8 is_sure; /* its carrier is known, not found by what was likely */
	__u8 tls_epoch; /* of libraries, when `looks` began */
	__u8 shown; /* transfers delivered although its plaintext is seen */
	__u8 is_go; /* a TLS object whose calls belong to goroutines */
	__u8 freed; /* of a socket: what `freed` was when it was sealed */
	__u8 agreed; /* of a TLS object: directions that speak for its candidate, one bit each */
	__u8 hopeful; /* of a TLS object: the filters want its candidate */
	__u8 role;
	__u8 transport;
	__u8 late;
	__u8 ignored; /* an end of a connection of the tracer */
	__u8 positioned; /* position[] is a sequence number to compare with */
	__u8 opened; /* the open record is out */
	__u8 ended; /* the end of the stream is out */
	__u8 whole; /* up to `most` bytes of a transfer are wanted */
};

/* The socket source keeps it in the socket, which frees it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct ws_socket);
} sockets SEC(".maps");

/* The sys_exit source reaches sockets through pointers that the verifier does
 * not trust, which cannot name a socket's storage. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_MAX_SOCKETS);
	__type(key, __u64); /* identity */
	__type(value, struct ws_socket);
} sockets_by_id SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} events SEC(".maps");

/* Where a record is put together; three for each CPU, one for each direction and
 * one for TLS.
 *
 * The verifier adds the largest offset to the largest size without knowing that
 * one falls as the other grows, so the body is twice as long as what is used.
 * The loader sets the size by the settings: WS_SCRATCH_SIZE(most). */
#define WS_SCRATCH_SIZE(most) (8 + sizeof(struct ws_data) + sizeof(struct ws_peer) + 2 * (most))
#define WS_SCRATCH_SLOTS 3

struct ws_scratch {
	__u32 busy; /* of that for TLS only: uprobes can be preempted */
	__u32 pad;
	struct ws_data data;
	__u8 body[sizeof(struct ws_peer) + 2 * WS_MAX_WHOLE];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct ws_scratch));
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WS_CAUSES);
	__type(key, __u32);
	__type(value, struct ws_counter);
} counters SEC(".maps");

/* Records that are no transfer and found no room. */
enum ws_lost {
	WS_LOST_OPEN = 0, /* sent again with the next transfer */
	WS_LOST_EOF = 1,
	WS_LOST_CLOSE = 2,
	WS_LOST_CALL = 3, /* a call into a TLS library whose beginning is not known */
	WS_LOST_NOTICE = 4, /* that a process began or has loaded a library */
	WS_LOST_KINDS = 5,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WS_LOST_KINDS);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_MAX_VERDICTS);
	__type(key, __u64); /* cookie */
	__type(value, struct ws_verdict);
} verdicts SEC(".maps");

/* Ports that were listened on when the tracer started, or have been since. */
struct ws_listener {
	__u32 netns;
	__u32 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WS_MAX_LISTENERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct ws_listener);
	__type(value, __u8);
} listeners SEC(".maps");

/* A connection as one of its ends names it. */
struct ws_tuple {
	__u8 local[16];
	__u8 remote[16];
	__u16 local_port;
	__u16 remote_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_MAX_OWN);
	__type(key, struct ws_tuple);
	__type(value, __u8);
} own SEC(".maps");

/* Where a thread is inside sendmmsg or recvmmsg. */
struct ws_batch {
	__u64 cookie;
	__u64 vector;
	__u32 length;
	__u32 nr;
	__u32 index; /* of the next message; 0 if none is under way */
	__u32 size; /* of the message before */
	__u64 mark; /* of the next message, see ws_mark */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct ws_batch);
} batches SEC(".maps");

/* The source address of the datagram that a thread is receiving. */
struct ws_sender {
	__u64 cookie; /* 0 once used */
	struct ws_peer peer;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_MAX_SENDERS);
	__type(key, __u64); /* the task's address */
	__type(value, struct ws_sender);
} senders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WS_MAX_PIDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps");

struct ws_comm {
	char name[WS_COMM_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WS_MAX_COMMS);
	__type(key, struct ws_comm);
	__type(value, __u8);
} comms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, WS_MAX_PORTS);
	__type(key, __u16);
	__type(value, __u8);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, WS_MAX_CGROUPS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} cgroups SEC(".maps");

/* An object of a TLS library: SSL, gnutls_session_int, tls.Conn. */
struct ws_object {
	__u64 address;
	__u32 tgid;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_MAX_OBJECTS);
	__type(key, struct ws_object);
	__type(value, struct ws_socket);
} objects SEC(".maps");

/* Which object a socket carries. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_MAX_OBJECTS);
	__type(key, __u64); /* cookie of the socket */
	__type(value, struct ws_object);
} carried SEC(".maps");

/* A call into a TLS library that is under way. */
struct ws_frame {
	__u64 object; /* its address, 0 if there is no call */
	__u64 buffer;
	__u64 length;
	__u64 count; /* where the library will write how many bytes it has moved, or 0 */
	__u64 depth; /* of the stack, growing inward */
	__u32 call; /* enum ws_tls_call */
	__u32 pad;
};

#define WS_FRAMES 2 /* TLS inside of TLS, as through a proxy */
#define WS_RECORDS 4 /* of one transfer whose lengths are kept */

/* The lengths of the first TLS records of a transfer that no TLS call made. */
struct ws_records {
	__u64 cookie; /* of the socket, 0 if there is none */
	__u16 lengths[WS_RECORDS]; /* those of handshake records are 0 */
	__u8 number;
	__u8 hello; /* type of the message that the first begins, if it is a hello, else 0 */
	__u8 is_mixed; /* another socket was read before any object took what came */
	__u8 role; /* of the socket, as the next two */
	__u8 transport;
	__u8 ignored;
	__u8 pad[2];
};

struct ws_thread {
	struct ws_frame frames[WS_FRAMES];
	struct ws_records came; /* what the thread has read last, and no object has yet taken */
	__u64 noticed_ns; /* when the linker of the thread was last told of */
	__u64 left; /* the object that was written into last, and has sent nothing since */
	__u32 left_size; /* how much, a record at most; 0 if a handshake was taken on */
	__u32 left_mixed; /* another object was written into before that was sent */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct ws_thread);
} threads SEC(".maps");

/* A goroutine, by the address of its struct g. */
struct ws_goroutine {
	__u64 g;
	__u32 tgid;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, WS_MAX_GOROUTINES);
	__type(key, struct ws_goroutine);
	__type(value, struct ws_thread);
} goroutines SEC(".maps");

enum ws_notice_kind {
	WS_BEGUN = 1, /* execve has been done */
	WS_LOADED = 2, /* the dynamic linker has loaded libraries */
};

struct ws_notice {
	__u32 tgid;
	__u32 kind;
};

/* For who attaches to libraries: rare, and each wakes the reader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, WS_NOTICE_BYTES);
} notices SEC(".maps");

#endif /* WS_MAPS_H */
