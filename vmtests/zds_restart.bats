#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once,runc
# onramp-zds: that pods do not notice when it, ztunnel or onramp is started anew, nor the
# machine but until then. (How they join and leave: zds_join.bats.)

load helpers.bash
load mesh.bash
load zds.bash

setup_file() {
	members_node_up zds_restart
}

# One that failed is not to be the failure of the next.
teardown() {
	[ -n "${BATS_TEST_COMPLETED-}" ] || kpods_down
}

teardown_file() {
	zds_node_down
}

# Two pods that are enabled, of which one is dialled and dials all the while.
two_up() { # N OF THE FIRST
	member_up one "$1"
	member_up two $(($1 + 1)) bypass_inbound=true
	dial_each_way one "$1"
	said_before=$(all_said)
}

# What is not to change: rules, links, status.
all_said() {
	local name uid
	for name in one two; do
		uid_of $name
		echo "$name $(rule $name) $(status $name)" \
			"$("$BPFTOOL" -j link show pinned "$PIN/inbound/$uid" | jq -c '[.id, .netns_ino]')"
	done
}

two_go_on() { # N
	is "$(all_said)" "$said_before"
	goes_by ztunnel one "$1"
	way_of two "$SERVER6"
	is "$way" ztunnel
	way_of server "fd00:77::$(($1 + 1))"
	is "$way" direct
}

two_down() {
	dials_stop one server
	member_down one
	member_down two
}

