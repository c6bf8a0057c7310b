#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=alone
# The loader: what it refuses and how, upgrades, failures half-way, unload.

load helpers.bash

setup_file() {
	node_up loader
	ztunnel_up
	pod_up client 10.77.1.2
	mkdir "$CG/sub"
}

teardown_file() {
	node_down
}

# The attach types of the links to a cgroup. Not `bpftool cgroup show`: what it
# asks is refused by a kernel older than 6.1, and it says nothing then.
attached() { # DIRECTORY
	"$BPFTOOL" -j link list | jq -r --argjson id "$(stat -c %i "$1")" \
		'.[] | select(.cgroup_id == $id) | .attach_type'
}

# All that a failing command must leave alone.
state() {
	sleep 0.5 # the kernel frees what was unloaded a bit later
	"$BPFTOOL" -j prog list | grep -o '{"id":[0-9]*'
	"$BPFTOOL" -j map list | grep -o '{"id":[0-9]*'
	"$BPFTOOL" -j link list | grep -oE '"(id|prog_id)":[0-9]*' || : # none
	find "$WORK/bpf" | sort
	[ ! -e "$PIN/rules" ] || cat "$PIN/rules"
}

# One line on standard error that names the thing; exit 1.
refuses() { # NAMED COMMAND...
	local named=$1
	shift
	run -1 --separate-stderr "$@"
	is "$output" ""
	[ "${#stderr_lines[@]}" = 1 ] || { echo "lines: $stderr" >&2; return 1; }
	[[ $stderr == "onramp: "*"$named"* ]] || { echo "got: $stderr" >&2; return 1; }
	[ ${#stderr} -le 160 ] || { echo "long: $stderr" >&2; return 1; }
	refused=$((${refused-0} + 1))
}

unchanged() { # since BEFORE
	is "$(state)" "$1"
}

refuses_all() {
	refuses "fly" "$ONRAMP" fly
	refuses "no such command" "$ONRAMP"
	refuses "-q" "$ONRAMP" load -q
	refuses "--zebra" "$ONRAMP" load --zebra 1
	refuses "-z" "$ONRAMP" load -z
	refuses "no ztunnel" reload_bare
	refuses "10.0.0.300" reload_bare -z 10.0.0.300
	refuses "10.77.0.9/24" reload_bare -z 10.77.0.9/24
	refuses "0.0.0.0" reload_bare -z 0.0.0.0
	refuses "ztunnel.local" reload_bare -z ztunnel.local
	refuses "::1" reload_bare -z ::1
	refuses "10.0.0.2" reload_bare -z 10.0.0.1 -z 10.0.0.2
	refuses "::ffff:10.0.0.1" reload_bare -z ::ffff:10.0.0.1
	refuses "fd00::9/64" reload_bare -z 10.77.0.9 -z fd00::9/64
	refuses "10.1.0.0/33" reload -e 10.1.0.0/33
	refuses "10.1.0.0/-1" reload -e 10.1.0.0/-1
	refuses "10.1.0.0/" reload -x 10.1.0.0/
	refuses "10.1.0.0/8x" reload -b 10.1.0.0/8x
	refuses "fd00::/129" reload -e fd00::/129
	refuses "pods" reload -e pods
	refuses "load" reload extra
	refuses "/nonexistent" reload -c /nonexistent
	refuses "/tmp" reload -c /tmp
	refuses "cgroup.procs" reload -c "$CG/cgroup.procs"
	refuses "/nonexistent" reload -t /nonexistent
	refuses "/etc/passwd" reload -n /etc/passwd
	refuses "/tmp/pins" reload -p /tmp/pins
	refuses "/nonexistent/dir" reload -p /nonexistent/dir
	refuses "enroll" onramp enroll
	refuses "10.1.0.0/33" onramp enroll 10.2.0.0/16 10.1.0.0/33
	refuses "-e" onramp enroll -e 10.0.0.0/8
	refuses "$WORK/bpf/none" "$ONRAMP" unload -p "$WORK/bpf/none"
	refuses "$WORK/bpf/none" "$ONRAMP" enroll -p "$WORK/bpf/none" 10.0.0.0/8
	refuses "unload" onramp unload everything
}

reload_bare() {
	env -u ZTUNNEL_IP "$ONRAMP" load -p "$PIN" -c "$CG" "$@"
}

# bats test_tags=once
@test "34 kinds of bad input on a clean node: one line, exit 1, nothing changed" {
	refused=0
	before=$(state)
	refuses_all
	unchanged "$before"
	is "$refused" 34
	is "$(attached "$CG")" ""
}

# bats test_tags=once
@test "the same on a loaded node" {
	reload -e 10.77.1.0/24
	refused=0
	before=$(state)
	refuses_all
	refuses "10.9.9.9" onramp forget 10.77.1.0/24 10.9.9.9
	unchanged "$before"
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	onramp unload
}

# bats test_tags=once
@test "the pin directory of another program is left alone" {
	mkdir "$WORK/bpf/other"
	"$BPFTOOL" map create "$WORK/bpf/other/mine" type array key 4 value 4 entries 1 name mine
	before=$(state)
	refuses "$WORK/bpf/other" reload -p "$WORK/bpf/other"
	refuses "$WORK/bpf/other" "$ONRAMP" unload -p "$WORK/bpf/other"
	# Mounted as systemd does, a bpffs' root looks like a directory of onramp's.
	mkdir "$WORK/root"
	mount -t bpf -o mode=0700 bpf "$WORK/root"
	"$BPFTOOL" map pin pinned "$WORK/bpf/other/mine" "$WORK/root/mine"
	refuses "$WORK/root" reload -p "$WORK/root"
	refuses "$WORK/root" "$ONRAMP" unload -p "$WORK/root"
	[ -e "$WORK/root/mine" ]
	umount "$WORK/root"
	unchanged "$before"
	rm -r "$WORK/bpf/other"
}

# bats test_tags=once
@test "a directory that is no bpffs stays as it is, empty or not" {
	mkdir "$WORK/plain"
	before=$(state)
	refuses "$WORK/plain" reload -p "$WORK/plain"
	refuses "$WORK/plain/new" reload -p "$WORK/plain/new"
	unchanged "$before"
	[ -d "$WORK/plain" ] && [ ! -e "$WORK/plain/new" ]
}

@test "no permission: capabilities are named" {
	before=$(state)
	refuses "CAP_BPF" setpriv --bounding-set=-all,+dac_override --inh-caps=-all \
		"$ONRAMP" load -z "$ZTUNNEL_POD_IP" -p "$PIN" -c "$CG"
	unchanged "$before"
}

# bats test_tags=once
@test "no BTF: said so" {
	before=$(state)
	refuses "BTF" unshare --mount sh -c 'mount -t tmpfs none /sys/kernel/btf 2>/dev/null ||
		mount -t tmpfs none /sys/kernel; exec "$@"' sh \
		"$ONRAMP" load -z "$ZTUNNEL_POD_IP" -p "$PIN" -c "$CG"
	unchanged "$before"
}

@test "another program exclusively on the cgroup: said so, nothing left" {
	"$BPFTOOL" prog loadall "$OBJECT" "$WORK/bpf/foreign"
	"$BPFTOOL" cgroup attach "$CG/sub" cgroup_inet4_connect pinned "$WORK/bpf/foreign/connect4"
	before=$(state)
	refuses "connect4" "$ONRAMP" load -z "$ZTUNNEL_POD_IP" -p "$PIN" -c "$CG/sub"
	unchanged "$before"
	# The same as an upgrade that moves: what was replaced or gone by then is put back.
	reload -d -e 10.77.1.0/24
	before=$(state)
	refuses "connect4" reload -c "$CG/sub" -e 10.77.4.0/24
	unchanged "$before"
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	onramp unload
	"$BPFTOOL" cgroup detach "$CG/sub" cgroup_inet4_connect pinned "$WORK/bpf/foreign/connect4"
	rm -r "$WORK/bpf/foreign"
}

# bats test_tags=once
@test "ZTUNNEL_IP stands for -z; -z goes first" {
	ZTUNNEL_IP=$ZTUNNEL_POD_IP "$ONRAMP" load -p "$PIN" -c "$CG" -e 10.77.1.0/24 \
		-n "/run/netns/$RUN-node"
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	ZTUNNEL_IP=10.1.1.1 reload
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
}

# bats test_tags=once
@test "an address for each family: two -z, or ZTUNNEL_IP as the downward API gives it" {
	settings() { "$BPFTOOL" map dump pinned "$PIN/maps/settings"; }
	one=$(settings)
	reload -z fd00:77::9
	both=$(settings)
	run ! is "$one" "$both"
	ZTUNNEL_IP=$ZTUNNEL_POD_IP,fd00:77::9 "$ONRAMP" load -p "$PIN" -c "$CG" \
		-n "/run/netns/$RUN-node"
	is "$(settings)" "$both"
}

@test "load over a running instance: links stay, programs are new, rules stay" {
	reload -e 10.77.1.0/24
	links=$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .id)
	programs=$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .prog_id)
	maps=$("$BPFTOOL" -j map show pinned "$PIN/maps/mesh_rules" | jq .id)
	run -0 --separate-stderr reload -x 10.77.3.0/24
	is "$output$stderr" ""
	is "$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .id)" "$links"
	run ! is "$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .prog_id)" "$programs"
	is "$("$BPFTOOL" -j map show pinned "$PIN/maps/mesh_rules" | jq .id)" "$maps"
	run -0 cat "$PIN/rules"
	has "in      10.77.1.0/24" "out     10.77.3.0/24"
	is "$(attached "$CG" | grep -c inet4_connect)" 1
}

