#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# connect6 and getpeername6: IPv4-mapped destinations get the IPv4 verdict, and
# true IPv6 of an enrolled pod is refused while ztunnel has no IPv6 address.

load helpers.bash

setup_file() {
	node_up connect6
	ztunnel_up
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	for name in client server; do
		ip -n "$RUN-$name" addr add "fd00:77::$([ $name = client ] && echo 1 || echo 2)/64" \
			dev eth0 nodad
	done
	serve server :: 80
	reload -e 10.77.1.0/24
}

teardown_file() {
	node_down
}

@test "a mapped destination is captured, and the client sees it as its peer" {
	run -0 pod client "$TCP" dial ::ffff:10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.2.2:80 " " peer=10.77.1.2:"
	has "dialled=[::ffff:10.77.2.2]:80 "
}

@test "mapped: own address, loopback and not enrolled are left alone" {
	run -1 pod client "$TCP" dial ::ffff:10.77.1.2 9
	is "$output" ECONNREFUSED
	run -1 pod client "$TCP" dial ::ffff:127.0.0.1 9
	is "$output" ECONNREFUSED
	run -0 pod server "$TCP" dial ::ffff:10.77.2.2 80
	has "dialled=[::ffff:10.77.2.2]:80 "
	is "$(connects passed not_enrolled)" 0
	run -1 pod server "$TCP" dial ::ffff:10.77.1.2 9
	is "$(connects passed not_enrolled)" 1
}

@test "mapped: a node program to an enrolled pod goes to the inbound port" {
	pod client true
	run -0 node "$TCP" dial ::ffff:10.77.1.2 80
	has "local=$ZTUNNEL_POD_IP:15006 " "orig4=10.77.1.2:80 "
}

@test "IPv6 of an enrolled pod is refused, never let through around ztunnel" {
	before=$(connects refused no_ztunnel_for_family)
	run -1 pod client "$TCP" dial fd00:77::2 80
	is "$output" EPERM
	is "$(connects refused no_ztunnel_for_family)" $((before + 1))
}

@test "IPv6 that stays: loopback and own address pass, and so does who is not enrolled" {
	run -1 pod client "$TCP" dial ::1 9
	is "$output" ECONNREFUSED
	run -1 pod client "$TCP" dial fd00:77::1 9
	is "$output" ECONNREFUSED
	onramp exclude 10.77.1.2
	run -0 pod client "$TCP" dial fd00:77::2 80
	onramp forget 10.77.1.2
	has "dialled=[fd00:77::2]:80 " "local=[fd00:77::2]:80 "
}
