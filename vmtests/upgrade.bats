#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=alone,once
# Upgrades under load: pods open connections without a pause while onramp is
# loaded over and over, with other objects and options, and while rules change.
# Not one connection fails, goes around the proxy or tells it a wrong destination.

load helpers.bash

CONNECTIONS=${ONRAMP_TEST_CONNECTIONS:-20000}
LOADS=${ONRAMP_TEST_LOADS:-20}
DESTINATIONS="10.77.2.2 80 10.77.2.2 81 fd00:77::2 80"

setup_file() {
	node_up upgrade
	# Everything is one level down, so that onramp can move up and down.
	export ABOVE=$CG CG=$CG/below
	mkdir -p "$CG/node"
	ztunnel_up
	pod_up one 10.77.1.2
	pod_up two 10.77.1.3
	pod_up stranger 10.77.3.2
	pod_up server 10.77.2.2
	dual_stack one:12 two:13 stranger:32 server:2 ztunnel:9
	serve ztunnel "$ZTUNNEL_POD_IP6" 15001
	serve server :: 80 81
	reload -z "$ZTUNNEL_POD_IP6" -e 10.77.1.0/24
}

teardown_file() {
	CG=$ABOVE
	node_down
}

# Opens connections in the pod, N at least, until calm.
storm() { # POD N
	rm -f "$WORK/$1.until"
	mkfifo "$WORK/$1.until"
	# shellcheck disable=SC2086 # pairs
	pod "$1" nice -n 15 "$TCP" many "$2" $DESTINATIONS <"$WORK/$1.until" \
		>"$WORK/$1.sums" 2>"$WORK/$1.errors" 3>&- &
	stormy+=("$1")
	local fd
	exec {fd}>"$WORK/$1.until"
	ends+=("$fd")
}

calm() {
	local fd
	for fd in "${ends[@]}"; do exec {fd}>&-; done
	for pod in "${stormy[@]}"; do
		retry 6000 grep -q failed= "$WORK/$pod.sums"
		head -n 5 "$WORK/$pod.errors" >&2
	done
	stormy=() ends=()
}

sum() { # FATE POD...: how many connections of these pods had it
	local fate=$1
	shift
	(cd "$WORK" && cat "${@/%/.sums}") | tr ' ' '\n' |
		awk -F = -v fate="$fate" '$1 == fate { sum += $2 } END { print sum + 0 }'
}

# The N-th load: each differs from the one before in the object, in what is
# attached, or in where.
other_load() { # N
	local options=("-z $ZTUNNEL_POD_IP6" "-z $ZTUNNEL_POD_IP6 -H"
		"-z $ZTUNNEL_POD_IP6 -d" "-z $ZTUNNEL_POD_IP6 -t $CG/ztunnel"
		"-z $ZTUNNEL_POD_IP6 -c $ABOVE" "-z $ZTUNNEL_POD_IP6 -d -t $CG/ztunnel -c $ABOVE")
	local objects=("$ROOT/build/other/onramp" "$ROOT/build/onramp")

	# shellcheck disable=SC2086 # words
	ONRAMP=${objects[$1 % 2]} reload ${options[$1 * 7 / 2 % 6]}
}

load_or_pause() { # 0|1 N
	if [ "$1" = 0 ]; then other_load "$2"; else sleep 0.3; fi
}

@test "$CONNECTIONS connections of two pods during $LOADS loads: all reach the proxy with their destinations" {
	storm one $((CONNECTIONS / 2))
	storm two $((CONNECTIONS / 2))
	for ((i = 0; i < LOADS; i++)); do
		[ $((i % 10)) -ne 0 ] || echo "# $i of $LOADS loads" >&3
		other_load "$i"
	done
	calm
	proxied=$(sum proxied one two) direct=$(sum direct one two)
	wrong=$(sum wrong one two) failed=$(sum failed one two)
	echo "# $((proxied + direct + wrong + failed)) connections, $LOADS loads:" \
		"$failed failed, $direct direct, $wrong wrong" >&3
	is "$failed $direct $wrong" "0 0 0"
	[ "$proxied" -ge "$CONNECTIONS" ]
}

@test "the same while pods join and leave by rules: never what neither old nor new rules say" {
	# one is enrolled by all that follow, two by some, stranger by none.
	storm one $((CONNECTIONS / 10))
	storm two $((CONNECTIONS / 10))
	storm stranger $((CONNECTIONS / 10))
	for ((i = 0; i < LOADS / 4; i++)); do
		onramp exclude 10.77.1.3 10.77.1.128/25 10.77.3.2
		onramp enroll 10.77.1.2 10.77.3.0/24 # a longer prefix keeps stranger out
		onramp forget 10.77.1.0/24
		load_or_pause $((i % 2)) "$i"
		onramp exclude 10.77.0.0/16
		onramp enroll 10.77.1.3 10.77.1.0/24
		onramp forget 10.77.3.0/24 10.77.0.0/16 10.77.1.128/25
		onramp forget 10.77.3.2 10.77.1.2 10.77.1.3
		load_or_pause $((1 - i % 2)) "$i"
	done
	calm
	echo "# join and leave: $(sum proxied one two stranger) proxied," \
		"$(sum direct one two stranger) direct, $(sum failed one two stranger) failed," \
		"$(sum wrong one two stranger) wrong" >&3
	is "$(sum failed one two stranger) $(sum wrong one two stranger)" "0 0"
	is "one $(sum direct one), stranger $(sum proxied stranger)" "one 0, stranger 0"
	[ "$(sum proxied two)" -gt 0 ]
	[ "$(sum direct two)" -gt 0 ]
}

@test "in-pod mode: no connection notices that onramp moves from cgroup to cgroup" {
	mkdir "$CG/ztunnel/in-one"
	launch "$WORK/in-one" run_in ztunnel/in-one one "$TCP" serve :: 15001
	in_pod() { # OPTION...
		"$ONRAMP" load -p "$PIN" -t "$CG/ztunnel" -n "/run/netns/$RUN-node" -e 10.77.1.0/24 "$@"
	}
	in_pod -c "$CG"
	storm one $((CONNECTIONS / 10))
	for ((i = 0; i < LOADS / 4; i++)); do
		if [ $((i % 2)) = 0 ]; then
			in_pod -c "$ABOVE"
		else
			ONRAMP=$ROOT/build/other/onramp in_pod -c "$CG" -d
		fi
	done
	calm
	echo "# in-pod mode, $i moves: $(cat "$WORK/one.sums")" >&3
	is "$(sum failed one) $(sum direct one) $(sum wrong one)" "0 0 0"
	[ "$(sum proxied one)" -ge $((CONNECTIONS / 10)) ]
}
