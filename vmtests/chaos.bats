#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native,alone
# In-pod mode whole, and all that may happen to it, at random from a seed: `make chaos`
# takes 10 minutes with 30 pods (CHAOS_MINUTES, CHAOS_PODS), SEED=N repeats a run's events
# in their order. (Node mode, hostile pods and full maps: soak.bats.)
#
# After each event, and at the end: nothing went past ztunnel, nor to another's
# destination; who is not in the mesh has noticed nothing; of who is, no connection was
# lost but while no ztunnel was there; what the maps and pins have is what there is.

load helpers.bash
load mesh.bash
load zds.bash

SECONDS_OF_CHAOS=${CHAOS_MINUTES:+$((CHAOS_MINUTES * 60))}
SECONDS_OF_CHAOS=${SECONDS_OF_CHAOS:-30}
SEED=${SEED:-$((EPOCHSECONDS % 32768))}
MEMBERS=${CHAOS_PODS:-6} # that dial, and are dialled
export DIALS_MS=$((MEMBERS * 15))

setup_file() {
	zds_node_up chaos
	kpod_up zt1 10.77.0.8 8
	kpod_up zt2 10.77.0.9 9
	is_ztunnel zt1
	is_ztunnel zt2
	plain_up server "$SERVER" 22
	plain_up stranger 10.77.3.2 32
	serve server :: 80
	zds_load
	zds_up
	zt_up zt1
}

teardown() {
	[ -n "${BATS_TEST_COMPLETED-}" ] || tail -n 8 "$WORK/events" "$WORK/zds" >&2
}

teardown_file() {
	zds_node_down
	rmdir "/sys/fs/cgroup/memory/$RUN" 2>/dev/null || : # of an event that was cut short
}

member() { # sets name and n, of one of them
	roll "$MEMBERS"
	name=m$rolled n=$((rolled + 50))
}

# The events. Each leaves all as it was, and whatever was not ztunnel's end is no excuse.

event_zds_killed() {
	zds_kill
	pause 700
	zds_up
}

event_zds_stopped() {
	zds_signals STOP
	pause 1500
	zds_signals CONT
}

event_zds_killed_at_work() { # amid joining and leaving
	no_workload comes
	pause 300
	zds_kill
	workload comes
	zds_up
	enabled comes
}

event_load() {
	local build=build
	roll 2
	[ "$rolled" = 0 ] || build=build/other
	ONRAMP=$ROOT/$build/onramp zds_load
}

event_two_loads() {
	local one
	ONRAMP=$ROOT/build/other/onramp zds_load 9>&- 3>&- &
	one=$!
	zds_load
	wait "$one"
}

event_ztunnel_rolled() {
	local new=$((3 - zt))
	zt_up "zt$new"
	knows_all "zt$new"
	zt_kill TERM "zt$zt"
	zt=$new
}

event_ztunnel_killed() {
	local from=$EPOCHREALTIME
	zt_kill KILL "zt$zt"
	pause 1000
	zt_up "zt$zt"
	knows_all "zt$zt"
	echo "$from $EPOCHREALTIME" >>"$WORK/excuses"
}

event_pod_comes_and_ends() {
	kpod_made guest 10.77.1.9 9
	workload guest
	serve guest :: 80
	enabled guest
	goes_by ztunnel guest 9
	member_down guest
}

event_leaves_and_joins() {
	no_workload comes
	becomes comes ""
	pause 300
	workload comes
	enabled comes
}

event_bypass() {
	workload comes bypass_inbound=true
	pause 300
	workload comes
}

event_second_address() {
	member
	ip -n "$RUN-$name" addr add "10.77.8.$n/16" dev eth0
	pause 200
	ip -n "$RUN-$name" addr del "10.77.8.$n/16" dev eth0
}

event_device() {
	member
	ip -n "$RUN-$name" link add more type bridge
	pause 200
	ip -n "$RUN-$name" link del more
}

event_netns_of_its_own() {
	member
	run_in "$name/app" "$name" unshare -n true
}

event_cgroups() {
	local cgroup dirs dir
	member
	cgroup_of "$name/app"
	dirs=("$CG/$cgroup"/{a,b}{1,2,3})
	mkdir "${dirs[@]}"
	way_from "$name/app/b2" "$name" "$SERVER"
	is "$way" ztunnel
	for dir in "${dirs[@]}"; do [ ! -d "$dir" ] || rmdir "$dir"; done # a container's has gone
}

event_cgroup_moved() { # a program is moved to another of its pod's, and back
	local cgroup pid
	member
	cgroup_of "$name/app"
	mkdir -p "$CG/$cgroup/moved"
	launch "$WORK/moves" run_in "$name/app" "$name" sh -c 'echo ready; exec sleep 1000'
	read -r pid < <(tac "$CG/$cgroup/cgroup.procs")
	echo "$pid" >"$CG/$cgroup/moved/cgroup.procs"
	way_from "$name/app/moved" "$name" "$SERVER"
	is "$way" ztunnel
	kill "$pid"
	retry 100 is_gone "$cgroup/moved"
	rmdir "$CG/$cgroup/moved"
}

event_visit() { # a program of a pod's goes to a netns that is nobody's: refused, and back
	local cgroup
	member
	cgroup_of "$name/app"
	run "$TCP" in "$CG/$cgroup/cgroup.procs" "/run/netns/$RUN-stranger" "$TCP" dial "$SERVER" 80
	is "$output" ECONNREFUSED
	way_from "$name/app" "$name" "$SERVER"
	is "$way" ztunnel
}

