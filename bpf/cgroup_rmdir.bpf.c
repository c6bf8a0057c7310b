// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tp_btf/cgroup_rmdir: forgets the cgroup, and with a pod's last cgroup the
 * pod and its numbers. Runs under cgroup_mutex, one at a time.
 */
#include "numbers.h"
#include "pods.h"

/* Loops in one another, for the verifier follows each turn of a loop. */
#define FEW 16
#define SOME (FEW * 64)

/* What a client has of numbers from there on: those dialled in the netns, and those lent. */
WALK int few_numbers_forget(__u64 client, __u64 netns, __u32 first)
{
	struct handover_key lent = lent_key(client, 0, 0);
	struct number_key key = { .client = client };
	struct destination *found;

	for (int i = 0; i < FEW && first >= NODE_NUMBERS; i++) {
		lent.proxy_port = FIRST_PORT + first + i;
		bpf_map_delete_elem(&handovers, &lent);
	}
	for (int i = 0; i < FEW && first < NODE_NUMBERS; i++) {
		key.number = first + i;
		found = bpf_map_lookup_elem(&destinations, &key);
		if (found && found->netns == netns)
			bpf_map_delete_elem(&destinations, &key);
	}
	return 0;
}

WALK int some_numbers_forget(__u64 client, __u64 netns, __u32 first)
{
	for (int i = 0; i < SOME / FEW; i++) few_numbers_forget(client, netns, first + i * FEW);
	return 0;
}

/*
 * Node mode: forgets the numbers of a pod address (two halves) by which the netns is
 * not known any more. Runs some 2 ms.
 */
WALK int numbers_forget(__u64 ip0, __u64 ip1, __u64 netns)
{
	union addr ip = { .half = { ip0, ip1 } };
	struct pod *pod;

	for (int i = 0; i < (FIRST_STRANGERS_PORT - FIRST_PORT) / SOME; i++) {
		pod = bpf_map_lookup_elem(&pod_ips, &ip);
		if (pod && pod->netns == netns) /* again */
			break;
		some_numbers_forget(client_of(&ip), netns, i * SOME);
	}
	return 0;
}

static __always_inline bool has_numbers(const union addr *ip, __u64 netns)
{
	struct pod *pod = bpf_map_lookup_elem(&pod_ips, ip);

	return pod && pod->netns == netns && pod->numbers;
}

static __always_inline void forget(__u64 id)
{
	struct cgroup_info *entry = bpf_map_lookup_elem(&cgroup_info_map, &id), was;
	bool v4, v6;

	if (!entry)
		return;
	was = *entry;
	v4 = has_numbers(&was.home_ip[V4], was.home);
	v6 = has_numbers(&was.home_ip[V6], was.home);
	cgroup_forget(id);
	if (v4)
		numbers_forget(was.home_ip[V4].half[0], was.home_ip[V4].half[1], was.home);
	if (v6)
		numbers_forget(was.home_ip[V6].half[0], was.home_ip[V6].half[1], was.home);
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_rmdir, struct cgroup *cgroup)
{
	/* Hierarchy 0 is cgroup2. Those of v1 number their cgroups anew. */
	if (BPF_CORE_READ(cgroup, root, hierarchy_id) == 0)
		forget(BPF_CORE_READ(cgroup, kn, id));
	return 0;
}
