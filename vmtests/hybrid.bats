#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# A hybrid node: the runtime's cgroups are in a v1 hierarchy, and in cgroup2
# every process is in one and the same cgroup, its root. So no cgroup tells one
# pod from another, nor ztunnel, and each verdict must come from the socket's netns.

load helpers.bash

setup_file() {
	node_up hybrid
	# In a VM the real root; on this machine others live there.
	CG_ROOT=${ONRAMP_TEST_VM:+$(cgroup2_mount)}
	CG_ROOT=${CG_ROOT:-$CG/root}
	export CG_ROOT V1=$WORK/v1
	mkdir -p "$CG_ROOT" "$V1"
	mount -t cgroup -o "none,name=$RUN" cgroup "$V1"
	hybrid_pod_up ztunnel "$ZTUNNEL_POD_IP"
	hybrid_pod_up client 10.77.1.2
	hybrid_pod_up server 10.77.2.2
	hybrid_pod_up other 10.77.3.2
	background ztunnel 0.0.0.0 15001 15006
	background server 0.0.0.0 80
	load_from ztunnel -a -z "$ZTUNNEL_POD_IP" -c "$CG_ROOT" -e 10.77.1.0/24
}

teardown_file() {
	onramp unload
	for dir in "$V1"/*/; do
		while read -r pid; do kill -9 "$pid"; done <"$dir/cgroup.procs"
		retry 100 rmdir "$dir"
	done
	umount "$V1"
	node_down
}

hybrid_pod_up() { # NAME IP
	pod_up "$1" "$2"
	mkdir "$V1/$1"
}

# In the pod's netns and v1 cgroup, and in cgroup2's root.
hybrid() { # NAME COMMAND...
	local name=$1
	shift
	nsenter --net="/run/netns/$RUN-$name" -- sh -c 'echo 0 >"$0/cgroup.procs" &&
		echo 0 >"$1/cgroup.procs" && shift && exec "$@"' "$CG_ROOT" "$V1/$name" "$@"
}

background() { # POD ADDRESS PORT...
	launch "$WORK/serve-$1" hybrid "$1" "$TCP" serve "${@:2}"
}

@test "enrolled, not enrolled, ztunnel and node in one cgroup, in turn: each its own verdict" {
	mkdir "$V1/node"
	for _ in 1 2 3; do
		run -0 hybrid client "$TCP" dial 10.77.2.2 80
		has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.2.2:80 " "from=10.77.1.2:"
		run -0 hybrid other "$TCP" dial 10.77.2.2 80
		has "local=10.77.2.2:80 " "from=10.77.3.2:"
		run -0 hybrid ztunnel "$TCP" dial 10.77.2.2 80
		has "local=10.77.2.2:80 "
		run -1 hybrid ztunnel "$TCP" dial "$ZTUNNEL_POD_IP" 15001
		is "$output" EPERM
		run -0 hybrid node "$TCP" dial 10.77.2.2 80
		has "local=10.77.2.2:80 "
	done
}

@test "long-lived processes of different netns at once: none takes the other's entry" {
	mkfifo "$WORK/in" "$WORK/out"
	hybrid client "$TCP" steps 10.77.2.2 80 <"$WORK/in" >"$WORK/in-said" 3>&- &
	hybrid other "$TCP" steps 10.77.2.2 80 <"$WORK/out" >"$WORK/out-said" 3>&- &
	exec 8>"$WORK/in" 9>"$WORK/out"
	for i in 1 2 3 4 5; do
		echo >&8
		echo >&9
		retry 100 sh -c "[ \$(cat '$WORK/in-said' '$WORK/out-said' | wc -l) -ge $((2 * i)) ]"
	done
	exec 8>&- 9>&-
	is "$(grep -c "local=$ZTUNNEL_POD_IP:15001 .*orig4=10.77.2.2:80 " "$WORK/in-said")" 5
	is "$(grep -c 'local=10.77.2.2:80 ' "$WORK/out-said")" 5
}
