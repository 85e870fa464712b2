/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is known of a socket: identity, addresses, role, state. Nothing here is on
 * the path of every transfer, so fields are read by copy, which works on any
 * pointer, be it one the verifier trusts or one found by walking.
 */
#ifndef WS_SOCKET_H
#define WS_SOCKET_H

#include "maps.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define SOCK_FIELD(sk, ...) BPF_CORE_READ((const struct sock *)(sk), __VA_ARGS__)
#define COMMON_FIELD(sk, field) SOCK_FIELD(sk, __sk_common.field)
#define TCP_FIELD(sk, field) BPF_CORE_READ((const struct tcp_sock *)(sk), field)

static __always_inline __u8 transport_from(__u16 family, __u16 type, __u16 protocol)
{
	if (family == AF_INET || family == AF_INET6) {
		/* MPTCP carries a byte stream between the same addresses. */
		if (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
			return WS_TCP;
		if (protocol == IPPROTO_UDP)
			return WS_UDP;
		return 0;
	}
	return family == AF_UNIX && type == SOCK_STREAM ? WS_UNIX : 0;
}

static __always_inline __u8 transport_of(const void *sk)
{
	return transport_from(COMMON_FIELD(sk, skc_family), SOCK_FIELD(sk, sk_type),
			      SOCK_FIELD(sk, sk_protocol));
}

/*
 * The identity of a socket that only a walked pointer names: the cookie, which
 * every TCP socket has been given by inet_sock_set_state or by the start-up
 * iterator; elsewhere the inode of its file, since others may give a socket a
 * cookie in the middle of its life. The top bit keeps the two apart.
 */
static __always_inline __u64 identity_of(const void *sk)
{
	__u64 cookie = 0;

	if (transport_of(sk) == WS_TCP)
		cookie = COMMON_FIELD(sk, skc_cookie.counter);
	if (!cookie)
		cookie = (__u64)SOCK_FIELD(sk, sk_socket, file, f_inode, i_ino) | 1ULL << 63;
	return cookie;
}

static __always_inline void mapped_address(__u8 *to, __be32 address)
{
	if (address) {
		*(__u16 *)(to + 10) = 0xffff;
		__builtin_memcpy(to + 12, &address, 4);
	}
}

static __always_inline void read_addresses(const void *sk, __u8 *local, __u8 *remote)
{
	__builtin_memset(local, 0, 16);
	__builtin_memset(remote, 0, 16);
	if (COMMON_FIELD(sk, skc_family) == AF_INET) {
		mapped_address(local, COMMON_FIELD(sk, skc_rcv_saddr));
		mapped_address(remote, COMMON_FIELD(sk, skc_daddr));
	} else if (bpf_core_field_exists(((struct sock_common *)0)->skc_v6_daddr)) {
		BPF_CORE_READ_INTO((__u8(*)[16])local, (const struct sock *)sk,
				   __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32);
		BPF_CORE_READ_INTO((__u8(*)[16])remote, (const struct sock *)sk,
				   __sk_common.skc_v6_daddr.in6_u.u6_addr32);
	}
}

/* The local port; skc_num is 0 again once the socket has left the hash tables. */
static __always_inline __u16 local_port(const void *sk)
{
	__u16 port = COMMON_FIELD(sk, skc_num);

	return port ? port : bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
}

static __always_inline __u16 remote_port(const void *sk)
{
	return bpf_ntohs(COMMON_FIELD(sk, skc_dport));
}

static __always_inline void read_tuple(const void *sk, struct ws_tuple *tuple)
{
	read_addresses(sk, tuple->local, tuple->remote);
	tuple->local_port = local_port(sk);
	tuple->remote_port = remote_port(sk);
}

/* Remember a connection of the tracer, so that its other end on this host can be
 * told when it shows. */
static __always_inline void remember_own(const void *sk)
{
	struct ws_tuple tuple;
	__u8 yes = 1;

	read_tuple(sk, &tuple);
	bpf_map_update_elem(&own, &tuple, &yes, BPF_ANY);
}

/* Is the tracer at the other end? */
static __always_inline bool is_own_peer(const void *sk)
{
	struct ws_tuple tuple, other;

	read_tuple(sk, &tuple);
	__builtin_memcpy(other.local, tuple.remote, 16);
	__builtin_memcpy(other.remote, tuple.local, 16);
	other.local_port = tuple.remote_port;
	other.remote_port = tuple.local_port;
	return bpf_map_lookup_elem(&own, &other);
}

/* The address that listens is the one with a name; both ends of a pair, and a
 * client that has bound itself, leave it open. */
static __always_inline __u8 unix_role(const void *sk)
{
	const struct unix_sock *this = sk;
	const struct unix_sock *peer = (const void *)BPF_CORE_READ(this, peer);
	bool named = BPF_CORE_READ(this, addr);
	bool peer_named = peer && BPF_CORE_READ(peer, addr);

	if (named == peer_named)
		return WS_ROLE_UNKNOWN;
	return named ? WS_SERVER : WS_CLIENT;
}

static __always_inline void read_unix_path(const void *sk, __u8 role, char *path)
{
	const struct unix_sock *end = sk;
	const struct unix_address *address;
	int length;

	if (role == WS_CLIENT)
		end = (const void *)BPF_CORE_READ(end, peer);
	address = BPF_CORE_READ(end, addr);
	if (!address)
		return;
	length = BPF_CORE_READ(address, len) - (int)sizeof(unsigned short);
	if (length <= 0)
		return;
	if (length > WS_PATH_SIZE)
		length = WS_PATH_SIZE;
	bpf_probe_read_kernel(path, length, address->name[0].sun_path);
}

/*
 * The sequence number one past the latest byte of a direction.
 *
 * copied_seq steps over the FIN too, as soon as a read has met it: rcv_nxt is
 * past the FIN, and SOCK_DONE says that there was one (tcp_fin).
 */
static __always_inline __u32 received_to(__u32 copied, __u32 next, unsigned long sock_flags)
{
	return copied - (copied == next && (sock_flags & (1UL << SOCK_DONE)));
}

/* Whether the kernel does TLS for a socket that has an upper layer protocol (net/tls). */
static __always_inline bool has_kernel_tls(const void *sk)
{
	char name[4] = {};

	bpf_probe_read_kernel(name, sizeof(name),
			      TCP_FIELD(sk, inet_conn.icsk_ulp_ops) ?
				      (const void *)TCP_FIELD(sk, inet_conn.icsk_ulp_ops)->name :
				      NULL);
	return name[0] == 't' && name[1] == 'l' && name[2] == 's' && !name[3];
}

static __always_inline void read_positions(const void *sk, struct ws_socket *socket)
{
	if (SOCK_FIELD(sk, sk_protocol) != IPPROTO_TCP)
		return;
	socket->position[WS_EGRESS] = TCP_FIELD(sk, write_seq);
	socket->position[WS_INGRESS] = received_to(
		TCP_FIELD(sk, copied_seq), TCP_FIELD(sk, rcv_nxt), COMMON_FIELD(sk, skc_flags));
	socket->positioned = 1;
}

static __always_inline __u32 netns_of(const void *sk)
{
	return SOCK_FIELD(sk, __sk_common.skc_net.net, ns.inum);
}

/* &socket->position[direction], in a form that clang does not turn into a bitwise
 * operation on a pointer, which the verifier refuses. */
static __always_inline __u32 *position_of(struct ws_socket *socket, __u32 direction)
{
	return direction == WS_EGRESS ? &socket->position[WS_EGRESS] :
					&socket->position[WS_INGRESS];
}

/* The role of a TCP socket whose set-up was not seen. */
static __always_inline __u8 late_role(const void *sk)
{
	struct ws_listener listener = { .netns = netns_of(sk), .port = local_port(sk) };

	return bpf_map_lookup_elem(&listeners, &listener) ? WS_SERVER : WS_CLIENT;
}

/*
 * Fill in a socket that was not known. `direction` is that of its first transfer,
 * or -1 if the iterator met it.
 */
static __always_inline void describe(const void *sk, __u8 transport, int direction,
				     struct ws_socket *socket)
{
	socket->transport = transport;
	if (transport == WS_TCP) {
		socket->late = 1;
		socket->role = late_role(sk);
		socket->ignored = exclude_self && is_own_peer(sk);
		read_positions(sk, socket);
		return;
	}
	socket->late = direction < 0;
	if (transport == WS_UNIX)
		socket->role = unix_role(sk);
	else if (remote_port(sk))
		socket->role = WS_CLIENT;
	else if (direction >= 0)
		/* who sends first without having been asked is the client */
		socket->role = direction == WS_EGRESS ? WS_CLIENT : WS_SERVER;
}

static __always_inline void count_lost(__u32 kind)
{
	__u64 *number = bpf_map_lookup_elem(&lost, &kind);

	if (number)
		*number += 1;
}

/* Send the open record. Without a task, the process is named by its tgid alone.
 * Returns false if there is no room. */
static __always_inline bool send_open(struct ws_socket *socket, const void *sk,
				      struct task_struct *task, __u32 tgid)
{
	struct ws_open *open = bpf_ringbuf_reserve(&events, sizeof(*open), 0);

	if (!open) {
		count_lost(WS_LOST_OPEN);
		return false;
	}
	__builtin_memset(open, 0, sizeof(*open));
	open->type = WS_OPEN;
	open->role = socket->role;
	open->transport = socket->transport;
	open->flags = (socket->late ? WS_LATE : 0) | (socket->inner ? WS_INNER : 0);
	open->tgid = tgid;
	open->cookie = socket->cookie;
	open->timestamp_ns = bpf_ktime_get_boot_ns();
	open->carrier = socket->carrier;
	open->egress_position = socket->position[WS_EGRESS];
	open->ingress_position = socket->position[WS_INGRESS];
	if (task) {
		open->process_start_ns = BPF_CORE_READ(task, group_leader, start_boottime);
		open->cgroup_id = bpf_get_current_cgroup_id();
		BPF_CORE_READ_STR_INTO(&open->comm, task, group_leader, comm);
	}
	if (socket->inner) /* the socket's own record says the rest */
		goto out;
	open->netns = netns_of(sk);
	if (socket->transport == WS_UNIX) {
		read_unix_path(sk, socket->role, open->path);
	} else {
		read_addresses(sk, open->local, open->remote);
		open->local_port = local_port(sk);
		open->remote_port = remote_port(sk);
	}
out:
	bpf_ringbuf_submit(open, BPF_RB_NO_WAKEUP);
	return true;
}

/* Send the close record of what has had an open one. */
static __always_inline void send_close(struct ws_socket *socket, __u8 reason)
{
	struct ws_close *close;

	socket->opened = 0;
	close = bpf_ringbuf_reserve(&events, sizeof(*close), 0);
	if (!close) {
		count_lost(WS_LOST_CLOSE);
		return;
	}
	close->type = WS_CLOSE;
	close->reason = reason;
	close->pad = 0;
	close->turns = socket->turn >> 1;
	close->cookie = socket->cookie;
	close->timestamp_ns = bpf_ktime_get_boot_ns();
	close->egress_position = socket->position[WS_EGRESS];
	close->ingress_position = socket->position[WS_INGRESS];
	bpf_ringbuf_submit(close, BPF_RB_NO_WAKEUP);
}

#endif /* WS_SOCKET_H */
