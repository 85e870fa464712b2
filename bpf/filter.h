/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who is traced. What a filter rejects produces nothing and counts nowhere. Each
 * of them is gone from the loaded program unless it was asked for.
 */
#ifndef WS_FILTER_H
#define WS_FILTER_H

#include "maps.h"
#include <bpf/bpf_core_read.h>

/* Does the current task pass the filters by process? */
static __always_inline bool is_wanted_task(struct task_struct *task, __u32 tgid)
{
	if (filter_pids && !bpf_map_lookup_elem(&pids, &tgid))
		return false;
	if (filter_comms) {
		struct ws_comm comm = {};

		BPF_CORE_READ_STR_INTO(&comm.name, task, group_leader, comm);
		if (!bpf_map_lookup_elem(&comms, &comm))
			return false;
	}
	if (filter_cgroups) {
		bool found = false;

		for (__u32 i = 0; i < WS_MAX_CGROUPS && i < cgroups_count; i++) {
			if (bpf_current_task_under_cgroup(&cgroups, i) == 1) {
				found = true;
				break;
			}
		}
		if (!found)
			return false;
	}
	return true;
}

static __always_inline bool is_wanted_port(__u16 port)
{
	return bpf_map_lookup_elem(&ports, &port);
}

#endif /* WS_FILTER_H */
