#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once,runc
# What onramp-zds tells ztunnels, one or two at once, and when: also where pods come, leave
# and are made anew while a ztunnel has not answered yet. (What ztunnels may not say:
# zds_peers.bats.)

load helpers.bash
load mesh.bash
load zds.bash
load zds_peers.bash

setup_file() {
	peers_up zds_ztunnels
}

teardown() {
	peers_down
	log_is_plain "$WORK/zds"
}

teardown_file() {
	zds_node_down
}

# Two ztunnels, of which the second process is the newer; they dial in this order.
two_ztunnels() { # FIRST SECOND
	peer older zt "until=$WORK/go-older" hello all "until=$WORK/go-on" serve
	sleep 0.1 # a process' start is told in hundredths of a second
	peer newer zt2 "until=$WORK/go-newer" hello all "until=$WORK/go-on" serve
	: >"$WORK/go-$1"
	told "$1" "^snapshot"
	: >"$WORK/go-$2"
	told "$2" "^snapshot"
}

both_orders() { # FIRST SECOND
	workload pod
	workload other
	two_ztunnels "$@"
	is "$(all_told older)" "add other, add pod, snapshot"
	is "$(all_told newer)" "add other, add pod, snapshot"
	enabled pod other
	# What the newer does not answer, the older's ack does not stand in for.
	: >"$WORK/go-on"
	workload third
	enabled third
	no_workload other
	becomes other ""
	uid_of other
	told older "^del $uid"
	told newer "^del $uid"
	is "$(all_told older)" "add other, add pod, snapshot, add third, del other"
	is "$(all_told newer)" "add other, add pod, snapshot, add third, del other"
}

@test "two ztunnels, the older dials first: each gets all, Add and Del to both" {
	both_orders older newer
}

@test "... the newer dials first" {
	both_orders newer older
}

@test "by the newest's ack alone a pod is enabled; the newest gone, by the next one's" {
	peer older zt hello serve
	sleep 0.1
	peer newer zt2 hello all wait "until=$WORK/go-on" ack wait closed
	told newer "^snapshot"
	workload pod
	told newer "^add"
	told older "^add"
	sleep 1.5
	is "$(status pod)" "pending waits for ztunnel"
	: >"$WORK/go-on"
	enabled pod
	workload other
	uid_of other
	told newer "^add $uid"
	told older "^add $uid"
	sleep 1.5
	is "$(status other)" "pending waits for ztunnel"
	peers_end zt2
	enabled other
	is "$(status pod)" enabled
}

@test "one that cannot listen in a pod beside its predecessor is told again as soon as that has gone" {
	local uid
	workload pod
	peer older zt hello serve
	enabled pod
	sleep 0.1
	peer newer zt2 hello 'refuse:pod:3=address in use' serve
	uid_of pod
	told newer "^del $uid" # after three
	peers_end zt
	retry 40 told_add newer 4
	is "$(status pod)" enabled
}

told_add() { # PEER COUNT
	[ "$(grep -c "^add" "$WORK/$1")" = "$2" ]
}

made_anew() { # NAME IP
	sandbox_anew "$@"
	sandbox "$1"
}

noted() { # COUNT: of so many ztunnels it is
	is "$(find "$PIN/links" -name 'sock_ops-[0-9]' | wc -l)" "$1" 2>/dev/null
}

@test "where ztunnels listen is noted from before they are told of a pod until all have answered" {
	peer one zt hello all wait "until=$WORK/go-on" ack serve
	peer two zt2 hello serve
	told one "^snapshot"
	told two "^snapshot"
	noted 2
	retry 300 noted 0
	workload pod
	told one "^add"
	noted 2
	sleep 4.2
	noted 2 # for as long as it takes
	: >"$WORK/go-on"
	enabled pod
	retry 300 noted 0
}

netns_of() { # NAME
	stat -L -c %i "/run/netns/$RUN-$1"
}

