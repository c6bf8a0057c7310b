#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# iter_task: pods that ran before the load are known once it has run.

load helpers.bash

setup_file() {
	node_up task
	ztunnel_up
	pod_up old 10.77.1.2
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	pod old sleep 600 3>&- &
	retry 40 grep -q . "$CG/old/cgroup.procs"
	mkfifo "$WORK/steps"
	pod old "$TCP" steps 10.77.2.2 80 <"$WORK/steps" >"$WORK/dialled" 3>&- &
	pod_up listener 10.77.1.3
	mkfifo "$WORK/dial"
	pod listener "$ROOT/build/hold" listen 0.0.0.0 8080 10.77.2.2 80 <>"$WORK/dial" \
		>"$WORK/listens" 3>&- &
	retry 100 grep -q holding "$WORK/listens"
}

teardown_file() {
	node_down
}

@test "pods that ran before the load are known after it, and captured" {
	exec 9>"$WORK/steps"
	# An address that is still being checked would change the netns once more.
	retry 100 sh -c "! ip -n '$RUN-old' -6 addr show tentative | grep -q ."
	node_mode -e 10.77.1.0/24
	run cat "$PIN/pods"
	has 10.77.1.2 10.77.1.3 10.77.2.2 "$ZTUNNEL_POD_IP"
	echo >&9
	exec 9>&-
	retry 100 grep -q "orig4=10.77.2.2:80 " "$WORK/dialled"
	is "$(metric cache_misses_total)" 0
}

@test "so is one that has only ever listened" {
	echo >"$WORK/dial"
	retry 100 grep -q "orig4=10.77.2.2:80 " "$WORK/listens"
}

@test "reading the pinned link does it again" {
	"$BPFTOOL" -j map dump pinned "$PIN/maps/cgroup_info_map" | jq -r '.[].key | join(" ")' |
		while read -r key; do
			# shellcheck disable=SC2086 # bytes
			"$BPFTOOL" map delete pinned "$PIN/maps/cgroup_info_map" key hex ${key//0x/}
		done
	is "$(entries cgroup_info_map)" 0
	run -0 cat "$PIN/links/iter_task"
	is "$output" ""
	[ "$(entries cgroup_info_map)" -ge 3 ]
}
