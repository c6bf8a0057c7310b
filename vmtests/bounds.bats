#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# Every map at its limit: which verdicts hold, what the metrics and the loader
# say, and what all of it costs in memory. (10,000 pods: see churn.bats.)

load helpers.bash

BPFCALL=$ROOT/build/bpfcall
FLOOD=${ONRAMP_TEST_FLOOD:-5000}

setup_file() {
	node_up bounds
	ztunnel_up
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	node_mode -e 10.77.1.0/24
	run_in client client true
}

teardown_file() {
	node_down
}

teardown() {
	# shellcheck disable=SC2154 # bats'
	[ -z "${full-}" ] || "$BPFCALL" drain "$PIN/maps/$full" >/dev/null
}

room() { # MAP: for how many entries
	"$BPFTOOL" -j map show pinned "$PIN/maps/$1" | grep -o '"max_entries":[0-9]*' | grep -o '[0-9]*'
}

# Fills the map up to its limit, and tells what that took.
fill() { # MAP ERROR [VALUE]
	local before
	before=$(entries "$1")
	full=$1
	run -0 "$BPFCALL" fill "$PIN/maps/$1" "${3-0}"
	is "$output" "$(($(room "$1") - before)) $2"
	echo "# $1 with $(room "$1") entries: $("$BPFTOOL" -j map show pinned "$PIN/maps/$1" | kib)" >&3
}

drain() {
	"$BPFCALL" drain "$PIN/maps/$full" >/dev/null
	full=
}

captured() { # POD
	run -0 pod "$1" "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.2.2:80 " "dialled=10.77.2.2:80 "
}

direct() { # POD
	run -0 pod "$1" "$TCP" dial 10.77.2.2 80
	has " local=10.77.2.2:80 "
}

@test "cgroup_info_map full: every verdict is as it was, for old pods and new" {
	fill cgroup_info_map E2BIG
	before=$(metric 'map_full_total{map="cgroup_info_map"}')
	misses=$(metric cache_misses_total)
	pod_up new 10.77.1.3
	serve new 0.0.0.0 80
	pod_up newstranger 10.77.3.3
	captured client
	captured new
	direct newstranger
	[ "$(metric 'map_full_total{map="cgroup_info_map"}')" -gt "$before" ]
	[ "$(metric cache_misses_total)" -gt "$misses" ]
	run -0 node "$TCP" dial 10.77.1.2 80
	has "local=$ZTUNNEL_POD_IP:15006 " "orig4=10.77.1.2:80 "
	run -0 node "$TCP" dial 10.77.1.3 80
	has "local=$ZTUNNEL_POD_IP:15006 " "orig4=10.77.1.3:80 "
	# A ztunnel that starts only now is ztunnel as well.
	onramp enroll 10.77.0.0/16
	pod_down ztunnel
	ztunnel_up
	node_mode
	for pod in client new server node; do ip -n "$RUN-$pod" neigh flush all; done
	run -0 pod ztunnel "$TCP" dial 10.77.2.2 80
	onramp forget 10.77.0.0/16
	has " local=10.77.2.2:80 "
	drain
	pod_down new
	pod_down newstranger
	run ! grep -qE ' 10[.]77[.][13][.]3$' "$PIN/pods"
	captured client
}

@test "pod_ips full: pods' own connections as they were; the node's to new pods pass, and are counted" {
	fill pod_ips E2BIG
	before=$(metric 'map_full_total{map="pod_ips"}')
	pod_up new 10.77.1.4
	serve new 0.0.0.0 80
	captured client
	captured new
	direct server
	[ "$(metric 'map_full_total{map="pod_ips"}')" -gt "$before" ]
	run -0 node "$TCP" dial 10.77.1.2 80
	has "local=$ZTUNNEL_POD_IP:15006 " "orig4=10.77.1.2:80 "
	run -0 node "$TCP" dial 10.77.1.4 80
	has " local=10.77.1.4:80 "
	drain
	pod_down new
	captured client
}

