#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# onramp-doctor on nodes that were broken on purpose: it names the cause, all of
# it in one line that FAILs or warns, and nothing else.

load helpers.bash

setup_file() {
	node_up doctor
	ztunnel_up
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	export OTHER=$WORK/bpf/other PODS=$CG
	"$BPFTOOL" prog loadall "$ROOT/build/other.bpf.o" "$OTHER"
}

teardown_file() {
	CG=$PODS
	rm -rf "$WORK/bpf/plain"
	node_down
}

# The doctor as a program of the node's (or, with outside, of none that onramp has
# to do with), in a mount namespace of its own, after what the variable break says
# was done there. It must fit on a screen.
doctor() { # OPTION...
	local at=(run_in "${below-node}" node)
	[ -z "${outside-}" ] || at=()
	# shellcheck disable=SC2154 # the caller's
	run "${at[@]}" unshare -m sh -ec "${break-}
		exec \"\$0\" \"\$@\"" "$ROOT/scripts/onramp-doctor" \
		-r "$WORK/root" -s "$WORK/zds-socket" -p "$PIN" "$@"
	[ "$(fold -w 80 <<<"$output" | wc -l)" -le 24 ] || { echo "$output"; return 1; }
}

# Exit status, and all the lines that are neither ok nor -.
says() { # STATUS [LINE]
	is "$status" "$1" || { echo "$output"; return 1; }
	is "$(grep -vE '^(ok|-)  ' <<<"$output")" "${2-}"
}

# The other program, as the doctor names it: bpftool tells no flags before 6.0.
who() { # FLAGS [PROGRAM]
	local name=${2:-other_connect4} id
	id=$("$BPFTOOL" -j prog show pinned "$OTHER/$name" | grep -o '"id":[0-9]*')
	flags_are_told && id+=", $1"
	echo "$name (id ${id#*:})"
}
flags_are_told() {
	[ "$(printf '%s\n' 6.0 "$(uname -r)" | sort -V | head -n 1)" = 6.0 ]
}

# Puts a file over another, that has this text.
hide() { # FILE TEXT
	printf '%s\n' "${@:2}" >"$WORK/hides${1//\//-}"
	echo "mount --bind '$WORK/hides${1//\//-}' '$1'"
}

not_loaded() { # LINE: where it cannot be loaded, it says why
	doctor -c "$CG"
	says 1 "$1"
}

@test "not loaded, but could be: 2" {
	doctor -c "$CG"
	says 2
	has "-     onramp    not loaded: onramp load, in node mode with -z ADDR"
	doctor -q -c "$CG"
	is "$status$output" 2
}

@test "kernel too old" {
	break=$(hide /proc/sys/kernel/osrelease 5.9.16-amd64)
	not_loaded "FAIL  kernel    5.9.16-amd64 is too old: boot 5.10 or later"
}

@test "kernel without BTF" {
	break="mount -t tmpfs none /sys/kernel/btf"
	not_loaded "FAIL  kernel    no BTF in /sys/kernel/btf: boot one with CONFIG_DEBUG_INFO_BTF"
}

@test "lockdown: confidentiality is an obstacle, integrity is not" {
	break="mount -t tmpfs none /sys/kernel/security
		echo 'none integrity [confidentiality]' >/sys/kernel/security/lockdown"
	not_loaded "FAIL  lockdown  confidentiality forbids what BPF reads: boot lockdown=integrity"
	break=${break/integrity \[confidentiality\]/[integrity] confidentiality}
	doctor -c "$CG"
	says 2
	has "ok    lockdown  none [integrity] confidentiality"
}

