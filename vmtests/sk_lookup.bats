#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# sk_lookup: in node mode, loaded from ztunnel's netns, redirected connections come
# to many of ztunnel's ports, each of which tells the original destination, and
# reach the one listener that they are for.

load helpers.bash

BENCH=$ROOT/build/bench

setup_file() {
	node_up sk_lookup
	ztunnel_up # older than the load
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	pod_up stranger 10.77.3.2 # not enrolled
	dual_stack client:1 server:2 ztunnel:9
	serve ztunnel "$ZTUNNEL_POD_IP6" 15001 15006 15053
	serve server :: 80 53
	reload_there -z "$ZTUNNEL_POD_IP6" -e 10.77.1.0/24
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

# What the proxy says of a connection: number or lent, listener, original.
seen() { # number|lent PORT ORIGINAL
	local port=${output#* local=} kind
	port=${port%% *} port=${port##*:}
	kind=$((port < 32768 ? 0 : port < 57344 ? 1 : 2))
	is "$kind" "$([ "$1" = number ] && echo 1 || echo 2)"
	has " on=$2" "$3 " "dialled=${3#orig?=} "
}

@test "both families, IPv4-mapped addresses, and a listener that is older than the load" {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	seen number 15001 orig4=10.77.2.2:80
	has "peer=10.77.1.2:"
	run -0 pod client "$TCP" dial fd00:77::2 80
	seen number 15001 "orig6=[fd00:77::2]:80"
	has "peer=[fd00:77::1]:"
	run -0 pod client "$TCP" dial ::ffff:10.77.2.2 80
	has " on=15001" "orig4=10.77.2.2:80 " "dialled=[::ffff:10.77.2.2]:80 "
	run -0 pod stranger "$TCP" dial 10.77.2.2 80
	has " on=80" "peer=[::ffff:10.77.3.2]:"
	is "$(entries handovers)" 0
}

@test "while load moves to another cgroup both have our program: the number stays" {
	local hook ids=()
	for hook in 4 6; do
		ids[hook]=$("$BPFTOOL" -j link show pinned "$PIN/links/connect$hook" | jq .prog_id)
		"$BPFTOOL" cgroup attach "$CG/client" "connect$hook" id "${ids[hook]}" multi
	done
	run -0 pod client "$TCP" dial 10.77.2.2 80
	seen number 15001 orig4=10.77.2.2:80
	run -0 pod client "$TCP" dial fd00:77::2 80
	seen number 15001 "orig6=[fd00:77::2]:80"
	for hook in 4 6; do
		"$BPFTOOL" cgroup detach "$CG/client" "connect$hook" id "${ids[hook]}"
	done
}

@test "the same when settings change between the two of one connect(): another ztunnel" {
	local other=$WORK/bpf/other id
	id=$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .prog_id)
	"$BPFTOOL" prog loadall "$ROOT/build/other.bpf.o" "$other" pinmaps "$other" \
		map name settings pinned "$PIN/maps/settings"
	"$BPFTOOL" cgroup attach "$CG/client" connect4 id "$id" multi
	"$BPFTOOL" cgroup attach "$CG/client" connect4 pinned "$other/other_load" multi
	settings_read
	read -ra now <<<"$settings"
	now[15]=8 # 10.77.0.8
	# shellcheck disable=SC2086 # bytes
	"$BPFTOOL" map update pinned "$other/next_settings" key 0 0 0 0 value "${now[@]}"
	run -0 pod client "$TCP" dial 10.77.2.2 80
	"$BPFTOOL" cgroup detach "$CG/client" connect4 pinned "$other/other_load"
	"$BPFTOOL" cgroup detach "$CG/client" connect4 id "$id"
	rm -r "$other"
	settings_write
	has " local=$ZTUNNEL_POD_IP:" " on=15001" "orig4=10.77.2.2:80 " # not 10.77.0.8
}

@test "a destination has one number, another destination another" {
	before=$(entries destinations)
	run -0 pod client "$TCP" dial 10.77.2.2 80 20
	is "$(grep -o ' local=[^ ]*' <<<"$output" | sort -u | wc -l)" 1
	is "$(entries destinations)" "$before"
	run -0 pod client "$TCP" dial 10.77.2.2 81
	seen number 15001 orig4=10.77.2.2:81
	is "$(entries destinations)" $((before + 1))
	run -0 pod client "$TCP" dial 10.77.2.2 80
	seen number 15001 orig4=10.77.2.2:80
}

@test "node programs are led to the inbound listener, by numbers that are lent" {
	pod_up web 10.77.1.3
	serve web 0.0.0.0 80
	run -0 node "$TCP" dial 10.77.1.3 80
	seen lent 15006 orig4=10.77.1.3:80
	run -0 node "$TCP" dial 10.77.1.3 80 30
	is "$(grep -c ' on=15006' <<<"$output")" 30
	is "$(entries handovers)" 0
	pod_down web
}

@test "with DNS capture port 53 is led to the DNS listener" {
	settings_read
	reload_there -z "$ZTUNNEL_POD_IP6" -d
	run -0 pod client "$TCP" dial 10.77.2.2 53
	seen number 15053 orig4=10.77.2.2:53
	run -0 pod client "$TCP" dial fd00:77::2 53
	seen number 15053 "orig6=[fd00:77::2]:53"
	settings_write
	run -0 pod client "$TCP" dial 10.77.2.2 53
	seen number 15001 orig4=10.77.2.2:53
}

@test "a listener that comes after the load; while there is none, connections are refused" {
	cgroup_end "$CG/ztunnel"
	mkdir "$CG/ztunnel"
	run -1 pod client "$TCP" dial 10.77.2.2 80
	is "$output" ECONNREFUSED
	run -1 node "$TCP" dial 10.77.1.2 80
	is "$output" ECONNREFUSED
	is "$(entries handovers)" 0
	serve ztunnel :: 15001 15006 15053
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has " on=15001" "orig4=10.77.2.2:80 " "dialled=10.77.2.2:80 "
	run -0 pod client "$TCP" dial fd00:77::2 80
	seen number 15001 "orig6=[fd00:77::2]:80"
}

@test "a pod with several addresses, and a socket that is bound to one" {
	ip -n "$RUN-client" addr add 10.77.1.200/16 dev eth0
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has " on=15001" "orig4=10.77.2.2:80 " "from=10.77.1.2:" "dialled=10.77.2.2:80 "
	run -0 pod client curl -s --http0.9 --interface 10.77.1.200 http://10.77.2.2/
	has " on=15001" "orig4=10.77.2.2:80 " "peer=[::ffff:10.77.1.200]:"
	ip -n "$RUN-client" addr del 10.77.1.200/16 dev eth0
}

@test "without a number left, one is lent to each connection" {
	"$ROOT/build/bpfcall" fill "$PIN/maps/destinations" 0
	run -0 pod client "$TCP" dial 10.77.2.2 80 # has one
	has " on=15001" "orig4=10.77.2.2:80 "
	run -0 pod client "$TCP" dial 10.77.2.9 99 20
	is "$(grep -c ' on=15001' <<<"$output")" 20
	is "$(grep -c ' orig4=10.77.2.9:99 ' <<<"$output")" 20
	is "$(grep -c 'dialled=10.77.2.9:99 ' <<<"$output")" 20
	[ "$(metric 'map_full_total{map="destinations"}')" -ge 20 ]
	is "$(entries handovers)" 0
	"$ROOT/build/bpfcall" drain "$PIN/maps/destinations" >/dev/null
}

@test "a port that stands for nothing is a port like others" {
	run -1 pod stranger "$TCP" dial "$ZTUNNEL_POD_IP" 40000
	is "$output" ECONNREFUSED
	serve ztunnel 0.0.0.0 40001
	run -0 pod stranger "$TCP" dial "$ZTUNNEL_POD_IP" 40001
	has " on=40001" "orig4=E"
}

@test "a number is none in another pod's hands" {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	port=${output#* local=} port=${port%% *} port=${port##*:}
	run -1 pod stranger "$TCP" dial "$ZTUNNEL_POD_IP" "$port"
	is "$output" ECONNREFUSED
}

# Connections that begin and come to nothing, without a number left.
hoard() { # N SOURCES
	"$ROOT/build/bpfcall" fill "$PIN/maps/destinations" 0
	SERVER=10.77.2.9 pod client "$ROOT/build/hostile" hoard "$@" >"$WORK/hoard"
}

# A pod of the enrolled and a node program get what they are lent.
others_are_lent() {
	run -0 pod neighbour "$TCP" dial 10.77.2.9 99 20
	is "$(grep -c 'dialled=10.77.2.9:99 .* on=15001' <<<"$output")" 20
	run -0 node "$TCP" dial 10.77.1.4 80 20
	is "$(grep -c 'dialled=10.77.1.4:80 .* on=15006' <<<"$output")" 20
	"$ROOT/build/bpfcall" drain "$PIN/maps/destinations" >/dev/null
}

@test "a pod that dials from what addresses it likes keeps no number from others" {
	pod_up neighbour 10.77.1.4
	n=${ONRAMP_TEST_VM:+3000}
	hoard "${n:=40000}" 40
	never_began "$n"
	[ "$(entries handovers)" -le 2048 ]
	others_are_lent
}

@test "nor one that dials from a port that it chose, and may have several addresses" {
	ip -n "$RUN-client" addr add 10.77.1.200/16 dev eth0
	n=${ONRAMP_TEST_VM:+2500}
	hoard "${n:=30000}" 0
	never_began "$(cat "$WORK/hoard")"
	ip -n "$RUN-client" addr del 10.77.1.200/16 dev eth0
	others_are_lent
	pod_down neighbour
}

@test "what a pod has of numbers, also of those lent to it, goes with the pod" {
	before="$(entries destinations) $(entries handovers)"
	for i in 5 6; do
		pod_up "gone$i" "10.77.1.$i"
		ip -n "$RUN-gone$i" addr add "fd00:77::$i/64" dev eth0 nodad
		for port in 80 81 82; do pod "gone$i" "$TCP" dial 10.77.2.2 $port; done
	done
	pod gone5 "$TCP" dial fd00:77::2 80
	is "$(entries destinations)" $((${before% *} + 7))
	"$ROOT/build/bpfcall" fill "$PIN/maps/destinations" 0
	ip -n "$RUN-gone5" route add blackhole "$ZTUNNEL_POD_IP"
	SERVER=10.77.2.9 pod gone5 "$ROOT/build/hostile" hoard 50 0
	never_began 50
	"$ROOT/build/bpfcall" drain "$PIN/maps/destinations" >/dev/null
	is "$(entries handovers)" $((${before#* } + 50))
	pod_down gone5
	pod_down gone6
	is "$(entries destinations) $(entries handovers)" "$before"
}

@test "$WALL connections, each in TIME_WAIT after, to one destination; without numbers there is a wall" {
	cgroup_end "$CG/ztunnel"
	mkdir "$CG/ztunnel"
	dial_a_wall ztunnel ztunnel
	reload # from elsewhere: one port
	run -1 pod client "$BENCH" client -W -n "$WALL" -o 10.77.2.2:80 10.77.2.2 80
	has "Cannot assign requested address"
	never_began 1
}

@test "a connection that has a number keeps its peer's name when a load does away with numbers" {
	mkfifo "$WORK/loaded"
	reload_there
	launch "$WORK/named" pod client python3 -c 'if True:
		import socket
		s = socket.create_connection(("10.77.2.2", 80))
		print("ready", flush=True)
		open("'"$WORK"'/loaded").read()
		print(*s.getpeername())'
	reload # from elsewhere
	echo >"$WORK/loaded"
	retry 100 grep -q 10. "$WORK/named"
	is "$(tail -n 1 "$WORK/named")" "10.77.2.2 80"
}

@test "ztunnel's netns is the one that has all of its addresses, not one that binds any" {
	reload_there -z "$ZTUNNEL_POD_IP6"
	[ -e "$PIN/links/lookup" ]
	reload_there -z fd00:77::99
	[ ! -e "$PIN/links/lookup" ]
	ip netns exec "$RUN-stranger" sysctl -qw net.ipv4.ip_nonlocal_bind=1 \
		net.ipv6.ip_nonlocal_bind=1
	ONRAMP_NETNS=stranger reload -z "$ZTUNNEL_POD_IP6"
	[ ! -e "$PIN/links/lookup" ]
	ONRAMP_NETNS=stranger reload
	[ ! -e "$PIN/links/lookup" ]
}
