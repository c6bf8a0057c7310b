#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# A rolling update of ztunnel in node mode: the new pod's load is noted, and its ztunnel
# takes over at the moment it listens. Until then, and if it never does, the old one
# goes on; and it passes as ztunnel for as long as it lives.

load helpers.bash

# In the order in which ztunnel opens them.
PORTS=(15053 15008 15006 15001)
# ztunnel's addresses are enrolled too: what it is known by must do.
RULES=(-e 10.77.0.0/16 -x 10.77.2.0/24)

setup_file() {
	node_up takeover
	for n in 9 10 11 12; do zt_up "$n"; done
	pod_up client 10.77.1.2
	pod_up member 10.77.1.3
	pod_up server 10.77.2.2
	dual_stack client:1 member:3 server:2
	serve server :: 80
	serve member :: 80
	serve zt9 :: "${PORTS[@]}"
	of_netns 9 "${RULES[@]}"
	pod member true
}

teardown_file() {
	node_down
}

zt_up() { # N
	pod_up "zt$1" "10.77.0.$1"
	ip -n "$RUN-zt$1" addr add "fd00:77::$1/64" dev eth0 nodad
}

# As the init container of the pod whose addresses end in N.
of_netns() { # N [OPTION]...
	load_from "zt$1" -z "10.77.0.$1" -z "fd00:77::$1" "${@:2}"
}

# The same by its cgroup, from a netns that is not its own. Its pod has run something.
of_cgroup() { # N [OPTION]...
	pod "zt$1" true
	load_from node -z "10.77.0.$1" -z "fd00:77::$1" -t "$(pod_cgroup "zt$1")" "${@:2}"
}

captured() { # N of ztunnel, PORT DESTINATION
	case $3 in
	\[*) has "local=[fd00:77::$1]:$2 " " orig6=$3 " "dialled=$3 " ;;
	*) has "local=[::ffff:10.77.0.$1]:$2 " " orig4=$3 " "dialled=$3 " ;;
	esac
}

# All goes to this one: pods', and node programs' to pods.
serves_all() { # N
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured "$1" 15001 10.77.2.2:80
	run -0 pod client "$TCP" dial fd00:77::2 80
	captured "$1" 15001 "[fd00:77::2]:80"
	run -0 node "$TCP" dial 10.77.1.3 80
	captured "$1" 15006 10.77.1.3:80
	run -0 node "$TCP" dial fd00:77::3 80
	captured "$1" 15006 "[fd00:77::3]:80"
}

# What it dials passes, and its HBONE to a pod of this node goes to itself.
passes() { # POD N
	run -0 pod "$1" "$TCP" dial 10.77.2.2 80
	has " local=[::ffff:10.77.2.2]:80 "
	run -0 pod "$1" "$TCP" dial fd00:77::3 80
	has " local=[fd00:77::3]:80 "
	run -0 pod "$1" "$TCP" dial 10.77.1.3 15008
	captured "$2" 15008 10.77.1.3:15008
}

signal() { # SIGNAL POD
	kill "-$1" "$(cat "$CG/$2/cgroup.procs")"
}

# The client's connection from this port is made, and nobody can have accepted it.
waits_from() { # PORT
	[ -n "$(ip netns exec "$RUN-client" ss -Htn state established "sport = :$1")" ]
}

dials_on() {
	until [ -e "$WORK/enough" ]; do
		pod client "$TCP" some 16 10.77.2.2 80 fd00:77::2 80 </dev/null
	done >"$WORK/all" 2>&1 3>&-
}

# A ztunnel's own address is never captured: not the one's that was before, either.
is_probed() { # N
	mkdir "$CG/zt$1/probed"
	launch "$WORK/probed-$1" run_in "zt$1/probed" "zt$1" "$TCP" serve :: 15021
	run -0 node "$TCP" dial "10.77.0.$1" 15021
	has "local=[::ffff:10.77.0.$1]:15021 "
	run -0 node "$TCP" dial "fd00:77::$1" 15021
	has "local=[fd00:77::$1]:15021 "
	cgroup_end "$CG/zt$1/probed"
}

# The old one serves; the new one is loaded, and some time later listens. Two clients
# meanwhile: one that dials all the time, and one whose connection the old one has not
# accepted yet.
rolls() { # OLD NEW LOAD-FUNCTION
	serves_all "$1"
	dials_on &
	all=$!
	run -0 "$3" "$2"
	is "$output" ""
	serves_all "$1"
	# Not whoever listens there.
	serve client 10.77.1.2 15001
	serves_all "$1"

	signal STOP "zt$1"
	pod client "$TCP" from 2081 10.77.2.2 81 >"$WORK/early" 3>&- &
	early=$!
	retry 100 waits_from 2081
	serve "zt$2" :: "${PORTS[@]}"
	signal CONT "zt$1"
	wait "$early"
	output=$(cat "$WORK/early")
	captured "$1" 15001 10.77.2.2:81

	serves_all "$2"
	passes "zt$2" "$2"
	passes "zt$1" "$1"
	is_probed "$1"
	is_probed "$2"
	touch "$WORK/enough"
	wait "$all"
	rm "$WORK/enough"
	run grep -v '^proxied=16 direct=0 wrong=0 failed=0$' "$WORK/all"
	is "$output" ""
	echo "# $(wc -l <"$WORK/all") times 16 connections meanwhile" >&3
	cgroup_end "$CG/client"
	mkdir "$CG/client"

	pod_down "zt$1"
	serves_all "$2"
	passes "zt$2" "$2"
}

@test "known by the loader's netns" {
	rolls 9 10 of_netns
}

@test "known by its cgroup, -t" {
	onramp unload
	of_cgroup 10 "${RULES[@]}"
	rolls 10 11 of_cgroup
}

@test "a successor that never listens changes nothing, nor does its end" {
	zt_up 13
	run -0 of_cgroup 13
	serves_all 11
	is_probed 13
	pod_down zt13
	serves_all 11
	passes zt11 11
}

@test "another takes the place of a successor that never listened" {
	run -0 of_netns 12
	serves_all 11
	serve zt12 :: "${PORTS[@]}"
	serves_all 12
	passes zt12 12
	passes zt11 11
}

@test "one that listens already takes over at once" {
	zt_up 14
	serve zt14 :: "${PORTS[@]}"
	serves_all 12
	run -0 of_netns 14
	is "$output" ""
	serves_all 14
	# Again, as after a crash of its container: nothing changes.
	run -0 of_netns 14
	serves_all 14
	run -0 of_cgroup 12
	serves_all 12
}
