#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# A node's boot: the systemd unit, and what becomes of pods between it and onramp-zds.

load helpers.bash
load mesh.bash
load zds.bash

UNIT=$ROOT/scripts/systemd/onramp.service

setup_file() {
	zds_node_up boot
	kpod_up zt "$ZTUNNEL_POD_IP"
	is_ztunnel zt
	plain_up server "$SERVER"
	serve server :: 80
	kpod_made known 10.77.1.1
	kpod_made new 10.77.1.2
	workload known
}

teardown_file() {
	zds_node_down
}

way_is() { # POD WAY
	way_of "$1" "$SERVER"
	is "$1: $way" "$1: $2"
}

@test "systemd finds nothing wrong with the unit, which comes before kubelets" {
	command -v systemd-analyze >/dev/null || skip "no systemd-analyze"
	sed "s#/usr/local/sbin/onramp#$ONRAMP#" "$UNIT" >"$BATS_TEST_TMPDIR/onramp.service"
	run -0 systemd-analyze verify --recursive-errors=no "$BATS_TEST_TMPDIR/onramp.service"
	is "$output" ""
	for kubelet in kubelet k3s k3s-agent; do grep -q "^Before=.*\b$kubelet.service" "$UNIT"; done
	# A oneshot's start may take for ever, by default.
	grep -qE "^TimeoutStartSec=[0-9]+min$" "$UNIT"
	# It loads as the DaemonSet does.
	grep -q " load --dns " "$UNIT"
	grep -q -- "\[load, .*, --dns\]" "$ROOT/scripts/kubernetes/base/onramp.yaml"
	grep -q "^StateDirectory=onramp/workloads$" "$UNIT"
}

@test "at boot: a known pod is refused from its first program on, a new one dials directly" {
	cp "$WORKLOADS/$(cat "$WORK/uid-known")" "$WORKLOADS/.0a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9"
	: >"$WORKLOADS/0A1B2C3D-4E5F-4071-8293-A4B5C6D7E8F9" # is none of onramp-zds'
	# One that stays out, as is said; and of known, which joins, that too.
	kpod_named stays
	mkdir -m 700 "$WORKLOADS/outside"
	for name in stays known; do
		(umask 077 && : >"$WORKLOADS/outside/$(cat "$WORK/uid-$name")")
	done
	unit_starts "$WORKLOADS"
	is "$(rule stays) $(rule known)" "zds-out zds-in"
	rm -r "$WORKLOADS/outside"
	is "$(onramp rules)" "" # it is no operator's word
	is "$(entries mesh_pods)" 2
	sandbox known
	sandbox new
	way_is known refused
	way_is new direct
	rm "$WORKLOADS"/{.0*,0A*}
}

@test "then onramp-zds: the pod goes through ztunnel" {
	zds_up
	zt_up zt
	enabled known
	way_is known ztunnel
	unit_starts "$WORKLOADS" # the unit once more: an upgrade
	way_is known ztunnel
	is "$(status known)" enabled
}

@test "and as it leaves, nothing of the boot stays" {
	no_workload known
	retry 200 leaves_only known uid_netns
	way_is known direct
	is "$(entries mesh_pods)" 0
}

@test "a pod that ended before onramp-zds was there leaves nothing" {
	kpod_made gone 10.77.1.3
	workload gone
	zds_kill
	unit_starts "$WORKLOADS"
	is "$(rule gone)" zds-in
	no_workload gone
	workload known
	zds_up
	retry 200 rule_is gone ""
}

@test "a directory that is not there: said, and nothing is changed" {
	onramp unload
	run -1 unit_starts "$STATE/none"
	is "$output" "onramp: $STATE/none: No such file or directory: give the directory of onramp-zds' workloads"
	[ ! -e "$PIN" ]
}
