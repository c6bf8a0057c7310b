#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# The DaemonSet's containers beside `load`, as kubectl renders them and with the very
# image, by runc: zds with a ztunnel and a pod, and what the overlay remove leaves.

load runc.bash
load manifest.bash
load helpers.bash
load mesh.bash
load zds.bash

POD_UID=0a1b2c3d-1111-2222-3333-444455556666

setup_file() {
	local layer
	zds_node_up daemonset
	export ZDS_SOCKET=$WORK/ztunnel/ztunnel.sock
	mkdir "$STATE/status" "$WORK/image" "$WORK/rootfs"
	for layer in $(layers_of "$ROOT/build/onramp-node.oci.tar"); do
		tar -xf "$layer" -C "$WORK/image"
	done
	stand_in_for_watcher
	kpod_up zt "$ZTUNNEL_POD_IP"
	is_ztunnel zt
	plain_up server "$SERVER"
	serve server :: 80
	pod_up onramp 10.77.0.20
	loaded
	container base zds
	ready "$WORK/zds"
	zt_up zt
}

teardown() {
	[ -n "${BATS_TEST_COMPLETED-}" ] || tail -n 20 "$WORK/zds" "$WORK/enroll-by-label" >&2
}

teardown_file() {
	local name
	for name in zds enroll-by-label; do runc delete --force $name 2>/dev/null || :; done
	zds_node_down
}

# It takes its files away, each when the one before has left, as enroll-by-label -r does.
stand_in_for_watcher() {
	cat >"$WORK/image/usr/local/bin/enroll-by-label" <<-'END'
		#!/bin/sh
		[ "$*" = -r ] && [ "$NODE_NAME" = node1 ] || exit 1
		cd /var/lib/onramp/workloads || exit 1
		for uid in *-*; do
			rm -f "$uid"
			while [ -e "../status/$uid" ]; do sleep 0.1; done
		done
	END
}

# What a kubelet does for a container; it is as it was after the load before.
container() { # OVERLAY NAME [JQ-FILTER]: in the background
	local bundle=$WORK/bundles/$2
	mkdir -p "$bundle"
	runc delete --force "$2" 2>/dev/null || :
	manifest_config "$1" "$2" onramp "${CG#"$(cgroup2_mount)"}/kubepods/burstable/pod$POD_UID/$2" \
		"$WORK/image" "${3:-.}" >"$bundle/config.json"
	runc run --detach --bundle "$bundle" "$2" </dev/null >"$WORK/$2" 2>&1 3>&-
}

init() { # OVERLAY
	container "$1" load "$LOCKED"
	retry 100 runs_no_more load
	runc delete load
}

loaded() { # [OVERLAY]
	init "${1-base}"
	[ -e "$PIN/links/connect4" ]
}

runs() { # CONTAINER
	[ "$(runc state "$1" | jq -r .status)" = running ]
}

runs_no_more() { # CONTAINER
	[ "$(runc state "$1" | jq -r .status)" = stopped ]
}

healthz() {
	run_in onramp onramp curl -sS -m 5 http://127.0.0.1:15014/healthz
}

way_is() { # WAY
	way_of a "$SERVER"
	is "$way" "$1"
}

@test "zds: a pod joins, and ztunnel is known, with the manifest's rights and mounts" {
	is "$(healthz)" ok
	kpod_up a 10.77.1.1
	workload a
	enabled a
	way_is ztunnel
	run -1 runc exec zds touch /var/lib/onramp/workloads/.x
	has "Read-only file system"
}

@test "the doctor, by scripts/README.md's command: it finds all, and the container's rights do" {
	local command pid
	command=$(section scripts/README.md "When something is wrong" |
		sed -n 's/^\$ kubectl -n onramp exec POD -- //p')
	[[ $command == *" -r /proc/1/root" ]]
	# Where the node's files are, of a process that has ours there.
	unshare --mount sh -ec '
		mount --bind "$0/bpf" /sys/fs/bpf
		mount -t tmpfs none /var/lib
		mkdir /var/lib/onramp
		mount --bind "$1" /var/lib/onramp
		exec sleep 1000000' "$WORK" "$STATE" 3>&- &
	pid=$!
	retry 100 test -d "/proc/$pid/root/var/lib/onramp/workloads"
	read -ra words <<<"${command/\/1\//\/$pid\/}"
	run runc exec zds "${words[@]}"
	kill "$pid"
	is "$(grep -vE '^(ok|-)  ' <<<"$output")$status" 0
	has "-     rights    without CAP_NET_ADMIN" "ok    bpffs     /node/bpf/onramp" \
		"ok    links     attached to " "ok    pods      " "ok    zds       " \
		"ok    workloads 1 pods are enabled"
}

