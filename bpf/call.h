/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The system call behind a transfer: where its arguments say that the bytes are.
 */
#ifndef WS_CALL_H
#define WS_CALL_H

#include "maps.h"
#include "payload.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

enum ws_shape {
	WS_NO_CALL = 0,
	WS_BUFFER, /* argument 1 is the buffer, 2 its length */
	WS_VECTOR, /* argument 1 is an array of iovec, 2 its length */
	WS_MESSAGE, /* argument 1 is a msghdr */
	WS_MESSAGES, /* argument 1 is an array of mmsghdr, 2 its length */
	WS_NO_BUFFER, /* no argument names the bytes; see ws_call.cause */
};

struct ws_call {
	__u32 nr;
	__u8 shape;
	__u8 direction; /* of what the call does to the descriptor in argument 0 */
	__u8 cause; /* of the gap, if the shape is WS_NO_BUFFER */
	__u8 named; /* the call has an argument for the other end's address */
};

/* Where the bytes of one transfer are, and who is at the other end. */
struct ws_place {
	__u64 vector; /* array of iovec, or the buffer itself */
	__u64 count; /* of iovecs, or the length of the buffer */
	__u64 name; /* sockaddr, 0 if none */
	__u32 name_length;
	bool is_buffer;
	__u8 pad[3];
};

static __always_inline struct ws_call call_of(__s32 nr)
{
	struct ws_call call = { .nr = nr };

	switch (nr) {
	case NR_recvfrom:
		call.named = 1;
		/* fall through */
	case NR_read:
		call.shape = WS_BUFFER;
		call.direction = WS_INGRESS;
		break;
	case NR_sendto:
		call.named = 1;
		/* fall through */
	case NR_write:
		call.shape = WS_BUFFER;
		call.direction = WS_EGRESS;
		break;
	case NR_readv:
	case NR_preadv2: /* with offset -1, the only one a socket takes */
		call.shape = WS_VECTOR;
		call.direction = WS_INGRESS;
		break;
	case NR_writev:
	case NR_pwritev2:
		call.shape = WS_VECTOR;
		call.direction = WS_EGRESS;
		break;
	case NR_recvmsg:
		call.shape = WS_MESSAGE;
		call.direction = WS_INGRESS;
		break;
	case NR_sendmsg:
		call.shape = WS_MESSAGE;
		call.direction = WS_EGRESS;
		break;
	case NR_recvmmsg:
		call.shape = WS_MESSAGES;
		call.direction = WS_INGRESS;
		break;
	case NR_sendmmsg:
		call.shape = WS_MESSAGES;
		call.direction = WS_EGRESS;
		break;
	case NR_sendfile:
		call.shape = WS_NO_BUFFER;
		call.direction = WS_EGRESS;
		call.cause = WS_SENDFILE;
		break;
	case NR_splice:
	case NR_tee:
	case NR_vmsplice:
		call.shape = WS_NO_BUFFER;
		call.direction = WS_EGRESS;
		call.cause = WS_SPLICE;
		break;
	case NR_io_uring_enter:
		call.shape = WS_NO_BUFFER;
		call.cause = WS_IO_URING;
		break;
	default:
		break;
	}
	return call;
}

/* The struct file behind a descriptor of the current task, 0 if there is none. */
static __always_inline __u64 file_of(struct task_struct *task, __u64 fd)
{
	struct fdtable *table = task->files->fdt;
	__u64 file = 0;

	if (fd >= table->max_fds)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), (void *)((__u64)table->fd + fd * sizeof(file)));
	return file;
}

/* The sock behind a descriptor, 0 if it is none. */
static __always_inline __u64 sock_of(struct task_struct *task, __u64 fd)
{
	struct file *file = (void *)file_of(task, fd);
	struct socket *socket;

	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	return (__u64)BPF_CORE_READ(socket, sk);
}

static __always_inline bool place_of_message(struct ws_place *place, __u64 address)
{
	struct ws_msghdr header;

	if (bpf_probe_read_user(&header, sizeof(header), (void *)address))
		return false;
	place->vector = header.vector;
	place->count = header.count;
	place->name = header.name;
	place->name_length = header.name_length;
	place->is_buffer = false;
	return header.count <= UIO_MAXIOV;
}

/* Read a sockaddr of user memory. */
static __always_inline bool read_peer(struct ws_peer *peer, __u64 name, __u32 length)
{
	struct {
		__u16 family;
		__be16 port;
		__be32 address4;
		__u8 address6[16];
	} sockaddr = {};

	if (!name || length < 16)
		return false;
	if (bpf_probe_read_user(&sockaddr, length < sizeof(sockaddr) ? 16 : sizeof(sockaddr),
				(void *)name))
		return false;
	__builtin_memset(peer, 0, sizeof(*peer));
	peer->port = bpf_ntohs(sockaddr.port);
	if (sockaddr.family == AF_INET) {
		*(__u16 *)(peer->address + 10) = 0xffff;
		__builtin_memcpy(peer->address + 12, &sockaddr.address4, 4);
		return true;
	}
	__builtin_memcpy(peer->address, sockaddr.address6, 16);
	return sockaddr.family == AF_INET6;
}

#endif /* WS_CALL_H */
