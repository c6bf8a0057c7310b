#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=alone,once
# onramp-zds with many pods, and killed again and again: nothing goes past ztunnel, and
# nothing is left behind. And what a full node takes, in time and memory.

load helpers.bash
load mesh.bash
load zds.bash

AT_ONCE=${ONRAMP_TEST_VM:+60}
AT_ONCE=${AT_ONCE:-250}
CHURN=${ONRAMP_TEST_VM:+100}
CHURN=${CHURN:-1000}
KILLS=${ONRAMP_TEST_VM:+10}
KILLS=${KILLS:-50}
FULL=${ONRAMP_TEST_VM:+40}
FULL=${FULL:-500}

setup_file() {
	zds_node_up zds_scale
	mkdir "$CG/kubepods"
	plain_up server 10.77.2.2 2
	kpod_up zt 10.77.0.8 8
	is_ztunnel zt
	routes_to_light_pods server
	serve server :: 80
	# The kubelet is none of the programs here: what they dial is captured.
	mkdir "$CG/kubelet"
	zds_load -k "$CG/kubelet"
	zds_up
	zt_up zt
}

teardown_file() {
	zds_node_down
}

# Workloads of light pods, from the first to the last, each by a rename.
light_workloads() { # FIRST LAST
	python3 -ISc 'import os, sys
os.umask(0o077)
for n in range(int(sys.argv[2]), int(sys.argv[3]) + 1):
    with open(sys.argv[1] + "/.new", "w") as file:
        file.write(f"namespace=default\nname=pod-{n}\nservice_account=default\n")
    os.rename(sys.argv[1] + "/.new", sys.argv[1] + f"/00000000-0000-4000-8000-{n:012x}")
' "$WORKLOADS" "$@"
}

# COUNT pods whose first program dials at once, at most ALIVE at a time, until enough.
light_pods() { # COUNT ALIVE
	rm -f "$WORK/until"
	mkfifo "$WORK/until"
	node "$ROOT/build/pods" -u -n any "$CG/kubepods" 78 "$1" "$2" "$TCP" some 2 10.77.2.2 80 \
		fd00:77::2 80 <"$WORK/until" >"$WORK/pods" 2>"$WORK/errors" 3>&- &
	made=$!
	exec 8>"$WORK/until"
}

light_pods_are_made() { # COUNT
	retry 3000 grep -q "^made $1$" "$WORK/pods"
}

enough() {
	exec 8>&-
	wait "$made"
}

statuses() { # TEXT: how many say so
	grep -rlx "$1" "$STATE/status" 2>/dev/null | wc -l
}

statuses_are() { # TEXT COUNT
	[ "$(statuses "$1")" = "$2" ]
}

nothing_stays() {
	[ "$(what_there_is)" = "0 led, 0 rules, 1 netns, 0 statuses" ]
}

passed() {
	awk '/reason="not_enrolled"/ { print $2 }' "$PIN/metrics"
}

# What the server was reached by: each time ztunnel, which says so.
through_ztunnel() {
	grep -c '^outbound .* via=direct$' "$WORK/zt"
}

@test "$AT_ONCE pods at once, whose first programs dial: none is direct, all are enabled" {
	before=$(passed)
	light_workloads 0 $((AT_ONCE - 1))
	retry 600 statuses_are "pending not-started" "$AT_ONCE"
	light_pods "$AT_ONCE" "$AT_ONCE"
	light_pods_are_made "$AT_ONCE"
	began=$EPOCHREALTIME
	retry 3000 statuses_are enabled "$AT_ONCE"
	echo "# enabled $(((${EPOCHREALTIME/./} - ${began/./}) / 1000)) ms after the last was made" >&3
	is "$(passed)" "$before"
	is "$(told_count zt add)" "$AT_ONCE"
	enough
	retry 600 statuses_are "pending not-started" "$AT_ONCE"
	rm "$WORKLOADS"/0000*
	retry 600 nothing_stays || { what_there_is >&2; return 1; }
	grep -E '^(proxied|direct)' "$WORK/pods" | awk -F '[ =]' '{ direct += $4; failed += $8 }
		END { print "# by ztunnel " direct ", refused " failed }' >&3
}

ms_since() { # EPOCHREALTIME
	echo $(((${EPOCHREALTIME/./} - ${1/./}) / 1000))
}

at_most() { # LIMIT NUMBER WHAT
	echo "# $3: $2" >&3
	[ "$2" -le "$1" ] || { echo "$3: $2, and not $1" >&2; return 1; }
}

