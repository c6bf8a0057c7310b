# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bench's samples, of every row in every round, as one document: medians and
# quartiles, ratios to the floors, and the goals with whether they are reached.

def quantile(p): sort | ((length - 1) * p) as $at | ($at | floor) as $low
	| .[$low] + (.[[$low + 1, length - 1] | min] - .[$low]) * ($at - $low);
def spread: { median: quantile(0.5), q1: quantile(0.25), q3: quantile(0.75) };

def metrics: ["connect_p50", "connect_p99", "short", "short2", "cpu", "latency", "throughput",
	"getsockopt"];
def labels: {
	"direct": "direct dial", "iptables": "iptables REDIRECT",
	"nftables": "nftables redirect", "istio": "Istio's in-pod rules",
	"in-pod": "onramp, in-pod mode",
	"direct6": "IPv6 socket, direct", "in-pod6": "onramp, IPv6 socket",
	"v6only": "IPV6_V6ONLY, direct", "in-pod-v6only": "onramp, IPV6_V6ONLY",
	"node-direct": "direct dial", "node-mode": "onramp, node mode",
	"unloaded": "pod, nothing loaded", "idle": "pod, node mode",
	"idle-plain": "  without -t", "idle-in-pod": "pod, in-pod mode",
	"node-unloaded": "node, nothing loaded", "node-idle": "node, node mode" };

# .[row][round]: the sample
(reduce $samples[] as $s ({}; .[$s.row][$s.round | tostring] = $s.sample)) as $of

# Of one row's metric and another's, by rounds.
| def paired(row; other; metric; f): [$of[row] | to_entries[]
	| [.value[metric], $of[other][.key][metric]] | f];
def ratio(row; other; metric): paired(row; other; metric; .[0] / .[1]) | spread;
# What a row adds to the floor, as a part of what the other adds.
def overhead(row; other; floor; metric): [$of[row] | to_entries[]
	| .key as $round | $of[floor][$round][metric] as $least
	| (.value[metric] - $least) / ($of[other][$round][metric] - $least)] | spread;
def at_most(limit): . + { limit: limit, at: "most", reached: (.median <= limit) };
def at_least(limit): . + { limit: limit, at: "least", reached: (.median >= limit) };
def goal(name): { name: name } + .;

{
	date: $date, kernel: $kernel, machine: $cpu, rounds: ($rounds | tonumber),
	ms: ($ms | tonumber), iptables: $iptables, nftables: $nft,
	command: "make bench",
	rows: [labels | to_entries[] | .key as $row | .value as $text
		| ($samples | map(select(.row == $row))) as $mine
		| select($mine | length > 0)
		| { name: $row, label: $text, floor: $mine[0].floor, rounds: ($mine | length) }
		+ (reduce metrics[] as $metric ({}; .[$metric] = ([$mine[].sample[$metric]] | spread)
			+ if $mine[0].floor != "-" then
				{ ratio: ratio($row; $mine[0].floor; $metric) } else {} end))],
	goals: [
		(ratio("in-pod"; "direct"; "connect_p50") | at_most(1.06)
			| goal("in-pod mode: connect(), of the floor's")),
		(ratio("in-pod6"; "direct6"; "connect_p50") | at_most(1.06) | goal("  IPv6")),
		(ratio("in-pod"; "unloaded"; "connect_p50") | at_most(1)
			| goal("  of a direct dial across veth")),
		(overhead("in-pod"; "iptables"; "direct"; "connect_p50") | at_most(0.333)
			| goal("  what it adds, of what iptables adds")),
		(overhead("in-pod"; "nftables"; "direct"; "connect_p50") | at_most(0.333)
			| goal("  what it adds, of what nftables adds")),
		(ratio("in-pod"; "direct"; "cpu") | at_most(1.1)
			| goal("  short connection's CPU time, of the floor's")),
		(ratio("in-pod"; "iptables"; "latency") | at_most(1)
			| goal("  round trip on a long one, of iptables'")),
		(ratio("in-pod"; "nftables"; "latency") | at_most(1)
			| goal("  round trip on a long one, of nftables'")),
		(ratio("in-pod"; "iptables"; "throughput") | at_least(1)
			| goal("  throughput of a long one, of iptables'")),
		(ratio("in-pod"; "nftables"; "throughput") | at_least(1)
			| goal("  throughput of a long one, of nftables'")),
		(ratio("node-mode"; "node-direct"; "connect_p50") | at_most(1.1)
			| goal("node mode: connect(), of its floor's")),
		(ratio("node-mode"; "node-direct"; "cpu") | at_most(1.1)
			| goal("  short connection's CPU time, of its floor's")),
		(ratio("idle"; "unloaded"; "connect_p50") | at_most(1.02)
			| goal("pod not enrolled: connect(), of nothing loaded")),
		(ratio("idle-plain"; "unloaded"; "connect_p50") | at_most(1.02)
			| goal("  without -t")),
		(ratio("idle-in-pod"; "unloaded"; "connect_p50") | at_most(1.02)
			| goal("  in-pod mode")),
		(ratio("node-idle"; "node-unloaded"; "connect_p50") | at_most(1.02)
			| goal("node program: connect(), of nothing loaded")),
		(ratio("idle"; "unloaded"; "getsockopt") | at_most(1.02)
			| goal("other getsockopt(): node mode, of nothing loaded")),
		(ratio("idle-plain"; "unloaded"; "getsockopt") | at_most(1.02)
			| goal("  without -t")),
		(ratio("in-pod"; "direct"; "getsockopt") | at_most(1.02) | goal("  in-pod mode"))
	],
	programs: ($accounted | add),
	instructions: ($instructions | split("\n") | map(select(. != "") | split(" ")
		| { key: .[0], value: (.[1] | tonumber) }) | from_entries),
	samples: $samples
}
