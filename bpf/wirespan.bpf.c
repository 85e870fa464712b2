// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The kernel half of wirespan: copies the first bytes of every transfer over a
 * socket into the ring buffer. It knows no protocol. README.md beside this file
 * has the tables of hooks and maps.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "compat.h"
#include "maps.h"
#include "filter.h"
#include "payload.h"
#include "socket.h"
#include "call.h"
#include "emit.h"
#include "by_socket.h"
#include "by_syscall.h"
#include "by_go.h"
#include "by_library.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* For their types alone, which they bring into the object's BTF, where the loader
 * holds them against its own. */
const struct ws_open *abi_open;
const struct ws_data *abi_data;
const struct ws_peer *abi_peer;
const struct ws_close *abi_close;

static __always_inline struct ws_socket *recall(struct sock *sk, __u64 id)
{
	if (by_syscall)
		return bpf_map_lookup_elem(&sockets_by_id, &id);
	return bpf_sk_storage_get(&sockets, sk, 0, 0);
}

static __always_inline struct ws_socket *remember(struct sock *sk, struct ws_socket *fresh)
{
	if (by_syscall) {
		bpf_map_update_elem(&sockets_by_id, &fresh->cookie, fresh, BPF_ANY);
		return bpf_map_lookup_elem(&sockets_by_id, &fresh->cookie);
	}
	return bpf_sk_storage_get(&sockets, sk, fresh, BPF_SK_STORAGE_GET_F_CREATE);
}

static __always_inline void add_listener(const void *sk)
{
	struct ws_listener listener = { .netns = netns_of(sk), .port = local_port(sk) };
	__u8 yes = 1;

	bpf_map_update_elem(&listeners, &listener, &yes, BPF_ANY);
}

/* connect() begins: the one moment of a client at which the process is known
 * before there is data. The socket may have had a connection before. */
static __always_inline void on_connecting(struct sock *sk, __u64 cookie)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct ws_socket fresh = { .cookie = cookie, .role = WS_CLIENT, .transport = WS_TCP };
	struct ws_socket *socket;

	if (exclude_self && tgid == self_tgid)
		fresh.ignored = 1;
	else if (is_wanted_task(task, tgid))
		fresh.tgid = tgid;
	socket = remember(sk, &fresh);
	if (socket)
		*socket = fresh;
	bpf_map_delete_elem(&verdicts, &cookie);
}

static __always_inline void on_established(struct sock *sk, __u64 cookie, __u8 role)
{
	struct ws_socket *socket = recall(sk, cookie);
	struct ws_socket fresh = { .cookie = cookie, .role = role, .transport = WS_TCP };

	if (!socket)
		socket = remember(sk, &fresh);
	if (!socket)
		return;
	if (socket->turn) {
		/* TCP Fast Open: data has gone out with the SYN */
		if (SOCK_FIELD(sk, sk_protocol) == IPPROTO_TCP)
			socket->position[WS_INGRESS] = TCP_FIELD(sk, copied_seq);
	} else {
		read_positions(sk, socket);
	}
	if (!exclude_self)
		return;
	if (socket->ignored)
		remember_own(sk);
	else if (role == WS_SERVER && is_own_peer(sk))
		socket->ignored = 1;
}

/*
 * Why a connection ended. tcp_reset and tcp_write_err leave the reason in sk_err
 * before the state changes; an established socket that goes straight to CLOSE
 * without one was aborted from this side, with unread data or zero linger, and
 * has sent a RST (RFC 2525 2.17).
 */
static __always_inline __u8 close_reason(const void *sk, int oldstate)
{
	int error = SOCK_FIELD(sk, sk_err);

	if (oldstate == TCP_SYN_SENT)
		return WS_REFUSED;
	switch (error) {
	case ECONNRESET:
	case EPIPE:
		return WS_RESET;
	case ETIMEDOUT:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return WS_TIMED_OUT;
	default:
		break;
	}
	if (oldstate == TCP_ESTABLISHED || oldstate == TCP_CLOSE_WAIT)
		return WS_RESET;
	return WS_CLOSED;
}

/* Has this side's FIN taken a sequence number? */
static __always_inline bool has_sent_fin(int oldstate)
{
	return oldstate == TCP_FIN_WAIT1 || oldstate == TCP_FIN_WAIT2 ||
	       oldstate == TCP_TIME_WAIT || oldstate == TCP_CLOSING || oldstate == TCP_LAST_ACK;
}

