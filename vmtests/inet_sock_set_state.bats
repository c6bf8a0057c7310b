#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# inet_sock_set_state, which is loaded with -a: escaped_total counts an enrolled pod's
# connections that had no verdict, and nothing else.

load helpers.bash

setup_file() {
	client_and_server_up escaped
	pod_up stranger 10.77.3.2
	dual_stack client:1 server:2 ztunnel:9
	serve ztunnel "$ZTUNNEL_POD_IP6" 15001
	serve server fd00:77::2 80
	node_mode -z "$ZTUNNEL_POD_IP6" -b 10.77.2.3
}

teardown_file() {
	ESCAPES=6 node_down
}

escaped() {
	is "$(metric escaped_total)" "$1"
}

dials() {
	pod client "$TCP" dial 10.77.2.2 80
	pod client "$TCP" dial fd00:77::2 80
	pod client "$TCP" dial ::ffff:10.77.2.2 80
}

passes() {
	pod stranger "$TCP" dial 10.77.2.2 80
	pod ztunnel "$TCP" dial 10.77.2.2 80
	node "$TCP" dial 10.77.2.2 80
	node "$TCP" dial 10.77.1.2 80 || :
	pod client "$TCP" dial 10.77.1.2 81 || :
	pod client "$TCP" dial 127.0.0.1 81 || :
	ip -n "$RUN-server" addr replace 10.77.2.3/16 dev eth0
	pod client "$TCP" dial 10.77.2.3 80
}

# A pin that was removed takes its link along a moment later: not before this has counted.
goes_direct() {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
}

@test "0 with onramp in order" {
	dials
	passes
	escaped 0
}

@test "without our connect program each connection of an enrolled pod counts, and no other" {
	rm "$PIN/links/connect4"
	passes
	escaped 0
	retry 100 goes_direct
	escaped 1
	rm "$PIN/links/connect6"
	dials
	escaped 4
	node_mode -z "$ZTUNNEL_POD_IP6" -b 10.77.2.3
	dials
	escaped 4
}

@test "a program after ours that takes a redirected connection elsewhere" {
	"$BPFTOOL" prog loadall "$ROOT/build/other.bpf.o" "$WORK/bpf/other"
	"$BPFTOOL" cgroup attach "$CG" cgroup_inet4_connect pinned "$WORK/bpf/other/other_connect4" multi
	# For ztunnel an address that the other sends to 10.77.2.2.
	settings_read
	own=$settings
	settings_change 12 10 96 0 10
	run -1 pod client "$TCP" dial 10.77.2.2 80
	settings=$own settings_write
	"$BPFTOOL" cgroup detach "$CG" cgroup_inet4_connect pinned "$WORK/bpf/other/other_connect4"
	escaped 5
}

@test "in-pod mode" {
	mkdir -p "$CG/ztunnel/in-client"
	in_pod_mode
	launch "$WORK/in-client" run_in ztunnel/in-client client "$TCP" serve :: 15001
	dials
	for kind in bound-address ipv6-only; do
		run -0 pod client "$ROOT/build/sockets" "$kind" fd00:77::2 80
		has ":15001 " "orig6=[fd00:77::2]:80"
	done
	run -0 run_in ztunnel/in-client client "$TCP" dial 10.77.2.2 80
	pod stranger "$TCP" dial 10.77.2.2 80
	escaped 5
	rm "$PIN/links/connect4"
	retry 100 goes_direct
	pod stranger "$TCP" dial 10.77.2.2 80
	escaped 6
}

@test "without -a it is not there" {
	in_pod_mode
	[ -e "$PIN/links/inet_sock_set_state" ]
	load_from node -t "$CG/ztunnel"
	[ ! -e "$PIN/links/inet_sock_set_state" ]
}