# onramp-zds may have next to nothing more, for its maps in the kernel either, or is ended
# for it: where memory is a controller of cgroup v1, which knows of no other cgroups here.
[ ! -w /sys/fs/cgroup/memory/memory.limit_in_bytes ] || event_memory_short() {
	local group=/sys/fs/cgroup/memory/$RUN pid
	mkdir "$group"
	zds_pid
	echo "$pid" >"$group/cgroup.procs"
	roll 8
	echo $(((rolled + 1) * 32768)) >"$group/memory.limit_in_bytes" || : # it has more by now
	kpod_made guest2 10.77.1.10 10
	workload guest2
	serve guest2 :: 80
	pause 700
	echo -1 >"$group/memory.limit_in_bytes"
	sleep 0.5 # what is killed has to end
	if zds_pid; then echo "$pid" >"/sys/fs/cgroup/memory/cgroup.procs"; else zds_up; fi
	retry 100 rmdir "$group"
	enabled guest2
	goes_by ztunnel guest2 10
	member_down guest2
}

event_dir_emptied() {
	mkdir -m 700 "$STATE/aside"
	mv "$WORKLOADS"/*-* "$STATE/aside"
	pause 1500
	mv "$STATE/aside"/* "$WORKLOADS"
	rmdir "$STATE/aside"
}

event_dir_replaced() {
	cp -a "$WORKLOADS" "$STATE/new"
	mv "$WORKLOADS" "$STATE/old"
	pause 300
	mv "$STATE/new" "$WORKLOADS"
	rm -r "$STATE/old"
	sleep 1.5 # until it is read: who is not in it then does not leave
}

event_bad_files() {
	: >"$WORKLOADS/11111111-1111-4111-8111-111111111111"
	echo nonsense >"$WORKLOADS/README"
	pause 300
	rm "$WORKLOADS/11111111-1111-4111-8111-111111111111" "$WORKLOADS/README"
	# Not among those that go at once, of which nobody leaves.
	retry 200 test ! -e "$STATE/status/11111111-1111-4111-8111-111111111111"
}

event_peers() {
	mkdir -p "$CG/strays"
	launch "$WORK/stray" light_run_in strays node "$ROOT/vmtests/zds-peer" "$ZDS_SOCKET" hello closed
}

event_reads() {
	cat "$PIN/pods" "$PIN/metrics" "$PIN/links/iter_task" >/dev/null
	onramp rules >/dev/null
	zds_metric ztunnel_connected >/dev/null
}

# Such a ztunnel has been told of each pod that is in the mesh.
knows_all() { # NAME
	local each
	zt_has_snapshot
	for each in "${members[@]}" comes; do
		uid_of "$each"
		retry 200 grep -q "^told add $uid" "$WORK/$1"
		becomes "$each" enabled
	done
}

# Judgement.

# Lines of what was lost, or another's, and no excuse covers: "BEGAN ENDED FATE TO: WHAT".
bad() {
	cat "$WORK"/lost-* | awk -v excuses="$WORK/excuses" '
		BEGIN {
			while ((getline line <excuses) > 0) {
				split(line, at)
				from[++n] = at[1]
				to[n] = at[2]
			}
		}
		{
			for (i = 1; $3 == "failed" && i <= n; i++)
				if ($1 < to[i] && $2 > from[i]) next
			print
		}'
}

# Whom nobody leads anywhere may lose none, whatever ends.
judge() { # EVENT
	is "after $1: $(bad)" "after $1: "
	is "after $1: $(cat "$WORK/lost-stranger")" "after $1: "
	nothing_escaped
}

@test "$SECONDS_OF_CHAOS seconds, $MEMBERS pods, SEED=$SEED" {
	local events=() event end i next guests
	declare -A counts
	mapfile -t events < <(declare -F | sed -n 's/^declare -f event_//p')
	: >"$WORK/excuses"
	members=()
	for ((i = 0; i < MEMBERS; i++)); do
		member_up "m$i" $((i + 50))
		members+=("m$i")
	done
	member_up comes 40
	before=$(connects passed not_enrolled)
	for ((i = 0; i < MEMBERS; i++)); do
		next=$(((i + 1) % MEMBERS + 50))
		# By the stand-in, that is: what it forwards looks so to the client.
		dials "m$i" direct "$SERVER" 80 "$SERVER6" 80 "10.77.1.$next" 80 "fd00:77::$next" 80
	done
	dials stranger direct "$SERVER" 80 "$SERVER6" 80
	dials_begin "${members[@]}" stranger
	zt=1 RANDOM=$SEED
	end=$((SECONDS + SECONDS_OF_CHAOS))
	while [ $SECONDS -lt $end ]; do
		roll ${#events[@]}
		event=${events[rolled]}
		echo "$EPOCHREALTIME $event" >>"$WORK/events"
		"event_$event"
		counts[$event]=$((${counts[$event]-0} + 1))
		judge "$event"
		pause 200
	done
	dials_end "${members[@]}" stranger
	judge "all"
	echo "# $(for event in "${!counts[@]}"; do echo "$event ${counts[$event]}"; done | sort | paste -sd ,)" >&3
	echo "# $(sum_of "${members[@]}") connections of pods, $(sum_of stranger) of a stranger" >&3
	# Each guest is dialled by the server, twice.
	guests=$((2 * (${counts[pod_comes_and_ends]-0} + ${counts[memory_short]-0})))
	is "passed: $(($(connects passed not_enrolled) - before))" "passed: $(($(sum_of stranger) + guests))"
	retry 100 is "$(what_there_is)" \
		"$((MEMBERS + 1)) led, $((MEMBERS + 1)) rules, $((MEMBERS + 3)) netns, $((MEMBERS + 1)) statuses"
}