@test "load over an instance whose maps have another layout: refused, nothing changed" {
	mv "$PIN/maps/judged" "$PIN/maps/kept"
	"$BPFTOOL" map create "$PIN/maps/judged" type array key 4 value 4 entries 1 name judged
	before=$(state)
	refuses "Invalid argument" reload
	unchanged "$before"
	rm "$PIN/maps/judged"
	mv "$PIN/maps/kept" "$PIN/maps/judged"
}

@test "-v tells what libbpf does, and what the verifier made of each program" {
	run -0 --separate-stderr reload -v
	is "$output" ""
	# One, lookup, has nothing to be attached to here.
	is "$(grep -c '^processed [0-9]* insns' <<<"$stderr")" "$(($(find "$PIN/links" "$PIN/pods" \
		"$PIN/rules" "$PIN/metrics" "$PIN/direct" -type f | wc -l) + 1))"
	[[ $stderr == *"libbpf: prog 'connect4': -- BEGIN PROG LOAD LOG"* ]]
}

@test "pins are root's alone" {
	run find "$PIN" -perm /077
	is "$output" ""
}

@test "unload leaves nothing" {
	local program
	program=$("$BPFTOOL" -j link show pinned "$PIN/links/sched_process_exec" |
		grep -o '"prog_id":[0-9]*')
	onramp unload
	[ ! -e "$PIN" ]
	is "$(attached "$CG")" ""
	retry 40 sh -c "! '$BPFTOOL' prog show id ${program#*:}"
	run -1 timeout 5 ip netns exec "$RUN-client" "$TCP" dial "$NODE_IP" 9
	is "$output" ECONNREFUSED
}

