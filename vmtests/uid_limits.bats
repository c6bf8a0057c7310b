#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# Pods by UID where it is hard: maps that are full, and a pod that would be another, or
# none. (Without: uids.bats, uid_rules.bats.)

load helpers.bash
load uids.bash

BPFCALL=$ROOT/build/bpfcall
export HOSTILE=$ROOT/build/hostile

setup_file() {
	uids_up uid_limits
}

teardown() {
	[ -z "${full-}" ] || "$BPFCALL" drain "$PIN/maps/$full" >/dev/null
	uids_gone
}

fill() { # MAP
	full=$1
	run -0 "$BPFCALL" fill "$PIN/maps/$1" 0
	has " E2BIG"
}

drain() {
	"$BPFCALL" drain "$PIN/maps/$full" >/dev/null
	full=
}

# Of pods that come while the map is full, and their second netns.
verdicts_hold() {
	enrolled "$a" one
	enrolled "$a" one fd00:77::2
	enrolled "$a" three
	run -1 run_in "$a" one unshare -Urn "$WORK/in-its-own"
	is "$output" ECONNREFUSED
	passes "$b" two
	passes "$b" three
	passes "$d" node
}

@test "pod_netns or uid_netns full: the caller's cgroup tells, it is counted, and nothing stays behind" {
	onramp enroll "$A" "$D"
	for map in pod_netns uid_netns; do
		fill $map
		before=$(metric 'map_full_total{map="uid_netns"}')
		verdicts_hold
		passes none three
		[ "$(metric 'map_full_total{map="uid_netns"}')" -gt "$before" ]
		is "$(whose one)$(whose two)$(whose three)$(netns_of "$A")" ""
		drain
		enrolled "$a" one # from the next program on it is known
		owns "$A" one
		cgroup_end "$CG/kubepods"
		is "$(whose one)$(netns_of "$A")" ""
		uids_here
	done
}

@test "cgroup_info_map full: a daemon in transit takes no pod's netns either" {
	onramp enroll "$A"
	for rule in exclude enroll; do
		onramp $rule "$D"
		fill cgroup_info_map
		run_in "$d" node $(enter one) sh -c "/bin/true; /bin/true"
		run_in "$d" node $(enter two) sh -c "/bin/true; /bin/true"
		verdicts_hold
		drain
		cgroup_end "$CG/kubepods"
		uids_here
	done
}

@test "pod_events full: it is counted, and all else is as it was" {
	# Two netns without an address are each other's successor with each program.
	ip netns add "$RUN-bare"
	ip netns add "$RUN-bald"
	local there=()
	local there=("$TCP" in /dev/null "/run/netns/$RUN-bare" "$TCP" in /dev/null "/run/netns/$RUN-bald")
	for _ in {1..10}; do there+=("${there[@]}"); done
	run_in "$d" bare "${there[@]}" true
	[ "$(metric 'map_full_total{map="pod_events"}')" -gt 0 ]
	onramp enroll "$A"
	before=$(metric 'map_full_total{map="pod_events"}')
	verdicts_hold
	owns "$A" one
	is "$(metric 'map_full_total{map="pod_events"}')" $((before + 2))
	cgroup_end "$CG/kubepods"
	is "$(whose one)$(whose bare)$(whose bald)" ""
	ip netns del "$RUN-bare"
	ip netns del "$RUN-bald"
}

@test "a pod that makes 300 cgroups, one in another, stays what it is, in both of its netns" {
	cat >"$WORK/deep.py" <<-'END'
		import os, sys
		cgroup, name, command = sys.argv[1], sys.argv[2], sys.argv[3:]
		os.chdir(cgroup)
		for name in [name] + 300 * ["d"]:
		    os.mkdir(name)
		    os.chdir(name)
		open("cgroup.procs", "w").write("0")
		os.execvp(command[0], command)
	END
	onramp enroll "$A"
	for name in d "pod$B"; do
		for netns in one three; do
			run -1 run_in "$a" $netns python3 -IS "$WORK/deep.py" "$CG/$a" "$name" "$TCP" dial 10.77.2.2 80
			is "$output" ECONNREFUSED
			owns "$A" one
			cgroup_end "$CG/$a/$name"
		done
		run -0 run_in "$b" two python3 -IS "$WORK/deep.py" "$CG/$b" "$name" "$TCP" dial 10.77.2.2 80
		cgroup_end "$CG/$b/$name"
	done
}

