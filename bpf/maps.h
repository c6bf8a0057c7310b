/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps. Their keys and values are in onramp.h; each definition is __weak,
 * for every hook's file brings it along and the linker keeps one.
 */
#ifndef ONRAMP_MAPS_H
#define ONRAMP_MAPS_H

#include "onramp.h"
#include "kernel.h"

/*
 * 0 -> struct settings. Written by the loader or `bpftool map update`, read by
 * every hook. A hash and not an array, for an update then swaps the whole
 * entry: no connect() sees half of the old address and half of the new.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps") __weak;

/*
 * cgroup id -> struct cgroup_info. Written by exec, iter/task and connect(),
 * removed by cgroup_rmdir. A cache: full, connect() reads the devices of the
 * netns each time, and stat cgroups_full counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct cgroup_info);
} cgroup_info_map SEC(".maps") __weak;

/*
 * Address of a struct net -> struct netns_info: for who is in many netns, ztunnel and
 * what arrives, where a cgroup's entry would change each time. Written and read by
 * inbound and getpeername. A cache: full, the oldest is read from its devices again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2048);
	__type(key, __u64);
	__type(value, struct netns_info);
} netns_cache SEC(".maps") __weak;

/*
 * Pod address -> struct pod_ip. Written with cgroup_info_map, from homes. Full: a
 * new pod's own connections are still redirected, but not what node programs
 * send it, and stat pods_full counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, union addr);
	__type(value, struct pod_ip);
} pod_ips SEC(".maps") __weak;

/*
 * struct prefix -> RULE_IN or RULE_OUT: which pods are enrolled. Written by
 * the loader or `bpftool map update`. Full: the update fails with ENOSPC.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, struct prefix);
	__type(value, __u32);
} mesh_rules SEC(".maps") __weak;

/*
 * struct prefix -> RULE_BYPASS: destinations that are never redirected. Else
 * as mesh_rules; another value takes a part of a wider prefix back out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, struct prefix);
	__type(value, __u32);
} bypass_rules SEC(".maps") __weak;

/*
 * cgroup id -> struct ztunnel: whose programs are ztunnel's. Written by the loader and
 * onramp-zds, which then write settings.ztunnels; by hand, which leaves 0 there. An entry
 * goes with its cgroup. Full: the loader says so.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ZTUNNELS);
	__type(key, __u64);
	__type(value, struct ztunnel);
} ztunnels SEC(".maps") __weak;

/*
 * cgroup id -> 1: whose node programs are never captured. Written by the loader.
 * Full: the loader says so.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u32);
} kubelets SEC(".maps") __weak;

/*
 * union uid -> bits of enum pod_rule: of pods that may have no address yet. Written
 * by the loader and onramp-zds. Full: the update fails with E2BIG.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, union uid);
	__type(value, __u32);
} mesh_pods SEC(".maps") __weak;

/*
 * netns (as netns_info.netns) -> struct pod_netns, and union uid -> struct uid_netns:
 * which pod a netns is of, one of each. Written by exec and iter/task, removed with the
 * pod's cgroup; see uids.h. Full: connect() asks the caller's cgroup, onramp-zds never
 * tells ztunnel of the pod, and stat uids_full counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct pod_netns);
} pod_netns SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, union uid);
	__type(value, struct uid_netns);
} uid_netns SEC(".maps") __weak;

/*
 * struct pod_event, for onramp-zds: a pod has a netns of its own, or is gone. Written by
 * exec, iter/task and cgroup_rmdir. Full: stat events_lost counts, and it looks itself.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} pod_events SEC(".maps") __weak;

/*
 * Client's socket -> struct dialled, where no number carries the destination.
 * Written by connect and sendmsg, read by sockops, getpeername, getsockname and
 * recvmsg. Goes with the socket.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct dialled);
} dialled_sockets SEC(".maps") __weak;

/*
 * Socket that the proxy accepted -> struct endpoint: the original destination.
 * Written by sockops and getpeername, read by getsockopt and getpeername. Goes with
 * the socket.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct endpoint);
} original_dst SEC(".maps") __weak;

/*
 * A connection of ztunnel's to an app, then the app's end of it -> whom ztunnel asked to
 * be seen as. Written by bind and getpeername, read by getpeername. Goes with the socket.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, union addr);
} clients SEC(".maps") __weak;

/*
 * struct handover_key -> struct endpoint: from the client's socket to the proxy's,
 * for as long as the handshake takes. Written by sockops as the SYN leaves; removed
 * when the proxy's socket has it, or the client's has closed. Each entry is held by
 * a socket in its handshake, which takes twenty times the memory and from the
 * client's own pod. Full: the proxy gets an error, and stat handovers_full counts;
 * not an LRU, where one pod could throw out another's.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 524288);
	__type(key, struct handover_key);
	__type(value, struct endpoint);
} handovers SEC(".maps") __weak;

/*
 * struct number_key -> struct number_set, see in_pod.h. Written by connect and
 * getpeername, read by getsockopt and getsockname besides; removed by an exec after
 * the netns is no cgroup's home and no pod's any more. A pod has NUMBER_SETS entries at
 * most. Full: the destination is looked up by socket, and stat numbers_full counts.
 */
struct number_set {
	struct bpf_spin_lock lock;
	__u32 pad;
	struct way way[WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct number_key);
	__type(value, struct number_set);
} numbers SEC(".maps") __weak;

/*
 * netns (as netns_info.netns) -> struct home: how many cgroups have it as their home, whoever
 * holds its addresses in pod_ips. Written with cgroup_info_map, which is full before this.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct home);
} homes SEC(".maps") __weak;

/*
 * netns (as netns_info.netns) that are no home any more, whose numbers are still there.
 * Written as homes' entry goes, and as pod_netns' does; read by exec. Full: the oldest's
 * numbers stay, unused.
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 32768);
	__type(value, __u64);
} homeless SEC(".maps") __weak;

/*
 * CPU number modulo STATS_CPUS -> struct stats. Written by every hook, always
 * by atomic addition: CPUs may share an entry and a softirq may interrupt.
 * Not a per-CPU map: before 5.19 BPF cannot read another CPU's values, and
 * the metrics file is made in BPF.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STATS_CPUS);
	__type(key, __u32);
	__type(value, struct stats);
} stats SEC(".maps") __weak;

static __always_inline void count(__u32 counter)
{
	__u32 cpu = bpf_get_smp_processor_id() % STATS_CPUS;
	struct stats *stats_of_cpu = bpf_map_lookup_elem(&stats, &cpu);

	if (stats_of_cpu)
		__sync_fetch_and_add(&stats_of_cpu->count[counter], 1);
}

/* The settings, or NULL while nothing is to be redirected. */
static __always_inline const struct settings *current_settings(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&settings, &key);
}

static __always_inline bool is_in_pod_mode(void)
{
	const struct settings *cfg = current_settings();

	return cfg && cfg->mode == IN_POD_MODE;
}

#endif
