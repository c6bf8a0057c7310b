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
	node_mode -e 10.77.1.0/24
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
	node_mode -d
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

@test "ztunnel to port 15001 at an address of its own netns: refused, it would call itself" {
	before=$(connects refused itself)
	for own in "$ZTUNNEL_POD_IP" 127.0.0.1 0.0.0.0; do
		run -1 pod ztunnel "$TCP" dial "$own" 15001
		is "$output" EPERM
	done
	never_began 3
	is "$(connects refused itself)" $((before + 3))
	run -1 pod ztunnel "$TCP" dial 10.77.2.2 15001 # another's
	is "$output" ECONNREFUSED
}

@test "ztunnel to port 15008 of a local enrolled pod: to its own, with the destination" {
	serve ztunnel 0.0.0.0 15008
	pod member true
	run -0 pod ztunnel "$TCP" dial 10.77.1.3 15008
	captured 15008 10.77.1.3:15008
	is "$(connects redirected hbone)" 1
	pod server true
	run -1 pod ztunnel "$TCP" dial 10.77.2.2 15008 # not enrolled
	is "$output" ECONNREFUSED
}

@test "a pod that puts ztunnel's address on its device is not ztunnel" {
	ip -n "$RUN-client" addr flush dev eth0
	ip -n "$RUN-client" addr add "$ZTUNNEL_POD_IP/32" dev eth0
	ip -n "$RUN-client" addr add 10.77.1.2/16 dev eth0
	onramp enroll "$ZTUNNEL_POD_IP"
	before="$(connects passed ztunnel) $(connects refused itself)"
	run -1 pod client "$TCP" dial 10.77.2.2 80
	never_began 1
	onramp forget "$ZTUNNEL_POD_IP"
	ip -n "$RUN-client" addr flush dev eth0
	ip -n "$RUN-client" addr add 10.77.1.2/16 dev eth0
	ip -n "$RUN-client" route add default via "$NODE_IP"
	is "$output" EPERM
	is "$(connects passed ztunnel) $(connects refused itself)" "${before% *} $((${before#* } + 1))"
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
}

# bats test_tags=runc
@test "a pod that is not enrolled is left alone" {
	run -0 pod server "$TCP" dial 10.77.1.3 80
	direct 10.77.1.3:80
}

# bats test_tags=runc
@test "the longest prefix counts: a pod excluded by it is left alone, until it is forgotten" {
	onramp exclude 10.77.0.0/16 # which the rule of 10.77.1.0/24 is within
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
	onramp forget 10.77.0.0/16
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
	node_mode -H
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
	alive=$settings
	settings_change 15 8 # 10.77.0.8, where nobody is
	ip -n "$RUN-client" route add unreachable 10.77.0.8
	run -1 pod client "$TCP" dial 10.77.1.3 80
	settings=$alive settings_write
	ip -n "$RUN-client" route del unreachable 10.77.0.8
	never_began 1
	is "$output" EHOSTUNREACH
}

# bats test_tags=runc
@test "a socket full of keys, which leave no room for what onramp keeps with it: refused" {
	before=$(connects refused failed)
	run -0 pod client env SERVER=10.77.2.2 SELF=10.77.1.2 SELF6=::1 \
		"$ROOT/build/hostile" make node full-of-keys
	never_began 1
	is "$output" "full-of-keys node failed EPERM"
	is "$(connects refused failed)" $((before + 1))
}

@test "while load moves to another cgroup both have our program: the first decides, once" {
	id=$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .prog_id)
	"$BPFTOOL" cgroup attach "$CG/client" connect4 id "$id" multi
	before=$(connects redirected outbound)
	run -0 pod client "$TCP" dial 10.77.2.2 80
	"$BPFTOOL" cgroup detach "$CG/client" connect4 id "$id"
	captured 15001 10.77.2.2:80
	is "$(connects redirected outbound)" $((before + 1))
}

@test "known by nothing, ztunnel is a pod like any: said so, and captured where it is enrolled" {
	onramp unload
	run -0 --separate-stderr reload -e 10.77.0.0/16 -x 10.77.2.0/24
	connects_from_now
	[[ $stderr == *ztunnel*-t* ]]
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
	run -1 pod ztunnel "$TCP" dial 10.77.2.2 80
	never_began 1
	is "$output" EPERM # its own address
}

@test "loaded from its own netns, ztunnel is known by that, in whichever cgroup" {
	run -0 --separate-stderr load_from ztunnel -z "$ZTUNNEL_POD_IP"
	connects_from_now # without the loader's own
	is "$stderr" ""
	for cgroup in ztunnel node; do
		run -0 run_in "$cgroup" ztunnel "$TCP" dial 10.77.2.2 80
		direct 10.77.2.2:80
	done
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
	run -0 run_in ztunnel client "$TCP" dial 10.77.2.2 80 # its cgroup is nobody's
	captured 15001 10.77.2.2:80
}