@test "a pod that leaves, or gets another netns, while Add is under way: Del follows, or Add" {
	workload pod
	peer slow zt hello wait "until=$WORK/go-1" ack wait ack wait ack wait "until=$WORK/go-2" ack \
		wait "until=$WORK/go-3" ack wait ack wait closed
	told slow "^add"
	no_workload pod
	becomes pod ""
	: >"$WORK/go-1"
	told slow "^del"
	told slow "^snapshot"
	workload third
	uid_of third
	before=$(netns_of third)
	told slow "^add $uid .*netns=$before$"
	made_anew third 10.77.1.4
	sleep 1.5
	: >"$WORK/go-2"
	told slow "^add $uid .*netns=$(netns_of third)$"
	[ "$before" != "$(netns_of third)" ]
	is "$(status third)" "pending waits for ztunnel"
	# ... and this once more, but that it leaves at once.
	made_anew third 10.77.1.4
	sleep 1.5
	no_workload third
	becomes third ""
	: >"$WORK/go-3"
	told slow "^del $uid"
	run -1 grep wrong "$WORK/slow"
}

@test "Keep for a pod whose netns nobody is in, before the snapshot; Add as soon as somebody is" {
	workload pod
	workload other
	peer first zt hello serve
	enabled pod other
	zds_kill
	peers_end zt
	containers_end other
	zds_up
	peer second zt hello all "until=$WORK/go-on" serve
	told second "^snapshot"
	is "$(all_told second)" "add pod, keep other, snapshot"
	is "$(status other)" enabled
	: >"$WORK/go-on"
	# One that was never told, and nobody is in: after the snapshot it is not named at all.
	containers_end third
	workload third
	becomes third "pending no-process"
	sandbox other
	uid_of other
	told second "^add $uid .*netns=$(netns_of other)$"
	sandbox third
	enabled pod other third
	run -1 grep wrong "$WORK/second"
	is "$(all_told second)" "add pod, keep other, snapshot, add other, add third"
}

@test "ztunnels that go away at Keep, were it thrice: Add as soon as it can be, all the same" {
	workload other
	peer first zt hello serve
	enabled other
	zds_kill
	peers_end zt
	containers_end other
	zds_up
	for peer in one two three; do
		peer $peer zt hello wait
		told $peer "^keep"
		peers_end zt
	done
	peer last zt hello serve
	told last "^snapshot"
	sandbox other
	retry 60 grep -q ^add "$WORK/last"
}

@test "Keep where sockops cannot be attached, before the snapshot; Add as soon as it can" {
	workload pod
	peer first zt hello serve
	enabled pod
	retry 300 noted 0
	zds_kill
	peers_end zt
	mv "$PIN/programs/sock_ops" "$PIN/programs/away"
	zds_up
	peer second zt hello all "until=$WORK/go-on" serve
	told second "^snapshot"
	is "$(all_told second)" "keep pod, snapshot"
	logged "^event=cannot-note pid=[0-9]+ error=\"No such file or directory\"$"
	is "$(status pod)" enabled
	: >"$WORK/go-on"
	mv "$PIN/programs/away" "$PIN/programs/sock_ops"
	uid_of pod
	told second "^add $uid "
	is "$(all_told second)" "keep pod, snapshot, add pod"
	is "$(status pod)" enabled
}

@test "what has dialled as a pod's is ztunnel's as soon as its pod is said to be" {
	local before uid
	before=$(connects passed ztunnel)
	dials_as_ztunnel() {
		run_in late pod "$TCP" dial 10.77.1.3 80 || :
		[ "$(connects passed ztunnel)" != "$before" ]
	}
	kpod_up late 10.77.0.30
	onramp enroll 10.77.1.2
	run -1 dials_as_ztunnel
	run -1 dials_as_ztunnel
	is_ztunnel late
	retry 100 dials_as_ztunnel
	onramp forget 10.77.1.2
	uid_of late
	rm "$WORKLOADS/ztunnels/$uid"
	kpod_down late
}

@test "a pod that leaves while no ztunnel is connected, and comes as another: none is told but in two steps" {
	local uid
	workload pod
	uid_of pod
	peer before zt hello serve
	enabled pod
	for account in new newer; do
		peers_end zt
		no_workload pod
		becomes pod ""
		workload_text pod namespace=default name=pod "service_account=$account"
		sleep 0.5
		is "$(status pod)" ""
		[ $account = new ] || { zds_kill; zds_up; } # which finds it leaving
		peer after zt hello serve
		told after "^add $uid default/pod/$account "
		is "$(all_told after)" "snapshot, add pod"
		enabled pod
	done
}

