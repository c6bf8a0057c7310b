#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# Who may do what: the capabilities that scripts/README.md names are enough without being
# root, nobody else changes or reads anything, and what a pod says is not parsed.
# That none of the capabilities can be missing is init_container.bats'.

load helpers.bash

# What the table of scripts/README.md names. Before 5.11 locked memory is limited as well.
CAPABILITIES=+bpf,+perfmon,+net_admin
[ "$(printf '%s\n' 5.11 "$(uname -r)" | sort -V | head -n 1)" = 5.11 ] ||
	CAPABILITIES+=,+sys_resource
NOBODY=65534

setup_file() {
	node_up privilege
	ztunnel_up
	pod_up client 10.77.1.2
	# Whatever keeps nobody out below this is onramp's own doing.
	chmod 755 "$WORK" "$WORK/bpf"
	(umask 0 && reload -e 10.77.1.0/24 -x 10.77.3.0/24 -b 10.88.0.0/16 -d)
}

teardown_file() {
	node_down
}

as_nobody() {
	setpriv --reuid=$NOBODY --regid=$NOBODY --clear-groups --inh-caps=-all "$@"
}

# As nobody, but for these capabilities.
with_capabilities() { # COMMAND...
	setpriv --reuid=$NOBODY --regid=$NOBODY --clear-groups --bounding-set="-all,$CAPABILITIES" \
		--inh-caps="-all,$CAPABILITIES" --ambient-caps="$CAPABILITIES" "$@"
}

@test "pins are root's alone, whatever the umask" {
	[ "$(find "$PIN" -type f | wc -l)" -gt 20 ]
	run find "$PIN" -perm /077 -o ! -uid 0 -o ! -gid 0
	is "$output" ""
	is "$(stat -c %a "$PIN" "$PIN/maps" "$PIN/links" | tr '\n' ' ')" "1700 700 700 "
}

@test "nobody else can list or read them: no pod's address, no rule, no metric" {
	run as_nobody ls "$PIN"
	has "Permission denied"
	for file in pods metrics links/iter_task maps/pod_ips maps/mesh_rules; do
		[ -e "$PIN/$file" ]
		run -1 as_nobody cat "$PIN/$file"
		has "Permission denied"
	done
	# Nor where the directories are opened: for one who shows metrics, say.
	chmod 755 "$PIN" "$PIN/links" "$PIN/maps"
	run -1 as_nobody cat "$PIN/pods" "$PIN/metrics" "$PIN/links/iter_task"
	is "$(grep -c "Permission denied" <<<"$output")" 3
	run ! as_nobody "$BPFTOOL" map dump pinned "$PIN/maps/pod_ips"
	onramp enroll 10.98.0.0/16 # knows its directory all the same
	chmod 700 "$PIN/links" "$PIN/maps"
	chmod 1700 "$PIN"
	run ! as_nobody "$BPFTOOL" map dump name pod_ips
	run -0 cat "$PIN/pods"
	has "10.77.0.9"
}

state() {
	find "$WORK/bpf" | sort
	onramp rules
	"$BPFTOOL" map dump pinned "$PIN/maps/settings"
	"$BPFTOOL" -j link list | jq --argjson id "$(stat -c %i "$CG")" \
		'.[] | select(.cgroup_id == $id)'
}

@test "a user without capabilities gets one line that says so, and changes nothing" {
	before=$(state)
	refused=0
	while read -r command; do
		# shellcheck disable=SC2086 # words
		run -1 as_nobody "$ONRAMP" $command
		is "${#lines[@]}" 1
		has "onramp: " "ermi" # not permitted, permission denied
		refused=$((refused + 1))
	done <<-END
		load -z $ZTUNNEL_POD_IP -c $CG -p $PIN
		load -z $ZTUNNEL_POD_IP -c $CG -p $WORK/bpf/new
		enroll -p $PIN 10.99.0.0/16
		exclude -p $PIN 10.99.0.0/16
		forget -p $PIN 10.77.1.0/24
		enroll -p $PIN 0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9
		rules -p $PIN
		unload -p $PIN
	END
	is "$refused" 8
	is "$(state)" "$before"
}

@test "with the capabilities of scripts/README.md, ${CAPABILITIES//+/}, nobody does all of it" {
	mkdir "$WORK/bpf/nobody"
	chown $NOBODY:$NOBODY "$WORK/bpf/nobody"
	onramp unload
	PIN=$WORK/bpf/nobody/onramp
	with_capabilities "$ONRAMP" load -z "$ZTUNNEL_POD_IP" -p "$PIN" -c "$CG" \
		-n "/run/netns/$RUN-node" -d
	with_capabilities "$ONRAMP" enroll -p "$PIN" 10.77.1.0/24
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	with_capabilities "$ONRAMP" load -z "$ZTUNNEL_POD_IP" -p "$PIN" -c "$CG" \
		-n "/run/netns/$RUN-node" -x 10.77.3.0/24
	run -0 with_capabilities "$ONRAMP" rules -p "$PIN"
	has "in      10.77.1.0/24" "out     10.77.3.0/24"
	with_capabilities "$ONRAMP" exclude -p "$PIN" 10.77.1.2
	with_capabilities "$ONRAMP" forget -p "$PIN" 10.77.1.2
	with_capabilities "$ONRAMP" enroll -p "$PIN" 0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	with_capabilities "$ONRAMP" unload -p "$PIN"
	[ ! -e "$PIN" ]
}

@test "in-pod mode with no more, and what arrives at pods is renewed by a load" {
	"$ONRAMP" unload -p "$WORK/bpf/nobody/onramp" 2>/dev/null || :
	rm -rf "$WORK/bpf/nobody"
	mkdir "$WORK/bpf/nobody"
	chown $NOBODY:$NOBODY "$WORK/bpf/nobody"
	PIN=$WORK/bpf/nobody/onramp
	again() {
		with_capabilities "$ONRAMP" load -p "$PIN" -c "$CG" -n "/run/netns/$RUN-node" \
			-t "$CG/ztunnel" -e 10.77.1.0/24
	}
	run -0 again
	is "$output" ""
	"$ROOT/build/inbound" "$OBJECT" "$PIN" attach client "/run/netns/$RUN-client"
	before=$(behind)
	run -0 again
	is "$output" ""
	[ "$(behind)" != "$before" ]
	[ -e "$PIN/inbound/client" ]
	run -1 pod client "$TCP" dial 10.9.9.9 80 # no ztunnel listens there
	is "$output" ECONNREFUSED
	"$ONRAMP" unload -p "$PIN"
}

@test "no program reads a pod's memory or packets" {
	run grep -nE 'read_user|from_user|load_bytes|load_hdr_opt|pull_data|direct_packet|skb_data' \
		"$ROOT"/bpf/*
	is "$output" ""
	[ "$(grep -c bpf_probe_read_kernel "$ROOT/bpf/kernel.h")" -gt 0 ]
}