static __always_inline void on_closed(struct sock *sk, __u64 cookie, int oldstate)
{
	struct ws_socket *socket = recall(sk, cookie);
	__u8 reason = close_reason(sk, oldstate);

	if (!socket)
		return;
	/* A connection that never came to be has had no transfer to open it. */
	if (oldstate == TCP_SYN_SENT && socket->tgid && !socket->opened && has_wanted_port(sk))
		socket->opened = send_open(socket, sk, NULL, socket->tgid);
	if (trace_tls)
		close_carried(cookie, reason);
	if (socket->opened && !socket->ignored) {
		if (socket->positioned) {
			read_positions(sk, socket);
			socket->position[WS_EGRESS] -= has_sent_fin(oldstate);
		}
		send_close(socket, reason);
	}
	if (by_syscall)
		bpf_map_delete_elem(&sockets_by_id, &cookie);
}

/*
 * Birth and death of TCP sockets, in every network namespace. Mostly runs in
 * softirq, where the current task is whoever was interrupted: only the start of
 * a connect() is sure to run in the caller. Misses AF_UNIX and UDP, whose state
 * does not pass here. Linux 4.16.
 */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int oldstate, int newstate)
{
	__u64 cookie;

	if (transport_of(sk) != WS_TCP)
		return 0;
	switch (newstate) {
	case TCP_LISTEN:
		add_listener(sk);
		return 0;
	case TCP_SYN_SENT:
	case TCP_ESTABLISHED:
	case TCP_CLOSE:
		break;
	default:
		return 0;
	}
	cookie = bpf_get_socket_cookie(sk);
	if (newstate == TCP_SYN_SENT)
		on_connecting(sk, cookie);
	else if (newstate == TCP_CLOSE)
		on_closed(sk, cookie, oldstate);
	else
		on_established(sk, cookie, oldstate == TCP_SYN_SENT ? WS_CLIENT : WS_SERVER);
	return 0;
}

/* Follow: the children of a traced process are traced. Loaded with the pid filter
 * only. */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(sched_process_fork, struct task_struct *parent, struct task_struct *child)
{
	__u32 parent_tgid = parent->tgid;
	__u32 tgid = child->tgid;
	__u8 yes = 1;

	if (tgid != parent_tgid && bpf_map_lookup_elem(&pids, &parent_tgid))
		bpf_map_update_elem(&pids, &tgid, &yes, BPF_ANY);
	return 0;
}

/* A pid may come back as another process. Loaded with the pid filter only. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit, struct task_struct *task)
{
	__u32 tgid = task->tgid;

	if (task->signal->live.counter == 0) /* the last thread */
		bpf_map_delete_elem(&pids, &tgid);
	return 0;
}

/*
 * Sockets that are older than the tracer, in every network namespace: all that
 * some process has open. Misses what waits in an accept queue or in an SCM_RIGHTS
 * message; such a socket is met at its first transfer. Linux 5.8, and 5.11 for
 * bpf_sock_from_file.
 *
 * Two programs, since a connection's role depends on all the listeners.
 */
SEC("iter/task_file")
int find_listeners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;

	self_tgid = bpf_get_current_pid_tgid() >> 32;
	pending_offset = RINGBUF_PENDING_OFFSET;
	if (!file || !task)
		return 0;
	socket = bpf_sock_from_file(file);
	sk = socket ? socket->sk : NULL;
	if (!sk || transport_of(sk) != WS_TCP)
		return 0;
	if (sk->__sk_common.skc_state == TCP_LISTEN)
		add_listener(sk);
	else if (exclude_self && (__u32)task->tgid == self_tgid)
		remember_own(sk);
	return 0;
}

SEC("iter/task_file")
int find_sockets(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct ws_socket fresh = {};
	struct socket *socket;
	__u8 transport, state;
	struct sock *sk;

	if (!file || !task)
		return 0;
	socket = bpf_sock_from_file(file);
	sk = socket ? socket->sk : NULL;
	if (!sk)
		return 0;
	transport = transport_of(sk);
	state = sk->__sk_common.skc_state;
	if (!transport || (transport == WS_TCP && (state == TCP_LISTEN || state == TCP_CLOSE)))
		return 0;
	fresh.cookie = bpf_get_socket_cookie(sk);
	if (by_syscall)
		fresh.cookie = identity_of(sk);
	if (recall(sk, fresh.cookie))
		return 0;
	describe(sk, transport, -1, &fresh);
	if (transport == WS_TCP && exclude_self && (__u32)task->tgid == self_tgid)
		fresh.ignored = 1;
	remember(sk, &fresh);
	return 0;
}
