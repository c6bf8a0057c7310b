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
 * Pod address -> struct pod. Written with cgroup_info_map, from homes. Full: a
 * new pod's own connections are still redirected, but not what node programs
 * send it, and stat pods_full counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, union addr);
	__type(value, struct pod);
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
 * Client's socket -> struct dialled. Written by connect and sendmsg, read by
 * sockops, getpeername and recvmsg. Goes with the socket.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct dialled);
} dialled_sockets SEC(".maps") __weak;

/*
 * Socket that the proxy accepted -> struct endpoint: the original destination.
 * Written by sockops, read by getsockopt. Goes with the socket.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct endpoint);
} original_dst SEC(".maps") __weak;

/*
 * struct number_key -> struct destination, see numbers.h. Written by connect, read
 * by sk_lookup, getsockopt and getpeername; nothing is taken out while its pod
 * lives, for a connection may carry the number. In node mode it goes with the pod's
 * last cgroup; besides, what a netns had that is gone is overwritten. Full: a
 * number is lent instead, and stat destinations_full counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct number_key);
	__type(value, struct destination);
} destinations SEC(".maps") __weak;

/*
 * struct handover_key -> struct handover: from the client's socket to the
 * proxy's, for as long as the handshake takes. Written by sockops as the SYN
 * leaves, or by connect where it lends a number; removed when the proxy's socket
 * has it, or the client's has closed; a number that was lent and not asked for,
 * when it is lent again. How many of these a pod may have is bounded, see
 * numbers.h. Never an LRU: full, the newcomer is refused, by the proxy or by
 * connect, and stat handovers_full counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct handover_key);
	__type(value, struct handover);
} handovers SEC(".maps") __weak;

/*
 * struct listeners_key -> struct listeners, in in-pod mode. Written by sockops
 * as ztunnel's sockets begin and cease to listen, read by connect.
 * Full: connect() looks for the listener itself, as for those that are older
 * than the load, and stat listeners_full counts.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, struct listeners_key);
	__type(value, struct listeners);
} ztunnel_listeners SEC(".maps") __weak;

/*
 * Node mode: enum listener_role * FAMILIES + enum family -> the socket in ztunnel's
 * netns that listens so. Written by sockops and `listeners`, read by sk_lookup; the
 * kernel takes out what is closed.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, LISTENER_ROLES *FAMILIES);
	__type(key, __u32);
	__type(value, __u64);
} proxy_sockets SEC(".maps") __weak;

/*
 * socket cookie % JUDGED -> struct judged, for the moment between connect's verdict
 * and the SYN. Written by connect, read by inet_sock_set_state. Not for each CPU: the
 * task may go on on another one.
 */
#define JUDGED 4096
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, JUDGED);
	__type(key, __u32);
	__type(value, struct judged);
} judged SEC(".maps") __weak;

/* One of ztunnel_listeners -> struct listener. Written and read by sockops. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct listener);
} listener_sockets SEC(".maps") __weak;

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

static __always_inline void count(enum counter counter)
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

/* What is noted of the socket with that cookie, or of another; NULL: never. */
static __always_inline struct judged *noted_verdict(__u64 cookie)
{
	__u32 key = cookie % JUDGED;

	return bpf_map_lookup_elem(&judged, &key);
}

#endif
