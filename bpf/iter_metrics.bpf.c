// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/bpf_map: the metrics file, in Prometheus' text format. Maps are only
 * what this kind of iterator counts off, and it needs no map to attach to, so
 * that bpftool's autoattach will do; all is printed at the first one.
 */
#include "maps.h"

/* Global, both: the verifier follows them once, not for each CPU and line. */
__weak __noinline __u64 count_at(__u32 cpu, __u64 stat)
{
	struct stats *stats_of_cpu;

	if (stat >= STATS)
		return 0;
	stats_of_cpu = bpf_map_lookup_elem(&stats, &cpu);
	return stats_of_cpu ? stats_of_cpu->count[stat] : 0;
}

__weak __noinline __u64 sum(__u32 stat)
{
	__u64 sum = 0;

	for (int cpu = 0; cpu < STATS_CPUS; cpu++) sum += count_at(cpu, stat);
	return sum;
}

#define FAMILY(name, help)                                                                         \
	BPF_SEQ_PRINTF(seq, "# HELP onramp_" name " " help "\n# TYPE onramp_" name " counter\n")
#define SAMPLE(name, labels, stat) BPF_SEQ_PRINTF(seq, "onramp_" name labels " %llu\n", sum(stat))
#define CONNECTS(verdict, reason, stat)                                                            \
	SAMPLE("connects_total", "{verdict=\"" verdict "\",reason=\"" reason "\"}", stat)

SEC("iter/bpf_map")
int metrics(struct bpf_iter__bpf_map *ctx)
{
	struct seq_file *seq = ctx->meta->seq;

	if (ctx->meta->seq_num)
		return 0;

	FAMILY("connects_total", "TCP connect() calls by verdict.");
	CONNECTS("redirected", "outbound", TO_OUTBOUND);
	CONNECTS("redirected", "inbound", TO_INBOUND);
	CONNECTS("redirected", "hbone", TO_HBONE);
	CONNECTS("redirected", "dns", TO_DNS);
	CONNECTS("refused", "no_ztunnel", REFUSE_NO_ZTUNNEL);
	CONNECTS("refused", "unreachable", REFUSE_UNREACHABLE);
	CONNECTS("refused", "itself", REFUSE_ITSELF);
	CONNECTS("refused", "failed", REFUSE_FAILED);
	CONNECTS("refused", "no_rule", REFUSE_UNRULED);
	CONNECTS("passed", "no_ztunnel", PASS_NO_ZTUNNEL);
	CONNECTS("passed", "ztunnel", PASS_ZTUNNEL);
	CONNECTS("passed", "local", PASS_LOCAL);
	CONNECTS("passed", "bypass", PASS_BYPASSED);
	CONNECTS("passed", "not_enrolled", PASS_NOT_ENROLLED);
	CONNECTS("passed", "node", PASS_NODE);

	FAMILY("dns_queries_total", "DNS queries by UDP, or UDP sockets connected for them.");
	SAMPLE("dns_queries_total", "{verdict=\"redirected\"}", STAT_QUERY);
	SAMPLE("dns_queries_total", "{verdict=\"refused\"}", STAT_QUERY_REFUSED);
	SAMPLE("dns_queries_total", "{verdict=\"passed\"}", STAT_QUERY_PASSED);

	FAMILY("handovers_total", "Connections that the proxy accepted.");
	SAMPLE("handovers_total", "{result=\"handed_over\"}", STAT_HANDED_OVER);
	SAMPLE("handovers_total", "{result=\"not_redirected\"}", STAT_NOT_HANDED);
	SAMPLE("handovers_total", "{result=\"lost\"}", STAT_LOST);

	FAMILY("arrivals_total", "TCP connections to enrolled pods, in in-pod mode.");
	SAMPLE("arrivals_total", "{verdict=\"redirected\",reason=\"outbound\"}", ARRIVED_OUTBOUND);
	SAMPLE("arrivals_total", "{verdict=\"redirected\",reason=\"inbound\"}", ARRIVED_INBOUND);
	SAMPLE("arrivals_total", "{verdict=\"redirected\",reason=\"hbone\"}", ARRIVED_HBONE);
	SAMPLE("arrivals_total", "{verdict=\"refused\",reason=\"refused\"}", ARRIVED_REFUSED);
	SAMPLE("arrivals_total", "{verdict=\"passed\",reason=\"probe\"}", ARRIVED_PROBE);
	SAMPLE("arrivals_total", "{verdict=\"passed\",reason=\"bypass\"}", ARRIVED_BYPASSED);

	FAMILY("map_full_total", "Entries that found no room.");
	SAMPLE("map_full_total", "{map=\"cgroup_info_map\"}", STAT_CGROUPS_FULL);
	SAMPLE("map_full_total", "{map=\"pod_ips\"}", STAT_PODS_FULL);
	SAMPLE("map_full_total", "{map=\"handovers\"}", STAT_HANDOVERS_FULL);
	SAMPLE("map_full_total", "{map=\"numbers\"}", STAT_NUMBERS_FULL);
	SAMPLE("map_full_total", "{map=\"listeners\"}", STAT_LISTENERS_FULL);
	SAMPLE("map_full_total", "{map=\"probes\"}", STAT_PROBES_FULL);
	SAMPLE("map_full_total", "{map=\"uid_netns\"}", STAT_UIDS_FULL);
	SAMPLE("map_full_total", "{map=\"pod_events\"}", STAT_EVENTS_LOST);

	FAMILY("escaped_total", "Connections of enrolled pods without a verdict.");
	SAMPLE("escaped_total", "", STAT_ESCAPED);
	FAMILY("cache_misses_total", "Connects that read their netns' devices.");
	SAMPLE("cache_misses_total", "", STAT_CACHE_MISS);
	FAMILY("doubts_total", "Of these, netns too large to be read whole.");
	SAMPLE("doubts_total", "", STAT_DOUBT);
	return 0;
}
