#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# Pods of containers, as a kubelet's runtime makes and ends them (runc.bash).

export ONRAMP_TEST_RUNTIME=runc
load helpers.bash

setup_file() {
	node_up pods
	ztunnel_up
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	node_mode -e 10.77.1.0/24
	pod_up client 10.77.1.2
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

# The cgroups that the pod's line shows.
cgroups_of() { # IP
	awk -v ip="$1" '$NF == ip { print $3 }' "$PIN/pods"
}

@test "a pod is known before its first app container runs, with all its containers" {
	pod_up young 10.77.1.9
	is "$(cgroups_of 10.77.1.9)" 2
	container_down young app
	is "$(cgroups_of 10.77.1.9)" 1
	run -0 node "$TCP" dial 10.77.1.9 80
	has "local=$ZTUNNEL_POD_IP:15006 "
	pod_down young
	is "$(cgroups_of 10.77.1.9)" ""
}

@test "the first connect() of a container's first process is captured, also of a restarted one" {
	for _ in 1 2; do
		container_down client app
		container_up client app sh -c "'$TCP' dial 10.77.2.2 80; exec sleep infinity"
		retry 100 grep -q from= "$WORK/bundles/client-app/out"
		output=$(cat "$WORK/bundles/client-app/out")
		has "orig4=10.77.2.2:80 " "from=10.77.1.2:"
		is "$(cgroups_of 10.77.1.2)" 2
	done
}

@test "every container of a pod is captured: app, sidecar, init, kubectl exec" {
	container_up client side sh -c "'$TCP' dial 10.77.2.2 80; exec sleep infinity"
	retry 100 grep -q "orig4=10.77.2.2:80 " "$WORK/bundles/client-side/out"
	run -0 runc exec client-side "$TCP" dial 10.77.2.2 80
	has "orig4=10.77.2.2:80 "
	run -0 runc exec client-pause "$TCP" dial 10.77.2.2 80
	has "orig4=10.77.2.2:80 "
	is "$(cgroups_of 10.77.1.2)" 3
	container_down client side
	is "$(cgroups_of 10.77.1.2)" 2
}

@test "a rule lets running containers join and leave" {
	run -1 pod server "$TCP" dial 10.77.1.2 80
	is "$output" ECONNREFUSED
	onramp enroll 10.77.2.2
	run -0 pod server "$TCP" dial 10.77.1.2 80
	has "orig4=10.77.1.2:80 "
	onramp forget 10.77.2.2
	run -1 pod server "$TCP" dial 10.77.1.2 80
	is "$output" ECONNREFUSED
}

@test "pods that end leave nothing; their addresses are free for the next" {
	for _ in 1 2; do
		pod_up brief 10.77.1.7
		run -0 pod brief "$TCP" dial 10.77.2.2 80
		has "orig4=10.77.2.2:80 " "from=10.77.1.7:"
		pod_down brief
	done
	pod_down client
	pod_down server
	pod_down ztunnel
	cgroup_end "$CG/node"
	is "$(entries pod_ips)" 0
	is "$(entries cgroup_info_map)" 0
	is "$(find "$WORK/ipam" -name '10.*')" ""
}
