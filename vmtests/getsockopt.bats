#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# getsockopt: SO_ORIGINAL_DST where there is one, else the kernel's own answer.

load helpers.bash

setup_file() {
	node_up getsockopt
	ztunnel_up
	pod_up client 10.77.1.2
	pod_up plain 10.77.2.2
}

teardown_file() {
	node_down
}

# SO_ORIGINAL_DST on a redirected connection, then on two that are not: these
# have to be what the kernel says by itself, which is asked for without onramp.
answers() { # ADDRESS of the listener
	cgroup_end "$CG/ztunnel"
	mkdir "$CG/ztunnel"
	serve ztunnel "$1" 15001
	kernels=$(pod plain "$TCP" dial "$ZTUNNEL_POD_IP" 15001)
	reload -e 10.77.1.0/24
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 " "${kernels##* }"
	run -0 pod plain "$TCP" dial "$ZTUNNEL_POD_IP" 15001
	is "${output#* orig4=}" "${kernels#* orig4=}"
	echo "# $1: the kernel says orig4=${kernels#* orig4=}" >&3
}

teardown() {
	[ ! -e "$PIN" ] || onramp unload
}

@test "no conntrack in the proxy's netns: AF_INET and dual-stack listeners" {
	for address in 0.0.0.0 ::; do
		answers $address
		has "orig4=E" # ENOENT; ENOPROTOOPT while conntrack is not even loaded
		onramp unload
	done
}

@test "conntrack in the proxy's netns: AF_INET and dual-stack listeners" {
	for tables in iptables ip6tables; do
		ip netns exec "$RUN-ztunnel" $tables -t nat -A PREROUTING -p tcp --dport 9 \
			-j REDIRECT --to-ports 15001
	done
	for address in 0.0.0.0 ::; do
		answers $address
		has "orig4=$ZTUNNEL_POD_IP:15001 " # the wrong answer to a redirected one
		# What the kernel itself redirects keeps the kernel's answer.
		run -0 pod plain "$TCP" dial "$ZTUNNEL_POD_IP" 9
		has "orig4=$ZTUNNEL_POD_IP:9 "
		onramp unload
	done
}

@test "iptables lists a table larger than a page in an attached cgroup" {
	ip netns exec "$RUN-plain" iptables-legacy -N many
	for i in {1..100}; do
		echo "-A many -s 10.1.1.$i -m comment --comment rule-number-$i -j ACCEPT"
	done | { echo '*filter'; cat; echo COMMIT; } |
		ip netns exec "$RUN-plain" iptables-legacy-restore --noflush
	reload
	outside=$(ip netns exec "$RUN-plain" iptables-legacy -S)
	run -0 pod plain iptables-legacy -S
	is "$output" "$outside"
	is "$(grep -c rule-number <<<"$output")" 100
}

@test "other options, and lengths that are too short, are the kernel's" {
	asks='
import socket, errno
s = socket.create_connection(("10.77.0.9", 15001))
for level, option, size in (1, 3, 4), (0, 2, 4), (0, 80, 28), (0, 80, 4), (41, 80, 28), (6, 80, 16):
    try: print(s.getsockopt(level, option, size))
    except OSError as e: print(errno.errorcode[e.errno])'
	kernels=$(pod plain python3 -c "$asks")
	reload
	run -0 pod plain python3 -c "$asks"
	is "$output" "$kernels"
	is "${#lines[@]}" 6
}
