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

there() { # pins, and what is attached
	find "$WORK/bpf"
	"$BPFTOOL" cgroup tree "$CG"
}

refused() { # TEXT ARGUMENT...
	local before
	before=$(there)
	run -1 "$ROOT/scripts/load-with-bpftool" "${@:2}"
	is "$output" "load-with-bpftool: $1"
	is "$(there)" "$before"
}

@test "what cannot be is said in one line, before anything is done" {
	local new=$WORK/bpf/new cidr
	for cidr in 10.77.1.2 10.77.1.0/33 10.77.1.256/32 fd00:77::/64; do
		refused "$cidr: no IPv4 network: give one such as 10.77.1.2/32" "$CG" "$new" 10.77.0.9 10.77.2.0/24 "$cidr"
	done
	refused "fd00:77::9: no IPv4 address: give ztunnel's, such as 10.77.0.9" "$CG" "$new" fd00:77::9
	refused "$WORK: no cgroup: give a directory in a cgroup2" "$WORK" "$new" 10.77.0.9
	ZTUNNEL_CGROUP=$CG/none refused "$CG/none: no cgroup: give a directory in a cgroup2" "$CG" "$new" 10.77.0.9
	NODE_NETNS=$WORK/none refused "$WORK/none: not there: give the node's netns" "$CG" "$new" 10.77.0.9
	refused "$WORK/bpf/plain: is there already: remove it, or give another" "$CG" "$WORK/bpf/plain" 10.77.0.9
	refused "$WORK: no bpffs: give a new directory in one" "$CG" "$WORK/new" 10.77.0.9
	refused "$WORK/bpf/a.b: cannot be made: be root, and give a name without dots" "$CG" "$WORK/bpf/a.b" 10.77.0.9
}

@test "after a step that fails nothing is left" {
	local before
	mkdir "$CG/failing"
	"$BPFTOOL" prog loadall "$ROOT/build/other.bpf.o" "$WORK/bpf/other"
	"$BPFTOOL" cgroup attach "$CG/failing" cgroup_inet4_connect pinned "$WORK/bpf/other/other_connect4"
	before=$(there)
	run -1 "$ROOT/scripts/load-with-bpftool" "$CG/failing" "$WORK/bpf/new" 10.77.0.9
	is "$(there)" "$before"
	rm -r "$WORK/bpf/other"
	rmdir "$CG/failing"
}
