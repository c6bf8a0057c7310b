#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# In-pod mode: ztunnel, in its own cgroup, listens inside the pods' netns; such
# a listener is what enrols a pod.

load helpers.bash

setup_file() {
	node_up in_pod
	mkdir "$CG/ztunnel"
	pod_up server 10.77.2.2
	pod_up client 10.77.1.2
	pod_up other 10.77.1.3
	dual_stack client:1 server:2 other:3
	serve server :: 80 81 53
	"$ONRAMP" load -z 127.0.0.1 -z ::1 -p "$PIN" -c "$CG" -n "/run/netns/$RUN-node" \
		-t "$CG/ztunnel"
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

# ztunnel listens in the pod's netns, or no more.
listen_in() { # POD ADDRESS PORT...
	mkdir -p "$CG/ztunnel/$1"
	launch "$WORK/ztunnel-in-$1" run_in "ztunnel/$1" "$1" "$TCP" share "${@:2}"
}
leave() { # POD
	cgroup_end "$CG/ztunnel/$1"
}

captured() { # ORIGINAL
	[[ $output =~ \ local=\[::ffff:127\.[0-9.]+\]:15001\  ]] || { echo "got: $output"; return 1; }
	has " orig4=$1 " "dialled=$1 "
}

@test "no listener: not enrolled, whatever mesh_rules say" {
	onramp enroll 10.77.1.0/24
	run -0 pod client "$TCP" dial 10.77.2.2 80
	onramp forget 10.77.1.0/24
	has "dialled=10.77.2.2:80 " " local=[::ffff:10.77.2.2]:80 "
}

@test "a listener that comes and goes changes the very next connect() of a running process" {
	mkfifo "$WORK/steps"
	pod client "$TCP" steps 10.77.2.2 80 <"$WORK/steps" >"$WORK/dialled" 3>&- &
	exec 9>"$WORK/steps"
	step() { # N
		echo >&9
		retry 100 sh -c "[ \$(wc -l <'$WORK/dialled') -ge $1 ]"
		output=$(sed -n "$1p" "$WORK/dialled")
	}
	step 1
	has " local=[::ffff:10.77.2.2]:80 "
	listen_in client :: 15001 15053
	step 2
	captured 10.77.2.2:80
	leave client
	step 3
	has " local=[::ffff:10.77.2.2]:80 "
	listen_in client :: 15001 15053
	step 4
	captured 10.77.2.2:80
	exec 9>&-
}

@test "the proxy sees the pod's address and port, the client whom it dialled" {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
	from=${output##*from=}
	from=${from%% *}
	has "from=10.77.1.2:" " peer=[::ffff:10.77.1.2]:${from##*:} "
}

@test "a program that has bound an address keeps it" {
	ip -n "$RUN-client" addr add 10.77.9.9/16 dev eth0
	for family in "AF_INET, ('10.77.9.9', 0), ('10.77.2.2', 80)" \
		"AF_INET6, ('::ffff:10.77.9.9', 0), ('::ffff:10.77.2.2', 80)"; do
		run -0 pod client python3 -c "
import socket
def dial(family, local, to):
    s = socket.socket(family)
    s.setsockopt(socket.IPPROTO_IP, 24, 1) # IP_BIND_ADDRESS_NO_PORT
    s.bind(local)
    s.connect(to)
    print('dialled=%s:%d' % s.getpeername()[:2], s.recv(512).decode(), end=' ')
from socket import AF_INET, AF_INET6
dial($family)"
		has " peer=[::ffff:10.77.9.9]:" " orig4=10.77.2.2:80 "
	done
	ip -n "$RUN-client" addr del 10.77.9.9/16 dev eth0
}

@test "connections are spread over 127/8, also those to one destination" {
	run -0 pod client "$TCP" dial 10.77.2.2 80 20
	[ "$(grep -o ' local=[^ ]*' <<<"$output" | sort -u | wc -l)" -gt 9 ] # of 128
	is "$(grep -c ' local=\[::ffff:127\.[12].* orig4=10.77.2.2:80 ' <<<"$output")" 20
}

@test "$WALL connections, each in TIME_WAIT after, to one destination" {
	leave client
	mkdir "$CG/ztunnel/client"
	dial_a_wall ztunnel/client client
	ip netns exec "$RUN-client" sysctl -qw net.ipv4.ip_local_port_range="32768 60999"
	leave client
	listen_in client :: 15001 15053
}

@test "where ztunnel listens on one address alone, a pod has as many connections as ports" {
	ip netns exec "$RUN-other" sysctl -qw net.ipv4.ip_local_port_range="40000 40049"
	listen_in other 127.0.0.1 15001
	run -0 pod other "$TCP" flood 300 10.77.2.2 80 </dev/null
	never_began 250
	leave other
	is "$output" "50 begun"
	ip netns exec "$RUN-other" sysctl -qw net.ipv4.ip_local_port_range="32768 60999"
}

@test "a number is one pod's: dialled by another, it stands for nothing" {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	local number=${output#* local=\[::ffff:}
	number=${number%%\]*}
	listen_in other :: 15001
	run -0 pod client "$TCP" dial "$number" 15001
	has "dialled=10.77.2.2:80 " " orig4=10.77.2.2:80 "
	run -0 pod other "$TCP" dial "$number" 15001
	has "dialled=$number:15001 " " orig4=E" # the kernel's own: ENOENT or ENOPROTOOPT
	leave other
}

@test "no number is left: handed over instead; those that have one keep it" {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	"$ROOT/build/bpfcall" fill "$PIN/maps/destinations" 0 >"$WORK/filled"
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
	is "$(metric 'map_full_total{map="destinations"}')" 0
	run -0 pod client "$TCP" dial 10.77.2.2 81 3
	is "$(grep -cE ' local=\[::ffff:127\.(6[4-9]|[7-9].|1[0-2].)\..* orig4=10.77.2.2:81 ' <<<"$output")" 3
	is "$(grep -c '^dialled=10.77.2.2:81 ' <<<"$output")" 3
	is "$(metric 'map_full_total{map="destinations"}')" 3
	"$ROOT/build/bpfcall" drain "$PIN/maps/destinations"
}

@test "a pod whose connections come to nothing keeps only so many numbers" {
	n=${ONRAMP_TEST_VM:+9000}
	"$ROOT/build/bpfcall" fill "$PIN/maps/destinations" 0
	SERVER=10.77.2.9 pod client "$ROOT/build/hostile" hoard "${n:=40000}" 1
	never_began "$n"
	[ "$(entries handovers)" -le 8192 ]
	listen_in other :: 15001
	run -0 pod other "$TCP" dial 10.77.2.9 99 20
	is "$(grep -c " local=\[::ffff:127.*orig4=10.77.2.9:99 " <<<"$output")" 20
	leave other
	"$ROOT/build/bpfcall" drain "$PIN/maps/destinations"
}

@test "no room in ztunnel_listeners: a new listener is found all the same; it is counted" {
	full='map_full_total{map="ztunnel_listeners"}'
	"$ROOT/build/bpfcall" fill "$PIN/maps/ztunnel_listeners" 0 >"$WORK/filled"
	is "$(metric "$full")" 0
	listen_in other :: 15001
	is "$(metric "$full")" 1
	"$ROOT/build/bpfcall" drain "$PIN/maps/ztunnel_listeners" # nor when there is room
	run -0 pod other "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
	# One that is counted, and takes IPv4 alone: what the first never added stays.
	mkdir "$CG/ztunnel/second"
	launch "$WORK/second" run_in ztunnel/second other "$TCP" share 0.0.0.0 15001
	leave other
	cgroup_end "$CG/ztunnel/second"
	is "$(entries ztunnel_listeners)" 1 # client's
	run -0 pod other "$TCP" dial 10.77.2.2 80
	has " local=[::ffff:10.77.2.2]:80 "
}

@test "a listener on 127.0.0.1 alone is found as well" {
	listen_in other 127.0.0.1 15001
	run -0 pod other "$TCP" dial 10.77.2.2 80
	has " local=127.0.0.1:15001 " "orig4=10.77.2.2:80 " "dialled=10.77.2.2:80 "
	# It has none for IPv6: refused, not let through.
	run -1 pod other "$TCP" dial fd00:77::2 80
	is "$output" EPERM
	never_began 1
	leave other
}

@test "IPv6 goes to ::1, and the proxy sees the pod's address" {
	run -0 pod client "$TCP" dial fd00:77::2 80
	has "local=[::1]:15001 " "orig6=[fd00:77::2]:80" "dialled=[fd00:77::2]:80 " \
		"from=[fd00:77::1]:" " peer=[fd00:77::1]:"
}

@test "IPv4-mapped goes the way of IPv4" {
	run -0 pod client "$TCP" dial ::ffff:10.77.2.2 80
	[[ $output =~ \ local=\[::ffff:127\.[0-9.]+\]:15001\  ]]
	has " orig4=10.77.2.2:80 " "dialled=[::ffff:10.77.2.2]:80 " " peer=[::ffff:10.77.1.2]:"
}

@test "loopback, own addresses and bypasses are left alone" {
	for address in 127.0.0.1 10.77.1.2 ::1 fd00:77::1; do
		run -1 pod client "$TCP" dial "$address" 9
		is "$output" ECONNREFUSED
	done
	"$BPFTOOL" map update pinned "$PIN/maps/bypass_rules" \
		key 128 0 0 0 $(bytes_of 10.77.2.2) value 3 0 0 0
	run -0 pod client "$TCP" dial 10.77.2.2 80
	"$BPFTOOL" map delete pinned "$PIN/maps/bypass_rules" key 128 0 0 0 $(bytes_of 10.77.2.2)
	has " local=[::ffff:10.77.2.2]:80 "
}

@test "mesh_rules can take a pod away" {
	onramp exclude 10.77.1.2
	run -0 pod client "$TCP" dial 10.77.2.2 80
	onramp forget 10.77.1.2
	has " local=[::ffff:10.77.2.2]:80 "
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
}

@test "a listener that is not ztunnel's enrols nobody" {
	mkdir "$CG/other/own"
	launch "$WORK/own" run_in other/own other "$TCP" serve :: 15001
	run -0 run_in other/own other "$TCP" dial 10.77.2.2 80
	cgroup_end "$CG/other/own"
	has " local=[::ffff:10.77.2.2]:80 "
}

@test "a listener of the pod's beside ztunnel's hides nothing" {
	for i in 1 2 3; do
		launch "$WORK/beside$i" run_in client client "$TCP" share :: 15001
	done
	# It may rob itself, but nothing gets out.
	for i in {1..9}; do
		run -0 pod client "$TCP" dial 10.77.2.2 80
		[[ $output == *" local=[::ffff:127."* ]] || break
	done
	cgroup_end "$CG/client"
	mkdir "$CG/client"
	has " local=[::ffff:127."
}

@test "a listener that is older than the load" {
	onramp unload
	"$ONRAMP" load -z 127.0.0.1 -z ::1 -p "$PIN" -c "$CG" -n "/run/netns/$RUN-node" \
		-t "$CG/ztunnel"
	connects_from_now
	is "$(entries ztunnel_listeners)" 0
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
	run -0 pod client "$TCP" dial fd00:77::2 80
	has "local=[::1]:15001 "
	run -0 pod server "$TCP" dial 10.77.1.2 15001
	has " local=[::ffff:10.77.1.2]:15001 "
	# Where ztunnel is not at 127.0.0.1: refused, for it listens here.
	settings_read
	both=$settings
	read -ra byte <<<"$settings"
	settings="$(printf '0 %.0s' {1..16}) ${byte[*]:16}" settings_write
	run -1 pod client "$TCP" dial 10.77.2.2 80
	is "$output" EPERM
	never_began 1
	settings=$both settings_write
	leave client
	listen_in client :: 15001 15053
	is "$(entries ztunnel_listeners)" 1
}

@test "another ztunnel than that of -t enrols nobody" {
	mkdir "$CG/new"
	"$ONRAMP" load -z 127.0.0.1 -z ::1 -p "$PIN" -c "$CG" -n "/run/netns/$RUN-node" -t "$CG/new"
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has " local=[::ffff:10.77.2.2]:80 "
	run -0 run_in ztunnel client "$TCP" dial 10.77.2.2 80
	has " local=[::ffff:10.77.2.2]:80 "
	"$ONRAMP" load -z 127.0.0.1 -z ::1 -p "$PIN" -c "$CG" -n "/run/netns/$RUN-node" \
		-t "$CG/ztunnel"
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
}

@test "what ztunnel opens inside a pod's netns passes" {
	before=$(connects passed ztunnel)
	run -0 run_in ztunnel client "$TCP" dial 10.77.2.2 80
	has " local=[::ffff:10.77.2.2]:80 " " peer=[::ffff:10.77.1.2]:"
	is "$(connects passed ztunnel)" $((before + 1))
}

@test "node programs' traffic to pods is left alone" {
	onramp enroll 10.77.0.0/16
	pod server true
	run -0 node "$TCP" dial 10.77.2.2 80
	onramp forget 10.77.0.0/16
	has " local=[::ffff:10.77.2.2]:80 "
}

@test "two pods, the same source port and destination at once: each its own" {
	local port=40000 to one
	listen_in other :: 15001
	for to in 10.9.9.1 10.9.9.2 10.9.9.3 10.77.2.2 10.77.2.2; do
		pod client "$TCP" from $((port += 1)) 10.77.2.2 80 >"$WORK/one" 3>&- &
		one=$!
		pod other "$TCP" from $port $to 80 >"$WORK/two"
		wait $one
		output=$(cat "$WORK/one") captured 10.77.2.2:80
		output=$(cat "$WORK/two") captured $to:80
	done
	leave other
}

@test "pods does not claim to know who is in, only who is out" {
	is "$(mesh_of 10.77.1.2)" "?"
	onramp exclude 10.77.1.2
	is "$(mesh_of 10.77.1.2)" out
	onramp forget 10.77.1.2
}

mesh_of() { awk -v ip="$1" '$NF == ip { print $1 }' "$PIN/pods"; }

@test "the loader wants ztunnel's cgroup" {
	run -1 "$ONRAMP" load -z 127.0.0.1 -p "$PIN" -c "$CG"
	has "127.0.0.1" "-t"
}
