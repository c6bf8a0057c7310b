#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# Many pods, one after another and at once: each one's verdicts are right, its
# own connections' and the node's to it, and nothing of it stays. Half of them are
# enrolled. In full by `make churn`: 10,000 pods, and 2,000 at once; in in-pod mode a
# fifth of these.

load helpers.bash

PODS=$ROOT/build/pods
CHURN=${ONRAMP_TEST_CHURN:-1000}
AT_ONCE=${ONRAMP_TEST_AT_ONCE:-400}

setup_file() {
	node_up churn
	ztunnel_up
	pod_up server 10.77.2.2
	dual_stack server:2 ztunnel:9
	serve ztunnel "$ZTUNNEL_POD_IP6" 15001 15006
	serve server :: 80
	routes_to_light_pods ztunnel server
	mkdir "$CG/in" "$CG/out"
	node_mode -z "$ZTUNNEL_POD_IP6" -e 10.78.0.0/16 -e 10.80.0.0/16
	node true
	known >"$WORK/known"
}

teardown_file() {
	node_down
}

teardown() {
	local fd
	for fd in ${holds[@]+"${holds[@]}"}; do exec {fd}>&-; done
}

# What the maps say there is.
known() {
	awk 'NR > 1 { print $NF }' "$PIN/pods" | sort
	echo "$(entries cgroup_info_map) cgroups, $(entries pod_ips) addresses, $(entries numbers) numbers"
}

as_before() {
	known | diff "$WORK/known" - >"$WORK/left"
}

nothing_stays() {
	retry 200 as_before || { cat "$WORK/left" >&2; return 1; }
}

# COUNT pods, at most ALIVE at a time; the last ones until `enough`.
begin() { # in|out NET FATE COUNT ALIVE [OPTION]...
	local fd
	rm -f "$WORK/$1.until"
	mkfifo "$WORK/$1.until"
	node "$PODS" -n "$3" "${@:6}" "$CG/$1" "$2" "$4" "$5" "$TCP" some 2 10.77.2.2 80 fd00:77::2 80 \
		<"$WORK/$1.until" >"$WORK/$1" 2>"$WORK/$1.errors" 3>&- &
	pids+=($!)
	exec {fd}>"$WORK/$1.until"
	holds+=("$fd")
}

made() { # in|out...
	local kind
	for kind; do
		until grep -q ^made "$WORK/$kind"; do
			kill -0 "${pids[0]}" "${pids[1]}" || { cat "$WORK"/*.errors >&2; return 1; }
			sleep 0.5
		done
	done
}

enough() {
	local fd pid
	for fd in "${holds[@]}"; do exec {fd}>&-; done
	holds=()
	for pid in "${pids[@]}"; do wait "$pid"; done
}

verdicts() { # in|out: of the pods' own connections, then of the node's to them
	is "$(head -n 5 "$WORK/$1.errors")" ""
	awk -F '[ =]' '
		{ own = $1 != "node"; sub("^node ", "") }
		$1 == "proxied" { for (i = 1; i < NF; i += 2) sum[own, $i] += $(i + 1) }
		function four(own) {
			return sum[own, "proxied"] + 0 " " sum[own, "direct"] + 0 " " \
				sum[own, "wrong"] + 0 " " sum[own, "failed"] + 0
		}
		END { print four(1) ", node " four(0) }' "$WORK/$1"
}

@test "$CHURN pods made and removed, 64 alive at a time: every verdict is right, and no map keeps any" {
	begun=$EPOCHREALTIME
	begin in 78 proxied $((CHURN / 2)) 32
	begin out 79 direct $((CHURN / 2)) 32
	made in out
	enough
	n=$((CHURN / 2))
	echo "# in $(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }') s;" \
		"enrolled: $(verdicts in); not: $(verdicts out)" >&3
	is "$(verdicts in)" "$((2 * n)) 0 0 0, node $n 0 0 0"
	is "$(verdicts out)" "0 $((2 * n)) 0 0, node 0 $n 0 0"
	nothing_stays
}

@test "$AT_ONCE pods at once: each is in pods, each verdict is right, and no map keeps any" {
	n=$((AT_ONCE / 2))
	begun=$EPOCHREALTIME
	begin in 80 proxied $n $n
	begin out 81 direct $n $n
	made in out
	echo "# $AT_ONCE pods made in $(awk -v a="$begun" -v b="$EPOCHREALTIME" \
		'BEGIN { printf "%.1f", b - a }') s" >&3
	times=()
	for _ in 1 2 3 4 5; do
		begun=$EPOCHREALTIME
		cat "$PIN/pods" >"$WORK/pods"
		times+=("$(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", (b - a) * 1000 }')")
	done
	echo "# cat pods: ${times[*]} ms" >&3
	echo "# with them: maps $(memory_of_maps), programs $(memory_of_programs)" >&3
	is "$(grep -cE '^in .*  (10[.]80[.]|fd00:(00)?80:)' "$WORK/pods")" "$AT_ONCE"
	is "$(grep -cE '^out .*  (10[.]81[.]|fd00:(00)?81:)' "$WORK/pods")" "$AT_ONCE"
	enough
	is "$(verdicts in)" "$((2 * n)) 0 0 0, node $n 0 0 0"
	is "$(verdicts out)" "0 $((2 * n)) 0 0, node 0 $n 0 0"
	nothing_stays
}

@test "in-pod mode, $((CHURN / 5)) pods made and removed, each with ztunnel in it: no map keeps any" {
	n=$((CHURN / 10))
	mkdir "$CG/ztunnel/in"
	onramp unload
	in_pod_mode -e 10.82.0.0/16
	node true
	known >"$WORK/known"
	begin in 82 direct $n 16 -z "$CG/ztunnel/in"
	begin out 83 direct $n 16
	made in out
	enough
	is "$(verdicts in)" "$((2 * n)) 0 0 0, node 0 $n 0 0"
	is "$(verdicts out)" "0 $((2 * n)) 0 0, node 0 $n 0 0"
	retry 300 swept || { cat "$WORK/left" >&2; return 1; }
}

# Each exec takes out the numbers of one pod that has gone.
swept() {
	/bin/true
	as_before
}