@test "a capability less, none at all, or those of a user namespace" {
	for less in bpf perfmon net_admin; do
		run -1 setpriv --bounding-set "-sys_admin,-$less" "$ROOT/scripts/onramp-doctor" -r "$WORK/root" \
			-q -p "$PIN" -c "$CG"
		is "$output" "FAIL  rights    without CAP_${less^^}: be root, or add it to the container"
	done
	break=$(hide /proc/sys/kernel/osrelease 5.10.0)
	run -1 unshare -m sh -c "$break"'
		exec setpriv --bounding-set -sys_resource "$0" "$@"' \
		"$ROOT/scripts/onramp-doctor" -q -p "$PIN" -c "$CG"
	is "$output" "FAIL  rights    without CAP_SYS_RESOURCE: be root, or add it to the container"
	run -1 unshare -U "$ROOT/scripts/onramp-doctor" -q -p "$PIN" -c "$CG"
	is "${lines[0]}" \
		"FAIL  rights    a user namespace, where capabilities do not count: leave it"
}

@test "no cgroup2" {
	break="mount -t tmpfs none '$(cgroup2_mount)'"
	doctor
	says 1 "FAIL  cgroup2   $(cgroup2_mount) is no cgroup2: mount one there, or give its place by -c"
	break=
	doctor -c "$WORK"
	says 1 "FAIL  cgroup2   $WORK is no cgroup2: mount one there, or give its place by -c"
}

load_all() { # [OPTION]...: with all that there is to look at
	reload -e 10.77.1.0/24 -d -a -t "$CG/ztunnel" "$@"
}

v1_of() { # KERNEL GROUPS-OF-NET_CLS GROUPS-OF-NET_PRIO
	hide /proc/cgroups "#subsys_name hierarchy num_cgroups enabled" "cpu 2 9 1" \
		"net_cls 3 $2 1" "net_prio 4 $3 1"
	hide /proc/sys/kernel/osrelease "$1"
}

@test "hybrid node with net_prio in use, before 5.15: no cgroup but the root" {
	break=$(v1_of 5.14.0 1 2)
	not_loaded "FAIL  v1        net_prio in use hides sockets' cgroups: no -c, no -t, or boot 5.15"
	# On the root; who else is there is not this test's business.
	doctor -c "$(cgroup2_mount)"
	has "warn  v1        net_prio in use hides sockets' cgroups: no -c, no -t, or boot 5.15"
	break=$(v1_of 5.14.0 2 1)
	doctor -c "$CG"
	says 2 "warn  v1        net_cls, once a classid is set, hides sockets' cgroups: boot 5.15"
	break=$(v1_of 5.15.0 2 2)
	doctor -c "$CG"
	says 2
	has "ok    v1        net_cls or net_prio in use, which is no obstacle since 5.15"
}

@test "no bpffs, one that is read-only, or something else in the place of the pins" {
	PIN=$WORK/none/onramp
	not_loaded "FAIL  bpffs     no directory $WORK/none: mount -t bpf -o mode=700 bpf /sys/fs/bpf, or give -p"
	PIN=$WORK/onramp
	not_loaded "FAIL  bpffs     $WORK is in none: mount -t bpf -o mode=700 bpf /sys/fs/bpf, or give -p"
	PIN=$WORK/bpf/onramp
	break="mount -o remount,bind,ro '$WORK/bpf'"
	not_loaded "FAIL  bpffs     $WORK/bpf cannot be written: be root, and mount it rw"
	break=
	PIN=$OTHER
	not_loaded "FAIL  onramp    $OTHER holds none, or half of one: onramp unload, or give another -p"
}

attach_other() { # attach|detach CGROUP [FLAGS]
	"$BPFTOOL" cgroup "$1" "$2" cgroup_inet4_connect pinned "$OTHER/other_connect4" "${@:3}"
}

in_the_way() { # CGROUP FLAGS [PROGRAM HOOK]
	local place="${4-connect4}${1:+ of $1}"
	if flags_are_told; then
		not_loaded "FAIL  others    $(who "$2" "${3-}") on $place keeps onramp out: attach it with multi"
	else
		doctor -c "$CG"
		says 2 "warn  others    $(who "$2" "${3-}") on $place may keep onramp out: attach it with multi"
	fi
}

