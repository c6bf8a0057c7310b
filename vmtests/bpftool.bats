#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# The object without the loader: scripts/load-with-bpftool.

load helpers.bash

setup_file() {
	node_up bpftool
	ztunnel_up
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	NODE_NETNS=/run/netns/$RUN-node ZTUNNEL_CGROUP=$CG/ztunnel "$ROOT/scripts/load-with-bpftool" \
		"$CG" "$WORK/bpf/plain" "$ZTUNNEL_POD_IP" 10.77.1.0/24 10.77.0.9/32
}

teardown_file() {
	# What bpftool attaches without a link stays with the cgroup, and ends with it.
	rm -rf "$WORK/bpf/plain"
	node_down
}

@test "pods and node programs are captured as with the loader" {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.2.2:80 " "dialled=10.77.2.2:80 "
	run -0 pod server "$TCP" dial 10.77.1.2 80 || has ECONNREFUSED
	pod client true
	run -0 node "$TCP" dial 10.77.1.2 80
	has "local=$ZTUNNEL_POD_IP:15006 " "orig4=10.77.1.2:80 "
	run -0 node "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
}

@test "metrics is readable" {
	run -0 cat "$WORK/bpf/plain/metrics"
	has 'onramp_connects_total{verdict="redirected",reason="outbound"} 1'
}

@test "ztunnel is known by its cgroup: it passes, though a rule speaks of it" {
	run -0 pod ztunnel "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
	run -0 cat "$WORK/bpf/plain/metrics"
	has 'onramp_connects_total{verdict="passed",reason="ztunnel"} 1'
}

@test "what counts for --audit is not there" {
	run ! ls "$WORK/bpf/plain/inet_sock_set_state"
	run -0 "$BPFTOOL" -f link show
	[[ $output != *"$WORK/bpf/plain/inet_sock_set_state"* ]]
}

@test "onramp unload does not say that it has detached what it cannot" {
	run -1 "$ONRAMP" unload -p "$WORK/bpf/plain"
	is "$output" "onramp: $WORK/bpf/plain: bpftool has loaded it: see load-with-bpftool"
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "orig4=10.77.2.2:80 "
}
