#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# Addresses that somebody gives himself, inherits or has given up, node mode: whose they
# are, others' connections go where they went before. (hostile.bats: a pod's own.)

load helpers.bash

# Pods that are to be had from the machine's own netns too: no other suite has these.
ZT=10.77.99.9 ZT6=fd00:99::9 APP=10.77.99.3 APP6=fd00:99::3
HERE=198.51.100.77 HERE6=2001:db8:77::77 # the machine's own, towards them

setup_file() {
	node_up claims
	export UPLINK=c${RUN%%-*}
	mkdir "$CG/elsewhere"
	ip -n "$RUN-node" addr add fd00:99::ff/64 dev br0 nodad
	claims_pod ztunnel 9
	claims_pod app 3
	claims_pod client 2
	claims_pod evil 66
	serve ztunnel :: 15021 15001 15006
	serve app :: 80
	loaded -e 10.77.99.0/24 -e fd00:99::/64 -x 10.77.66.0/24 -x fd00:66::/64
	pod app true

	ip link add "$UPLINK" type veth peer name up0 netns "$RUN-node"
	ip -n "$RUN-node" link set up0 master br0 up
	ip -batch - <<-END
		link set $UPLINK up
		addr add $HERE/32 dev $UPLINK
		addr add $HERE6/128 dev $UPLINK nodad
		route add $ZT dev $UPLINK src $HERE
		route add $APP dev $UPLINK src $HERE
		route add $ZT6 dev $UPLINK src $HERE6
		route add $APP6 dev $UPLINK src $HERE6
	END
	for pod in ztunnel app; do
		ip -n "$RUN-$pod" route add $HERE dev eth0
		ip -n "$RUN-$pod" route add $HERE6 dev eth0
	done
}

teardown_file() {
	ip link del "$UPLINK" 2>/dev/null || :
	cgroup_end "$CG-outside"
	node_down
}

# Whoever has an address has its hardware address as well: no neighbour's table is wrong.
claims_pod() { # NAME N
	pod_up "$1" "10.77.99.$2"
	ip -n "$RUN-$1" link set eth0 address "02:99:00:00:00:$(printf %02x "$2")"
	ip -n "$RUN-$1" addr add "fd00:99::$2/64" dev eth0 nodad
}

loaded() { # OPTION...
	load_from node -z $ZT -z $ZT6 -t "$(pod_cgroup ztunnel)" "$@"
}

captured() { # N of ztunnel's addresses, PORT DESTINATION
	case $3 in
	\[*) has "local=[fd00:99::$1]:$2 " " orig6=$3 " "dialled=$3 " ;;
	*) has "local=[::ffff:10.77.99.$1]:$2 " " orig4=$3 " "dialled=$3 " ;;
	esac
}

# Node programs are to be captured on their way to the pod, and are.
inbound() { # node|host N of the pod, N of ztunnel
	run -0 "$1" "$TCP" dial "10.77.99.$2" 80
	captured "$3" 15006 "10.77.99.$2:80"
	run -0 "$1" "$TCP" dial "fd00:99::$2" 80
	captured "$3" 15006 "[fd00:99::$2]:80"
}

# Programs of the machine's own netns, which is the node's without -n.
host() { elsewhere node "$@"; } # COMMAND...
elsewhere() {			# CGROUP COMMAND...
	"$TCP" in "$CG/$1/cgroup.procs" /proc/self/ns/net "${@:2}"
}

# A pod with NET_ADMIN gives itself these, so that packets still find their holders.
claims() { # ADDRESS/LENGTH...
	ip -n "$RUN-evil" link set eth0 arp off
	ip -n "$RUN-evil" addr flush dev eth0 scope global
	for address; do
		[[ $address != *:* ]] || address+=" nodad"
		# shellcheck disable=SC2086 # two words
		ip -n "$RUN-evil" addr add $address dev eth0
	done
	pod evil true
}

@test "the node's, ztunnel's or another pod's, held by a pod: all goes on" {
	for claimed in "$NODE_IP/32 fd00:99::ff/128" "$ZT/32 $ZT6/128" "$APP/32 $APP6/128"; do
		# shellcheck disable=SC2086 # two words
		claims $claimed
		inbound node 3 9
		inbound node 3 9
		run -0 pod client "$TCP" dial 10.77.2.2 80
		captured 9 15001 10.77.2.2:80
		run -0 node "$TCP" dial $ZT 15021
		has " local=[::ffff:$ZT]:15021 "
		run -0 pod ztunnel "$TCP" dial $APP 80
		has " local=[::ffff:$APP]:80 "
	done
}

