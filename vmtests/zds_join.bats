#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=runc
# onramp-zds: how pods join, change, leave, end and come again. (When it is started anew:
# zds_restart.bats; what files may be like: zds_files.bats; what ztunnels may do:
# zds_peers.bats.)

load helpers.bash
load mesh.bash
load zds.bash

setup_file() {
	members_node_up zds_join
}

# One that failed is not to be the failure of the next.
teardown() {
	[ -n "${BATS_TEST_COMPLETED-}" ] || kpods_down
}

teardown_file() {
	zds_node_down
}

@test "a pod that has run nothing: refused from its first program on, until ztunnel has acked" {
	kpod_made new 10.77.1.1 1
	workload new
	becomes new "pending not-started"
	is "$(rule new)" zds-in
	zt_signals STOP zt
	for to in $SERVER $SERVER6; do # its first programs
		way_of new "$to"
		is "$way" refused
	done
	serve new :: 80
	becomes new "pending waits for ztunnel"
	goes_by refused new 1
	way_of new 10.77.1.1
	is "$way" direct
	zt_signals CONT zt
	enabled new
	goes_by ztunnel new 1
	uid_of new
	is "$(grep "^told add $uid" "$WORK/zt")" "told add $uid default/new/account"
	run -0 run_in server server timeout 5 bash -c \
		'exec 5<>/dev/tcp/fd00:77::1/15008; echo "CONNECT [fd00:77::1]:80 me" >&5; cat <&5'
	has " on=80"
	grep -q "^inbound-hbone .* dst=\[fd00:77::1\]:80 via=hbone" "$WORK/zt"
	is "$(late)" 0
	member_down new
	grep -q "^told del $uid" "$WORK/zt"
}

@test "one that runs already loses no connection as it joins, nor as it leaves; it is counted" {
	before=$(late)
	kpod_up old 10.77.1.2 2
	serve old :: 80
	goes_by direct old 2
	dial_each_way old 2
	workload old
	enabled old
	goes_by ztunnel old 2
	sleep 1
	is "$(late)" $((before + 1))
	grep -q "^outbound peer=10.77.1.2:" "$WORK/zt"
	grep -q "^inbound-plain .* dst=\[fd00:77::2\]:80" "$WORK/zt"
	no_workload old
	becomes old ""
	retry 200 leaves_only old uid_netns
	: >"$WORK/zt"
	goes_by direct old 2
	sleep 1
	dials_stop old server
	run grep bound "$WORK/zt"
	is "$output" ""
	# Again, and left before it has joined.
	zt_signals STOP zt
	workload old
	becomes old "pending waits for ztunnel"
	goes_by direct old 2
	no_workload old
	becomes old ""
	goes_by direct old 2
	# ... and said again before it has left.
	workload old
	becomes old "pending waits for ztunnel"
	no_workload old
	becomes old ""
	zt_signals CONT zt
	retry 200 leaves_only old uid_netns
	kpod_down old
}

# bats test_tags=once
@test "one that has ended: ztunnel is told; all is clean when its file goes; it may begin again" {
	member_up ends 3
	kpod_end ends
	uid_of ends
	retry 200 told_is zt "del $uid" 1
	becomes ends "pending not-started"
	is "$(rule ends)" zds-in
	[ ! -e "$PIN/inbound/$uid" ]
	kpod_begins_again ends
	serve ends :: 80
	enabled ends
	goes_by ztunnel ends 3
	is "$(told_count zt "add $uid")" 2
	kpod_end ends
	retry 200 told_is zt "del $uid" 2
	no_workload ends
	retry 200 leaves_only ends ""
	kpod_down ends
}

@test "a sandbox made anew: its new netns is told, and refused until ztunnel has acked" {
	member_up anew 4
	uid_of anew
	zt_signals STOP zt
	sandbox_anew anew 10.77.1.5 5 # the netns before is there still: ztunnel holds it open
	way_of anew "$SERVER"
	is "$way" refused
	serve anew :: 80
	becomes anew "pending waits for ztunnel"
	goes_by refused anew 5
	zt_signals CONT zt
	enabled anew
	goes_by ztunnel anew 5
	is "$(told_count zt "add $uid")" 2
	member_down anew
}

# bats test_tags=once
@test "one that runs, and waits, gets a new sandbox: what runs there first is refused" {
	zt_signals STOP zt
	kpod_up waits 10.77.1.6
	serve waits :: 80
	workload waits
	becomes waits "pending waits for ztunnel"
	is "$(rule waits)" ""
	sandbox_anew waits 10.77.1.7
	sandbox waits
	retry 100 rule_is waits zds-in
	way_of waits "$SERVER"
	is "$way" refused
	zt_signals CONT zt
	enabled waits
	member_down waits
}