@test "another's program in the way of the load" {
	attach_other attach "$CG"
	in_the_way "" exclusive
	attach_other detach "$CG"
	attach_other attach "$CG" override
	in_the_way "" override
	run ! reload # and so it is; for the rest see crowded.bats
	attach_other detach "$CG"
	"$BPFTOOL" cgroup attach "$CG" cgroup_sock_ops pinned "$OTHER/other_sockops"
	in_the_way "" exclusive other_sockops sock_ops
	"$BPFTOOL" cgroup detach "$CG" cgroup_sock_ops pinned "$OTHER/other_sockops"
	mkdir "$CG/below"
	attach_other attach "$CG"
	CG=$PODS/below below=../node in_the_way "$PODS" exclusive
	attach_other detach "$CG"
	rmdir "$CG/below"
}

@test "another's program that would run before" {
	attach_other attach "$CG" multi
	doctor -c "$CG"
	attach_other detach "$CG"
	if flags_are_told; then
		says 2 "warn  others    $(who multi) on connect4 runs before onramp: load before it"
	else
		says 2 "warn  others    $(who multi) on connect4 may keep onramp out: attach it with multi"
	fi
}

@test "a load balancer that would run before: it fails" {
	balancer() { "$BPFTOOL" cgroup "$1" "$CG" cgroup_inet4_connect pinned "$OTHER/calico_connect_v4" "${@:2}"; }
	balancer attach multi
	doctor -c "$CG"
	balancer detach
	says 1 "FAIL  others    $(who multi calico_connect_v4) on connect4 runs before onramp, and ztunnel gets backends: set bpfConnectTimeLoadBalancing=Disabled"
}

@test "loaded and healthy: 0, neither a FAIL nor a warning, all looked at, all pins" {
	load_all
	pod client "$TCP" dial 10.77.2.2 80
	doctor
	says 0
	is "$(grep '^-' <<<"$output")" ""
	links=$(find "$PIN" -type f -path '*/links/*' ! -name inet_sock_set_state | wc -l)
	has "ok    onramp    loaded, with its $((links + 2)) links and $(find "$PIN/maps" -type f | wc -l) maps" \
		"ok    links     attached to $CG" "ok    ztunnel   listens on $ZTUNNEL_POD_IP, port 15001" \
		"ok    connects  1 redirected, 1 passed, none refused" "ok    pods      "
	awk 'length > 80' <<<"$output" | { run ! grep .; }
	doctor -q
	is "$status$output" 0
}

@test "a ztunnel that is not known, and one that is to take over" {
	onramp unload
	reload -e 10.77.1.0/24
	doctor
	says 0 "warn  ztunnel   known by no cgroup or netns, so that it is a pod like any: load -t"
	has "-     escaped   not counted: onramp load -a"
	ONRAMP_NETNS=ztunnel reload
	doctor
	says 0
	has "ok    ztunnel   listens on $ZTUNNEL_POD_IP, port 15001"
	onramp unload
	load_all
	mkdir "$CG/next" # nobody listens there yet
	"$ONRAMP" load -z 10.77.0.10 -t "$CG/next" -p "$PIN" -c "$CG" -n "/run/netns/$RUN-node"
	doctor
	says 0
	has "ok    ztunnel   listens on $ZTUNNEL_POD_IP, port 15001, until 10.77.0.10 does"
	onramp unload
	rmdir "$CG/next"
	load_all
}

# Listens, or dials and lets the connections stay open, for as long as the cgroup is there.
hold() { # CGROUP NETNS ARGUMENT...
	run_in "$1" "$2" "$ROOT/build/hold" "${@:3}" <>"$WORK/silent" >"$WORK/hold" 2>&1 3>&- &
	disown
	retry 100 grep -q holding "$WORK/hold"
}

