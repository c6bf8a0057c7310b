#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once,long
# onramp-zds and those who dial it: ztunnels that say what they may not, or nothing, or no;
# two at once; impostors. Whatever they do, each pod and every other ztunnel is served.

load helpers.bash
load mesh.bash
load zds.bash
load zds_peers.bash

setup_file() {
	peers_up zds_peers
}

teardown() {
	peers_down
	log_is_plain "$WORK/zds"
}

teardown_file() {
	zds_node_down
}

# Those that stay: of peers and pods. (Files are looked at all the while.)
descriptors() {
	zds_pid
	find "/proc/$pid/fd" -mindepth 1 \( -lname 'socket:*' -o -lname 'net:*' \) | wc -l
}

# bats test_tags=runc
@test "one that says what it may not is dropped, with one line that tells why; the others are served" {
	peer good zt hello serve
	told good "^snapshot"
	workload pod
	enabled pod
	before=$(descriptors)
	dropped=0
	# 5,000 bytes of a field that is not known, behind what is good but for that.
	long=$(printf "1a8827%010000d" 0)
	while IFS='|' read -r reason dos; do
		# shellcheck disable=SC2086 # words
		peer bad zt2 $dos
		told bad "^closed"
		dropped=$((dropped + 1))
		is_dropped "$reason" $dropped
	done <<-END
		no hello of version 1|raw=0802 closed
		no hello of version 1|raw=0800 closed
		no hello of version 1|raw=1001 closed
		no hello of version 1|raw=ffffffffffffffff closed
		no hello of version 1|raw=08 closed
		no hello of version 1|raw=0a020801 closed
		it has gone|raw= closed
		too long, or with descriptors|raw=0801$long closed
		too long, or with descriptors|fds=0801 closed
		nobody asked|hello all ack ack closed
		not an answer|hello wait hello closed
		not an answer|hello wait raw=ffff closed
		not an answer|hello wait raw=0a closed
		not an answer|hello wait raw=0a060a04 closed
		not an answer|hello wait raw=1200 closed
		not an answer|hello wait raw=0a001200 closed
		it has gone|hello wait raw= closed
		too long, or with descriptors|hello wait raw=0a00$long closed
		too long, or with descriptors|hello wait fds=0a00 closed
	END
	is "$dropped" 19
	is "$(log_count "^event=dropped")" 19
	is "$(all_told good)" "snapshot, add pod"
	workload other
	enabled other
	retry 100 has_descriptors $((before + 1)) # the other's netns
	is "$(zds_metric 'onramp_zds_connections_total{what="dropped"}')" 19
}

# It has been told of so many, the last of which was dropped for that.
is_dropped() { # REASON COUNT
	retry 200 dropped_are "$2"
	output=$(grep "^event=dropped" "$WORK/zds" | tail -n 1)
	has "reason=\"$1\""
}

dropped_are() { # COUNT
	[ "$(log_count "^event=dropped")" = "$1" ]
}

has_descriptors() { # COUNT
	[ "$(descriptors)" = "$1" ]
}

@test "taken is what protobuf takes: fields that are not known, one said twice, a number at length" {
	for hello in 08011a00 0801120461626364 08020801 0881808080808080808000; do
		peer good zt raw=$hello all
		told good "^snapshot"
		peers_end zt
	done
	# An error that is empty is none; nor is what is not known beside it one.
	workload pod
	peer good zt hello wait raw=0a020a00 wait raw=0a021200 wait closed
	told good "^snapshot"
	enabled pod
}

@test "closed at every point: no other notices, and what it holds is given back" {
	workload pod
	workload other
	peer good zt hello serve
	enabled pod other
	before=$(descriptors)
	for dos in dial hello "hello wait" "hello wait ack" "hello wait ack wait" "hello all" \
		"hello wait nack=no" "hello wait ack wait ack wait ack"; do
		# shellcheck disable=SC2086 # words
		peer bad zt2 $dos
		retry 200 only_one_is_left
		peers_end zt2
	done
	retry 100 has_descriptors "$before"
	is "$(all_told good)" "add other, add pod, snapshot"
	is "$(status pod)" enabled
	workload third
	enabled third
}