# bats test_tags=once
@test "one that has no process for a while stays, whether onramp-zds is started again or not" {
	member_up still 6
	member_up stopped 7
	containers_end still
	containers_end stopped
	sleep 2.5
	goes_by_pods_own() {
		for to in $SERVER $SERVER6; do
			way_of still "$to"
			is "$way" ztunnel
		done
	}
	goes_by_pods_own
	zds_kill
	zds_up
	zt_has_snapshot
	uid_of stopped
	is "$(told_count zt "add $uid") $(told_count zt "keep $uid")" "1 1"
	sleep 1.5
	is "$(status still) $(status stopped)" "enabled enabled"
	goes_by_pods_own
	serve still :: 80
	goes_by ztunnel still 6
	member_down still
	# What was kept is told Del as well.
	kpod_end stopped
	retry 200 told_is zt "del $uid" 1
	no_workload stopped
	retry 200 leaves_only stopped ""
	kpod_down stopped
}

# bats test_tags=once
@test "bypass_inbound=, said of a running pod and taken back" {
	member_up bypass 8 bypass_inbound=true
	way_of server 10.77.1.8
	is "$way" direct
	workload bypass bypass_inbound=false
	retry 200 becomes_way ztunnel server 10.77.1.8
	goes_by ztunnel bypass 8
	workload bypass bypass_inbound=true
	retry 200 becomes_way direct server 10.77.1.8
	way_of server fd00:77::8
	is "$way" direct
	way_of bypass "$SERVER6"
	is "$way" ztunnel
	workload bypass
	retry 200 becomes_way ztunnel server fd00:77::8
	is "$(status bypass)" enabled
	member_down bypass
}

@test "dns=, said before there is a cgroup, and of a running pod: with load -d, and without" {
	kpod_named dns # a file tells of it before the kubelet does anything
	workload dns dns=true
	becomes dns "pending not-started"
	kpod_up dns 10.77.1.10 10
	enabled dns
	member_up other 11
	answered_by dns ztunnel
	answered_by other direct
	workload other dns=true
	retry 100 answered_by other ztunnel
	workload other
	retry 100 answered_by other direct
	uid_of other
	is "$(find "$PIN/links" -name "*$uid")" ""
	zds_load -d
	answered_by other ztunnel
	workload other dns=false
	retry 100 answered_by other direct
	answered_by dns ztunnel
	workload other dns=true
	retry 100 answered_by other ztunnel
	zds_load
	retry 100 answered_by other ztunnel
	answered_by dns ztunnel
	member_down dns
	member_down other
}

# bats test_tags=once
@test "what captures a pod's DNS is renewed by a load, and goes with onramp" {
	member_up renew 12 dns=true
	uid_of renew
	for build in build/other build; do
		ONRAMP=$ROOT/$build/onramp zds_load
		for program in sendmsg4 sendmsg6 recvmsg4 recvmsg6; do
			wanted=$("$BPFTOOL" -j prog show pinned "$PIN/programs/$program" | jq .id)
			is "$program $("$BPFTOOL" -j link show pinned "$PIN/links/$program-$uid" | jq .prog_id)" \
				"$program $wanted"
		done
		answered_by renew ztunnel
	done
	member_down renew
}

# bats test_tags=once
@test "ip=: a netns that holds none of them is never told, and is refused; one that does is" {
	kpod_made ip 10.77.1.13 13
	workload ip ip=10.77.1.99 ip=fd00:77::99
	serve ip :: 80
	becomes ip "pending address"
	way_of ip "$SERVER"
	is "$way" refused
	sleep 2
	uid_of ip
	is "$(told_count zt "add $uid")" 0
	ip -n "$RUN-ip" addr add fd00:77::99/64 dev eth0 nodad
	enabled ip
	goes_by ztunnel ip 13
	# Once enabled it stays, and a new ztunnel is told of it.
	workload ip ip=10.77.1.98
	sleep 1.2
	is "$(status ip)" enabled
	zds_kill
	zds_up
	zt_has_snapshot
	zt_kill KILL zt
	members_zt_up
	retry 200 told_is zt "add $uid" 1
	is "$(status ip)" enabled
	goes_by ztunnel ip 13
	member_down ip
	# IPv4, of a pod that runs already.
	kpod_up ip 10.77.1.13
	workload ip ip=10.77.1.99
	becomes ip "pending address"
	way_of ip "$SERVER"
	is "$way" direct
	workload ip ip=10.77.1.99 ip=10.77.1.13
	enabled ip
	way_of ip "$SERVER"
	is "$way" ztunnel
	member_down ip
}

