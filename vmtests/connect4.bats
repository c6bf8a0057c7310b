#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# connect4: each line of the verdict table that concerns IPv4 in node mode. Those
# tagged runc run against real pods as well (connect4@runc).

load helpers.bash

setup_file() {
	node_up connect4
	ztunnel_up
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	pod_up member 10.77.1.3 # enrolled, and serves
	serve server 0.0.0.0 80 53
	serve member 0.0.0.0 80
	reload -e 10.77.1.0/24
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

# The connection went to ztunnel's port, which knows where it wanted to go.
captured() { # PORT ORIGINAL
	has "local=$ZTUNNEL_POD_IP:$1 " "orig4=$2 " "dialled=$2 "
}

# The connection went where it was sent.
direct() { # DESTINATION
	has "dialled=$1 " " local=$1 "
}

# bats test_tags=runc
@test "enrolled pod: to ztunnel, which sees the pod's own address and port" {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
	from=${output##*from=}
	from=${from%% *}
	has "peer=$from " "from=10.77.1.2:"
}

# bats test_tags=runc
@test "enrolled pod: another enrolled pod is captured on the way out" {
	run -0 pod client "$TCP" dial 10.77.1.3 80
	captured 15001 10.77.1.3:80
}

@test "enrolled pod: to the node is captured" {
	run -0 pod client "$TCP" dial "$NODE_IP" 9
	captured 15001 "$NODE_IP:9"
}

@test "enrolled pod: TCP port 53 is like any other without DNS capture" {
	run -0 pod client "$TCP" dial 10.77.2.2 53
	captured 15001 10.77.2.2:53
}

@test "enrolled pod: TCP port 53 goes to ztunnel's DNS port with DNS capture" {
	settings_read
	reload -d
	run -0 pod client "$TCP" dial 10.77.2.2 53
	settings_write
	captured 15053 10.77.2.2:53
}

@test "its own address is left alone" {
	run -0 pod member "$TCP" dial 10.77.1.3 80
	direct 10.77.1.3:80
}

@test "its own address of the other family, with a lifetime, is left alone" {
	ip -n "$RUN-member" addr add fd00:99::3/64 dev eth0 nodad valid_lft 600 preferred_lft 600
	run -1 pod member "$TCP" dial fd00:99::3 9
	is "$output" ECONNREFUSED
	ip -n "$RUN-member" addr del fd00:99::3/64 dev eth0
}

@test "its own second address is left alone, and only while it has it" {
	ip -n "$RUN-member" addr add 10.77.9.9/16 dev eth0
	run -0 pod member "$TCP" dial 10.77.9.9 80
	direct 10.77.9.9:80
	ip -n "$RUN-member" addr del 10.77.9.9/16 dev eth0
	run -0 pod member "$TCP" dial 10.77.9.9 80
	captured 15001 10.77.9.9:80
}

@test "loopback is left alone" {
	run -0 pod member "$TCP" dial 127.0.0.1 80
	direct 127.0.0.1:80
	run -0 pod member "$TCP" dial 127.99.0.1 80
	direct 127.99.0.1:80
}

@test "the unspecified address is left alone" {
	run -0 pod member "$TCP" dial 0.0.0.0 80
	has "dialled=127.0.0.1:80 "
}

@test "multicast is left alone" {
	before=$(connects passed local)
	run -1 pod client "$TCP" dial 224.0.0.1 80
	never_began 1
	is "$output" ENETUNREACH
	is "$(connects passed local)" $((before + 1))
}

@test "a destination in bypass_rules is left alone; a longer prefix takes it back" {
	"$BPFTOOL" map update pinned "$PIN/maps/bypass_rules" \
		key 112 0 0 0 $(bytes_of 10.77.0.0) value 3 0 0 0
	run -0 pod client "$TCP" dial 10.77.2.2 80
	direct 10.77.2.2:80
	"$BPFTOOL" map update pinned "$PIN/maps/bypass_rules" \
		key 128 0 0 0 $(bytes_of 10.77.2.2) value 0 0 0 0
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
	"$BPFTOOL" map delete pinned "$PIN/maps/bypass_rules" key 112 0 0 0 $(bytes_of 10.77.0.0)
	"$BPFTOOL" map delete pinned "$PIN/maps/bypass_rules" key 128 0 0 0 $(bytes_of 10.77.2.2)
}

# bats test_tags=runc
@test "ztunnel's own pod is left alone, enrolled or not" {
	onramp enroll 10.77.0.0/16
	run -0 pod ztunnel "$TCP" dial 10.77.2.2 80
	onramp forget 10.77.0.0/16
	direct 10.77.2.2:80
	is "$(connects passed ztunnel)" 1
}

@test "a pod that puts ztunnel's address on its device is not ztunnel" {
	ip -n "$RUN-client" addr flush dev eth0
	ip -n "$RUN-client" addr add "$ZTUNNEL_POD_IP/32" dev eth0
	ip -n "$RUN-client" addr add 10.77.1.2/16 dev eth0
	onramp enroll "$ZTUNNEL_POD_IP"
	before=$(connects passed ztunnel)
	# Replies to the borrowed address go elsewhere: only the verdict counts.
	pod client timeout 0.3 "$TCP" dial 10.77.2.2 80 || :
	after=$(connects passed ztunnel)
	onramp forget "$ZTUNNEL_POD_IP"
	ip -n "$RUN-client" addr flush dev eth0
	ip -n "$RUN-client" addr add 10.77.1.2/16 dev eth0
	ip -n "$RUN-client" route add default via "$NODE_IP"
	is "$after" "$before"
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
}

# bats test_tags=runc
@test "a pod that is not enrolled is left alone" {
	run -0 pod server "$TCP" dial 10.77.1.3 80
	direct 10.77.1.3:80
}

# bats test_tags=runc
@test "a pod excluded by a longer prefix is left alone, until it is forgotten" {
	onramp exclude 10.77.1.2
	run -0 pod client "$TCP" dial 10.77.2.2 80
	direct 10.77.2.2:80
	onramp forget 10.77.1.2
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
}

# bats test_tags=runc
@test "node program to an enrolled pod: to ztunnel's inbound port" {
	pod member true # known since its first exec
	run -0 node "$TCP" dial 10.77.1.3 80
	captured 15006 10.77.1.3:80
}

@test "node program elsewhere is left alone" {
	run -0 node "$TCP" dial 10.77.2.2 80
	direct 10.77.2.2:80
}

@test "node program to the node's own address is left alone, also if a pod claims it" {
	launch "$WORK/node-serves" run_in node node "$TCP" serve "$NODE_IP" 8080
	onramp enroll "$NODE_IP"
	ip -n "$RUN-client" addr flush dev eth0
	ip -n "$RUN-client" addr add "$NODE_IP/32" dev eth0
	pod client true
	run -0 node "$TCP" dial "$NODE_IP" 8080
	onramp forget "$NODE_IP"
	ip -n "$RUN-client" addr flush dev eth0
	ip -n "$RUN-client" addr add 10.77.1.2/16 dev eth0
	ip -n "$RUN-client" route add default via "$NODE_IP"
	pod client true
	direct "$NODE_IP:8080"
}

@test "host capture off: node program to an enrolled pod is left alone" {
	settings_read
	reload -H
	run -0 node "$TCP" dial 10.77.1.3 80
	settings_write
	direct 10.77.1.3:80
	run -0 node "$TCP" dial 10.77.1.3 80
	captured 15006 10.77.1.3:80
}

@test "UDP is untouched" {
	before=$(cat "$PIN/metrics")
	run -0 pod client "$TCP" udp 10.77.2.2 80
	is "$output" "dialled=10.77.2.2:80"
	is "$(cat "$PIN/metrics")" "$before"
}

@test "no ztunnel address: everything passes; set by bpftool it works at once" {
	settings_read
	"$BPFTOOL" map delete pinned "$PIN/maps/settings" key 0 0 0 0
	run -0 pod client "$TCP" dial 10.77.2.2 80
	settings_write
	direct 10.77.2.2:80
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
}

@test "a dead ztunnel refuses; nothing goes around it" {
	settings_read
	ZTUNNEL_POD_IP=10.77.2.2 reload
	run -1 pod client "$TCP" dial 10.77.1.3 80
	settings_write
	is "$output" ECONNREFUSED
}

@test "-t names ztunnel's pod: another pod with its address is captured" {
	reload -t "$(pod_cgroup server)"
	onramp enroll 10.77.0.0/16
	run -0 pod server "$TCP" dial 10.77.1.3 80
	direct 10.77.1.3:80
	mkdir -p "$CG/server/below"
	run -0 run_in server/below server "$TCP" dial 10.77.1.3 80
	direct 10.77.1.3:80
	run -0 pod ztunnel "$TCP" dial 10.77.1.3 80
	onramp forget 10.77.0.0/16
	has "local=$ZTUNNEL_POD_IP:15001 "
}