# Beside whatever else the machine does, so three times is too long; emulated, nothing is.
in_ms() { # LIMIT EPOCHREALTIME WHAT
	local limit=$((3 * $1))
	[ -z "${ONRAMP_TEST_VM-}" ] || limit=1000000
	at_most "$limit" "$(ms_since "$2")" "of $1 ms, $3"
}

# KiB of the kernel's own, after what is on its way out has gone.
kernel_memory() {
	sync
	sleep 1
	awk '/^(SUnreclaim|KernelStack|PageTables|Percpu|VmallocUsed):/ { sum += $2 } END { print sum }' /proc/meminfo
}

# What BPF has for pods: KiB of their programs, and of all maps.
bpf_memory() {
	{
		for kind in prog map; do
			"$BPFTOOL" -j "$kind" show | jq -c '.[] | select(.name | startswith("inbound"))'
		done
		for map in "$PIN"/maps/*; do "$BPFTOOL" -j map show pinned "$map"; done
	} | kib | cut -d ' ' -f 1
}

@test "a full node: $AT_ONCE pods that run join in a second; $FULL pods' memory, and an upgrade" {
	light_pods "$FULL" "$FULL"
	light_pods_are_made "$FULL"
	kernel=$(kernel_memory) bpf=$(bpf_memory)
	began=$EPOCHREALTIME
	light_workloads 0 $((AT_ONCE - 1))
	retry 3000 statuses_are enabled "$AT_ONCE"
	in_ms 1000 "$began" "until $AT_ONCE pods are enabled"
	light_workloads "$AT_ONCE" $((FULL - 1))
	retry 3000 statuses_are enabled "$FULL"
	at_most 64 $((($(kernel_memory) - kernel) / FULL)) "KiB of the kernel's for each pod"
	at_most 8 $((($(bpf_memory) - bpf) / FULL)) "KiB of these are BPF's"
	zds_pid
	at_most 16384 "$(awk '/^VmHWM/ { print $2 }' "/proc/$pid/status")" "KiB of onramp-zds, at most"
	began=$EPOCHREALTIME
	zds_load -k "$CG/kubelet"
	in_ms 2000 "$began" "an upgrade"
	is "$(statuses enabled)" "$FULL"
	enough
	rm "$WORKLOADS"/0000*
	retry 1200 nothing_stays || { what_there_is >&2; return 1; }
}

@test "a pod that dials 4096 destinations: each is remembered in less than 512 KiB" {
	kpod_up wide 10.77.1.9 19
	workload wide
	enabled wide
	bpf=$(bpf_memory)
	pod wide python3 -ISc 'import socket
for n in range(4096):
    address = f"10.80.{n // 256}.{n % 256}"
    s = socket.socket()
    s.connect((address, 80))
    assert s.getpeername()[0] == address
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    s.close()'
	at_most 512 $(($(bpf_memory) - bpf)) "KiB for 4096 destinations"
	[ "$(entries numbers)" -ge $((4096 / 8)) ]
	no_workload wide
	kpod_down wide
}

@test "$CHURN pods one after another: nothing of them stays" {
	light_workloads 0 $((CHURN - 1))
	light_pods "$CHURN" 20
	light_pods_are_made "$CHURN"
	enough
	rm "$WORKLOADS"/0000*
	retry 1200 nothing_stays || { what_there_is >&2; return 1; }
	is "$(find "$STATE/status" -type f ! -name .dir | wc -l)" 0
	is "$(find "/proc/$(cat "$CG/zds/cgroup.procs")/fd" -lname 'net:*' | wc -l)" 0
}

# bats test_tags=runc
@test "killed $KILLS times at any moment, pods come and go: no connection is lost or direct" {
	kpod_up one 10.77.1.2 12
	kpod_up two 10.77.1.3 13
	kpod_up comes 10.77.1.4 14
	workload one
	workload two
	enabled one two
	before=$(passed)
	# By the stand-in, that is: what it forwards looks so to the client.
	dials one direct 10.77.2.2 80 fd00:77::2 80
	dials two direct 10.77.2.2 80 fd00:77::2 80
	dials_begin one two
	for ((i = 0; i < KILLS; i++)); do
		if ((i % 2)); then no_workload comes; else workload comes; fi
		sleep "0.$(printf %03d $((RANDOM % 150)))"
		zds_kill
		zds_up
	done
	dials_stop one two
	is "$(passed)" "$before"
	is "$(awk -F '[ =]' '{ wrong += $6 + $8 } END { print wrong + 0 }' "$WORK"/dials-{one,two})" 0
	[ "$(through_ztunnel)" -gt 10 ]
	workload comes
	enabled one two comes
	no_workload comes
	retry 200 leaves_only comes uid_netns || { traces comes >&2; tail -n 30 "$WORK/zds" >&2; return 1; }
}
