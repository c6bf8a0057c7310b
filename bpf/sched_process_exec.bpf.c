// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tp_btf/sched_process_exec: every program that starts tells which netns its
 * cgroup lives in, before its first instruction and so before its first
 * connect(). Fills cgroup_info_map and pod_ips; decides nothing.
 */
#include "pods.h"

SEC("tp_btf/sched_process_exec")
int sched_process_exec(void *ctx)
{
	task_remember((struct task_struct *)bpf_get_current_task());
	return 0;
}
