#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# From a label to a pod's first connection: enroll-by-label, against fake-apiserver,
# with the real onramp-zds and a stand-in for ztunnel.

load helpers.bash
load mesh.bash
load zds.bash
load apiserver.bash

setup_file() {
	zds_node_up enroll_zds
	mkdir "$CG/watcher"
	export HOME=$WORK KUBECONFIG=$WORK/kubeconfig
	kpod_made zt "$ZTUNNEL_POD_IP" 9
	plain_up server "$SERVER" 22
	serve server :: 80
	zds_load
	zds_up
	: >"$WORK/log"
	api_up
	DIR=$WORKLOADS
	kpod_object istio-system/zt '.metadata.labels.app = "ztunnel"' | write
	watcher_up
	uid_of zt
	retry 100 test -e "$WORKLOADS/ztunnels/$uid"
	zt_up zt
}

setup() {
	DIR=$WORKLOADS
	URL=http://127.0.0.1:$(cat "$WORK/port")
}

teardown() {
	[ -n "${BATS_TEST_COMPLETED-}" ] || tail -n 20 "$WORK/log" "$WORK/zds" | cut -c 1-150 >&2
}

teardown_file() {
	watcher_down TERM
	kill "$(cat "$WORK/api")"
	zds_node_down
}

# A pod of zds.bash's, as the API server has it.
kpod_object() { # NAMESPACE/NAME [EDIT]
	local uid
	uid_of "${1#*/}"
	object "$1" ".metadata.uid = \"$uid\" | ${2:-.}"
}

@test "a namespace is labelled: its running pod is in, and its annotation says so, and out again" {
	kpod_up old 10.77.1.1 1
	{ namespace shop; kpod_object shop/old '.status.podIPs = [{ ip: "10.77.1.1" }, { ip: "fd00:77::1" }]'; } | write
	way_of old "$SERVER"
	is "$way" direct
	worst=0
	for round in 1 2 3; do
		label shop =ambient
		since=${EPOCHREALTIME/.}
		retry 200 note_is shop/old enabled
		took=$(((${EPOCHREALTIME/.} - since) / 1000))
		worst=$((took > worst ? took : worst))
		way_of old "$SERVER"
		is "$way" ztunnel
		label shop -
		retry 200 leaves_only old uid_netns
		note_is shop/old ""
		way_of old "$SERVER"
		is "$way" direct
	done
	echo "# from the label to the annotation: $worst ms at most, of 3" >&3
	[ "$worst" -le 3000 ] # what else runs on this machine, too
	kpod_down old
}

@test "a pod made in a labelled namespace: its first connection goes through ztunnel" {
	namespace born ambient | write
	for n in 1 2 3 4 5 6 7 8; do
		# As a kubelet does: the pod is given to the node, its sandbox begins, then its program.
		kpod_named born$n
		kpod_object born/born$n | write
		kpod_up born$n 10.77.3.$n
		enabled born$n
		way_of "born$n" "$SERVER"
		is "born$n: $way" "born$n: ztunnel"
	done
	# Deleted, and ended.
	remove born/born{1..8}
	for n in 1 2 3 4 5 6 7 8; do kpod_end born$n; done
	for n in 1 2 3 4 5 6 7 8; do
		retry 200 leaves_only born$n "" || { traces born$n >&2; false; }
		kpod_down born$n
	done
}