# Its address of the other family is of those that are OUT, which would speak for both.
@test "a pod's to come, held by one that is excluded: that pod is captured" {
	claims 10.77.99.5/32 fd00:66::1/64
	claims_pod late4 5
	serve late4 :: 80
	inbound node 5 9
	claims 10.77.66.1/24 fd00:99::6/128
	claims_pod late6 6
	serve late6 :: 80
	inbound node 6 9
}

@test "the same, and that pod is enrolled by its other address alone" {
	claims 10.77.66.1/24 fd00:99::6/128
	onramp forget fd00:99::/64
	run -0 pod late6 "$TCP" dial 10.77.2.2 80
	run -0 node "$TCP" dial fd00:99::6 80
	onramp enroll fd00:99::/64
	captured 9 15006 "[fd00:99::6]:80"
	onramp forget 10.77.99.0/24
	run -0 node "$TCP" dial 10.77.99.5 80
	onramp enroll 10.77.99.0/24
	captured 9 15006 10.77.99.5:80
}

# What the node sends a pod that is not enrolled arrives, and is not ztunnel's.
arrives() { # ADDRESS...
	for address; do
		run -0 node "$TCP" dial "$address" 80
		case $address in
		*:*) has " local=[$address]:80 " ;;
		*) has " local=[::ffff:$address]:80 " ;;
		esac
	done
}

# What a netns had from the first its runtime gave it: what it gives itself counts for less.
@test "a pod's that is not enrolled, held by one that is: what the node sends that pod arrives" {
	mkdir "$CG/evil/restarted"
	for _ in 1 2; do # a pod that was there before, and one to come
		claims_pod plain 0
		ip -n "$RUN-plain" addr flush dev eth0 scope global
		ip -n "$RUN-plain" addr add 10.77.3.5/16 dev eth0
		ip -n "$RUN-plain" addr add fd00:77::5/64 dev eth0 nodad
		ip -n "$RUN-plain" route add fd00:99::/64 dev eth0
		ip -n "$RUN-node" route replace fd00:77::5 dev br0
		serve plain :: 80
		arrives 10.77.3.5 fd00:77::5
		claims 10.77.3.5/32 fd00:99::66/64
		run_in evil/restarted evil true
		arrives 10.77.3.5
		claims 10.77.99.66/16 fd00:77::5/128
		run_in evil/restarted evil true
		arrives fd00:77::5
		pod_down plain
		claims 10.77.3.5/32 fd00:99::66/64
	done
	claims 10.77.99.66/16 fd00:99::66/64
	rmdir "$CG/evil/restarted"
}

# Whose it is cannot be told.
@test "an address that two pods were given, of whom one is enrolled: captured" {
	pod_up twin1 10.77.3.7
	pod twin1 true
	pod_up twin2 10.77.3.7
	ip -n "$RUN-twin2" addr add fd00:99::7/64 dev eth0 nodad
	pod twin2 true
	run -0 node "$TCP" dial 10.77.3.7 80
	captured 9 15006 10.77.3.7:80
	pod_down twin1
	pod_down twin2
}

# Uid 65534, without a capability, in the node's netns: has these in a netns that it makes.
squats() { # CGROUP ADDRESS/LENGTH...
	local cgroup=$1
	shift
	launch "$WORK/squat" run_in "$cgroup" node setpriv --reuid=65534 --regid=65534 --clear-groups \
		--bounding-set=-all --inh-caps=-all unshare --user --map-root-user --net \
		sh -c 'ip link add v type bridge; ip link set v up; ip link set lo up
			for address; do ip addr add "$address" dev v nodad; done
			echo ready; exec sleep 1000' - "$@"
}

