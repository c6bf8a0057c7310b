#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# A hostile program, root in an enrolled pod: what it tries to get a TCP
# connection out around the proxy (hostile.c), and what it tries on others, with
# as many capabilities as runtimes give. The two tables of vmtests/README.md are made here.

load helpers.bash

export HOSTILE=$ROOT/build/hostile

# What containerd and Docker give by default; CRI-O leaves NET_RAW out.
capabilities() { # SET
	printf %s -all,+chown,+dac_override,+fsetid,+fowner,+mknod,+setgid,+setuid,+setfcap, \
		+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write
	case $1 in
	default) echo ,+net_raw ;;
	net_admin) echo ,+net_raw,+net_admin ;;
	esac
}

setup_file() {
	node_up hostile
	ztunnel_up
	pod_up client 10.77.1.2 # the hostile one
	pod_up neighbour 10.77.1.3
	pod_up server 10.77.2.2
	pod_up other 10.77.3.3 # its accomplice, not enrolled
	dual_stack client:1 neighbour:4 server:2 other:3 ztunnel:9
	serve ztunnel "$ZTUNNEL_POD_IP6" 15001
	serve server :: 80
	# All addresses but those: a borrowed one does not help.
	node_mode -z "$ZTUNNEL_POD_IP6" -e 10.77.0.0/16 -x 10.77.2.0/24 -x 10.77.3.0/24 \
		-x fd00:66::/64

	SELF=10.77.1.2 SELF6=fd00:77::1
	SERVER=10.77.2.2 SERVER6=fd00:77::2 SERVER_LOCAL=$(link_local server eth0)%eth0
	NODE=$NODE_IP NODE_LOCAL=$(link_local node br0)%eth0
	SERVER_MAC=$(ip -n "$RUN-server" -br link show dev eth0 | awk '{ print $3 }')
	ZTUNNEL=$ZTUNNEL_POD_IP
	CGROUP=$CG/client/own ATTACHED=$CG ACCOMPLICE=$WORK/accomplice
	export SELF SELF6 SERVER SERVER6 SERVER_LOCAL NODE NODE_LOCAL ZTUNNEL SERVER_MAC CGROUP
	export ATTACHED ACCOMPLICE
	mkdir "$CGROUP"
	launch "$WORK/ready" run_in other other "$HOSTILE" accomplice "$ACCOMPLICE"
}

teardown_file() {
	node_down
}

link_local() { # POD DEVICE
	ip -n "$RUN-$1" -6 -o addr show dev "$2" scope link | awk '{ sub("/.*", "", $4); print $4 }'
}

# A command with a set of capabilities, as root in the hostile pod.
hostile() { # SET COMMAND...
	run_in "${HOSTILE_CGROUP:-client}" client setpriv --bounding-set="$(capabilities "$1")" --inh-caps=-all "${@:2}"
}

# How many connections the server's kernel has taken up.
server_took() {
	awk '/^Tcp:/ && seen++ { print $7 }' <(nsenter --net="/run/netns/$RUN-server" cat /proc/net/snmp)
}

# Makes these attempts, or all. What they came to is what the server's kernel says too.
attempts() { # SET [NAME]...
	local before
	before=$(server_took)
	hostile "$1" "$HOSTILE" make "$@" >"$WORK/$1"
	cat "$WORK/$1" >>"$BATS_FILE_TMPDIR/cells"
	run grep '[?]' "$WORK/$1"
	is "$output" ""
	is "$(wc -l <"$WORK/$1")" "$([ $# -gt 1 ] && echo $(($# - 1)) || echo 57)"
	is "$(grep -cE ' (ESCAPED|passed-as-other)$' "$WORK/$1")" $(($(server_took) - before))
	# What else there is to compare: this pod is captured, before and after.
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
	cgroup_end "$CGROUP"
	mkdir "$CGROUP"
}

captured() { # ORIGINAL
	has "local=$ZTUNNEL_POD_IP:15001 " " orig4=$1 " "dialled=$1 "
}

no_handovers() {
	[ "$(entries handovers)" = 0 ]
}

outcome() { # WHAT CAPABILITIES OUTCOME: a line of the second table
	printf '| %s | %s | %s |\n' "$@" >>"$BATS_FILE_TMPDIR/others"
}

