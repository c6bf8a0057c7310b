// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tp_btf/cgroup_rmdir: forgets the cgroup, and with a pod's last cgroup the
 * pod and its numbers. Runs under cgroup_mutex, one at a time.
 */
#include "pods.h"

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_rmdir, struct cgroup *cgroup)
{
	/* Hierarchy 0 is cgroup2. Those of v1 number their cgroups anew. */
	if (BPF_CORE_READ(cgroup, root, hierarchy_id) == 0)
		cgroup_forget(BPF_CORE_READ(cgroup, kn, id), true, true);
	return 0;
}
