// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tp_btf/cgroup_rmdir: forgets the cgroup, and with a pod's last cgroup the pod. Runs
 * under cgroup_mutex, one at a time, and with interrupts off: the pod's numbers are
 * left to the next exec.
 */
#include "in_pod.h"

/* Whether a netns that was a home is nobody's any more. */
static __always_inline bool is_homeless(const struct cgroup_info *was)
{
	const struct pod_ip *v4 = bpf_map_lookup_elem(&pod_ips, &was->home_ip[V4]);
	const struct pod_ip *v6 = bpf_map_lookup_elem(&pod_ips, &was->home_ip[V6]);

	return (!v4 || v4->holder.netns != was->home) && (!v6 || v6->holder.netns != was->home);
}

static __always_inline void forget(__u64 id)
{
	struct cgroup_info *entry = bpf_map_lookup_elem(&cgroup_info_map, &id), was;

	bpf_map_delete_elem(&ztunnels, &id);
	bpf_map_delete_elem(&kubelets, &id);
	if (!entry)
		return;
	was = *entry;
	cgroup_forget(id);
	if (was.home && is_homeless(&was))
		bpf_map_push_elem(&homeless, &was.home, BPF_EXIST);
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_rmdir, struct cgroup *cgroup)
{
	/* Hierarchy 0 is cgroup2. Those of v1 number their cgroups anew. */
	if (BPF_CORE_READ(cgroup, root, hierarchy_id))
		return 0;
	/* Itself, as a number: the verifier would not take the argument for one. */
	pod_forget((__u64)BPF_CORE_READ(cgroup, self.cgroup));
	forget(BPF_CORE_READ(cgroup, kn, id));
	return 0;
}
