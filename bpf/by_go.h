/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Go's crypto/tls. Its calls are kept by goroutine, and left at each of their return
 * instructions: a return probe would change a stack that the runtime moves.
 */
#ifndef WS_BY_GO_H
#define WS_BY_GO_H

#include "by_library.h"

/*
 * The descriptor of a tls.Conn on a net.TCPConn: conn is its first field, an interface of
 * which the second word points to the TCPConn; that points to the netFD, which begins with
 * poll.FD, where Sysfd follows 16 bytes of fdMutex (Go src/net/fd_unix.go,
 * src/internal/poll/fd_unix.go). Anything else gives a number that is no descriptor of a TCP
 * socket, or one that the first nested call corrects.
 */
static __always_inline bool read_go_descriptor(__u64 conn, __u64 *fd)
{
	__u64 data = 0, net_fd = 0;

	return !bpf_probe_read_user(&data, sizeof(data), (void *)(conn + 8)) &&
	       !bpf_probe_read_user(&net_fd, sizeof(net_fd), (void *)data) &&
	       !bpf_probe_read_user(fd, sizeof(*fd), (void *)(net_fd + 16)) && *fd <= 0x7fffffff;
}

/*
 * A method of Go's crypto/tls.Conn begins. State is kept by goroutine, which may go on in
 * another thread. Go 1.17, for its register ABI.
 *
 * What is written is passed on at once: one goroutine writes while another reads, and when
 * Write returns the answer may have been read already. So a write that fails is seen too.
 * The probe sits behind the check of the stack, with which a function may begin twice.
 */
SEC("uprobe")
int go_enter(struct pt_regs *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct ws_object object = { .address = GO_ARG0(ctx), .tgid = pid_tgid >> 32 };
	struct ws_goroutine key = { .g = GO_GOROUTINE(ctx), .tgid = object.tgid };
	struct ws_frame call = {
		.object = object.address,
		.buffer = GO_ARG1(ctx),
		.length = GO_ARG2(ctx),
		.call = bpf_get_attach_cookie(ctx),
	};
	struct ws_thread *thread, fresh = {};
	struct ws_socket *stream;
	__u64 fd;

	if (!object.address || !is_wanted_call(task, pid_tgid))
		return 0;
	stream = stream_of(&object, call.call);
	if (stream && !stream->carrier && read_go_descriptor(object.address, &fd))
		bind_descriptor(&object, stream, task, fd);
	call.depth = goroutine_depth(key.g, CALL_STACK(ctx));
	thread = bpf_map_lookup_elem(&goroutines, &key);
	if (!thread) {
		bpf_map_update_elem(&goroutines, &key, &fresh, BPF_ANY);
		thread = bpf_map_lookup_elem(&goroutines, &key);
	}
	if (!thread || !stream) {
		count_lost(WS_LOST_CALL);
		return 0;
	}
	stream->is_go = 1;
	if (call.call == WS_TLS_WRITE)
		ws_pass_on(thread, &call, call.length);
	else
		enter_call(thread, call.depth, &call, object.tgid);
	return 0;
}

/* One of its return instructions is about to run. */
SEC("uprobe")
int go_exit(struct pt_regs *ctx)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct ws_goroutine key = { .g = GO_GOROUTINE(ctx), .tgid = pid_tgid >> 32 };
	struct ws_thread *thread = bpf_map_lookup_elem(&goroutines, &key);

	if (leave_call(thread, goroutine_depth(key.g, CALL_STACK(ctx)), GO_RESULT(ctx))) {
		if (!thread->frames[0].object)
			bpf_map_delete_elem(&goroutines, &key);
	} else if ((__s32)GO_RESULT(ctx) > 0 && bpf_get_attach_cookie(ctx) == WS_TLS_READ &&
		   is_wanted_call(bpf_get_current_task_btf(), pid_tgid)) {
		/* It was under way when it was probed, or the map was too small for all. */
		count_lost(WS_LOST_CALL);
	}
	return 0;
}

#endif /* WS_BY_GO_H */
