#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# cgroup_rmdir: the maps hold exactly the live cgroups and pods.

load helpers.bash

setup_file() {
	node_up rmdir
	reload -e 10.77.1.0/24
}

teardown_file() {
	node_down
}

@test "a removed cgroup is forgotten, and with a pod's last one the pod" {
	pod_up two 10.77.1.2
	mkdir "$CG/two/app" "$CG/two/side"
	run_in two/app two true
	run_in two/side two true
	run cat "$PIN/pods"
	has " 2  10.77.1.2"
	was=$(entries cgroup_info_map)
	rmdir "$CG/two/app"
	is "$(entries cgroup_info_map)" $((was - 1))
	run cat "$PIN/pods"
	has " 1  10.77.1.2"
	rmdir "$CG/two/side"
	is "$(entries cgroup_info_map)" $((was - 2))
	is "$(entries pod_ips)" 0
	pod_down two
}

@test "a cgroup of a v1 hierarchy with the same number is none of ours" {
	v1=$WORK/v1
	mkdir "$v1"
	mount -t cgroup -o "none,name=$RUN" cgroup "$v1"
	# Each hierarchy counts on its own, and counts a cgroup's files: make cgroups
	# in the one that is behind until both have the same number; files of another
	# controller shift the steps where they never meet.
	control=
	[ -z "${ONRAMP_TEST_VM-}" ] || echo +pids >"$(cgroup2_mount)/cgroup.subtree_control"
	! grep -qw pids "$CG/cgroup.controllers" || control=$CG/cgroup.subtree_control
	timeout 120 python3 - "$v1/$RUN" "$CG/ours" "$control" <<-'END'
		import os, sys
		def make(path):
		    if os.path.exists(path):
		        os.rmdir(path)
		    os.mkdir(path)
		    return os.stat(path).st_ino
		theirs, ours, control = sys.argv[1:]
		numbers = [make(theirs), make(ours)]
		turn = 0
		while numbers[0] != numbers[1]:
		    behind = numbers[0] > numbers[1]
		    numbers[behind] = make((theirs, ours)[behind])
		    turn += behind
		    if behind and turn % 50 == 0 and control:
		        open(control, "w").write("-+"[turn // 50 % 2] + "pids")
	END
	[ -z "$control" ] || echo -pids >"$control"
	pod_up ours 10.77.1.2
	pod ours true
	rmdir "$v1/$RUN"
	umount "$v1"
	run cat "$PIN/pods"
	has 10.77.1.2
	pod_down ours
	is "$(entries pod_ips)" 0
}

@test "a pod whose netns is gone but whose cgroup stays is not in pods" {
	pod_up gone 10.77.1.2
	pod gone true
	run cat "$PIN/pods"
	has 10.77.1.2
	ip netns del "$RUN-gone" # its device goes with it
	retry 100 sh -c "! grep -q 10.77.1.2 '$PIN/pods'"
	# Its address may be another's by now.
	pod_up heir 10.77.1.2
	pod heir true
	run cat "$PIN/pods"
	has 10.77.1.2
	pod_down heir
	rmdir "$CG/gone"
	is "$(entries pod_ips)" 0
}

# What the hook took for the removal of these cgroups, at most, in microseconds. It runs
# under cgroup_mutex and with interrupts off.
took() { # DIRECTORY...
	local id dir before after most=0
	id=$("$BPFTOOL" -j link show pinned "$PIN/links/cgroup_rmdir" | jq .prog_id)
	spent() { "$BPFTOOL" -j prog show id "$id" | jq '.run_time_ns // 0'; }
	before=$(sysctl -n kernel.bpf_stats_enabled)
	sysctl -qw kernel.bpf_stats_enabled=1
	local stats=$before
	for dir; do
		before=$(spent)
		rmdir "$dir"
		after=$(spent)
		most=$(((after - before) / 1000 > most ? (after - before) / 1000 : most))
	done
	sysctl -qw kernel.bpf_stats_enabled="$stats"
	echo "$most"
}

@test "the hook is quick: with 32,768 pods known; and for a pod with all the numbers there are" {
	"$ROOT/build/bpfcall" fill "$PIN/maps/pod_ips" 0
	pod_up many 10.77.1.2
	mkdir "$CG/many"/{a,b,c}
	for one in a b c; do run_in many/$one many true; done
	run -0 took "$CG/many"/{a,b,c}
	"$ROOT/build/bpfcall" drain "$PIN/maps/pod_ips"
	echo "# $output us" >&3
	[ -n "${ONRAMP_TEST_VM-}" ] || [ "$output" -lt 100 ]
	pod_down many
	mkdir "$CG/ztunnel"
	in_pod_mode
	pod_up many 10.77.1.2
	launch "$WORK/zt" run_in ztunnel many "$TCP" serve :: 15001
	n=${ONRAMP_TEST_VM:+600}
	pod many "$TCP" each "${n:=3000}" 10.9.0.0 80
	[ "$(entries numbers)" -gt $((n / 7)) ]
	cgroup_end "$CG/ztunnel"
	run -0 took "$CG/many"
	/bin/true # an exec takes them out, later
	is "$(entries numbers)" 0
	echo "# with its numbers $output us" >&3
	[ -n "${ONRAMP_TEST_VM-}" ] || [ "$output" -lt 100 ]
	mkdir "$CG/many"
	pod_down many
}
