#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# What rules of pods' UIDs say beside those of addresses, and --strict. (Which netns is
# whose: uids.bats.)

load helpers.bash
load uids.bash

# Bits of mesh_pods.
ZDS_IN=4 ZDS_OUT=8 DNS=16 NO_DNS=32

setup_file() {
	uids_up uid_rules
}

@test "IN of either the address or the UID enrols, from whomever; OUT of either wins" {
	local bits
	while read -r fate address uid bits; do
		for each in "$address 10.77.1.1" "$address fd00:77::11" "$uid $A"; do
			# shellcheck disable=SC2086 # words
			[[ $each == -* ]] || onramp $each
		done
		if [ "$bits" != - ]; then
			value=$(value_of mesh_pods $(bytes_of_uid "$A"))
			word "$A" $((0x0${value:0:2} | bits))
		fi
		"$fate" "$a" one
		"$fate" "$a" one fd00:77::2
		run grep ' 10.77.1.1$' "$PIN/pods"
		is "${output%% *}" "$(if [ "$fate" = enrolled ]; then echo in; else echo out; fi)"
		word "$A" 0
		[ "$address" = - ] || onramp forget 10.77.1.1 fd00:77::11
	done <<-END
		passes - - -
		enrolled enroll - -
		enrolled - enroll -
		enrolled - - $ZDS_IN
		enrolled enroll enroll $ZDS_IN
		passes exclude enroll -
		passes exclude - $ZDS_IN
		passes enroll exclude -
		passes enroll - $ZDS_OUT
		passes - enroll $ZDS_OUT
		passes - exclude $ZDS_IN
		passes - - $((ZDS_IN | ZDS_OUT))
		passes - exclude -
		passes - - $((DNS | NO_DNS))
	END
	# One family's address is enough, for both.
	onramp enroll "$A"
	onramp exclude fd00:77::11
	passes "$a" one
	passes "$a" one fd00:77::2
	onramp forget fd00:77::11
	enrolled "$a" one
	enrolled "$a" one fd00:77::2
	# What zds has said stays when the operator's word goes.
	word "$A" $((ZDS_IN | 1))
	onramp forget "$A"
	enrolled "$a" one
	word "$A" 0
	passes "$a" one
}

@test "a program that runs all along: the rule's change works at its next connect()" {
	steps_begin run_in "$a" one
	step 1 " local="
	onramp enroll "$A"
	step 2 ECONNREFUSED
	onramp exclude "$A"
	step 3 " local="
	onramp enroll "$A"
	step 4 ECONNREFUSED
	onramp forget "$A"
	step 5 " local="
	exec 9>&-
	rm "$WORK/steps"
}

@test "a pod that has no address yet: no network, then refused; and what is its own passes" {
	onramp enroll "$A"
	ip netns add "$RUN-bare"
	ip -n "$RUN-bare" link set lo up
	before=$(connects refused unreachable)
	run -1 dial "$a" bare
	is "$output" ENETUNREACH
	run -1 dial "$a" bare fd00:77::2
	is "$output" ENETUNREACH
	is "$(connects refused unreachable)" $((before + 2))
	owns "$A" bare
	launch "$WORK/own" run_in "$a" bare "$TCP" serve 127.0.0.1 8080
	passes "$a" bare 127.0.0.1 8080
	ip netns del "$RUN-bare"
	cgroup_end "$CG/kubepods"
	uids_here
	pod_up bare "" none
	run -1 dial "$a" bare
	is "$output" ENETUNREACH
	ip -n "$RUN-bare" addr add 10.77.1.8/16 dev eth0
	enrolled "$a" bare
	run -1 dial "$a" bare fd00:77::2
	is "$output" ENETUNREACH
	ip -n "$RUN-bare" addr add fd00:77::88/64 dev eth0 nodad
	enrolled "$a" bare fd00:77::2
	owns "$A" bare
	ip netns del "$RUN-bare"
}

# What a command raises this metric by.
raises() { # METRIC-AND-LABELS N COMMAND...
	local before
	before=$(metric "$1")
	run "${@:3}"
	is "$* $(($(metric "$1") - before))" "$* $2"
}

