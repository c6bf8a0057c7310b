#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# sockops: original destinations are handed over once, and left behind never.

load helpers.bash

setup_file() {
	client_and_server_up sockops
}

teardown_file() {
	node_down
}

teardown() {
	ip netns exec "$RUN-ztunnel" iptables -F 2>/dev/null || :
	onramp forget 10.77.1.2 2>/dev/null || :
}

@test "every redirected connection hands over its own destination" {
	before=$(metric 'handovers_total{result="handed_over"}')
	pod client "$TCP" dial 10.77.2.2 80 50 >"$WORK/a" &
	pod client "$TCP" dial 10.77.2.2 81 50 >"$WORK/b" &
	wait $!
	wait
	is "$(grep -c 'orig4=10.77.2.2:80 ' "$WORK/a")" 50
	is "$(grep -c 'orig4=10.77.2.2:81 ' "$WORK/b")" 50
	is "$(metric 'handovers_total{result="handed_over"}')" $((before + 100))
	is "$(entries handovers)" 0
}

@test "a handshake that nobody answers is taken back when its socket closes" {
	ip netns exec "$RUN-ztunnel" iptables -A INPUT -p tcp --dport 15001 -j DROP
	pod client sh -c "'$TCP' dial 10.77.2.2 80 & sleep 0.3; kill \$!" >/dev/null
	retry 40 sh -c "[ \"\$('$BPFTOOL' -j map dump pinned '$PIN/maps/handovers')\" = '[]' ]"
	# It was there while it lasted.
	pod client "$TCP" dial 10.77.2.2 80 >/dev/null 3>&- &
	retry 40 sh -c "[ \"\$('$BPFTOOL' -j map dump pinned '$PIN/maps/handovers')\" != '[]' ]"
	cgroup_end "$CG/client"
	mkdir "$CG/client"
	retry 40 sh -c "[ \"\$('$BPFTOOL' -j map dump pinned '$PIN/maps/handovers')\" = '[]' ]"
}

@test "a refused handshake is taken back" {
	ip netns exec "$RUN-ztunnel" iptables -A INPUT -p tcp --dport 15001 \
		-j REJECT --reject-with tcp-reset
	run -1 pod client "$TCP" dial 10.77.2.2 80
	is "$output" ECONNREFUSED
	is "$(entries handovers)" 0
}

# A connection to ztunnel's port that onramp did not redirect, from a local port
# that a redirected one had before: it has no original destination.
no_stale() { # PORT
	onramp exclude 10.77.1.2
	run -0 pod client "$TCP" from "$1" "$ZTUNNEL_POD_IP" 15001
	has "orig4=E" "orig6=E" "dialled=$ZTUNNEL_POD_IP:15001 "
}

@test "a 4-tuple used again after a redirected connection closed is not redirected" {
	run -0 pod client "$TCP" from 20001 10.77.2.2 80
	has "orig4=10.77.2.2:80 "
	no_stale 20001
}

@test "a 4-tuple used again after a redirected connection failed is not redirected" {
	ip netns exec "$RUN-ztunnel" iptables -A INPUT -p tcp --dport 15001 \
		-j REJECT --reject-with tcp-reset
	run -1 pod client "$TCP" from 20002 10.77.2.2 80
	ip netns exec "$RUN-ztunnel" iptables -F
	no_stale 20002
}

@test "a 4-tuple used again after a redirected connection was never accepted is not redirected" {
	ip netns exec "$RUN-ztunnel" iptables -A INPUT -p tcp --dport 15001 -j DROP
	pod client "$TCP" abandon 10.77.2.2 80 20003
	ip netns exec "$RUN-ztunnel" iptables -F
	no_stale 20003
}

handovers_are() { # COUNT
	is "$(entries handovers)" "$1"
}

@test "the same 4-tuple from two pods at once: each handshake keeps its own destination" {
	# twin has client's address and dials from client's port while client's SYN
	# is being dropped; twin's own SYN never leaves its netns.
	pod_up twin 10.77.1.2
	ip -n "$RUN-node" link set vtwin nomaster
	ip -n "$RUN-twin" neigh add "$ZTUNNEL_POD_IP" lladdr 02:00:00:00:00:01 dev eth0
	ip netns exec "$RUN-ztunnel" iptables -A INPUT -p tcp --dport 15001 -j DROP
	pod client "$TCP" from 20004 10.77.2.2 80 >"$WORK/client" 3>&- &
	retry 40 handovers_are 1
	pod twin timeout 20 "$TCP" from 20004 10.77.2.2 666 >"$WORK/twin" 3>&- &
	retry 40 handovers_are 2
	ip netns exec "$RUN-ztunnel" iptables -F
	retry 200 grep -q . "$WORK/client"
	output=$(cat "$WORK/client")
	has "orig4=10.77.2.2:80 "
	pod_down twin
	is "$(entries handovers)" 0
}

@test "one socket, dialled again: the second destination counts, redirected or not" {
	run -0 pod client "$TCP" again 10.77.2.2 80 10.77.2.2 81
	has "connected" "orig4=10.77.2.2:81 " "dialled=10.77.2.2:81 "
	run -0 pod client "$TCP" again 10.77.2.2 80 "$ZTUNNEL_POD_IP" 15006
	has "orig4=$ZTUNNEL_POD_IP:15006 "
	"$BPFTOOL" map update pinned "$PIN/maps/bypass_rules" \
		key 128 0 0 0 $(bytes_of "$ZTUNNEL_POD_IP") value 3 0 0 0
	run -0 pod client "$TCP" again 10.77.2.2 80 "$ZTUNNEL_POD_IP" 15001
	"$BPFTOOL" map delete pinned "$PIN/maps/bypass_rules" \
		key 128 0 0 0 $(bytes_of "$ZTUNNEL_POD_IP")
	has "connected" "orig4=E" "dialled=$ZTUNNEL_POD_IP:15001 "
	is "$(entries handovers)" 0
}
