/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What user space must know to probe libraries in time: which process runs another program,
 * and which has loaded libraries.
 */
#ifndef WS_NOTICES_H
#define WS_NOTICES_H

#include "filter.h"
#include "socket.h"
#include <bpf/bpf_tracing.h>

#define WS_NOTICE_NS 10000000 /* a process that loads libraries in a loop tells no more often */

/* Should a call of the current task be looked at? */
static __always_inline bool is_wanted_call(struct task_struct *task, __u64 pid_tgid)
{
	if (exclude_self && (__u32)(pid_tgid >> 32) == self_tgid)
		return false;
	return is_wanted_task(task, pid_tgid >> 32);
}

static __always_inline void notify(__u32 tgid, __u32 kind)
{
	struct ws_notice *notice = bpf_ringbuf_reserve(&notices, sizeof(*notice), 0);

	if (!notice) {
		count_lost(WS_LOST_NOTICE);
		return;
	}
	notice->tgid = tgid;
	notice->kind = kind;
	bpf_ringbuf_submit(notice, 0);
}

/* The dynamic linker has loaded libraries, and tells debuggers (glibc elf/dl-debug.c): at
 * the start of a process and at each dlopen and dlclose. */
SEC("uprobe")
int library_loaded(struct pt_regs *ctx)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	struct task_struct *task = bpf_get_current_task_btf();
	__u64 now_ns = bpf_ktime_get_boot_ns();
	struct ws_thread *thread;

	if (!is_wanted_call(task, pid_tgid))
		return 0;
	/* Whoever is told looks once more after that time. */
	thread = bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (thread && now_ns - thread->noticed_ns < WS_NOTICE_NS)
		return 0;
	if (thread)
		thread->noticed_ns = now_ns;
	notify(pid_tgid >> 32, WS_LOADED);
	return 0;
}

/* A process runs another program: one without a dynamic linker tells nothing else. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();

	if (is_wanted_call(task, pid_tgid))
		notify(pid_tgid >> 32, WS_BEGUN);
	return 0;
}

#endif /* WS_NOTICES_H */