@test "connections older than enrolment: those to others that the pod has opened" {
	pod_up old 10.77.1.5
	pod_up far 10.77.3.2
	onramp exclude 10.77.1.5
	hold far far listen 0.0.0.0 80
	hold old old listen 0.0.0.0 80
	hold old old dial 2 10.77.3.2 80 1 127.0.0.1 80 1 10.77.1.5 80
	onramp forget 10.77.1.5
	hold far far dial 1 10.77.1.5 80
	cgroup_end "$CG/ztunnel"
	mkdir "$CG/ztunnel"
	load_all
	hold ztunnel ztunnel listen 0.0.0.0 15001
	hold old old dial 1 10.77.3.2 80 # through ztunnel
	doctor
	says 0 "warn  older     2 connections of 10.77.1.5 are older than its enrolment: restart, or ss -K"
	load_all -b 10.77.3.0/24
	doctor
	says 0
	has "ok    older     no connection "
	cgroup_end "$CG/ztunnel"
	mkdir "$CG/ztunnel"
	serve ztunnel 0.0.0.0 15001 15006 15053
	onramp unload
	load_all
	pod_down old
	pod_down far
}

@test "a pin is gone" {
	mkdir "$WORK/bpf/away"
	mv "$PIN/metrics" "$WORK/bpf/away"
	doctor
	says 1 "FAIL  onramp    gone: metrics: onramp load"
	mv "$PIN/links/sendmsg4" "$PIN/maps/stats" "$WORK/bpf/away"
	doctor -q
	says 1 "FAIL  onramp    gone: links/sendmsg4, metrics, maps/stats: onramp unload, then load"
	mv "$WORK/bpf/away/metrics" "$PIN"
	mv "$WORK/bpf/away/sendmsg4" "$PIN/links"
	mv "$WORK/bpf/away/stats" "$PIN/maps"
	mkdir "$PIN/links/new"
	doctor
	rmdir "$PIN/links/new"
	says 0 "warn  onramp    a loader was killed: onramp load once more"
}

@test "an onramp of another version" {
	mkdir "$WORK/bpf/older" "$WORK/bpf/older/maps"
	"$BPFTOOL" map create "$WORK/bpf/older/maps/settings" type hash key 4 value 72 entries 1 \
		name settings flags 0
	"$BPFTOOL" map update pinned "$WORK/bpf/older/maps/settings" key 0 0 0 0 value $(yes 0 | head -n 72)
	PIN=$WORK/bpf/older doctor
	rm -r "$WORK/bpf/older"
	is $status 1
	has "FAIL  onramp    another version's: take that one's doctor, or unload and load"
}

@test "another's program beside onramp's, before it, and on a child; a link that is dead" {
	attach_other attach "$CG" multi
	doctor
	says 0
	has "ok    others    1, none of them in the way"
	"$BPFTOOL" link detach pinned "$PIN/links/connect4"
	doctor
	has "FAIL  links     dead, by cgroup's removal or detached: connect4: onramp load"
	is "$(grep -c FAIL <<<"$output") $status" "1 1"
	load_all # as the last on connect4, now
	doctor
	attach_other detach "$CG"
	says 0 "warn  others    $(who multi) on connect4 runs before onramp: load before it"
	attach_other attach "$CG/client" multi
	doctor
	attach_other detach "$CG/client"
	says 0 "warn  others    $(who multi) on connect4 of $CG/client runs before onramp"
}

@test "another onramp below" {
	"$BPFTOOL" cgroup attach "$CG/client" cgroup_inet4_connect pinned "$OTHER/connect4" multi
	doctor
	"$BPFTOOL" cgroup detach "$CG/client" cgroup_inet4_connect pinned "$OTHER/connect4"
	id=$("$BPFTOOL" -j prog show pinned "$OTHER/connect4" | grep -o '"id":[0-9]*')
	says 1 "FAIL  others    another onramp (id ${id#*:}) has connect4 of $CG/client: unload one"
}

end_ztunnel() { # its cgroup stays
	kill "$(cat "$CG/ztunnel/cgroup.procs")"
	retry 100 sh -c "! grep -q . '$CG/ztunnel/cgroup.procs'"
}

