#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=long
# sched_process_exec: a pod is known from its first exec, so that its first
# connect() is captured, and a visit to a pod's netns changes nothing.

load helpers.bash

PODS=${ONRAMP_TEST_PODS:-300}

setup_file() {
	node_up exec
	ztunnel_up
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	node_mode -e 10.77.1.0/24
}

teardown_file() {
	node_down
}

cached() { # NAME: the cgroup's entry in cgroup_info_map
	local id hex
	id=$(cgroup_id "$1")
	hex=$({ printf '%016x' "$id" | fold -w 2; echo; } | tac | tr '\n' ' ')
	# shellcheck disable=SC2086 # bytes
	"$BPFTOOL" -j map lookup pinned "$PIN/maps/cgroup_info_map" key hex $hex
}

@test "a pod is in cgroup_info_map and pod_ips after exec, before any connect" {
	pod_up early 10.77.1.2
	run ! cached early
	pod early sleep 60 3>&- &
	retry 40 grep -q . "$CG/early/cgroup.procs"
	retry 40 cached early >/dev/null
	run cat "$PIN/pods"
	has "10.77.1.2"
	is "$(connects redirected outbound)" 0
	inode=$(ip netns exec "$RUN-early" stat -L -c %i /proc/self/ns/net)
	run grep 10.77.1.2 "$PIN/pods"
	has "in " " $inode " " 1 "
	pod_down early
}

@test "the first connect() of a new pod's first process is captured ($PODS pods)" {
	before=$(connects redirected outbound)
	captured=0
	for ((i = 0; i < PODS; i++)); do
		[ $((i % 100)) -ne 0 ] || echo "# $i of $PODS pods" >&3
		pod_up first 10.77.1.2
		line=$(pod first "$TCP" dial 10.77.2.2 80)
		[[ $line != *"orig4=10.77.2.2:80 "* ]] || captured=$((captured + 1))
		pod_down first
	done
	echo "# $captured of $PODS captured" >&3
	is "$captured" "$PODS"
	is "$(connects redirected outbound)" $((before + PODS))
}

@test "rules written by bpftool work at the next connect() of a running process" {
	pod_up running 10.77.3.2
	steps_begin pod running
	step 1 "local=10.77.2.2:80 "
	"$BPFTOOL" map update pinned "$PIN/maps/mesh_rules" \
		key 128 0 0 0 $(bytes_of 10.77.3.2) value 1 0 0 0
	step 2 "orig4=10.77.2.2:80 "
	"$BPFTOOL" map update pinned "$PIN/maps/mesh_rules" \
		key 128 0 0 0 $(bytes_of 10.77.3.2) value 2 0 0 0
	step 3 "local=10.77.2.2:80 "
	"$BPFTOOL" map update pinned "$PIN/maps/mesh_rules" \
		key 128 0 0 0 $(bytes_of 10.77.3.2) value 1 0 0 0
	step 4 "orig4=10.77.2.2:80 "
	"$BPFTOOL" map delete pinned "$PIN/maps/mesh_rules" key 128 0 0 0 $(bytes_of 10.77.3.2)
	step 5 "local=10.77.2.2:80 "
	exec 9>&-
	pod_down running
}

@test "a node program that visits a pod's netns: inside like the pod, outside like the node" {
	pod_up visited 10.77.1.2
	mkfifo "$WORK/node-steps"
	# Runs all along in the same cgroup, in the node's netns.
	node "$TCP" steps 10.77.2.2 80 <"$WORK/node-steps" >"$WORK/node-dialled" 3>&- &
	exec 9>"$WORK/node-steps"
	echo >&9
	retry 100 grep -q . "$WORK/node-dialled"
	run -0 node nsenter --net="/run/netns/$RUN-visited" "$TCP" dial 10.77.2.2 80
	has "orig4=10.77.2.2:80 "
	echo >&9
	retry 100 sh -c "[ \$(wc -l <'$WORK/node-dialled') -ge 2 ]"
	run -0 node ip netns exec "$RUN-visited" "$TCP" dial 10.77.2.2 80
	has "orig4=10.77.2.2:80 "
	echo >&9
	retry 100 sh -c "[ \$(wc -l <'$WORK/node-dialled') -ge 3 ]"
	exec 9>&-
	run grep -c "local=10.77.2.2:80 peer=$NODE_IP:" "$WORK/node-dialled"
	is "$output" 3
	# The visit leaves no claim on the pod once the node's cgroup is back.
	node true
	run ! grep -q 10.77.1.2 "$PIN/pods"
	pod_down visited
}

@test "a pod entered from its own cgroup: the node's netns first, then the pod's" {
	pod_up entered 10.77.1.2
	run -0 run_in entered node ip netns exec "$RUN-entered" cat "$PIN/pods"
	has 10.77.1.2
	run -0 run_in entered node nsenter --net="/run/netns/$RUN-entered" "$TCP" dial 10.77.2.2 80
	has "orig4=10.77.2.2:80 "
	pod_down entered
}

@test "a pod's process in a second netns does not take the pod out of pod_ips" {
	pod_up outer 10.77.1.2
	pod outer sleep 60 3>&- &
	retry 40 grep -q 10.77.1.2 "$PIN/pods"
	pod outer unshare --net sh -c 'ip link add eth0 type veth && ip addr add 10.99.9.9/24 dev eth0 && exec true'
	run cat "$PIN/pods"
	has 10.77.1.2
	pod_down outer
}

@test "an address that changes under a running pod changes its verdict" {
	pod_up moving 10.77.1.2
	mkfifo "$WORK/moving-steps"
	pod moving "$TCP" steps 10.77.2.2 80 <"$WORK/moving-steps" >"$WORK/moved" 3>&- &
	exec 9>"$WORK/moving-steps"
	echo >&9
	retry 100 grep -q "orig4=10.77.2.2:80 " "$WORK/moved"
	ip -n "$RUN-moving" addr flush dev eth0
	ip -n "$RUN-moving" addr add 10.77.4.4/16 dev eth0
	echo >&9
	retry 100 grep -q "peer=10.77.4.4:.*orig4=E" "$WORK/moved"
	exec 9>&-
	retry 40 grep -q 10.77.4.4 "$PIN/pods"
	run ! grep -q 10.77.1.2 "$PIN/pods"
	pod_down moving
}
