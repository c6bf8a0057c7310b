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

# SO_ORIGINAL_DST on a redirected connection; then on one that is not, which has to be
# what the kernel says by itself, without onramp: but where that is the proxy's own
# address, which a proxy would believe and call itself.
answers() { # ADDRESS of the listener
	cgroup_end "$CG/ztunnel"
	mkdir "$CG/ztunnel"
	serve ztunnel "$1" 15001
	kernels=$(pod plain "$TCP" dial "$ZTUNNEL_POD_IP" 15001)
	node_mode -e 10.77.1.0/24
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 " "${kernels##* }"
	run -0 pod plain "$TCP" dial "$ZTUNNEL_POD_IP" 15001
	is "${output#* orig4=}" "$(sed 's/.* orig4=//; s/^[0-9.]*:15001 /EPERM /' <<<"$kernels")"
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
		[[ $kernels == *"orig4=$ZTUNNEL_POD_IP:15001 "* ]] # wrong for any
		has "orig4=EPERM "
		# What the kernel itself redirects keeps the kernel's answer.
		run -0 pod plain "$TCP" dial "$ZTUNNEL_POD_IP" 9
		has "orig4=$ZTUNNEL_POD_IP:9 "
		onramp unload
	done
}

@test "conntrack in a pod's netns, in-pod mode: the level that is not the destination's fails" {
	mkdir "$CG/ztunnel/client"
	dual_stack client:1
	ip netns exec "$RUN-client" iptables -t nat -A PREROUTING -p tcp --dport 9 -j REDIRECT --to-ports 15001
	launch "$WORK/in-client" run_in ztunnel/client client "$TCP" serve :: 15001
	run -0 pod client "$TCP" dial 127.0.0.1 15001
	has " orig4=127.0.0.1:15001 "
	in_pod_mode -e 10.77.1.0/24
	lost=$(metric 'handovers_total{result="lost"}')
	for address in 127.0.0.1 127.128.0.9 10.77.1.2; do # which has no destination
		run -0 pod client "$TCP" dial "$address" 15001
		has " orig4=EPERM " " orig6=E"
	done
	[ "$(metric 'handovers_total{result="lost"}')" -gt "$lost" ]
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has " orig4=10.9.9.9:80 " " orig6=E"
	run -0 pod client "$TCP" dial fd00:9::9 80
	has " orig4=EPERM " " orig6=[fd00:9::9]:80 "
	cgroup_end "$CG/ztunnel/client"
}

@test "iptables lists a table larger than a page in an attached cgroup" {
	ip netns exec "$RUN-plain" iptables-legacy -N many
	for i in {1..100}; do
		echo "-A many -s 10.1.1.$i -m comment --comment rule-number-$i -j ACCEPT"
	done | { echo '*filter'; cat; echo COMMIT; } |
		ip netns exec "$RUN-plain" iptables-legacy-restore --noflush
	node_mode
	outside=$(ip netns exec "$RUN-plain" iptables-legacy -S)
	run -0 run_in ztunnel plain iptables-legacy -S
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
	kernels=$(run_in ztunnel plain python3 -c "$asks")
	node_mode
	run -0 run_in ztunnel plain python3 -c "$asks"
	is "$output" "$kernels"
	is "${#lines[@]}" 6
}

@test "nowhere but at ztunnel: no other program pays for it" {
	# By the links: bpftool cannot ask a cgroup of 5.10.
	programs() { # DIRECTORY
		local link
		for link in "$PIN"/links/*; do
			"$BPFTOOL" -j link show pinned "$link"
		done | jq -r --argjson cgroup "$(stat -c %i "$1")" \
			'select(.cgroup_id == $cgroup) | .prog_id' | while read -r id; do
			"$BPFTOOL" -j prog show id "$id" | jq -r .name
		done | sort | xargs
	}
	node_mode
	is "$(programs "$CG/ztunnel")" "bind4 bind6 getsockopt"
	is "$(programs "$CG")" "connect4 connect6 getpeername4 getpeername6 sock_ops"
	onramp unload
	in_pod_mode # where onramp-zds adds sockops at times
	is "$(programs "$CG/ztunnel")" "bind4 bind6 getsockopt setsockopt"
	is "$(programs "$CG")" "connect4 connect6 getpeername4 getpeername6 getsockname4 getsockname6"
}
