#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# connect6 and getpeername6: the verdict table for IPv6, for dual-stack and
# IPv6-only pods, and IPv4-mapped destinations, which get the IPv4 verdict.

load helpers.bash

setup_file() {
	node_up connect6
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	pod_up six # IPv6 alone, enrolled by it
	dual_stack client:1 server:2 ztunnel:9 six:6:0:0:6
	serve ztunnel :: 15001 15006 15053
	serve server :: 80
	serve six :: 80
	node_mode -z "$ZTUNNEL_POD_IP6" -e 10.77.1.0/24 -e fd00:77:0:0:6::/80
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

captured() { # PORT ORIGINAL
	has "local=[$ZTUNNEL_POD_IP6]:$1 " " orig6=[${2%:*}]:${2##*:}" "dialled=[${2%:*}]:${2##*:} "
}

@test "IPv6: to ztunnel, which sees the pod's own address and port" {
	run -0 pod client "$TCP" dial fd00:77::2 80
	captured 15001 fd00:77::2:80
	from=${output##*from=}
	from=${from%% *}
	has "peer=$from " "from=[fd00:77::1]:"
}

@test "IPv6: SO_ORIGINAL_DST is at SOL_IPV6 alone, a mapped one's at SOL_IP alone" {
	run -0 pod client "$TCP" dial fd00:77::2 80
	[[ $output != *"orig4=["* && $output != *"orig4=10"* ]]
	run -0 pod client "$TCP" dial ::ffff:10.77.2.2 80
	has "orig4=10.77.2.2:80 "
	[[ $output != *"orig6=["* ]]
}

@test "IPv6-only pod, enrolled by its IPv6 rule" {
	run -0 pod six "$TCP" dial fd00:77::2 80
	captured 15001 fd00:77::2:80
	onramp exclude fd00:77:0:0:6::6
	run -0 pod six "$TCP" dial fd00:77::2 80
	onramp forget fd00:77:0:0:6::6
	has "dialled=[fd00:77::2]:80 " "local=[fd00:77::2]:80 "
}

@test "dual-stack pod: a rule for either family holds for both, OUT before IN" {
	onramp exclude fd00:77::1
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "local=[::ffff:10.77.2.2]:80 "
	run -0 pod client "$TCP" dial fd00:77::2 80
	has "local=[fd00:77::2]:80 "
	onramp forget fd00:77::1
	onramp enroll fd00:77::2
	run -0 pod server "$TCP" dial fd00:77:0:0:6::6 80
	captured 15001 fd00:77::6:0:0:6:80
	run -0 pod server "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	onramp forget fd00:77::2
}

@test "IPv6: loopback, unspecified, multicast and own addresses are left alone" {
	before=$(connects passed local)
	for address in ::1 :: fd00:77::1; do
		run -1 pod client "$TCP" dial "$address" 9
		is "$output" ECONNREFUSED
	done
	run -1 pod client "$TCP" dial ff05::1 80
	never_began 1
	is "$(connects passed local)" $((before + 4))
}

@test "IPv6: bypass_rules, by -b and by bpftool" {
	node_mode -z "$ZTUNNEL_POD_IP6" -b fd00:77::2
	run -0 pod client "$TCP" dial fd00:77::2 80
	has "local=[fd00:77::2]:80 "
	"$BPFTOOL" map delete pinned "$PIN/maps/bypass_rules" \
		key 128 0 0 0 0xfd 0 0 0x77 0 0 0 0 0 0 0 0 0 0 0 2
	run -0 pod client "$TCP" dial fd00:77::2 80
	captured 15001 fd00:77::2:80
}

@test "IPv6: ztunnel's own pod is left alone; who is not enrolled too" {
	onramp enroll "$ZTUNNEL_POD_IP6"
	run -0 pod ztunnel "$TCP" dial fd00:77::2 80
	onramp forget "$ZTUNNEL_POD_IP6"
	has "local=[fd00:77::2]:80 "
	run -0 pod server "$TCP" dial fd00:77:0:0:6::6 80
	has "local=[fd00:77::6:0:0:6]:80 "
}

@test "IPv6: a node program to an enrolled pod goes to the inbound port" {
	pod six true
	run -0 node "$TCP" dial fd00:77:0:0:6::6 80
	captured 15006 fd00:77::6:0:0:6:80
	run -0 node "$TCP" dial fd00:77::2 80
	has "local=[fd00:77::2]:80 "
	# By a rule for its other address as well, OUT before IN.
	onramp enroll fd00:77::2
	run -0 node "$TCP" dial 10.77.2.2 80
	has ":15006 " "orig4=10.77.2.2:80 "
	onramp exclude 10.77.2.2
	run -0 node "$TCP" dial fd00:77::2 80
	has "local=[fd00:77::2]:80 "
	run -0 node "$TCP" dial 10.77.2.2 80
	has "local=[::ffff:10.77.2.2]:80 "
	onramp forget fd00:77::2 10.77.2.2
}

@test "IPv6: link-local destinations are captured like any other" {
	link_local=$(ip -n "$RUN-server" -6 -o addr show dev eth0 scope link | awk '{ sub("/.*", "", $4); print $4 }')
	run -0 pod client "$TCP" dial "$link_local%eth0" 80
	has "local=[$ZTUNNEL_POD_IP6]:15001 " "orig6=[$link_local]:80" "dialled=[$link_local]:80 "
}

# Of sockets that have been told of a way, or of none: what becomes of each.
routed() {
	cat >"$WORK/routed.py" <<-'END'
		import errno, socket, struct
		def dial(family, to, option=None, value=b"", bound=None):
		    s = socket.socket(family)
		    s.settimeout(0.5)
		    if bound: s.bind((bound, 0))
		    if option: s.setsockopt(*option, value)
		    try:
		        s.connect((to, 80))
		    except OSError as e:
		        return print(errno.errorcode.get(e.errno, "no answer"))
		    told = s.recv(512).decode()
		    print("captured" if ":15001 " in told else told)
		rthdr, ip_options, dstopts = (41, 57), (0, 4), (41, 59)
		server = socket.inet_pton(socket.AF_INET6, "fd00:77::2")
		segments = struct.pack("!BBBBBBH", 0, 4, 4, 1, 1, 0, 0) + bytes(16) + server
		loose = bytes([1, 131, 7, 4]) + socket.inet_aton("10.77.2.2")
		for bound in None, "fd00:77::1":
		    dial(socket.AF_INET6, "fd00:77::2", rthdr, segments, bound)
		dial(socket.AF_INET6, "::ffff:10.77.2.2", ip_options, loose)
		dial(socket.AF_INET, "10.77.2.2", ip_options, loose)
		dial(socket.AF_INET, "10.77.2.2", ip_options, bytes([1, 1, 1, 0]))
		dial(socket.AF_INET6, "fd00:77::2", dstopts, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
	END
	chmod 755 "$WORK"
	run -0 pod client python3 -IS "$WORK/routed.py"
}

@test "a socket that has a source route is refused, for its packets would go where that says" {
	before=$(connects refused failed)
	routed
	is "$output" "EPERM
EPERM
EPERM
EPERM
captured
captured"
	never_began 4
	is "$(connects refused failed)" $((before + 4))
}

@test "IPv6: ztunnel's own dials: to itself refused, to a local enrolled pod's 15008 to its own" {
	before=$(connects refused itself)
	for own in "$ZTUNNEL_POD_IP6" ::1 :: ::ffff:127.0.0.1; do
		run -1 pod ztunnel "$TCP" dial "$own" 15001
		is "$output" EPERM
	done
	never_began 4
	is "$(connects refused itself)" $((before + 4))
	serve ztunnel "$ZTUNNEL_POD_IP6" 15008
	pod six true
	run -0 pod ztunnel "$TCP" dial fd00:77:0:0:6::6 15008
	captured 15008 fd00:77::6:0:0:6:15008
}

@test "a family that ztunnel has no address for: ENETUNREACH, never let through" {
	settings_read
	both=$settings
	settings_change 16 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
	before=$(connects refused unreachable)
	run -1 pod client "$TCP" dial fd00:77::2 80
	is "$output" ENETUNREACH
	is "$(connects refused unreachable)" $((before + 1))
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "orig4=10.77.2.2:80 "
	pod six true
	pod client true
	for address in fd00:77:0:0:6::6 fd00:77::1; do # node programs' to enrolled pods
		run -1 node "$TCP" dial "$address" 80
		is "$output" ENETUNREACH
	done
	is "$(connects refused unreachable)" $((before + 3))
	run -0 node "$TCP" dial 10.77.1.2 80
	has ":15006 " "orig4=10.77.1.2:80 "
	run -0 node "$TCP" dial fd00:77::2 80
	has "local=[fd00:77::2]:80 "
	settings=$both settings_write
	settings_change 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
	for address in 10.77.2.2 ::ffff:10.77.2.2; do
		run -1 pod client "$TCP" dial "$address" 80
		is "$output" ENETUNREACH
	done
	for address in 10.77.1.2 ::ffff:10.77.1.2; do
		run -1 node "$TCP" dial "$address" 80
		is "$output" ENETUNREACH
	done
	run -0 pod client "$TCP" dial fd00:77::2 80
	captured 15001 fd00:77::2:80
	# Neither: there is no other family to try.
	settings_change 16 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
	run -1 pod client "$TCP" dial 10.77.2.2 80
	is "$output" EPERM
	run -1 node "$TCP" dial 10.77.1.2 80
	settings=$both settings_write
	is "$output" EPERM
	is "$(connects refused no_ztunnel)" 2
	never_began 9
}

@test "a family that the pod has no address of: ENETUNREACH, where without onramp it would be" {
	before=$(connects refused unreachable)
	for address in 10.77.2.2 ::ffff:10.77.2.2; do
		run -1 pod six "$TCP" dial "$address" 80
		is "$output" ENETUNREACH
	done
	never_began 2
	is "$(connects refused unreachable)" $((before + 2))
}

@test "a mapped destination is captured, and the client sees it as its peer" {
	run -0 pod client "$TCP" dial ::ffff:10.77.2.2 80
	has "local=[::ffff:$ZTUNNEL_POD_IP]:15001 " "orig4=10.77.2.2:80 " " peer=[::ffff:10.77.1.2]:"
	has "dialled=[::ffff:10.77.2.2]:80 "
}

@test "mapped: own address, loopback and not enrolled are left alone" {
	run -1 pod client "$TCP" dial ::ffff:10.77.1.2 9
	is "$output" ECONNREFUSED
	run -1 pod client "$TCP" dial ::ffff:127.0.0.1 9
	is "$output" ECONNREFUSED
	before=$(connects passed not_enrolled)
	run -0 pod server "$TCP" dial ::ffff:10.77.2.2 80
	has "dialled=[::ffff:10.77.2.2]:80 "
	is "$(connects passed not_enrolled)" "$before"
	run -1 pod server "$TCP" dial ::ffff:10.77.1.2 9
	is "$(connects passed not_enrolled)" $((before + 1))
}

@test "mapped: a node program to an enrolled pod goes to the inbound port" {
	pod client true
	run -0 node "$TCP" dial ::ffff:10.77.1.2 80
	has "local=[::ffff:$ZTUNNEL_POD_IP]:15006 " "orig4=10.77.1.2:80 "
}