@test "zds: it begins anew, and nothing changes" {
	container base zds
	ready "$WORK/zds"
	zt_has_snapshot
	way_is ztunnel
	is "$(status a)" enabled
	is "$(told_count zt del)" 0
}

zt_is_connected() {
	[ "$(run_in onramp onramp curl -sS -m 5 http://127.0.0.1:15014/metrics |
		awk '$1 == "ztunnel_connected" { print $2 }')" = 1 ]
}

@test "zds: without one of its rights it does not start" {
	for less in SYS_ADMIN SYS_PTRACE; do
		container base zds ".process.capabilities[] -= [\"CAP_$less\"]"
		retry 100 runs_no_more zds
		grep -q "CAP_$less" "$WORK/zds"
	done
	container base zds
	ready "$WORK/zds"
}

# Sets command to what a kubelet would execute.
probe_of() { # CONTAINER KIND
	mapfile -t command < <(jq -r --arg name "$1" --arg kind "$2" 'select(.kind == "DaemonSet")
		.spec.template.spec.containers[] | select(.name == $name) | .[$kind].exec.command[]' \
		"$ROOT/build/kubernetes-base.json")
}

@test "zds' probes: a heartbeat that is there, and fresh" {
	local command
	probe_of zds readinessProbe
	retry 100 runc exec zds "${command[@]}"
	probe_of zds livenessProbe
	retry 100 runc exec zds "${command[@]}"
	touch -d '2 minutes ago' "$WORK/image/tmp/zds"
	run ! chroot "$WORK/image" "${command[@]}"
	rm "$WORK/image/tmp/zds"
}

@test "enroll-by-label's probes: a heartbeat that is fresh, and a list that was once written" {
	probe() { # KIND
		local command
		probe_of enroll-by-label "$1"
		chroot "$WORK/image" "${command[@]}" 2>/dev/null
	}
	run ! probe livenessProbe
	touch "$WORK/image/tmp/alive"
	probe livenessProbe
	touch -d '2 minutes ago' "$WORK/image/tmp/alive"
	run ! probe livenessProbe
	mkdir -p "$WORK/image/var/lib/onramp/workloads"
	run ! probe readinessProbe
	touch "$WORK/image/var/lib/onramp/workloads/.seen"
	probe readinessProbe
	rm -r "$WORK/image/tmp/alive" "$WORK/image/var/lib/onramp"
}

removed() {
	[ -e "$WORK/tmp/removed" ] && runs enroll-by-label && runs zds
}

@test "remove: pods leave, ztunnel is told, all is unloaded, and both containers stay" {
	runc delete --force zds
	container remove zds
	container remove enroll-by-label
	retry 200 removed
	[ ! -e "$PIN" ]
	is "$(told_count zt del)" 1
	is "$(ls -A "$STATE/status")" ""
	way_is direct
	sleep 1.5 # a round of zds' loop
	removed
	is "$(grep -c . "$WORK/enroll-by-label" || :)" 0
}

@test "remove: its pod is not refused by --strict" {
	init remove # where nothing is loaded
	is "$(cat "$WORK/load")" ""
	loaded strict
	onramp forget "$POD_UID" # of the pod before
	init remove
	is "$(onramp rules)" "out     $POD_UID"
	onramp unload
}

@test "remove: where all is gone, and when a container begins anew" {
	for name in zds enroll-by-label; do
		rm -f "$WORK/tmp/removed"
		container remove zds
		container remove enroll-by-label
		retry 200 removed
	done
	# Unloaded by somebody else: nobody is there to let a pod go.
	workload a
	uid_of a
	echo enabled >"$STATE/status/$uid"
	rm "$WORK/tmp/removed"
	container remove enroll-by-label
	retry 200 removed
	is "$(ls -A "$STATE/status")" ""
}

@test "remove: unloaded as it waits, it is done all the same" {
	loaded
	workload a
	rm "$WORK/tmp/removed"
	container remove zds
	ready "$WORK/zds"
	enabled a
	onramp unload
	container remove enroll-by-label
	retry 200 removed
}

@test "Kind: a bpffs is mounted in the node's mount namespace, once, for root alone" {
	local bundle=$WORK/bundles/bpffs
	mkdir -p "$bundle"
	manifest_config kind bpffs onramp "${CG#"$(cgroup2_mount)"}/kind" "$WORK/image" >"$bundle/config.json"
	export -f runc cgroup2_mount
	run -0 unshare --mount --pid --fork --mount-proc --kill-child bash -c '
		while umount /sys/fs/bpf 2>/dev/null; do :; done
		for _ in 1 2; do runc run --bundle "$0" kind-bpffs || exit; done
		grep -c " /sys/fs/bpf bpf " /proc/mounts; stat -c %a /sys/fs/bpf' "$bundle" 3>&-
	is "$output" "1
1700"
}
