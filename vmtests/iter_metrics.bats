#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# iter_metrics: valid Prometheus text, and no lost counts.

load helpers.bash

setup_file() {
	node_up metrics
	ztunnel_up
	pod_up client 10.77.1.2
	node_mode -e 10.77.1.0/24
}

teardown_file() {
	node_down
}

@test "HELP and TYPE before each family's samples, each sample once" {
	run -0 awk '
		/^# HELP onramp_[a-z_]+ .+\.$/ { helped[$3] = 1; next }
		/^# TYPE onramp_[a-z_]+ counter$/ {
			if (!helped[$3] || typed[$3]) exit 1
			typed[$3] = 1; family = $3; next
		}
		/^onramp_[a-z_]+(\{([a-z]+="[a-z_0-9]+",?)+\})? [0-9]+$/ {
			name = $1; sub(/\{.*/, "", name)
			if (name != family || seen[$1]++) exit 2
			samples++; next
		}
		{ print "bad line: " $0; exit 3 }
		END { if (samples < 15) exit 4; print samples }' "$PIN/metrics"
}

@test "connects add up to those made, on all CPUs at once" {
	sum() { awk '/^onramp_connects_total/ { n += $2 } END { print n + 0 }' "$PIN/metrics"; }
	before=$(sum)
	for i in 1 2 3 4; do
		pod client "$TCP" dial 10.77.2.2 80 250 >"$WORK/$i" 3>&- &
	done
	wait
	is "$(cat "$WORK"/[1-4] | grep -c 'orig4=10.77.2.2:80 ')" 1000
	is "$(sum)" $((before + 1000))
	is "$(connects redirected outbound)" 1000
}
