#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=alone
# The loader: what it refuses and how, what it warns of, rules, modes, upgrades,
# failures half-way, two at once, unload.

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

# All that a failing command must leave alone: pins, which programs their links run, maps
# and what is in them, what is attached to the node's cgroups. Of another node's nothing.
state() {
	find "$WORK/bpf" | sort
	find "$CG" -type d | sort
	for pin in "$PIN"/links/* "$PIN"/{pods,metrics}; do
		[ ! -e "$pin" ] || "$BPFTOOL" -j link show pinned "$pin" | jq -c '[.id, .prog_id]'
	done
	for map in settings ztunnels kubelets mesh_rules bypass_rules mesh_pods; do
		[ ! -e "$PIN/maps/$map" ] || "$BPFTOOL" -j map dump pinned "$PIN/maps/$map"
	done
	"$BPFTOOL" -j link list | jq -c --argjson ids "[$(find "$CG" -type d -printf '%i,')-1]" \
		'.[] | select(.cgroup_id as $id | $ids | index($id)) | [.id, .prog_id]'
}

# One line on standard error that names the thing; exit 1.
refuses() { # NAMED COMMAND...
	local named=$1 told
	shift
	run -1 --separate-stderr "$@"
	is "$output" ""
	[ "${#stderr_lines[@]}" = 1 ] || { echo "lines: $stderr" >&2; return 1; }
	[[ $stderr == "onramp: "*"$named"* ]] || { echo "got: $stderr" >&2; return 1; }
	told=${stderr//"$WORK"/} # how long that is depends on the process' number
	[ ${#told} -le 140 ] || { echo "long: $stderr" >&2; return 1; }
	refused=$((${refused-0} + 1))
}

unchanged() { # since BEFORE
	diff <(echo "$1") <(state) >&2
}

UID1=0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9

refuses_all() {
	refuses "fly" "$ONRAMP" fly
	refuses "no command" "$ONRAMP"
	refuses "-q" "$ONRAMP" load -q
	refuses "--zebra" "$ONRAMP" load --zebra 1
	refuses "-z: gives no value" "$ONRAMP" load -z
	refuses "-q: no such option" "$ONRAMP" load -p "$PIN" -qd
	refuses "-e: rules has no such option" "$ONRAMP" rules -p "$PIN" -e10.0.0.0/8
	refuses "ZTUNNEL_IP=,: give" env ZTUNNEL_IP=, "$ONRAMP" load -p "$PIN" -c "$CG"
	refuses "ZTUNNEL_IP=10.0.0.1,junk: give" env ZTUNNEL_IP=10.0.0.1,junk \
		"$ONRAMP" load -p "$PIN" -c "$CG"
	refuses "10.0.0.300" load_bare -z 10.0.0.300
	refuses "10.77.0.9/24" load_bare -z 10.77.0.9/24
	refuses "0.0.0.0" load_bare -z 0.0.0.0
	refuses "ztunnel.local" load_bare -z ztunnel.local
	refuses "fe80::1" load_bare -z fe80::1
	refuses "224.0.0.1" load_bare -z 224.0.0.1
	refuses "255.255.255.255" load_bare -z 255.255.255.255
	refuses "ff02::1" load_bare -z ff02::1
	refuses "::1: in-pod mode is load without -z" load_bare -z ::1
	refuses "127.0.0.1: in-pod mode is load without -z" load_bare -z 127.0.0.1
	refuses "10.0.0.1 and 10.0.0.2: two addresses of one family: give one of each" \
		load_bare -z 10.0.0.1 -z 10.0.0.2
	refuses "fd00::1 and fd00::2: two addresses of one family" \
		env ZTUNNEL_IP=10.0.0.1,fd00::1,fd00::2 "$ONRAMP" load -p "$PIN" -c "$CG"
	refuses "::ffff:10.0.0.1" load_bare -z ::ffff:10.0.0.1
	refuses "fd00::9/64" load_bare -z 10.77.0.9 -z fd00::9/64
	refuses "10.1.0.0/33" reload -e 10.1.0.0/33
	refuses "10.1.0.0/-1" reload -e 10.1.0.0/-1
	refuses "10.1.0.0/" reload -x 10.1.0.0/
	refuses "10.1.0.0/8x" reload -b 10.1.0.0/8x
	refuses "fd00::/129" reload -e fd00::/129
	refuses "pods" reload -e pods
	refuses "10.1.0.0?x" reload -e $'10.1.0.0\nx'
	refuses "10.0.0.1/24: has host bits: did you mean 10.0.0.0/24 or 10.0.0.1/32?" \
		reload -x 10.0.0.1/24
	refuses "fd00::1/64: has host bits: did you mean fd00::/64 or fd00::1/128?" \
		onramp enroll fd00::1/64
	refuses "$UID1: -b is for destinations" reload -b $UID1
	refuses "${UID1%9}" onramp enroll "${UID1%9}"
	refuses "${UID1}0" onramp exclude "${UID1}0"
	refuses "load" reload extra
	refuses "/nonexistent" reload -c /nonexistent
	refuses "/tmp" reload -c /tmp
	refuses "cgroup.procs" reload -c "$CG/cgroup.procs"
	refuses "/nonexistent" reload -t /nonexistent
	refuses "$CG: is all of -c" reload -t "$CG"
	refuses "/nonexistent" reload -k /nonexistent
	# shellcheck disable=SC2046 # words
	refuses "16 at most" reload $(yes -- "-k $CG/node" | head -n 17)
	refuses "/etc/passwd" reload -n /etc/passwd
	refuses "/proc/self/ns/mnt" reload -n /proc/self/ns/mnt
	refuses "/tmp/pins" reload -p /tmp/pins
	refuses "/nonexistent/dir" reload -p /nonexistent/dir
	refuses "$CG/pins: give a path in a bpffs" reload -p "$CG/pins"
	refuses "without dots" reload -p "$WORK/bpf/a.b"
	refuses "enroll" onramp enroll
	refuses "10.1.0.0/33" onramp enroll 10.2.0.0/16 10.1.0.0/33
	refuses "-e" onramp enroll -e 10.0.0.0/8
	for command in unload rules "enroll 10.0.0.0/8" "exclude $UID1" "forget 10.0.0.0/8"; do
		# shellcheck disable=SC2086 # words
		refuses "$WORK/bpf/none: no onramp here: load it, or give -p" \
			"$ONRAMP" $command -p "$WORK/bpf/none"
	done
	refuses "everything" onramp unload everything
}

load_bare() {
	env -u ZTUNNEL_IP "$ONRAMP" load -p "$PIN" -c "$CG" "$@"
}

# bats test_tags=once
@test "58 kinds of bad input on a clean node: one line, exit 1, nothing changed" {
	refused=0
	before=$(state)
	refuses_all
	unchanged "$before"
	is "$refused" 58
	is "$(attached "$CG")" ""
}

# bats test_tags=once
@test "the same on a loaded node; and forgetting a rule that is not there" {
	node_mode -e 10.77.1.0/24 -k "$CG/node"
	refused=0
	before=$(state)
	refuses_all
	refuses "10.9.9.9: no such rule: see onramp rules" onramp forget 10.77.1.0/24 10.9.9.9
	refuses "10.77.1.0/25: no such rule" onramp forget 10.77.1.0/24 10.77.1.0/25
	refuses "$UID1: no such rule" onramp forget 10.77.1.0/24 $UID1
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
	mkdir "$WORK/bpf/other/maps"
	"$BPFTOOL" map pin pinned "$WORK/bpf/other/mine" "$WORK/bpf/other/maps/settings"
	refuses "$WORK/bpf/other" "$ONRAMP" unload -p "$WORK/bpf/other"
	rm -r "$WORK/bpf/other/maps"
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
	mkdir "$WORK/plain/maps"
	touch "$WORK/plain/maps/"{settings,cgroup_info_map}
	refuses "$WORK/plain: no onramp here" "$ONRAMP" unload -p "$WORK/plain"
	[ -e "$WORK/plain/maps/settings" ]
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
	node_mode -d -e 10.77.1.0/24 -e $UID1 -k "$CG/sub"
	before=$(state)
	refuses "connect4" reload -c "$CG/sub" -e 10.77.4.0/24 -x 10.77.1.0/24 -x $UID1 \
		-t "$CG/client" -k "$CG/node"
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
	node_mode -e 10.77.1.0/24
	links=$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .id)
	programs=$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .prog_id)
	maps=$("$BPFTOOL" -j map show pinned "$PIN/maps/mesh_rules" | jq .id)
	run -0 --separate-stderr node_mode -x 10.77.3.0/24
	is "$output$stderr" ""
	is "$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .id)" "$links"
	run ! is "$("$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .prog_id)" "$programs"
	is "$("$BPFTOOL" -j map show pinned "$PIN/maps/mesh_rules" | jq .id)" "$maps"
	run -0 onramp rules
	has "in      10.77.1.0/24" "out     10.77.3.0/24"
	is "$(attached "$CG" | grep -c inet4_connect)" 1
}

# bats test_tags=once
@test "load over another release, whose maps have another layout: said so, nothing changed" {
	mv "$PIN/maps/ztunnels" "$PIN/maps/kept"
	"$BPFTOOL" map create "$PIN/maps/ztunnels" type hash key 8 value 8 entries 4 name ztunnels
	before=$(state)
	refuses "$PIN: holds another release of onramp: onramp unload, then load again" reload
	unchanged "$before"
	rm "$PIN/maps/ztunnels"
	mv "$PIN/maps/kept" "$PIN/maps/ztunnels"
}

@test "-v tells what libbpf does, and what the verifier made of each program" {
	run -0 --separate-stderr reload -v
	is "$output" ""
	is "$(grep -c '^processed [0-9]* insns' <<<"$stderr")" \
		"$(find "$PIN/links" "$PIN/pods" "$PIN/metrics" -type f | wc -l)"
	[[ $stderr == *"libbpf: prog 'connect4': -- BEGIN PROG LOAD LOG"* ]]
}

# bats test_tags=once
@test "the pin directory by a link to it, and by . in it" {
	ln -s "$PIN" "$WORK/link"
	run -0 "$ONRAMP" rules -p "$WORK/link"
	has "in      10.77.1.0/24"
	(cd "$PIN" && "$ONRAMP" unload -p .)
	[ ! -e "$PIN" ]
	reload -e 10.77.1.0/24
	"$ONRAMP" unload -p "$WORK/link"
	[ ! -e "$PIN" ] && [ -L "$WORK/link" ]
	rm "$WORK/link"
	reload -e 10.77.1.0/24
}

# bats test_tags=once
@test "whoever reads what -v says, and ends, does not end the load" {
	onramp unload
	reload -v -e 10.77.1.0/24 2>&1 >/dev/null | head -n 1
	is "${PIPESTATUS[0]}" 0
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
}

# bats test_tags=once
@test "told to end when it has begun, it comes to the end first" {
	onramp unload
	strace -qq -o /dev/null -e trace=/^rename -e inject=/^rename:delay_enter=20000 \
		"$ONRAMP" load -z "$ZTUNNEL_POD_IP" -p "$PIN" -c "$CG" -e 10.77.1.0/24 3>&- &
	retry 600 test -e "$PIN/links/new"
	kill "$(pgrep -P $!)"
	wait $! || :
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
}

# bats test_tags=once
@test "too few descriptors: nothing is left, or all is as it was" {
	onramp unload
	before=$(state)
	for descriptors in 30 60 80; do
		refuses "" sh -c 'ulimit -n $0; exec "$@"' $descriptors "$ONRAMP" load \
			-z "$ZTUNNEL_POD_IP" -p "$PIN" -c "$CG"
		unchanged "$before"
	done
	reload -e 10.77.1.0/24
	before=$(state)
	for descriptors in 60 80 100 110 120; do
		sh -c 'ulimit -n $0; exec "$@"' $descriptors "$ONRAMP" load \
			-z "$ZTUNNEL_POD_IP" -p "$PIN" -c "$CG" 2>/dev/null || unchanged "$before"
	done
}

# bats test_tags=once
@test "a link of another release's hook goes with the upgrade" {
	mv "$PIN/links/getpeername4" "$PIN/links/getpeername_of_old"
	reload
	[ ! -e "$PIN/links/getpeername_of_old" ]
	is "$(attached "$CG" | grep -c inet4_getpeername)" 1
}

# bats test_tags=once
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
		--enroll 10.77.1.0/24 --exclude 10.77.3.0/24 --bypass 10.88.0.0/16 --no-host-capture \
		--dns --audit --kubelet-cgroup "$CG/node"
	run -0 onramp rules
	is "$output" "in      10.77.1.0/24
out     10.77.3.0/24
bypass  10.88.0.0/16"
	is "$(attached "$CG/ztunnel" | sort | tr '\n' ' ')" \
		"cgroup_getsockopt cgroup_inet4_bind cgroup_inet6_bind "
	is "$(attached "$CG" | grep -c 'getsockopt\|bind')" 0
	is "$(attached "$CG" | grep -c sendmsg)" 2
	is "$(kubelets)" "$(stat -c %i "$CG/node")"
	[ -e "$PIN/links/inet_sock_set_state" ]
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	onramp unload
}

@test "without -z: in-pod mode, with other programs; from one mode to the other and back" {
	load_from node -e 10.77.1.0/24
	links() { (cd "$PIN/links" && echo *name* *bind* *getsockopt* sock_ops*); }
	is "$(links)" "getpeername4 getpeername6 getsockname4 getsockname6 *bind* *getsockopt* sock_ops*"
	run -1 pod client "$TCP" dial 10.77.0.1 9 # nobody listens in its netns
	is "$output" ECONNREFUSED
	in_pod_mode
	is "$(links)" "getpeername4 getpeername6 getsockname4 getsockname6 bind4-0 bind6-0 getsockopt-0 sock_ops*"
	node_mode
	is "$(links)" "getpeername4 getpeername6 bind4-0 bind6-0 getsockopt-0 sock_ops"
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	in_pod_mode
	run -1 pod client "$TCP" dial 10.77.0.1 9
	is "$output" ECONNREFUSED
	onramp unload
}

# A load of that output on standard error, and exit status 0.
warns() { # WARNING... -- COMMAND...
	local warnings=()
	while [ "$1" != -- ]; do
		warnings+=("onramp: warning: $1")
		shift
	done
	run -0 --separate-stderr "${@:2}"
	is "$stderr" "$(printf '%s\n' "${warnings[@]}")"
}

# bats test_tags=once
@test "warnings: an address that no netns holds, a ztunnel that is known by nothing" {
	nobodys() { echo "$1: no pod of this node holds it: is it ztunnel's?"; }
	unknown="ztunnel is known by nothing: give its pod's cgroup: -t"
	warns "$unknown" -- reload
	warns "$(nobodys fd00:77::8)" "$unknown" -- reload -z fd00:77::8
	onramp unload
	warns "$(nobodys 10.77.0.8)" "$(nobodys fd00:77::8)" -- \
		load_from node -z 10.77.0.8 -z fd00:77::8 -t "$CG/ztunnel"
	onramp unload
	warns -- reload -t "$CG/ztunnel"
	warns -- reload # it still is
	onramp unload
	# From ztunnel's own netns: it is enough that it holds one of them.
	warns -- load_from ztunnel -z "$ZTUNNEL_POD_IP"
	warns "$(nobodys fd00:77::8)" -- load_from ztunnel -z "$ZTUNNEL_POD_IP" -z fd00:77::8
	pod_up asleep 10.77.0.7 # nothing runs there yet
	onramp unload
	warns -- load_from asleep -z 10.77.0.7
	warns -- load_from node # in-pod mode: onramp-zds makes it known
	onramp unload
}

# bats test_tags=once
@test "up to four ztunnels are known by their cgroups, each has a place" {
	places() {
		"$BPFTOOL" -j map dump pinned "$PIN/maps/ztunnels" |
			jq -r '.[].formatted | "\(.value.place) \(.key)"' | sort | paste -sd ' '
	}
	mkdir "$CG/zt"{1,2,3,4}
	load_from node -t "$CG/ztunnel" -t "$CG/zt1" -t "$CG/zt2"
	load_from node -t "$CG/zt3" -t "$CG/zt1"
	place_ids=$(stat -c %i "$CG/ztunnel" "$CG/zt1" "$CG/zt2" "$CG/zt3" | awk '{ print NR - 1, $0 }' | paste -sd ' ')
	is "$(places)" "$place_ids"
	before=$(state)
	refuses "$CG/zt4: four ztunnels are known: remove the cgroup of one, or onramp unload" \
		load_from node -e 10.77.9.0/24 -t "$CG/zt4"
	unchanged "$before"
	rmdir "$CG/zt1"
	load_from node -t "$CG/zt4"
	is "$(places)" "${place_ids/" 1 $(cut -d ' ' -f 4 <<<"$place_ids")"/ 1 $(stat -c %i "$CG/zt4")}"
	for cgroup in ztunnel zt2 zt3 zt4; do
		is "$(attached "$CG/$cgroup" | grep -c getsockopt)" 1
	done
	rmdir "$CG/zt"{2,3,4}
	load_from node
	is "$(cd "$PIN/links" && echo getsockopt*)" getsockopt-0
	onramp unload
}

# bats test_tags=once
@test "the kubelet's cgroup: the top-level one, its own where pods are; nobody else's" {
	local top uid=${UID1//-/_}
	top=$(cgroup2_mount)/$(cut -d / -f 1 <<<"${CG#"$(cgroup2_mount)/"}")
	load_from node
	is "$(kubelets)" ""
	named kubelet "hers/pod$UID1/c" node
	named kubelet hers/kubelet-in-a-pods-netns client
	named kubelet hers/not-roots node setpriv --reuid=65534
	named kubeproxy hers/other-name node
	load_from node
	is "$(kubelets)" ""
	cgroup_end "$CG/hers"
	named kubelet units/kubelet.service node
	named k3s-agent units/k3s.service node
	load_from node
	is "$(kubelets)" "$(ids "$top")"
	for pods in "pod$UID1" "kubepods-besteffort-pod$uid.slice" "pod${UID1//-/}"; do
		mkdir -p "$CG/kubepods/$pods"
		load_from node
		is "$(kubelets)" "$(ids "$CG/units/kubelet.service" "$CG/units/k3s.service")"
		rmdir "$CG/kubepods/$pods"
	done
	mkdir -p "$CG/kubepods/podium" "$CG/kubepods/apod$UID1" "$CG/kubepods/pod${UID1}0"
	load_from node
	is "$(kubelets)" "$(ids "$top")"
	# What is given counts alone; / is all.
	load_from node -k "$CG/node" -k "$CG/ztunnel"
	is "$(kubelets)" "$(ids "$CG/node" "$CG/ztunnel")"
	load_from node -k /
	is "$(kubelets)" "$(ids "$(cgroup2_mount)")"
	cgroup_end "$CG/units"
	cgroup_end "$CG/kubepods"
	load_from node
	is "$(kubelets)" ""
	onramp unload
}

# Kind: the kubelet's unit and all pods are below kubelet.slice, and the loader, of a pod,
# has a cgroup namespace of its own.
# bats test_tags=once
@test "the kubelet's cgroup, where pods share its top-level one with the loader's" {
	local node=$BATS_TEST_TMPDIR/cgroup
	mkdir -p "$node" "$CG/kubelet.slice/kubelet-pod${UID1//-/_}.slice/load"
	named kubelet kubelet.slice/kubelet.service node
	unshare --mount --propagation private sh -c 'mount --bind "$1" "$2" &&
		echo 0 >"$1/kubelet.slice/kubelet-pod$3.slice/load/cgroup.procs" &&
		shift 3 && exec unshare --cgroup "$@"' sh "$CG" "$node" "${UID1//-/_}" \
		"$ONRAMP" load -p "$PIN" -c "$node" -n "/run/netns/$RUN-node"
	is "$(kubelets)" "$(ids "$CG/kubelet.slice/kubelet.service")"
	onramp unload
	cgroup_end "$CG/kubelet.slice"
}

# bats test_tags=once
@test "a second loader waits for the first, whatever it is to do" {
	reload -e 10.77.1.0/24
	each_runs_its_program() {
		for link in "$PIN"/links/*; do
			program=$("$BPFTOOL" -j link show pinned "$link" | jq .prog_id)
			program=$("$BPFTOOL" -j prog show id "$program" | jq -r .name)
			link=$(basename "${link%-[0-9]}")
			is "${program:0:15}" "${link:0:15}"
		done
	}
	slow_load() {
		strace -qq -o /dev/null -e trace=/^rename -e inject=/^rename:delay_enter=300000 \
			"$ONRAMP" load -z "$ZTUNNEL_POD_IP" -p "$PIN" -c "$CG" -t "$CG/ztunnel" 3>&- &
		retry 600 test -e "$PIN/links/new"
	}
	slow_load
	onramp exclude 10.77.1.2
	run -1 kill -0 $! # it has ended
	wait $!
	run -0 onramp rules
	has "out     10.77.1.2/32"
	slow_load
	reload -t "$CG/ztunnel"
	wait $!
	each_runs_its_program
	slow_load
	onramp unload
	wait $!
	[ ! -e "$PIN" ]
}

@test "without AF_INET6, as with ipv6.disable=1" {
	nsenter --net="/run/netns/$RUN-ztunnel" strace -qq -o /dev/null -e trace=socket \
		-e inject=socket:error=EAFNOSUPPORT "$ONRAMP" load -z "$ZTUNNEL_POD_IP" -p "$PIN" \
		-c "$CG" -n "/run/netns/$RUN-node" -e 10.77.1.0/24
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	onramp unload
}

RULES=${ONRAMP_TEST_RULES:-3000}

# bats test_tags=once
@test "rules: none, nested, both families, bypasses, pods; each once, by address" {
	reload
	run -0 onramp rules
	is "$output" ""
	onramp enroll 10.0.0.0/8 10.0.0.0/16 10.1.2.0/24 fd00::/8 192.168.7.7 ::/0 ${UID1^^} ::ffff:10.3.0.0/112
	onramp exclude 10.1.0.0/16 fd00:1::/32 0.0.0.0/0 ffffffff-ffff-ffff-ffff-ffffffffffff
	reload -b 172.16.0.0/12 -b 2001:db8::/32 -b ::/80
	run -0 onramp rules
	is "$(head -n 13 <<<"$output")" "in      ::/0
out     0.0.0.0/0
in      10.0.0.0/8
in      10.0.0.0/16
out     10.1.0.0/16
in      10.1.2.0/24
in      10.3.0.0/16
in      192.168.7.7/32
in      fd00::/8
out     fd00:1::/32
bypass  ::/80
bypass  172.16.0.0/12
bypass  2001:db8::/32"
	is "$(tail -n 2 <<<"$output" | sort)" "in      $UID1
out     ffffffff-ffff-ffff-ffff-ffffffffffff"
}

# bats test_tags=once
@test "forget speaks of all that is said of a prefix: of pods, and of destinations" {
	onramp enroll 172.16.0.0/12
	onramp forget 172.16.0.0/12 ::/80
	is "$(onramp rules | grep -c -e 172.16 -e ::/80)" 0
	run -0 onramp rules
	has "bypass  2001:db8::/32"
	refuses "172.16.0.0/12: no such rule" onramp forget 172.16.0.0/12
}

# bats test_tags=once
@test "a pod's rule: the last word counts, whatever its letters' case; forget ends it" {
	onramp exclude ${UID1^^}
	run -0 onramp rules
	has "out     $UID1"
	is "$(grep -c $UID1 <<<"$output")" 1
	onramp forget ${UID1//-/} # as a static pod's is written
	is "$(onramp rules | grep -c $UID1)" 0
	is "$(entries mesh_pods)" 1
	# What onramp-zds wrote stays, and is no rule of the operator's.
	"$BPFTOOL" map update pinned "$PIN/maps/mesh_pods" \
		key hex $(sed 's/-//g; s/../& /g' <<<"$UID1") value 4 0 0 0
	refuses "$UID1: no such rule" onramp forget $UID1
	onramp enroll $UID1
	onramp forget $UID1
	is "$(entries mesh_pods)" 2
}

# bats test_tags=once
@test "$RULES rules: each of them once" {
	onramp forget 10.0.0.0/8 10.0.0.0/16 10.1.2.0/24 10.3.0.0/16 10.1.0.0/16
	for ((i = 0; i < RULES; i++)); do echo "10.$((i / 250)).$((i % 250)).0/24"; done >"$WORK/many"
	(ulimit -n 256 && onramp enroll $(cat "$WORK/many"))
	(ulimit -n 256 && onramp enroll $(printf '00000000-0000-0000-0000-%012d\n' {1..300}))
	onramp rules | sed -n 's/^in  *\(10[.].*\)/\1/p' | sort >"$WORK/listed"
	sort "$WORK/many" | diff - "$WORK/listed"
	onramp unload
}

# bats test_tags=once
@test "::/0 speaks of IPv6 alone: in -e, -x and -b" {
	node_mode -e 10.77.1.0/24 -b ::/0 -x ::/0
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
	onramp unload
	node_mode -e ::/0
	run -1 timeout 5 ip netns exec "$RUN-client" "$TCP" dial "$NODE_IP" 9
	is "$output" ECONNREFUSED
	is "$(connects redirected outbound)" 0
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
	run -0 empty rules
	has "out     10.77.1.2/32"
	empty unload
	[ ! -e "$PIN" ]
}

# bats test_tags=once
@test "help prints the usage" {
	run -0 "$ONRAMP" --help
	is "$output" "$(cat "$ROOT/loader/usage.txt")"
	run -0 "$ONRAMP" help
	is "$output" "$(cat "$ROOT/loader/usage.txt")"
	is "$(awk 'length > 80' "$ROOT/loader/usage.txt")" ""
}

# bats test_tags=once
@test "--version says which" {
	run -0 "$ONRAMP" --version
	is "$output" "onramp $(cat "$ROOT/build/version")"
}
