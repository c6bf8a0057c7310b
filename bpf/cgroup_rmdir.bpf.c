// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tp_btf/cgroup_rmdir: forgets the cgroup, and with a pod's last cgroup the pod. Runs
 * under cgroup_mutex, one at a time, and with interrupts off: the pod's numbers are
 * left to the next exec.
 */
#include "pods.h"

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_rmdir, struct cgroup *cgroup)
{
	__u64 id;

	/* Hierarchy 0 is cgroup2. Those of v1 number their cgroups anew. */
	if (BPF_CORE_READ(cgroup, root, hierarchy_id))
		return 0;
	/* Itself, as a number: the verifier would not take the argument for one. */
	pod_forget((__u64)BPF_CORE_READ(cgroup, self.cgroup));
	id = BPF_CORE_READ(cgroup, kn, id);
	bpf_map_delete_elem(&ztunnels, &id);
	bpf_map_delete_elem(&kubelets, &id);
	cgroup_forget(id);
	return 0;
}
