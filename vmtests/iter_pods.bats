#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# iter_pods: the pods file.

load helpers.bash

setup_file() {
	node_up pods
	pod_up one 10.77.1.2
	pod_up two 10.77.2.2
	ip -n "$RUN-two" addr add fd00:77::2/64 dev eth0
	reload -e 10.77.1.0/24
}

teardown_file() {
	node_down
}

@test "a line per address: in or out, netns, cgroups, address" {
	pod one true
	pod two true
	inode=$(ip netns exec "$RUN-two" stat -L -c %i /proc/self/ns/net)
	run -0 cat "$PIN/pods"
	is "${lines[0]}" "MESH    NETNS  CGROUPS  ADDRESS"
	is "${#lines[@]}" 4
	grep -Eqx 'in +[0-9]+ +1  10\.77\.1\.2' <<<"$output"
	grep -Eqx "out +$inode +1  10\.77\.2\.2" <<<"$output"
	grep -Eqx "out +$inode +1  fd00:(0*77|77)[0:]*2" <<<"$output"
}

@test "in and out follow the rules at once, by either address of a pod" {
	onramp enroll 10.77.2.2
	run -0 grep -c '^in ' "$PIN/pods"
	is "$output" 3
	onramp exclude fd00:77::/64
	run -0 grep -c '^in ' "$PIN/pods"
	is "$output" 1
}

@test "in and out are by rules in in-pod mode as well, whoever listens; nobody, no line" {
	mkdir "$CG/ztunnel"
	in_pod_mode
	onramp forget fd00:77::/64
	is "$(awk 'NR > 1 { print $1 }' "$PIN/pods" | xargs)" "in in in"
	rmdir "$CG/one" "$CG/two"
	is "$(cat "$PIN/pods")" ""
	mkdir "$CG/one" "$CG/two"
}