@test "one that is listed no more is turned away when it dials again, unless the list itself is gone" {
	local uid
	kpod_up former 10.77.0.31
	is_ztunnel former
	uid_of former
	peer first former hello all serve
	told first "^snapshot"
	mv "$WORKLOADS/ztunnels" "$WORKLOADS/.ztunnels"
	peers_end former
	peer again former hello all serve
	told again "^snapshot"
	mv "$WORKLOADS/.ztunnels" "$WORKLOADS/ztunnels"
	rm "$WORKLOADS/ztunnels/$uid"
	peers_end former
	for zds in "the same" another; do
		[ "$zds" = "the same" ] || { zds_kill; zds_up; }
		peer not-again former hello closed
		told not-again "^closed"
		run -1 grep "^snapshot" "$WORK/not-again"
	done
	peers_end former
	kpod_down former
}

@test "of two that listened before onramp was loaded the newer has what pods dial, in whichever order they dial" {
	local uid
	zt_up zt
	sleep 0.1
	zt_up zt2
	workload pod
	enabled pod
	onramp unload
	retry 200 is_gone zds
	zt_signals STOP zt
	uid_of zt
	mv "$WORKLOADS/ztunnels/$uid" "$WORK/listed"
	zds_load
	zds_up
	logged "event=snapshot"
	mv "$WORK/listed" "$WORKLOADS/ztunnels/$uid"
	zt_signals CONT zt
	retry 200 snapshots_are 2
	enabled pod
	sleep 0.5 # the older has acked as well
	serve other 10.77.1.3 80
	run -0 pod pod "$TCP" dial 10.77.1.3 80
	is "$(grep -c ^outbound "$WORK/zt") $(grep -c ^outbound "$WORK/zt2")" "0 1"
	cgroup_of other/app
	cgroup_end "$CG/$cgroup"
	mkdir "$CG/$cgroup"
}

# A ztunnel whose listener in the pod is there before it dials, and nobody notes it.
listens_and_dials() { # NAME
	local cgroup
	peers_end "$1"
	cgroup_of "$1/zt"
	cgroup_end "$CG/$cgroup"
	mkdir -p "$CG/$cgroup"
	# No container: one's netns would be its own pod's.
	launch "$WORK/$1-listener" light_run_in "$cgroup" pod "$TCP" share :: 15001 15006 15008
	peer "$1" "$1" hello serve
	told "$1" ^snapshot
	enabled pod
}

@test "one that begins again, and listens before it dials, is newer than who began meanwhile" {
	workload pod
	listens_and_dials zt
	listens_and_dials zt2
	retry 300 noted 0
	listens_and_dials zt
	zt_signals STOP zt2
	run -0 pod pod timeout 5 "$TCP" dial 10.77.1.3 80
	[[ $output == *orig4=10.77.1.3:80* ]]
}

snapshots_are() { # COUNT
	[ "$(grep -c "event=snapshot" "$WORK/zds")" = "$1" ]
}

@test "four ztunnels are known, a fifth is turned away, and told of once; until one of them has ended" {
	local name n=20
	for name in zt3 zt4 zt5; do
		kpod_up $name 10.77.0.$n
		is_ztunnel $name
		n=$((n + 1))
	done
	logged "^event=cannot-join"
	sleep 3.5
	is "$(log_count "^event=cannot-join")" 1
	# Whoever was the fifth.
	turned=0
	for name in zt zt2 zt3 zt4 zt5; do
		peer "$name-peer" $name hello all serve
		retry 200 grep -qE "^(snapshot|closed)" "$WORK/$name-peer"
		if grep -q ^closed "$WORK/$name-peer"; then
			turned=$((turned + 1))
			last=$name
		fi
	done
	is "$turned" 1
	logged '^event=turned-away pid=[0-9]+ reason="four ztunnels are known"'
	peers_end "$last"
	if [ "$last" = zt5 ]; then name=zt4; else name=zt5; fi
	kpod_end $name
	peer again "$last" hello all serve
	told again "^snapshot"
	workload pod
	enabled pod
	for name in zt3 zt4 zt5; do
		uid_of $name
		rm "$WORKLOADS/ztunnels/$uid"
		kpod_down $name
	done
}