only_one_is_left() {
	[ "$(log_count '^event=connected')" = $(($(log_count '^event=dropped') + 1)) ]
}

@test "no hello within 5 s: dropped, and nobody waits for it" {
	peer good zt hello serve
	peer mute zt2 dial closed
	workload pod
	enabled pod
	told mute "^closed after ([5-9]|1)"
	logged "dropped pid=[0-9]+ reason=\"no hello within 5 s\""
}

# Two waits of half a minute, at once.
# bats test_tags=runc
@test "three NACKs: Del, refused, pending with its reason; told again later. No ack within 30 s: dropped" {
	workload pod
	# It is older than the next one: by what is acked there, pods are enabled.
	peer hangs zt2 hello wait closed
	told hangs "^add "
	peer newest zt hello 'refuse:pod:5=cannot: \x01\n"a"=b\\ \xc3\xa9' serve
	told newest "^snapshot"
	becomes pod 'pending ztunnel: cannot: ???a?=b? ??'
	logged '^event=nack uid=[-0-9a-f]+ count=3 reason="cannot: \?\?\?a\?=b\? \?\?"$'
	told newest "^del"
	is "$(all_told newest)" "add pod, snapshot, add pod, add pod, del pod"
	run -1 pod pod "$TCP" dial 10.77.1.3 80
	is "$output" ECONNREFUSED
	node bash -c 'exec 5<>/dev/tcp/127.0.0.1/9990; printf "GET /metrics HTTP/1.0\r\n\r\n" >&5; cat <&5' \
		>"$WORK/metrics"
	grep -qxF 'onramp_zds_pending{reason="ztunnel: cannot: ???a?=b? ??"} 1' "$WORK/metrics"
	workload other
	enabled other
	# In half a minute it is told three times more; the third time it can.
	retry 1200 enough_adds 6
	enabled pod
	is "$(all_told newest)" \
		"add pod, snapshot, add pod, add pod, del pod, add other, add pod, add pod, add pod"
	told hangs "^closed after (3|4)[0-9]"
	logged "dropped pid=[0-9]+ reason=\"no answer within 30 s\""
	is "$(all_told hangs)" "add pod"
}

enough_adds() { # COUNT: of pods, but other
	local uid
	uid_of pod
	[ "$(grep -c "^add $uid" "$WORK/newest")" -ge "$1" ]
}

@test "one NACK, then an ack: enabled; a reason of 3,000 bytes; of which a new ztunnel knows nothing" {
	peer newest zt hello "refuse:pod:1=$(printf 'x%02999d' 0)" serve
	told newest "^snapshot"
	nacks=$(log_count '^event=nack')
	workload pod
	becomes pod "pending ztunnel: $(printf 'x%0117d' 0)"
	enabled pod
	is "$(all_told newest)" "snapshot, add pod, add pod"
	is "$(log_count '^event=nack')" $((nacks + 1))
	# What one cannot, and is to be asked again in half a minute, the next is told at once.
	peer stubborn zt hello refuse:other=no serve
	told stubborn "^snapshot"
	workload other
	told stubborn "^del"
	peer next zt2 hello all serve
	told next "^snapshot"
	is "$(all_told next)" "add other, add pod, snapshot"
	enabled other
}

