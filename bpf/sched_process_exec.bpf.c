// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tp_btf/sched_process_exec: every program that starts tells which netns its
 * cgroup lives in, before its first instruction and so before its first
 * connect(). Fills cgroup_info_map and pod_ips; decides nothing. Besides it takes out
 * the numbers of a pod that has gone.
 */
#include "in_pod.h"

WALK int numbers_forget(__u64 netns)
{
	struct number_key key = { .netns = netns };

	for (__u32 set = 0; set < NUMBER_SETS; set++) {
		key.set = set;
		bpf_map_delete_elem(&numbers, &key);
	}
	return 0;
}

SEC("tp_btf/sched_process_exec")
int sched_process_exec(void *ctx)
{
	__u64 netns;

	task_remember((struct task_struct *)bpf_get_current_task());
	/* Unless it is a home again, or a pod's still, whose cgroups a load has not counted. */
	if (is_in_pod_mode() && !bpf_map_pop_elem(&homeless, &netns) &&
	    !bpf_map_lookup_elem(&homes, &netns) && !bpf_map_lookup_elem(&pod_netns, &netns))
		numbers_forget(netns);
	return 0;
}