@test "handovers full: the proxy is told nothing rather than something wrong, and it is counted" {
	fill handovers E2BIG
	before=$(metric 'map_full_total{map="handovers"}')
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=E" "orig6=E"
	is "$(metric 'map_full_total{map="handovers"}')" $((before + 1))
	drain
	captured client
}

@test "a flood of half-open handshakes pushes out no other pod's original destination" {
	pod_up flooder 10.77.1.66
	mkfifo "$WORK/flood"
	# While ztunnel answers nobody, client's handshake waits in handovers.
	ip netns exec "$RUN-ztunnel" iptables -A INPUT -p tcp --dport 15001 -j DROP
	pod client "$TCP" dial 10.77.2.2 80 >"$WORK/client" 3>&- &
	retry 100 sh -c "[ \"\$('$BPFTOOL' -j map dump pinned '$PIN/maps/handovers')\" != '[]' ]"
	pod flooder "$TCP" flood "$FLOOD" 10.77.2.2 81 <"$WORK/flood" >"$WORK/begun" 3>&- &
	exec 9>"$WORK/flood"
	retry 600 grep -q begun "$WORK/begun"
	is "$(cat "$WORK/begun")" "$FLOOD begun"
	# And however many more there are.
	full=handovers
	run -0 "$BPFCALL" fill "$PIN/maps/handovers" 0
	is "$output" "$(($(room handovers) - FLOOD - 1)) E2BIG"
	ip netns exec "$RUN-ztunnel" iptables -A INPUT -p tcp -s 10.77.1.66 -j DROP
	ip netns exec "$RUN-ztunnel" iptables -D INPUT -p tcp --dport 15001 -j DROP
	retry 200 grep -q . "$WORK/client"
	output=$(cat "$WORK/client")
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.2.2:80 "
	drain
	captured client # while the flood lasts
	exec 9>&-
	wait
	ip netns exec "$RUN-ztunnel" iptables -F
	is "$(entries handovers)" 0
	pod_down flooder
}

# The loader cannot add a rule: one line says so, and none of several is added.
no_room() { # MAP ARGUMENT-THAT-FAILS COMMAND...
	run -1 --separate-stderr "${@:3}"
	is "$output" ""
	is "$stderr" "onramp: $2: $1 is full: onramp forget what is not needed"
	for ip in 10.88.0.0 10.89.0.0; do
		run ! "$BPFTOOL" map lookup pinned "$PIN/maps/$1" key 128 0 0 0 $(bytes_of "$ip")
	done
}

@test "mesh_rules full: enroll and load say so and change nothing; forget makes room" {
	onramp enroll 10.99.0.0/16
	fill mesh_rules ENOSPC 2
	onramp forget 10.99.0.0/16
	no_room mesh_rules 10.89.0.0/16 onramp enroll 10.88.0.0/16 10.89.0.0/16
	no_room mesh_rules 10.89.0.0/16 node_mode -e 10.88.0.0/16 -x 10.89.0.0/16
	captured client
	direct server
	onramp enroll 10.77.2.0/24
	run -0 pod server "$TCP" dial 10.77.1.2 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.1.2:80 "
	onramp forget 10.77.2.0/24
	drain
}

@test "bypass_rules full: load says so and changes nothing" {
	node_mode -b 10.99.0.0/16
	fill bypass_rules ENOSPC 3
	"$BPFTOOL" map delete pinned "$PIN/maps/bypass_rules" \
		key 112 0 0 0 $(bytes_of 10.99.0.0)
	no_room bypass_rules 10.89.0.0/16 node_mode -b 10.88.0.0/16 -b 10.89.0.0/16
	captured client
	drain
	node_mode -b 10.77.2.2
	direct client
}

@test "what it costs in memory" {
	maps=$(memory_of_maps) programs=$(memory_of_programs)
	echo "# nearly empty: maps $maps, programs $programs" >&3
	[ "${maps% KiB}" -gt 0 ]
	[ "${programs% KiB}" -gt 0 ]
}
