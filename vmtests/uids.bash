# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# What the suites of pods' UIDs share: three netns that any pod's programs run in, pods'
# cgroups as a kubelet makes them, and what BPF knows of whose a netns is. No ztunnel:
# an enrolled pod's connect() is refused, for nobody listens on 15001 in its netns.

OUTSIDE=${CG-}-outside # a cgroup beside the one that onramp is for

uids_up() { # NAME
	local netns=1
	node_up "$1"
	OUTSIDE=$CG-outside
	mkdir "$CG/ztunnel" "$OUTSIDE"
	pod_up server 10.77.2.2
	for pod in one two three; do
		pod_up $pod 10.77.1.$netns none
		netns=$((netns + 1))
	done
	dual_stack server:2 one:11 two:12 three:13
	serve server :: 80
	launch "$WORK/dns" run_in server server "$TCP" both :: 53
	# In a netns that it has made, whose only way to the server says EACCES.
	cat >"$WORK/in-its-own" <<-END
		#!/bin/sh
		ip link set lo up
		ip link add eth0 type veth peer name eth1
		ip addr add 10.99.9.1/24 dev eth0
		ip link set eth0 up
		ip route add prohibit 10.77.2.2
		exec $TCP dial 10.77.2.2 80
	END
	chmod 755 "$WORK" "$WORK/in-its-own"
	in_pod_mode
}

uids_down() {
	cgroup_end "$OUTSIDE"
	node_down
}

# New ones for each test: $a is a cgroup of the pod that has UID $A, as $b is of $B's.
uids_here() {
	printf -v A 'aa%06x-5ca1-4ab1-8e0f-00c0ffee0001' "$BATS_TEST_NUMBER"
	B=bb${A#aa} D=dd${A#aa}
	a=kubepods/besteffort/pod$A/c b=kubepods/besteffort/pod$B/c d=kubepods/besteffort/pod$D/c
	mkdir -p "$CG/$a" "$CG/$b" "$CG/$d"
}

# All programs of theirs: the netns are nobody's again.
uids_gone() {
	cgroup_end "$CG/kubepods"
}

dial() { # CGROUP NETNS [ADDRESS [PORT]]
	run_in "$1" "$2" "$TCP" dial "${3-10.77.2.2}" "${4-80}"
}

enrolled() { # CGROUP NETNS [ADDRESS [PORT]]
	run -1 dial "$@"
	is "$output" ECONNREFUSED
}

passes() { # CGROUP NETNS [ADDRESS [PORT]]
	run -0 dial "$@"
	has " local="
}

# The same from that netns, where another program of the cgroup's has begun.
enrolled_in() { # NETNS CGROUP NETNS-WHERE-IT-BEGINS
	run -1 visit "$@"
	is "$output" ECONNREFUSED
}

passes_in() { # NETNS CGROUP NETNS-WHERE-IT-BEGINS
	run -0 visit "$@"
	has " local="
}

visit() { # NETNS CGROUP NETNS-WHERE-IT-BEGINS
	run_in "$2" "$3" $(enter "$1") "$TCP" dial 10.77.2.2 80
}

# A command that executes another in that netns.
enter() { # NETNS
	echo "$TCP in /dev/null /run/netns/$RUN-$1"
}

# The value of a map's entry, in hexadecimal digits, or nothing.
value_of() { # MAP BYTE...
	local value
	value=$("$BPFTOOL" -j map lookup pinned "$PIN/maps/$1" key hex "${@:2}" 2>/dev/null) || :
	[[ $value == *'"value":['* ]] || return 0
	value=${value#*\"value\":[}
	value=${value%%]*}
	value=${value//[\",]/}
	echo "${value//0x/}"
}

in_bytes() { # HEXADECIMAL-DIGITS
	local byte digits=$1 all=
	for ((byte = 0; byte < ${#digits}; byte += 2)); do all+="${digits:byte:2} "; done
	echo "$all"
}

bytes_of_uid() { # UID
	in_bytes "${1//-/}"
}

# By which number BPF knows a netns, in bytes as a map has it.
number_of() { # NETNS
	local number
	read -r number _ < <(nsenter --net="/run/netns/$RUN-$1" cat "$PIN/links/iter_netns")
	printf -v number %016x $((number))
	number=$(in_bytes "$number")
	read -ra number <<<"$number"
	echo "${number[7]} ${number[6]} ${number[5]} ${number[4]} ${number[3]} ${number[2]} ${number[1]} ${number[0]} "
}

# Whose the netns is, by its UID, or nothing.
whose() { # NETNS
	local value
	value=$(value_of pod_netns $(number_of "$1"))
	[ -z "$value" ] || echo "${value:0:8}-${value:8:4}-${value:12:4}-${value:16:4}-${value:20:12}"
}

# Which is the pod's own netns, by its number, or nothing.
netns_of() { # UID
	local value
	value=$(value_of uid_netns $(bytes_of_uid "$1"))
	in_bytes "${value:0:16}"
}

owns() { # UID NETNS
	is "$(whose "$2")" "$1"
	is "$(netns_of "$1")" "$(number_of "$2")"
}

word() { # UID BITS: what mesh_pods has of it; 0: nothing
	if [ "$2" = 0 ]; then
		"$BPFTOOL" map delete pinned "$PIN/maps/mesh_pods" key hex $(bytes_of_uid "$1") 2>/dev/null || :
	else
		"$BPFTOOL" map update pinned "$PIN/maps/mesh_pods" key hex $(bytes_of_uid "$1") value "$2" 0 0 0
	fi
}

# As each of these suites begins and ends.
setup() {
	uids_here
}

teardown() {
	uids_gone
}

teardown_file() {
	uids_down
}
