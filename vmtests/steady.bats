#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native,alone
# 2,000 connections a second, out of four pods, through two ztunnels in turn, for as long
# as you like: `make steady` takes 10 minutes (STEADY_MINUTES). What onramp has of memory,
# in the kernel and out of it, is at the end what it was when each had had its turn.
#
# These ztunnels are two programs each, for speed: one that onramp-zds tells of pods, and
# for each pod one that listens there and answers what it was asked for.

load helpers.bash
load mesh.bash
load zds.bash
load zds_peers.bash

SECONDS_STEADY=${STEADY_MINUTES:+$((STEADY_MINUTES * 60))}
SECONDS_STEADY=${SECONDS_STEADY:-12}
TURN=$((SECONDS_STEADY / 12))
PODS=(a b c d)
DESTINATIONS=(10.77.2.2 80 fd00:77::22 80 10.77.2.2 443 fd00:77::22 443)

setup_file() {
	zds_node_up steady
	mkdir "$CG/kubelet"
	zds_load -k "$CG/kubelet"
	for n in 1 2; do
		kpod_up "zt$n" "10.77.0.$((7 + n))"
		is_ztunnel "zt$n"
	done
	for n in 0 1 2 3; do kpod_up "${PODS[n]}" "10.77.1.$((n + 1))" $((n + 1)); done
	zds_up
	for pod in "${PODS[@]}"; do workload "$pod"; done
}

teardown_file() {
	zds_node_down
}

# A ztunnel begins; when it has been told of all, the one before ends.
turn_to() { # N
	local cgroup pod
	for pod in "${PODS[@]}"; do
		cgroup_of "zt$1/$pod"
		mkdir -p "$CG/$cgroup"
		launch "$WORK/zt$1-$pod" run_in "zt$1/$pod" "$pod" "$TCP" share :: 15001 15006 15008
	done
	peer "zt$1" "zt$1" hello serve
	told "zt$1" ^snapshot
	enabled "${PODS[@]}"
	sleep 1 # what had come to the one before is done
	peers_end "zt$((3 - $1))"
	for pod in "${PODS[@]}"; do
		cgroup_of "zt$((3 - $1))/$pod"
		cgroup_end "$CG/$cgroup"
	done
}

# What onramp has, in KiB: onramp-zds, what it loaded and wrote into BPF.
memory() {
	local pid
	zds_pid
	awk '/^VmRSS/ { print "zds", $2 }' "/proc/$pid/status"
	echo "maps $(memory_of_maps)"
	echo "programs $("$BPFTOOL" -j prog show | kib)"
	echo "entries $(($(entries numbers) + $(entries handovers) + $(entries cgroup_info_map) +
		$(entries probes) + $(entries mesh_pods) + $(entries uid_netns)))"
}

@test "$SECONDS_STEADY s, ztunnels in turn: each connection by ztunnel to its own destination, memory flat" {
	local turns=0 began
	turn_to 1
	for pod in "${PODS[@]}"; do DIALS_MS=1 dials "$pod" proxied "${DESTINATIONS[@]}"; done
	dials_begin "${PODS[@]}"
	began=$SECONDS
	while [ $((SECONDS - began)) -lt "$SECONDS_STEADY" ]; do
		[ "$turns" != 2 ] || memory >"$WORK/before"
		sleep $((TURN > 2 ? TURN - 2 : 0))
		turn_to $((1 + (turns + 1) % 2))
		turns=$((turns + 1))
	done
	memory >"$WORK/after"
	before=$(sum_of "${PODS[@]}")
	dials_stop "${PODS[@]}"
	rate=$((before / (SECONDS - began)))
	echo "# $before connections, $rate a second, $turns turns" >&3
	[ -z "${STEADY_MINUTES-}" ] || [ "$rate" -ge 2000 ]
	run awk 'NR == FNR { was[$1] = $2; next }
		{ print "# " $1 ": " was[$1] " then, " $2 " at the end" }
		$2 > was[$1] + ($1 == "zds" ? 256 : 16) { grew = 1 }
		END { exit grew }' "$WORK/before" "$WORK/after"
	echo "$output" >&3
	is "$status" 0
}
