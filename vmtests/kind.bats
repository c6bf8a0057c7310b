#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# Nodes that are containers (Kind): two on one kernel, each with its own netns,
# cgroup namespace, bpffs and onramp. Their pods have the same addresses.

load helpers.bash

setup_file() {
	local name
	for name in a b; do
		node_up "kind-$name"
		declare -p RUN CG WORK PIN | sed 's/^declare -x/export/' >"$BATS_FILE_TMPDIR/$name"
	done
	start_node a "$ZTUNNEL_POD_IP"
	start_node b 10.77.0.10
}

teardown_file() {
	on a node_down
	on b node_down
}

# On node NAME, with its cgroup, netns and pins.
on() { # NAME COMMAND...
	# shellcheck source=/dev/null
	. "$BATS_FILE_TMPDIR/$1"
	"${@:2}"
}

start_node() { # NAME ZTUNNEL_IP
	on "$1" pod_up ztunnel "$2"
	on "$1" serve ztunnel 0.0.0.0 15001 15006
	on "$1" pod_up client 10.77.1.2
	on "$1" pod_up server 10.77.2.2
	on "$1" serve server 0.0.0.0 80
	on "$1" inside "$ONRAMP" load -z "$2" -n /proc/self/ns/net -e 10.77.1.0/24
}

# As a process of the node container: cgroup2 begins at the node's own cgroup.
inside() { # COMMAND...
	nsenter --net="/run/netns/$RUN-node" -- sh -c '
		echo 0 >"$0/cgroup.procs" && exec unshare --cgroup --mount sh -c "
			mount --bind \"\$0\" /sys/fs/bpf && umount -R /sys/fs/cgroup 2>/dev/null
			mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"\$@\"" "$@"' \
		"$CG" "$WORK/bpf" "$@"
}

@test "pods of each node reach their own node's ztunnel, and no other" {
	run -0 on a pod client "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.2.2:80 " "from=10.77.1.2:"
	run -0 on b pod client "$TCP" dial 10.77.2.2 80
	has "local=10.77.0.10:15001 " "orig4=10.77.2.2:80 " "from=10.77.1.2:"
}

@test "node programs of each node likewise" {
	run -0 on a node "$TCP" dial 10.77.1.2 80
	has "local=$ZTUNNEL_POD_IP:15006 " "orig4=10.77.1.2:80 "
	run -0 on b node "$TCP" dial 10.77.1.2 80
	has "local=10.77.0.10:15006 " "orig4=10.77.1.2:80 "
}

@test "each knows its own pods only" {
	on b pod_up more 10.77.1.3
	on b pod more true
	on b has_pod 10.77.1.3
	run on a has_pod 10.77.1.3
	is "$status" 1
	on b pod_down more
}

has_pod() { grep -q " $1\$" "$PIN/pods"; }

@test "a rule on one node is none on the other" {
	on a onramp exclude 10.77.1.2
	run -0 on a pod client "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
	run -0 on b pod client "$TCP" dial 10.77.2.2 80
	has "local=10.77.0.10:15001 "
	on a onramp forget 10.77.1.2
}

@test "one node unloads: the other's pods stay in its mesh" {
	on a onramp unload
	run -0 on a pod client "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
	run -0 on b pod client "$TCP" dial 10.77.2.2 80
	has "local=10.77.0.10:15001 " "orig4=10.77.2.2:80 "
}