# What hostile.bats tries with rules of addresses, by a rule of the UID alone.
@test "a hostile program in a pod: nothing gets out but by another pod's socket" {
	onramp enroll "$A"
	export SELF=10.77.1.1 SELF6=fd00:77::11 SERVER=10.77.2.2 SERVER6=fd00:77::2 NODE=$NODE_IP
	export ZTUNNEL=$ZTUNNEL_POD_IP CGROUP=$CG/$a/own ATTACHED=$CG ACCOMPLICE=$WORK/accomplice
	mkdir "$CGROUP" "$CG/ztunnel/in-one"
	launch "$WORK/in-one" run_in ztunnel/in-one one "$TCP" serve :: 15001
	launch "$WORK/ready" run_in "$b" two "$HOSTILE" accomplice "$ACCOMPLICE"
	run_in "$a" one setpriv --inh-caps=-all \
		--bounding-set=-all,+chown,+dac_override,+setgid,+setuid,+setfcap,+setpcap,+kill \
		"$HOSTILE" make uid plain-connect own-userns own-netns-then-socket own-netns-after-socket \
		own-netns-and-back cgroups-below-20-deep cgroup-renamed socket-of-other-pod \
		socket-dialled-by-other-pod captured-then-unspec accepted-then-dials io-uring-thread \
		ipv6 ipv4-mapped fast-open-again mptcp-fast-open >"$WORK/hostile"
	cgroup_end "$CG/ztunnel/in-one"
	cat "$WORK/hostile"
	run grep -vE ' (captured|-)$' "$WORK/hostile"
	is "$output" "own-netns-then-socket uid failed ENETUNREACH
own-netns-and-back uid failed EPERM
cgroup-renamed uid failed EPERM
socket-of-other-pod uid passed-as-other"
}

# A command in a netns that a process of the pod's has made, and holds.
in_own() { # COMMAND...
	run_in "$a" one nsenter --net="/proc/$holder/ns/net" "$@"
}

@test "a pod with NET_ADMIN takes its address away, and moves its device to a netns of its own" {
	onramp enroll "$A"
	onramp exclude "$D"
	mkdir "$CG/$a/holder"
	run_in "$a" one ip addr flush dev eth0 scope global
	run -1 run_in "$a" one unshare -Urn "$WORK/in-its-own"
	is "$output" ECONNREFUSED
	run -1 dial "$a" one
	is "$output" ENETUNREACH
	run_in "$a" one ip addr add 10.77.1.1/16 dev eth0
	enrolled "$a" one
	launch "$WORK/holder" run_in "$a/holder" one unshare -Urn sh -c "echo ready; exec sleep 1000"
	read -r holder <"$CG/$a/holder/cgroup.procs"
	run_in "$a" one ip link set eth0 netns "$holder"
	in_own ip addr add 10.77.1.1/16 dev eth0
	in_own ip link set eth0 up
	in_own ip link set lo up
	run -1 in_own "$TCP" dial 10.77.2.2 80
	is "$output" ECONNREFUSED
	run_in "$d" node nsenter --net="/proc/$holder/ns/net" sh -c "/bin/true; /bin/true"
	run -1 in_own "$TCP" dial 10.77.2.2 80
	is "$output" ECONNREFUSED
	run -1 dial "$a" one
	is "$output" ENETUNREACH
	cgroup_end "$CG/kubepods" # and the device with it
	ip netns del "$RUN-one"
	pod_up one 10.77.1.1 none
	ip -n "$RUN-one" addr add fd00:77::11/64 dev eth0 nodad
}