# bats test_tags=once
@test "every long option is its short one" {
	"$ONRAMP" load --ztunnel "$ZTUNNEL_POD_IP" --pin-dir "$PIN" --cgroup "$CG" \
		--node-netns "/run/netns/$RUN-node" --ztunnel-cgroup "$CG/ztunnel" \
		--enroll 10.77.1.0/24 --exclude 10.77.3.0/24 --bypass 10.88.0.0/16 --no-host-capture --dns
	run -0 cat "$PIN/rules"
	has "in      10.77.1.0/24" "out     10.77.3.0/24" "bypass  10.88.0.0/16"
	has "$("$BPFTOOL" -j map dump pinned "$PIN/maps/mesh_rules" | jq -r empty)"
	is "$(attached "$CG/ztunnel")" cgroup_getsockopt
	is "$(attached "$CG" | grep -c getsockopt)" 0
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	onramp unload
}

@test "alone in an empty root with only /sys, the static loader does its work" {
	mkdir -p "$WORK/root/sys"
	cp "$ONRAMP" "$WORK/root/onramp"
	empty() {
		unshare --mount sh -c 'mount --rbind /sys "$0/sys" &&
			mount --rbind "$1" "$0/sys/fs/bpf" && shift && exec chroot "$@"' \
			"$WORK/root" "$WORK/bpf" "$WORK/root" /onramp "$@"
	}
	inside=/sys/fs/cgroup/${CG#/sys/fs/cgroup/}
	empty load -z "$ZTUNNEL_POD_IP" -c "$inside" -e 10.77.1.0/24
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	empty exclude 10.77.1.2
	run -0 cat "$PIN/rules"
	has "out     10.77.1.2/32"
	empty unload
	[ ! -e "$PIN" ]
}

# bats test_tags=once
@test "help prints the usage" {
	run -0 "$ONRAMP" --help
	is "$output" "$(cat "$ROOT/loader/usage.txt")"
	is "$(awk 'length > 80' "$ROOT/loader/usage.txt")" ""
}