# Another machine's, that of a pod that is not enrolled, and that of one to come.
@test "anybody's, held in a netns that a node's user has made: what the node sends there arrives" {
	uid=aa000000-5ca1-4ab1-8e0f-00c0ffee0005
	mkdir -p "$CG-outside" "$CG/node/user" "$CG/kubepods/pod$uid/c"
	pod_up machine 10.77.3.8
	pod_up plain 10.77.3.9
	launch "$WORK/machine" run_in "../${CG##*/}-outside" machine "$TCP" serve :: 80
	serve plain :: 80
	for cgroup in node/user "kubepods/pod$uid/c"; do # the latter is of a pod with hostNetwork
		for address in 10.77.3.8 10.77.3.9; do
			squats "$cgroup" $address/32 fd00:99::67/128
			arrives $address
			cgroup_end "$CG/$cgroup"
			mkdir "$CG/$cgroup"
		done
	done
	mkdir "$CG/node/users"
	squats node/user 10.77.99.8/32 fd00:66::1/128
	squats node/users 10.77.99.8/32 fd00:66::2/128
	claims_pod late8 8
	serve late8 :: 80
	inbound node 8 9
	cgroup_end "$CG/node/user"
	cgroup_end "$CG/node/users"
	cgroup_end "$CG-outside"
	cgroup_end "$CG/kubepods"
	for pod in late8 plain machine; do pod_down $pod; done
}

# hostUsers: false. Its runtime makes both, before its first program.
@test "a pod of Kubernetes' that has a user namespace is one like any other" {
	uid=aa000000-5ca1-4ab1-8e0f-00c0ffee0006
	mkdir -p "$CG/kubepods/pod$uid/c"
	unshare --user --map-root-user --net sh -c 'echo $$; exec sleep 1000' >"$WORK/users" 3>&- &
	retry 100 grep -q . "$WORK/users"
	ip netns attach "$RUN-users" "$(cat "$WORK/users")"
	kill "$(cat "$WORK/users")"
	ip -n "$RUN-users" -batch - <<-END
		link set lo up
		link add eth0 type veth peer name vusers netns $RUN-node
		addr add 10.77.99.10/16 dev eth0
		addr add fd00:99::10/64 dev eth0 nodad
		link set eth0 up
		route add default via $NODE_IP
	END
	ip -n "$RUN-node" link set vusers master br0 up
	launch "$WORK/users" run_in "kubepods/pod$uid/c" users "$TCP" serve :: 80
	inbound node 10 9
	run -0 run_in "kubepods/pod$uid/c" users "$TCP" dial 10.77.2.2 80
	captured 9 15001 10.77.2.2:80
	cgroup_end "$CG/kubepods"
	ip -n "$RUN-node" link del vusers
	ip netns del "$RUN-users"
}

# As a node has one for each pod, and kube-proxy gives one a service's each.
@test "the node's own, behind many devices and addresses, held by a pod: it is the node's" {
	{
		for n in {1..40}; do echo "link add many$n type bridge"; done
		echo "link add last type bridge"
		echo "link set last up"
		for n in {1..40}; do
			echo "addr add 10.88.0.$n/32 dev last"
			echo "addr add fd00:88::$n/128 dev last nodad"
		done
	} | ip -n "$RUN-node" -batch -
	launch "$WORK/own" node "$TCP" serve :: 80
	for held in "10.88.0.40/32 fd00:99::66/64" "10.77.99.66/16 fd00:88::40/128" "10.77.99.66/16 fd00:88::1/128"; do
		# shellcheck disable=SC2086 # two words
		claims $held
		arrives 10.88.0.40 fd00:88::40 fd00:88::1
	done
	for n in {1..40}; do echo "link del many$n"; done | ip -n "$RUN-node" -batch -
	ip -n "$RUN-node" link del last
	cgroup_end "$CG/node"
	mkdir "$CG/node"
}

# Of a pod's addresses, how many the file of pods has as its.
listed() { # POD N
	awk -v netns="$(stat -L -c %i "/run/netns/$RUN-$1")" -v v4="10.77.99.$2" \
		-v v6="fd00:0099:0000:0000:0000:0000:0000:000$2" -v short="fd00:99::$2" '
		$1 == "in" && $2 == netns && $3 == 1 && ($4 == v4 || $4 == v6 || $4 == short) { n++ }
		END { print n + 0 }' "$PIN/pods"
}