@test "killed, ended, and onramp loaded anew beneath it: pods go on, and others join" {
	two_up 20
	for each in "KILL build/other" "TERM build"; do
		zds_kill "${each% *}"
		two_go_on 20
		workload one by=nobody
		zds_up
		zt_has_snapshot
		sleep 1.5
		two_go_on 20
		ONRAMP=$ROOT/${each#* }/onramp zds_load
		sleep 1.5
		two_go_on 20
		member_up third 29
		goes_by ztunnel third 29
		member_down third
	done
	is "$(late)" 0
	two_down
}

@test "a file that goes while it is not there is its pod's leaving, but several are nobody's" {
	member_up one 23
	member_up two 24
	member_up three 25
	zds_kill
	no_workload one
	goes_by ztunnel one 23
	zds_up
	retry 200 leaves_only one uid_netns
	goes_by direct one 23
	is "$(status two) $(status three)" "enabled enabled"
	zds_kill
	no_workload two
	no_workload three
	zds_up
	logged "event=missing .*nobody leaves"
	zt_has_snapshot
	sleep 1.5
	is "$(status two) $(status three)" "enabled enabled"
	goes_by ztunnel two 24
	# A DIR that is another by now, which has one file too few.
	workload three
	zds_kill
	mv "$WORKLOADS" "$STATE/before"
	cp -a "$STATE/before" "$WORKLOADS"
	zds_up
	zt_has_snapshot
	sleep 1.5
	is "$(status two) $(status three)" "enabled enabled"
	goes_by ztunnel two 24
	rm -r "$STATE/before"
	workload two
	sleep 0.5 # it has been seen
	kpod_down one
	member_down two
	member_down three
}

@test "killed before what it had attached had its name: a pod that has left is led nowhere by it" {
	local uid
	member_up one 23 dns=true
	uid_of one
	zds_kill
	for program in sendmsg4 sendmsg6 recvmsg4 recvmsg6; do mv "$PIN/links/$program-$uid" "$PIN/links/new-zds"; done
	mv "$PIN/inbound/$uid" "$PIN/inbound/new"
	no_workload one
	zds_up
	zt_has_snapshot
	retry 200 leaves_only one uid_netns
	goes_by direct one 23
	is "$(ls "$PIN/inbound")" ""
	[ ! -e "$PIN/links/new-zds" ]
	kpod_down one
}

# What onramp-zds said beside its events; and not bash, of one that was killed before.
last_words() {
	grep -vE '^event=|helpers.bash: line' "$WORK/zds"
}

@test "onramp unloaded beneath it: it ends with a line; loaded and started again all is as before" {
	member_up one 25
	member_up two 26 dns=true
	onramp unload
	retry 200 is_gone zds
	is "$(last_words)" "onramp-zds: $PIN: was unloaded: to be started again"
	goes_by direct one 25
	zds_load
	zds_up
	zt_has_snapshot # what status says until then is of the last one
	enabled one two
	goes_by ztunnel one 25
	answered_by two ztunnel
	# Both before it has noticed.
	zds_signals STOP
	onramp unload
	zds_load
	zds_signals CONT
	retry 200 is_gone zds
	is "$(last_words)" "onramp-zds: $PIN: was unloaded: to be started again"
	zds_up
	zt_has_snapshot # what status says until then is of the last one
	enabled one two
	goes_by ztunnel one 25
	is "$(late)" 0
	zt_kill KILL zt
	members_zt_up
	goes_by ztunnel one 25
	member_down one
	member_down two
}

@test "onramp loaded in node mode beneath it: it ends with a line" {
	settings_change 124 1 # as that load does
	retry 200 is_gone zds
	is "$(last_words)" "onramp-zds: $PIN: is in node mode now, which needs no onramp-zds"
	settings_change 124 2
	zds_up
	zt_has_snapshot
}

@test "ztunnel restarted while it was not there, and told by another: noted by who comes to stand by" {
	member_up one 60
	retry 200 nothing_is_heeded
	zds_kill
	rm "$ZDS_SOCKET"
	mkdir -p "$CG/agent"
	uid_of one
	launch "$WORK/agent" listening_to agent "$ROOT/vmtests/zds" "$ZDS_SOCKET" \
		"$uid=/run/netns/$RUN-one:default/one/account"
	zt_kill KILL zt
	members_zt_up
	retry 100 grep -q "^ack add" "$WORK/agent"
	: >"$WORKLOADS/.take-over"
	zds_up
	retry 200 becomes_way ztunnel server 10.77.1.60
	is "$(status one)" enabled
	rm "$WORKLOADS/.take-over"
	cgroup_end "$CG/agent"
	rm "$ZDS_SOCKET"
	logged "^event=listening"
	goes_by ztunnel one 60
	member_down one
}

nothing_is_heeded() {
	[ -z "$(find "$PIN/links" -name 'sock_ops-[0-9]')" ]
}

@test "a reboot: what was enabled is refused until ztunnel has acked, and has its rule before its first program" {
	member_up one 27
	member_up two 28
	zds_kill
	zt_kill KILL zt
	onramp unload
	kpod_end two
	zds_load
	zds_up
	becomes one "pending waits for ztunnel"
	becomes two "pending not-started"
	is "$(rule one) $(rule two)" "zds-in zds-in"
	goes_by refused one 27
	kpod_begins_again two
	way_of two "$SERVER"
	is "$way" refused
	serve two :: 80
	members_zt_up
	enabled one two
	goes_by ztunnel one 27
	goes_by ztunnel two 28
	is "$(late)" 0
	member_down one
	member_down two
}

@test "the kubelet's cgroup, where its own counts: known again after it has gone, but with -k" {
	named kubelet units/kubelet.service node
	zds_load
	is "$(kubelets)" "$(ids "$CG/units/kubelet.service")"
	cgroup_end "$CG/units"
	is "$(kubelets)" ""
	named kubelet units/kubelet.service node
	retry 100 kubelet_is_known
	is "$("$BPFTOOL" -j link show pinned "$PIN/links/sock_ops-kubelet-0" | jq .cgroup_id)" \
		"$(kubelets)"
	said zds "event=kubelet cgroup=.*/units/kubelet.service"
	zds_load -k "$CG/units"
	cgroup_end "$CG/units"
	named kubelet units/kubelet.service node
	sleep 6
	is "$(kubelets)" ""
	cgroup_end "$CG/units"
}

kubelet_is_known() {
	[ "$(kubelets)" = "$(ids "$CG/units/kubelet.service")" ]
}