settings() { # [BYTE...]: prints them, or changes them to these
	if [ $# -gt 0 ]; then
		"$BPFTOOL" map update pinned "$PIN/maps/settings" key 0 0 0 0 value "$@"
	else
		"$BPFTOOL" -j map dump pinned "$PIN/maps/settings" | grep -o '"value":\["[^]]*' |
			grep -o '0x[0-9a-f]*'
	fi
}

@test "ztunnel: no address, no pod that has it, nobody listens, or not there" {
	mapfile -t was < <(settings)
	zeros=(0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0)
	settings "${zeros[@]}" "${was[@]:16}"
	doctor
	says 1 "FAIL  ztunnel   no address is set, so that all passes: onramp load -z ADDR"
	settings "${was[@]:0:16}" 0xfe 0 0 0x77 "${zeros[@]:1:11}" 9 "${was[@]:32}"
	doctor
	says 1 "FAIL  ztunnel   no pod here has fe00:0077:0000:0000:0000:0000:0000:0009: start ztunnel, or give its address by -z"
	settings "${was[@]}"
	end_ztunnel
	doctor
	says 1 "FAIL  ztunnel   nobody listens on $ZTUNNEL_POD_IP, port 15001, so that connects fail: start it"
	serve ztunnel 127.0.0.1 15001
	doctor
	says 1 "FAIL  ztunnel   nobody listens on $ZTUNNEL_POD_IP, port 15001, so that connects fail: start it"
	end_ztunnel
	serve ztunnel 0.0.0.0 15001 15006 15053
	doctor
	says 0
}

@test "its own connect() is not counted" {
	cat "$PIN/metrics" >"$WORK/frozen"
	break="mount --bind '$WORK/frozen' '$PIN/metrics'"
	doctor
	says 1 "FAIL  connects  the one made here was not counted, for no program ran: onramp load"
}

@test "connections that escaped" {
	cp "$PIN/metrics" "$WORK/metrics"
	break="mount --bind '$WORK/metrics' '$PIN/metrics'"
	outside=yes doctor # or its own connect() is missed
	says 0
	has "ok    escaped   none"
	sed -i 's/^onramp_escaped_total 0/onramp_escaped_total 3/' "$WORK/metrics"
	outside=yes doctor
	says 1 "FAIL  escaped   3 went around ztunnel: take NET_RAW and NET_ADMIN from pods"
}

@test "maps that had no room" {
	sed '/map_full.*"handovers"/s/0$/7/' "$PIN/metrics" >"$WORK/metrics"
	break="mount --bind '$WORK/metrics' '$PIN/metrics'"
	outside=yes doctor
	says 0 "warn  maps      had no room: handovers 7 times: see Limits in vmtests/README.md"
}

@test "a pod whose address came after its last program" {
	pod_up late
	pod late sleep 1000 3>&- &
	retry 100 grep -q . "$CG/late/cgroup.procs"
	late=$(cat "$CG/late/cgroup.procs")
	ip netns add "$RUN-bare" # no pod: all that it has is its loopback's
	ip -n "$RUN-bare" addr add 10.77.5.9/32 dev lo
	run_in late bare sleep 1000 3>&- &
	retry 100 sh -c "[ \$(wc -l <'$CG/late/cgroup.procs') = 2 ]"
	doctor
	says 0
	has "; 2 netns without an address"
	ip -n "$RUN-late" addr add 10.77.5.1/16 dev eth0
	doctor
	says 0 "warn  pods      not known: of process $late: cat PIN_DIR/links/iter_task"
	cat "$PIN/links/iter_task"
	doctor
	says 0
	pod_down late
	ip netns del "$RUN-bare"
}

@test "its cgroups removed, onramp's and ztunnel's; another cgroup than that of -c" {
	mkdir -p "$PODS/below/node" "$PODS/gone"
	onramp unload # or it would know two ztunnels
	CG=$PODS/below reload -t "$PODS/gone"
	below=below/node
	doctor
	says 0
	has "ok    links     attached to $PODS/below"
	doctor -c "$PODS"
	says 1 "FAIL  links     not attached to the $PODS of today: onramp load -c"
	rmdir "$PODS/gone"
	dead getsockopt-0
	doctor
	says 1 "FAIL  ztunnel   its cgroup was removed: onramp load with the new pod's as -t"
	rmdir "$PODS/below/node" "$PODS/below"
	dead connect6
	mkdir -p "$PODS/below/node"
	doctor -c "$PODS/below"
	has "FAIL  links     dead, by cgroup's removal or detached: connect4, connect6, getpeername4 and 2 more: onramp load"
	is $status 1
	onramp unload
}

dead() { # LINK: by and by
	retry 100 sh -c "'$BPFTOOL' link show pinned '$PIN/links/$1' | grep -qw 'cgroup_id 0'"
}

@test "in-pod mode: no listener in a pod, one on loopback, then one; not known; no settings" {
	mkdir "$CG/proxy"
	in_pod() {
		"$ONRAMP" load -e 10.77.1.0/24 -p "$PIN" -c "$CG" -n "/run/netns/$RUN-node" "$@"
	}
	in_pod
	run_in client client sleep 1000 3>&- &
	retry 100 grep -q . "$CG/client/cgroup.procs"
	doctor
	zds="FAIL  zds       nobody tells ztunnel of pods at $WORK/zds-socket: start onramp-zds"
	says 1 "FAIL  ztunnel   not known, so that it is told of no destination: start onramp-zds, write its UID to $WORK/root/var/lib/onramp/workloads/ztunnels
$zds"
	in_pod -t "$CG/proxy"
	deaf="FAIL  ztunnel   nobody listens on 10.77.1.2, port 15001, so that connects fail: start it"
	doctor
	says 1 "$deaf
$zds"
	launch "$WORK/share" run_in proxy client "$TCP" share 127.0.0.1 15001
	doctor
	says 1 "$deaf
$zds"
	launch "$WORK/share" run_in proxy client "$TCP" share :: 15001
	mkdir "$CG/proxy/below" # ztunnel's own connections are none of the pod's
	hold server server listen 0.0.0.0 81
	hold proxy/below client dial 1 10.77.2.2 81
	doctor
	says 1 "$zds"
	has "ok    ztunnel   listens on port 15001 in every enrolled pod"
	"$BPFTOOL" map delete pinned "$PIN/maps/inbound_program" key 0 0 0 0
	doctor
	says 1 "FAIL  onramp    nothing decides on what arrives at pods: onramp load
$zds"
	cgroup_end "$CG/proxy"
	kill "$(cat "$CG/client/cgroup.procs")"
	"$BPFTOOL" map delete pinned "$PIN/maps/settings" key 0 0 0 0
	doctor
	onramp unload # for without settings all the machine's pods are recorded
	is $status 1
	has "FAIL  ztunnel   no address is set, so that all passes: onramp load -z ADDR"
}

@test "loaded by bpftool alone: healthy, connects refused for want of an address, half detached" {
	NODE_NETNS=/run/netns/$RUN-node ZTUNNEL_CGROUP=$CG/ztunnel "$ROOT/scripts/load-with-bpftool" \
		"$CG" "$WORK/bpf/plain" "$ZTUNNEL_POD_IP" 10.77.1.0/24 2>/dev/null
	PIN=$WORK/bpf/plain
	doctor
	says 0
	has "ok    links     attached to $CG"
	dual_stack client:2 server:3
	run ! pod client "$TCP" dial fd00:77::3 80
	doctor
	says 0 "warn  connects  refused: unreachable 1 times: see scripts/README.md"
	"$BPFTOOL" cgroup detach "$CG" cgroup_inet6_connect pinned "$PIN/connect6"
	doctor -q
	says 1 "FAIL  links     connect4, connect6 are not both there: onramp load"
}

@test "without bpftool it says what it did not look at" {
	PIN=$WORK/bpf/plain
	BPFTOOL=none doctor -c "$CG"
	says 0 "warn  connects  refused: unreachable 1 times: see scripts/README.md"
	has "ok    onramp    loaded" "-     others    not looked at: install bpftool" \
		"-     links     not looked at" "-     ztunnel   not looked at"
}