@test "DNS: the pod's own word goes before that of settings, for pods that are enrolled" {
	local tcp='connects_total{verdict="redirected",reason="dns"}' udp='dns_queries_total{verdict="redirected"}'
	for options in "" -; do
		in_pod_mode ${options:+-d}
		while read -r captured bits; do
			word "$A" "$bits"
			raises "$tcp" "$captured" dial "$a" one 10.77.2.2 53
			raises "$udp" "$captured" run_in "$a" one "$TCP" udp 10.77.2.2 53
			raises "$udp" "$captured" run_in "$a" one "$TCP" udp fd00:77::2 53
		done <<-END
			${#options} $ZDS_IN
			1 $((ZDS_IN | DNS))
			0 $((ZDS_IN | NO_DNS))
			0 $DNS
			0 $((ZDS_IN | ZDS_OUT | DNS))
		END
	done
	in_pod_mode
}

unruled() { # CGROUP NETNS [ADDRESS [PORT]]
	run -1 dial "$@"
	is "$output" EPERM
}

@test "--strict: a pod with a UID of which no rule speaks is refused, and counted; no other" {
	mkdir -p "$CG/ztunnel/pod$D"
	in_pod_mode -s
	before=$(connects refused no_rule)
	unruled "$a" one
	unruled "$a" one fd00:77::2
	unruled "$a" one 10.77.2.2 53
	unruled "$a" two # which it has made
	unruled none one # who goes there
	is "$(connects refused no_rule)" $((before + 5))
	passes none two
	passes none node
	passes "$a" node
	passes "ztunnel/pod$D" one # a ztunnel, wherever
	run -1 run_in "$a" one "$TCP" dial 127.0.0.1 8080
	is "$output" ECONNREFUSED
	is "$(connects refused no_rule)" $((before + 5))
	for rule in "exclude $A" "exclude 10.77.1.1" "exclude fd00:77::11"; do
		onramp "${rule% *}" "${rule#* }"
		passes "$a" one
		onramp forget "${rule#* }"
		unruled "$a" one
	done
	word "$A" $ZDS_OUT
	passes "$a" one
	word "$A" $DNS # says nothing of that
	unruled "$a" one
	for rule in "enroll $A" "enroll 10.77.1.1"; do
		onramp "${rule% *}" "${rule#* }"
		enrolled "$a" one
		onramp forget "${rule#* }"
	done
	onramp enroll 10.99.0.0/16 # of another
	unruled "$a" one
	onramp forget 10.99.0.0/16
	in_pod_mode -s -b 10.77.2.2
	passes "$a" one
	unruled "$a" one fd00:77::2
	in_pod_mode
	"$BPFTOOL" map delete pinned "$PIN/maps/bypass_rules" key 128 0 0 0 $(bytes_of 10.77.2.2)
	passes "$a" one
	is "$(connects refused no_rule)" $((before + 11))
}

# A datagram to the server's port 53, and the answer.
asks() { # CGROUP NETNS HOW
	run -0 run_in "$1" "$2" timeout 20 python3 -ISc '
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
if sys.argv[1] == "connect":
    s.connect(("10.77.2.2", 53))
    s.send(b"?")
else:
    s.sendto(b"?", ("10.77.2.2", 53))
print(*s.recvfrom(9))' "$3"
	is "$output" "b'53' ('10.77.2.2', 53)"
}

@test "--strict: DNS by UDP passes, by connect() and without" {
	for also in "" -d; do
		in_pod_mode -s $also
		asks "$a" one connect
		asks "$a" one sendto
		unruled "$a" one
	done
	in_pod_mode
}

@test "node mode: rules of UIDs are for both directions" {
	onramp enroll "$A"
	onramp unload
	ztunnel_up
	node_mode -e "$A" -e 10.77.1.2 -x "$B"
	launch "$WORK/serve-one" run_in "$a" one "$TCP" serve :: 80
	launch "$WORK/serve-two" run_in "$b" two "$TCP" serve :: 80
	run -0 dial "$a" one
	has " local=$ZTUNNEL_POD_IP:15001 " " orig4=10.77.2.2:80 "
	passes "$b" two
	has " local=[::ffff:10.77.2.2]:80 "
	run -0 node "$TCP" dial 10.77.1.1 80
	has " local=$ZTUNNEL_POD_IP:15006 " " orig4=10.77.1.1:80 "
	run -0 node "$TCP" dial 10.77.1.2 80
	has " local=[::ffff:10.77.1.2]:80 "
	onramp exclude "$A"
	run -0 node "$TCP" dial 10.77.1.1 80
	has " local=[::ffff:10.77.1.1]:80 "
	onramp unload
	cgroup_end "$CG/ztunnel"
	mkdir "$CG/ztunnel"
	in_pod_mode
}