@test "without CAP_NET_RAW nothing gets out" {
	attempts restricted
	run grep -E 'ESCAPED|passed' "$WORK/restricted"
	is "$output" "socket-of-other-pod restricted passed-as-other"
}

@test "with CAP_NET_ADMIN the pod's own addresses, routes and packets are its own" {
	attempts net_admin
	grep -q 'tcp-repair net_admin failed' "$WORK/net_admin"
}

@test "with CAP_NET_RAW only packets made by hand get out" {
	names=()
	# An emulated machine makes those alone that capabilities change.
	[ -z "${ONRAMP_TEST_VM-}" ] || mapfile -t names < <(
		awk '{ name = $1; $1 = $2 = "" } FNR == NR { seen[name] = $0; next }
			seen[name] != $0 { print name }' "$WORK/restricted" "$WORK/net_admin")
	attempts default "${names[@]}"
	run grep ESCAPED "$WORK/default"
	is "$output" "raw-socket default ESCAPED
packet-socket default ESCAPED"
}

@test "storms of programs and connections: the neighbours' verdicts stay right" {
	n=${ONRAMP_TEST_VM:+3}
	mkdir "$CG/client/storm"
	HOSTILE_CGROUP=client/storm launch "$WORK/storm" hostile restricted "$HOSTILE" storm 10.9.9.9
	pod neighbour "$TCP" dial 10.77.2.2 80 "${n:-500}" >"$WORK/enrolled"
	pod other "$TCP" dial 10.77.2.2 80 "${n:-500}" >"$WORK/not"
	cgroup_end "$CG/client/storm"
	is "$(grep -c " local=$ZTUNNEL_POD_IP:15001 .* orig4=10.77.2.2:80 " "$WORK/enrolled")" "${n:-500}"
	is "$(grep -c ' local=\[::ffff:10.77.2.2\]:80 ' "$WORK/not")" "${n:-500}"
	retry 100 no_handovers # left behind
	outcome "storms of programs and half-made connections" - harmless
}

@test "a neighbour's address on its own device: the neighbour stays what it is" {
	serve neighbour 0.0.0.0 80
	# Without ARP, so that packets still find the neighbour.
	hostile net_admin ip -batch - <<-END
		link set eth0 arp off
		addr flush dev eth0 scope global
		addr add 10.77.1.3/32 dev eth0
		addr add fd00:66::1/64 dev eth0 nodad
	END
	hostile net_admin true
	run -0 node "$TCP" dial 10.77.1.3 80
	has "local=$ZTUNNEL_POD_IP:15006 " " orig4=10.77.1.3:80 "
	run -0 pod neighbour "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
	outcome "holds a neighbour's address" NET_ADMIN harmless
}

@test "the address of a pod to come, held by the pod itself" {
	hostile net_admin ip -batch - <<-END
		addr flush dev eth0 scope global
		addr add 10.77.1.5/32 dev eth0
		addr add fd00:66::1/64 dev eth0 nodad
	END
	hostile net_admin true
	pod_up late 10.77.1.5
	serve late 0.0.0.0 80
	run -0 node "$TCP" dial 10.77.1.5 80
	has "local=$ZTUNNEL_POD_IP:15006 " " orig4=10.77.1.5:80 "
	outcome "holds the address of a pod to come" NET_ADMIN harmless
	pod_down late
	hostile net_admin ip -batch - <<-END
		addr flush dev eth0 scope global
		addr add $SELF/16 dev eth0
		addr add $SELF6/64 dev eth0 nodad
		link set eth0 arp on
		route replace default via $NODE_IP
	END
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
}

@test "the address of a pod to come, held in a netns of its own" {
	launch "$WORK/squat" hostile restricted "$HOSTILE" squat "$CGROUP" 10.77.1.6 fd00:66::1
	pod_up late 10.77.1.6
	serve late 0.0.0.0 80
	run -0 node "$TCP" dial 10.77.1.6 80
	cgroup_end "$CGROUP"
	has "local=$ZTUNNEL_POD_IP:15006 " " orig4=10.77.1.6:80 "
	pod_down late
	outcome "holds it in its own user and network namespaces, in a cgroup of its own" - harmless
}

@test "a router advertisement of its own gives no pod another pod address" {
	hostile default "$HOSTILE" advertise fd00:66::
	# The kernel tells of a new address when it is no more tentative.
	retry 100 sh -c "ip -n '$RUN-neighbour' -6 addr show dynamic -tentative | grep -q fd00:66:"
	retry 100 sh -c "ip -n '$RUN-client' -6 addr show dynamic -tentative | grep -q fd00:66:"
	for pod in neighbour client; do
		run -0 pod "$pod" "$TCP" dial 10.77.2.2 80
		captured 10.77.2.2:80
	done
	outcome "advertises itself as the link's IPv6 router" NET_RAW harmless
}

@test "ztunnel's address, taken while ztunnel's pod is gone" {
	pod_down ztunnel
	run -0 hostile net_admin "$HOSTILE" make net_admin takes-ztunnels-address
	is "$output" "takes-ztunnels-address net_admin failed EPERM"
	outcome "takes ztunnel's address while ztunnel's pod is gone" NET_ADMIN harmless
}

@test "in-pod mode: without CAP_NET_RAW nothing gets out" {
	mkdir -p "$CG/ztunnel/in-client"
	launch "$WORK/in-client" run_in ztunnel/in-client client "$TCP" serve :: 15001
	in_pod_mode
	mkdir "$CGROUP"
	before=$(server_took)
	hostile restricted "$HOSTILE" make in-pod plain-connect listens-as-ztunnel \
		ztunnels-uid-gid own-userns own-netns-after-socket cgroups-below-20-deep \
		socket-of-other-pod captured-then-unspec accepted-then-dials becomes-ipv4 \
		full-of-keys full-of-keys-ipv6-only fast-open-again mptcp-fast-open \
		io-uring-thread ipv6 ipv4-compatible from-loopback by-eth0 by-lo \
		ipv6-source-route >"$WORK/in-pod"
	is "$(server_took)" $((before + 1))
	run grep -vE ' (captured|-)$' "$WORK/in-pod"
	is "$output" "listens-as-ztunnel in-pod failed EADDRINUSE
socket-of-other-pod in-pod passed-as-other
full-of-keys-ipv6-only in-pod failed EPERM
by-eth0 in-pod failed EPERM
by-lo in-pod failed EPERM
ipv6-source-route in-pod failed EPERM" # to unbind it takes NET_RAW of the program
}

@test "the tables of vmtests/README.md are what was seen" {
	awk '
		{ name = $1; set = $2; $1 = $2 = ""; sub("^ *", ""); cell[name, set] = $0 }
		!(name in known) { known[name]; order[++rows] = name }
		END {
			print "| attempt | without NET_RAW | default | with NET_ADMIN |\n|---|---|---|---|"
			for (row = 1; row <= rows; row++) {
				name = order[row]
				printf "| %s | %s | %s | %s |\n", name, cell[name, "restricted"],
					(name, "default") in cell ? cell[name, "default"] : "-",
					cell[name, "net_admin"]
			}
		}' "$BATS_FILE_TMPDIR/cells" >"$ROOT/build/hostile.md"
	{
		printf '| what it does | needs | outcome |\n|---|---|---|\n'
		cat "$BATS_FILE_TMPDIR/others"
	} >>"$ROOT/build/hostile.md"
	sed 's/^/# /' "$ROOT/build/hostile.md" >&3
	section vmtests/README.md "Hostile pods" | grep '^|' >"$WORK/readme"
	# A kernel that has no such thing or refuses it is no other than what is shown.
	is "$(wc -l <"$WORK/readme")" "$(wc -l <"$ROOT/build/hostile.md")"
	paste -d '\n' "$WORK/readme" "$ROOT/build/hostile.md" | awk -F ' *[|] *' '
		NR % 2 { split($0, shown, FS); next }
		{
			other = ""
			for (i = 2; i < NF; i++)
				if ($i != shown[i] && !(i > 2 && $i ~ /^(-|failed [A-Z]+)$/)) other = $0
			if (other) { print "here: " other; bad = 1 }
		}
		END { exit bad }' >&2
}