# bats test_tags=runc
@test "impostors: root in an enrolled pod, on the node, in a cgroup that only looks like ztunnel's" {
	local uid cgroup
	peer good zt hello serve
	told good "^snapshot"
	uid_of zt
	cgroup_of pod/peers
	mkdir -p "$CG/$cgroup/pod$uid/zt" "$CG/node/kubepods-pod${uid//-/_}x.slice" "$CG/pod${uid}0"
	before=$(log_count "^event=connected")
	turned=$(turned_away)
	logged_before=$(log_count "^event=turned-away")
	while read -r cgroup netns; do
		turned=$((turned + 1))
		: >"$WORK/bad"
		launch "$WORK/bad" light_run_in "$cgroup" "$netns" "$ROOT/vmtests/zds-peer" "$ZDS_SOCKET" \
			hello closed
		told bad "^closed"
		run -1 grep -E "^(add|keep|snapshot)" "$WORK/bad"
		retry 200 is_turned_away $turned
	done <<-END
		$cgroup node
		$cgroup pod
		$cgroup/pod$uid pod
		$cgroup/pod$uid/zt pod
		node node
		node/kubepods-pod${uid//-/_}x.slice zt
		pod${uid}0 zt
	END
	cgroup_end "$CG/pod${uid}0"
	# One that is gone before it is looked at, and another that goes on with its connection:
	# no container's first process, with which all end.
	zds_signals STOP
	cgroup_of zt/peers/bad
	mkdir -p "$CG/$cgroup"
	: >"$WORK/bad"
	launch "$WORK/bad" light_run_in "$cgroup" zt "$ROOT/vmtests/zds-peer" "$ZDS_SOCKET" \
		hello orphan closed
	retry 200 is_orphan
	zds_signals CONT
	told bad "^closed"
	retry 200 is_turned_away $((turned + 1))
	is "$(log_count '^event=connected')" "$before"
	is "$(turned_away)" $((turned + 1))
	# A line for each of these eight, which are other processes each.
	is "$(log_count '^event=turned-away pid=[0-9]+ reason="its pod is not in ztunnels"$')" $((logged_before + 8))
	workload pod
	enabled pod
}

turned_away() {
	zds_metric 'onramp_zds_connections_total{what="turned_away"}'
}

is_turned_away() { # COUNT
	[ "$(turned_away)" -ge "$1" ]
}

# The first process is gone, its child is not.
is_orphan() {
	local cgroup parent
	cgroup_of zt/peers/bad
	read -r pid <"$CG/$cgroup/cgroup.procs"
	parent=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status")
	! grep -qx "$parent" "$CG/$cgroup/cgroup.procs" && [ "$(wc -l <"$CG/$cgroup/cgroup.procs")" = 1 ]
}

knows_ztunnels() { # COUNT
	[ "$(entries ztunnels)" = "$1" ]
}

@test "a cgroup that a user has named as a ztunnel's pod is none: what is there is not ztunnel's" {
	local uid
	kpod_named ghost
	is_ztunnel ghost
	uid_of ghost
	before=$(entries ztunnels)
	turned=$(turned_away)
	mkdir "$CG/delegated"
	chown 65534 "$CG/delegated" "$CG/delegated/cgroup.procs"
	setpriv --reuid=65534 --clear-groups mkdir "$CG/delegated/pod$uid"
	launch "$WORK/bad" light_run_in "delegated/pod$uid" node "$ROOT/vmtests/zds-peer" "$ZDS_SOCKET" \
		hello closed
	told bad "^closed"
	retry 200 is_turned_away $((turned + 1))
	sleep 1.2 # its pod might be known without that
	is "$(entries ztunnels)" "$before"
	# Below that, root's is one.
	mkdir "$CG/delegated/pod$uid/pod$uid"
	retry 100 knows_ztunnels $((before + 1))
	cgroup_end "$CG/delegated"
	rm "$WORKLOADS/ztunnels/$uid" "$WORK/uid-ghost"
}

@test "who dials 50 times a second: five a second are let in, and that costs little; a ztunnel gets in" {
	workload pod
	logged_before=$(log_count "^event=turned-away")
	peer bad pod flood=50
	retry 200 is_turned_away 5
	cpu=$(zds_ticks)
	n=$(turned_away)
	start=$SECONDS
	sleep 5
	n=$(($(turned_away) - n))
	took=$((SECONDS - start + 1))
	[ "$n" -ge 5 ]
	[ "$n" -le $((took * 5 + 5)) ]
	[ -n "${ONRAMP_TEST_VM-}" ] || [ $((($(zds_ticks) - cpu) / took)) -lt 20 ]
	[ $(($(log_count "^event=turned-away") - logged_before)) -le 1 ]
	# It dials in between, ten times a second.
	peer good zt hello serve
	retry 1200 grep -q "^snapshot" "$WORK/good"
	enabled pod
	workload other
	enabled other
}

# What it has used of a CPU, in hundredths of a second.
zds_ticks() {
	zds_pid
	awk '{ print $14 + $15 }' "/proc/$pid/stat"
}