@test "given up by a netns that lives on: it is the next pod's at once" {
	claims_pod old 7
	launch "$WORK/old" run_in old old "$TCP" serve 127.0.0.1 1
	is "$(listed old 7)" 2
	ip -n "$RUN-node" link del vold
	claims_pod new 7
	serve new :: 80
	inbound node 7 9
	is "$(listed new 7)" 2
	cgroup_end "$CG/old"
	ip netns del "$RUN-old"
	inbound node 7 9
}

without_n() {
	"$ONRAMP" load -p "$PIN" -c "$CG" -z $ZT -z $ZT6 -t "$(pod_cgroup ztunnel)"
	inbound host 3 9
}

# The first that a netns has, by the rule by which a pod's is found.
first_address() { # -4|-6
	ip "$1" -o addr show scope global permanent | awk '{ sub("/.*", "", $4); print $4; exit }'
}

@test "the machine's own netns is the node's: its addresses, held by anybody without a capability" {
	without_n
	for claimed in "$(first_address -4) $(first_address -6)" "$HERE $HERE6"; do
		mkdir "$CG/elsewhere/own"
		# shellcheck disable=SC2086 # two words
		launch "$WORK/squat" elsewhere elsewhere/own setpriv --reuid=65534 --regid=65534 --clear-groups \
			--bounding-set=-all --inh-caps=-all unshare --user --map-root-user --net \
			sh -c 'ip link add v type bridge; ip link set v up; ip addr add "$0/32" dev v
				ip addr add "$1/128" dev v nodad; ip link set lo up; echo ready; exec sleep 1000' $claimed
		inbound host 3 9
		inbound host 3 9
		cgroup_end "$CG/elsewhere/own"
		inbound host 3 9
	done
}

# As many ancestors as nobody follows; and the netns has changed since it was last seen.
@test "the machine's own netns is the node's, however deep a program in it is nested" {
	deep='
import os, subprocess, sys
for i in range(70):
    if os.fork():
        os.wait()
        os._exit(0)
for what in "true", "ip link add %s type bridge" % sys.argv[1], "true", "ip link del %s" % sys.argv[1], "true":
    subprocess.run(what.split())'
	elsewhere elsewhere python3 -c "$deep" "d$UPLINK"
	inbound host 3 9
	run cat "$PIN/pods"
	[[ $output != *" $(first_address -4)"* && $output != *" $HERE"* ]]
}

# A ztunnel's pod has ended, and the next pod that is made has its address.
inherited() { # N of ztunnel, N of the next one, LOAD-FUNCTION, POD of ztunnel
	pod_down "$4"
	claims_pod heir "$1"
	serve heir :: 80
	refused=$(connects refused itself)
	for address in 10.77.2.2 fd00:77::2; do
		run -1 pod heir "$TCP" dial "$address" 80
		is "$output" EPERM
	done
	is "$(connects refused itself)" $((refused + 2))
	# Nor does it get what is meant for ztunnel.
	refused=$(connects refused no_ztunnel)
	run -1 pod client "$TCP" dial 10.77.2.2 80
	is "$output" EPERM
	is "$(connects refused no_ztunnel)" $((refused + 1))

	claims_pod "zt$2" "$2"
	pod "zt$2" true
	"$3" "$2"
	serve "zt$2" :: 15006 15001
	run -0 pod heir "$TCP" dial 10.77.2.2 80
	captured "$2" 15001 10.77.2.2:80
	inbound node "$1" "$2"
	pod_down heir
}

of_netns() { # N
	load_from "zt$1" -z "10.77.99.$1" -z "fd00:99::$1"
}

of_cgroup() { # N
	load_from node -z "10.77.99.$1" -z "fd00:99::$1" -t "$(pod_cgroup "zt$1")"
}

@test "ztunnel's, inherited by a pod: it is a pod like any other" {
	inherited 9 10 of_netns ztunnel # that was known by its cgroup
	inherited 10 11 of_cgroup zt10	# by its netns
	inherited 11 12 of_cgroup zt11
}

@test "ztunnel's for as long as that lived, and a pod's before it: the pod is one like any other" {
	claims_pod first 13
	pod first true
	claims_pod zt13 13
	pod zt13 true
	of_cgroup 13
	serve zt13 :: 15006 15001
	pod_down zt13
	claims_pod zt14 14
	pod zt14 true
	of_cgroup 14
	serve zt14 :: 15006 15001
	serve first :: 80
	inbound node 13 14
}