# bats test_tags=once
@test "ip=, of a pod that has thousands of addresses, and not that one: no other waits for it" {
	kpod_made many 10.77.1.13
	ip -n "$RUN-many" link add v0 type veth peer name v1
	ip -n "$RUN-many" link set v0 up
	seq -f 'addr add 10.99.%g.1/32 dev v0' 0 255 >"$WORK/many"
	for n in {2..20}; do sed "s/\.1\/32/.$n\/32/" "$WORK/many"; done | head -4000 |
		ip -n "$RUN-many" -batch -
	sandbox many
	# shellcheck disable=SC2046 # lines
	workload many $(seq -f ip=10.9.9.%g 16)
	becomes many "pending address"
	before=$(zds_ticks)
	sleep 2
	[ $(($(zds_ticks) - before)) -lt 10 ]
	workload many ip=10.99.7.3
	enabled many
	member_down many
}

# bats test_tags=once
@test "ip= that is said later than the rest: a netns that was good until then is not told either" {
	zt_signals STOP zt
	kpod_made later 10.77.1.13
	workload later
	serve later :: 80
	becomes later "pending waits for ztunnel"
	zt_kill KILL zt
	workload later ip=10.77.1.99
	becomes later "pending address"
	members_zt_up
	retry 200 grep -q "snapshot" "$WORK/zt"
	uid_of later
	is "$(told_count zt "add $uid")" 0
	workload later ip=10.77.1.13
	enabled later
	member_down later
}

# bats test_tags=once
@test "who a pod is does not change once it was told, however often onramp-zds is started" {
	member_up identity 14
	uid_of identity
	for line in namespace=other name=other service_account=other; do
		text=(namespace=default name=identity service_account=account)
		for i in 0 1 2; do [[ ${text[i]} != "${line%=*}="* ]] || text[i]=$line; done
		workload_text identity "${text[@]}"
		becomes identity "pending identity-changed"
		goes_by ztunnel identity 14
		workload identity
		enabled identity
	done
	workload_text identity namespace=other name=other service_account=other
	becomes identity "pending identity-changed"
	zds_kill
	zds_up
	zt_kill TERM zt
	members_zt_up
	retry 200 told_is zt "add $uid default/identity/account" 1
	becomes identity "pending identity-changed"
	goes_by ztunnel identity 14
	is "$(told_count zt "add $uid")" 1
	# One that has left may come as another.
	no_workload identity
	retry 200 leaves_only identity uid_netns
	workload_text identity namespace=other name=other service_account=other
	enabled identity
	retry 200 told_is zt "add $uid other/other/other" 1
	member_down identity
}

# bats test_tags=once
@test "an operator's OUT goes before onramp-zds' IN, and neither changes the other" {
	member_up out 15
	uid_of out
	onramp exclude "$uid"
	is "$(rule out)" "out zds-in"
	goes_by direct out 15
	sleep 1.5
	is "$(rule out) $(status out)" "out zds-in enabled"
	onramp forget "$uid"
	goes_by ztunnel out 15
	onramp enroll "$uid"
	no_workload out
	retry 200 rule_is out in
	onramp forget "$uid"
	kpod_down out
}

# bats test_tags=once
@test "with --strict, who stays out is passed by DIR/outside, for as long as it lives or until it joins" {
	zds_load -s
	kpod_up stranger 10.77.1.5 5
	goes_to() { # WAY
		way_of stranger "$SERVER"
		is "$way" "$1"
	}
	goes_to refused
	mkdir -m 700 "$WORKLOADS/outside"
	uid_of stranger
	(umask 077 && : >"$WORKLOADS/outside/$uid")
	retry 100 rule_is stranger zds-out
	goes_to direct
	# At once, though the directory was made later than onramp-zds was there.
	slow=0
	for n in 1 2 3 4 5; do
		made_up=00000000-0000-4000-8000-00000000000$n
		(umask 077 && : >"$WORKLOADS/outside/$made_up")
		sleep 0.3
		"$BPFTOOL" map lookup pinned "$PIN/maps/mesh_pods" key hex 0 0 0 0 0 0 40 0 80 0 0 0 0 0 0 $n >/dev/null ||
			slow=$((slow + 1))
		rm "$WORKLOADS/outside/$made_up"
	done
	is "$slow" 0
	# It joins, and the file may go or stay; it leaves.
	workload stranger
	enabled stranger
	is "$(rule stranger)" zds-in
	goes_to ztunnel
	no_workload stranger
	retry 200 status_is stranger ""
	goes_to direct
	retry 200 logged "event=left uid=$uid"
	is "$(rule stranger)" zds-out
	goes_to direct
	rm "$WORKLOADS/outside/$uid" # by accident, say, while no onramp-zds is there
	zds_kill
	zds_up
	zt_has_snapshot
	sleep 1.2
	is "$(rule stranger)" zds-out
	kpod_end stranger
	retry 200 rule_is stranger ""
	kpod_down stranger
	zds_load
}
