#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# In-pod mode, inbound: what arrives at an enrolled pod is led to ztunnel, by the rows of
# the contract's second table. (Whom the app then sees: client_address.bats; what
# neighbours try: intruders.bats.)

load helpers.bash
load mesh.bash

POD=10.77.1.2 POD6=fd00:77::2
OWN2=10.77.9.9 OWN26=fd00:77::99

setup_file() {
	node_up inbound
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up pod $POD
	pod_up member 10.77.1.3
	pod_up outside 10.77.2.2 # not enrolled
	ip -n "$RUN-pod" addr add $OWN2/16 dev eth0
	ip -n "$RUN-pod" addr add $OWN26/64 dev eth0 nodad # the last is the first
	dual_stack pod:2 member:3 outside:22
	routes_to_light_pods pod outside
	ip netns exec "$RUN-pod" sysctl -qw net.ipv4.conf.all.route_localnet=1
	mkdir "$CG/zt1" "$CG/zt2" "$CG/kubelet"
	serve pod :: 80
	serve outside :: 80
	# Its listeners are older than the load: all that follows rests on their being found.
	agent_up pod member
	zt_up zt1
	in_pod_loaded -e 10.77.1.0/24
	lead pod member
	pod pod true
	pod outside true
}

setup() {
	arrived
}

teardown_file() {
	node_down
}

in_pod_loaded() { # OPTION...
	load_from node -a -t "$CG/zt1" -t "$CG/zt2" -k "$CG/kubelet" "$@"
}

dial() { # CGROUP NETNS ADDRESS PORT
	run -0 run_in "$1" "$2" "$TCP" dial "$3" "$4"
}

refused() { # CGROUP NETNS ADDRESS PORT
	run -1 run_in "$1" "$2" "$TCP" dial "$3" "$4"
	is "$output" ECONNREFUSED
}

# The answer is the app's, at ADDRESS:PORT, which sees CLIENT.
answered() { # ADDRESS PORT CLIENT
	local client=$3 here=$1
	output=${output//::ffff:/}
	output=${output//[\[\]]/}
	has "dialled=$here:$2 " " local=$here:$2 " " peer=$client:" " on=$2"
	from=${output#* from="$client":}
	from=${from%% *}
	peer=${output#* peer="$client":}
	peer=${peer%% *}
}

# ... of the connection itself, or of one that ztunnel made.
direct() {
	answered "$@"
	is "$peer" "$from"
}
led() {
	answered "$@"
	[ "$peer" != "$from" ] || { echo "not led: $output" >&2; return 1; }
}

@test "0: what the pod dials goes to ztunnel: by a number, ::1, its own address; at these by hand too" {
	for address in 10.77.2.2 fd00:77::22; do
		dial pod pod $address 80
		[[ $output == *" from="* ]]
	done
	run -0 pod pod "$ROOT/build/sockets" ipv6-only fd00:77::22 80
	run -0 pod pod "$ROOT/build/sockets" bound-address fd00:77::22 80
	count_arrivals "outbound=4"
	is "$(grep -c "^outbound peer=$POD:.* dst=10.77.2.2:80 via=direct" "$WORK/zt1")" 1
	is "$(grep -c "^outbound peer=\[$POD6\]:.* dst=\[fd00:77::22\]:80 via=direct" "$WORK/zt1")" 3
	# ztunnel finds no destination in these, and calls nobody.
	for address in 127.128.0.9 127.255.255.254 ::1 $POD $POD6 $OWN2 $OWN26; do
		run -0 run_in pod pod timeout 5 bash -c "cat </dev/tcp/$address/15001"
	done
	count_arrivals "outbound=7"
}

@test "1: to loopback, 15001 and 15006 from outside: refused, whoever it is" {
	# A neighbour that has taken loopback's addresses for the pod's.
	ip -n "$RUN-outside" addr del 127.0.0.1/8 dev lo
	ip -n "$RUN-outside" route add 127.0.0.0/8 via $POD
	ip netns exec "$RUN-outside" sysctl -qw net.ipv4.conf.all.route_localnet=1
	for port in 15001 15006 15008 80 9999; do
		for address in 127.0.0.1 127.64.0.1 127.128.0.0 127.128.0.9 127.255.255.254; do
			refused outside outside $address $port
		done
	done
	count_arrivals "refused=25"
	ip -n "$RUN-outside" route del 127.0.0.0/8 via $POD
	ip -n "$RUN-outside" addr add 127.0.0.1/8 dev lo
	for each in "outside outside" "node node" "kubelet node" "kubelet outside"; do
		for address in $POD $POD6 $OWN2 $OWN26; do
			for port in 15001 15006; do
				# shellcheck disable=SC2086 # words
				refused $each $address $port
			done
		done
	done
	count_arrivals "refused=32"
}

@test "2: the pod to itself passes, at each of its addresses and loopback, on any port" {
	for address in $POD $POD6; do
		dial pod pod "$address" 80
		direct "$address" 80 "$address"
	done
	dial pod pod 127.0.0.1 80
	direct 127.0.0.1 80 127.0.0.1
	dial pod pod 127.64.9.9 80
	has "dialled=127.64.9.9:80" " local=[::ffff:127.64.9.9]:80"
	dial pod pod ::1 80
	direct ::1 80 ::1
	dial pod pod $OWN2 80
	has "dialled=$OWN2:80 " " local=[::ffff:$OWN2]:80 "
	dial pod pod $OWN26 80
	has "dialled=[$OWN26]:80 " " local=[$OWN26]:80 "
	# From one to the other: neither source and destination nor loopback tell.
	for each in "$OWN2 $POD" "$POD $OWN2" "$OWN26 $POD6" "$POD6 $OWN26"; do
		run -0 pod pod python3 -ISc '
import socket, sys
s = socket.create_connection((sys.argv[2], 80), source_address=(sys.argv[1], 0))
print("from=%s:%d" % s.getsockname()[:2], s.recv(512).decode())' "${each% *}" "${each#* }"
		has " peer="
		output=${output//::ffff:/}
		has " peer="
		[[ ${output//[\[\]]/} == "from=${each% *}:"*" peer=${each% *}:"* ]]
	done
	for address in $POD $POD6 127.0.0.1; do refused pod pod "$address" 9999; done
	# ztunnel, to the app, likewise.
	dial zt1 pod $POD 80
	direct $POD 80 $POD
	dial zt1 pod $POD6 80
	direct $POD6 80 $POD6
	count_arrivals ""
}

# By HBONE, as a stand-in has it: what comes back.
hbone() { # CGROUP NETNS ADDRESS PORT
	local target=$3:$4
	[[ $3 != *:* ]] || target="[$3]:$4"
	run -0 run_in "$1" "$2" timeout 5 bash -c "exec 5<>/dev/tcp/$3/15008; echo 'CONNECT $target me' >&5; cat <&5"
}

@test "3: 15008 goes to ztunnel, from whomever, at each address" {
	hbone outside outside $POD 80
	has "local=[::ffff:$POD]:80 peer=[::ffff:10.77.2.2]:" " on=80"
	hbone outside outside $POD6 80
	has "local=[$POD6]:80 peer=[fd00:77::22]:" " on=80"
	hbone outside outside $OWN2 80
	has "local=[::ffff:$OWN2]:80 peer=[::ffff:10.77.2.2]:"
	hbone kubelet node $POD 80
	has "local=[::ffff:$POD]:80 peer=[::ffff:$NODE_IP]:"
	count_arrivals "hbone=4"
}

@test "4: a program in the kubelet's cgroup and the node's netns passes, and no other" {
	for address in $POD $POD6 ::ffff:$POD $OWN2 $OWN26; do
		own=$NODE_IP
		[[ $address != fd00* ]] || own=fd00:77::ff
		dial kubelet node "$address" 80
		direct "${address#::ffff:}" 80 "$own"
		refused kubelet node "$address" 9999 # what is there, or is not
	done
	mkdir "$CG/kubelet/unit"
	dial kubelet/unit node $POD 80
	direct $POD 80 "$NODE_IP"
	rmdir "$CG/kubelet/unit"
	count_arrivals "probe=11"
	dial node node $POD 80
	led $POD 80 "$NODE_IP"
	dial node node $POD6 80
	led $POD6 80 fd00:77::ff
	dial kubelet outside $POD 80
	led $POD 80 10.77.2.2
	dial kubelet outside $POD6 80
	led $POD6 80 fd00:77::22
	dial zt1 node $POD 80 # where the same program sees to something else
	led $POD 80 "$NODE_IP"
	count_arrivals "inbound=5"
	is "$(entries probes)" 0
}

# Holds connections of the kubelet's until its input ends.
kubelet_holds() { # COUNT ADDRESS PORT
	mkfifo "$WORK/held"
	run_in kubelet node "$ROOT/build/hold" dial "$@" <"$WORK/held" >"$WORK/holding" 2>&1 3>&- 9>&- &
	exec 9>"$WORK/held"
	rm "$WORK/held"
}

@test "4: for as long as the socket lives: also for a SYN that is sent again" {
	kubelet_holds 3 $POD 80
	retry 100 grep -q holding "$WORK/holding"
	is "$(entries probes)" 3
	exec 9>&-
	retry 100 probes_are 0
	# An app whose queue is full: its kernel forgets the SYN, and sees it anew.
	mkfifo "$WORK/full"
	launch "$WORK/slow" pod pod python3 -ISc '
import socket
l = socket.socket(socket.AF_INET6)
l.bind(("::", 81))
l.listen(0)
print("ready", flush=True)
open("'"$WORK/full"'").read()
while True:
    print(l.accept()[1][0], flush=True)'
	arrived
	kubelet_holds 2 $POD 81
	retry 100 probes_are 2
	arrived
	echo >"$WORK/full"
	retry 100 grep -q holding "$WORK/holding"
	retry 100 sh -c "[ \$(grep -c ':$NODE_IP\$' '$WORK/slow') = 2 ]"
	arrived
	[[ $counts == probe=* ]]
	exec 9>&-
	retry 100 probes_are 0
}

probes_are() { # COUNT
	[ "$(entries probes)" = "$1" ]
}

@test "4: a socket used again has one connection at a time" {
	mkfifo "$WORK/steps"
	run_in kubelet node python3 -ISc '
import ctypes, socket, sys
s = socket.socket()
for to in "'$POD'", "'$OWN2'":
    s.connect((to, 80))
    print(to, flush=True); sys.stdin.readline()
    ctypes.CDLL(None).connect(s.fileno(), b"\0" * 16, 16) # AF_UNSPEC
    print("none", flush=True); sys.stdin.readline()' <"$WORK/steps" >"$WORK/steps-done" 3>&- 9>&- &
	exec 9>"$WORK/steps"
	for each in 1,1,$POD 2,0,none 3,1,$OWN2 4,0,none; do
		IFS=, read -r n count said <<<"$each"
		retry 60 sh -c "[ \$(wc -l <'$WORK/steps-done') = $n ]"
		is "$(tail -n 1 "$WORK/steps-done") $(entries probes)" "$said $count"
		echo >&9
	done
	exec 9>&-
}

@test "4: one that is killed while it dials leaves nothing" {
	ip -n "$RUN-node" neigh add 10.77.1.99 lladdr 02:77:00:00:00:99 dev br0 # nobody's
	run_in kubelet node "$TCP" dial 10.77.1.99 80 3>&- &
	retry 100 probes_are 1
	cgroup_end "$CG/kubelet"
	retry 100 probes_are 0
	mkdir "$CG/kubelet"
	in_pod_loaded # it has another cgroup now
	ip -n "$RUN-node" neigh del 10.77.1.99 dev br0
}

@test "4: with the same ports from istio-cni's address, while it is taken over" {
	ip netns exec "$RUN-node" nft -f - <<-END
		table inet istio {
			chain probes {
				type nat hook postrouting priority 100;
				ip daddr 10.77.1.0/24 meta l4proto tcp snat ip to 169.254.7.127
				ip6 daddr fd00:77::/64 meta l4proto tcp snat ip6 to fd16:9254:7127:1337:ffff:ffff:ffff:ffff
			}
		}
	END
	dial kubelet node $POD 80
	[[ $output == *" peer=[::ffff:169.254.7.127]:"* ]]
	count_arrivals "inbound=1"
	inbound beside pod "/run/netns/$RUN-pod"
	for each in "$POD 169.254.7.127 $NODE_IP" \
		"$POD6 fd16:9254:7127:1337:ffff:ffff:ffff:ffff fd00:77::ff"; do
		read -r address istio own <<<"$each"
		dial kubelet node "$address" 80
		output=${output//::ffff:1/1}
		output=${output//[\[\]]/}
		port=${output#* from="$own":}
		has " peer=$istio:${port%% *} "
		count_arrivals "probe=1"
		dial node node "$address" 80
		output=${output//::ffff:1/1}
		has " peer="
		[[ ${output//[\[\]]/} == *" peer=$istio:"* ]]
		count_arrivals "inbound=1"
	done
	# Another port than its own.
	ip netns exec "$RUN-node" nft -f - <<-END
		flush table inet istio
		add rule inet istio probes ip daddr 10.77.1.0/24 meta l4proto tcp snat ip to 169.254.7.127:20000-20009
	END
	dial kubelet node $POD 80
	[[ $output == *" peer=[::ffff:169.254.7.127]:"* ]]
	ip netns exec "$RUN-node" nft delete table inet istio
	count_arrivals "inbound=1"
	is "$(entries probes)" 0
	inbound attach pod "/run/netns/$RUN-pod"
}

@test "4: what a node program dials that is nobody's pod takes no probe's room" {
	serve node 127.0.0.1 8080
	kubelet_holds 3 127.0.0.1 8080
	retry 100 grep -q holding "$WORK/holding"
	is "$(entries probes)" 0
	exec 9>&-
}

@test "5: inbound capture off: passes; HBONE and what the pod dials do not, loopback and ztunnel's ports stay closed" {
	inbound bypass pod "/run/netns/$RUN-pod"
	dial outside outside $POD 80
	direct $POD 80 10.77.2.2
	dial outside outside $POD6 80
	direct $POD6 80 fd00:77::22
	refused outside outside $POD 9999
	count_arrivals "bypass=3"
	for port in 15001 15006; do refused outside outside $POD $port; done
	hbone outside outside $POD 80
	has " peer=[::ffff:10.77.2.2]:"
	dial pod pod 10.77.2.2 80
	dial kubelet node $POD 80
	direct $POD 80 "$NODE_IP"
	count_arrivals "outbound=1 hbone=1 refused=2 probe=1"
	lead pod
	dial outside outside $POD 80
	led $POD 80 10.77.2.2
}

@test "6: any other goes to 15006, whatever address and port it is for, whether anybody listens or not" {
	for each in "$POD 10.77.2.2" "$POD6 fd00:77::22" "$OWN2 10.77.2.2" "$OWN26 fd00:77::22"; do
		dial outside outside "${each% *}" 80
		led "${each% *}" 80 "${each#* }"
	done
	dial outside outside ::ffff:$POD 80
	led $POD 80 10.77.2.2
	dial member member $POD 80 # by its own ztunnel, and then like any other
	count_arrivals "outbound=1 inbound=6"
	: >"$WORK/zt1"
	for each in "$POD 9999" "$POD6 9999" "$POD 15053" "$POD 15000"; do
		run -0 run_in outside outside timeout 5 bash -c "cat </dev/tcp/${each/ //}"
		is "$output" ""
	done
	count_arrivals "inbound=4"
	said zt1 "^inbound-plain peer=10.77.2.2:.* dst=$POD:9999 .*error=ECONNREFUSED"
	said zt1 "^inbound-plain peer=.* dst=\[$POD6\]:9999 .*error=ECONNREFUSED"
	said zt1 "^inbound-plain peer=.* dst=$POD:15053 .*error=ECONNREFUSED"
}

@test "nobody listens: refused and never passed, but for the kubelet and the pod itself; then all is as before" {
	zt_kill KILL zt1
	for address in $POD $POD6 $OWN2; do
		for port in 80 9999 15008; do refused outside outside "$address" $port; done
	done
	refused node node $POD 80
	refused pod pod 10.77.2.2 80
	refused pod pod fd00:77::22 80
	refused pod pod $POD 15001
	count_arrivals "refused=13"
	dial kubelet node $POD 80
	direct $POD 80 "$NODE_IP"
	dial kubelet node $POD6 80
	direct $POD6 80 fd00:77::ff
	count_arrivals "probe=2"
	for address in $POD $POD6 127.0.0.1 ::1; do
		dial pod pod "$address" 80
		direct "$address" 80 "$address"
	done
	zt_up zt1
	dial outside outside $POD 80
	led $POD 80 10.77.2.2
	dial pod pod fd00:77::22 80
	count_arrivals "outbound=1 inbound=1"
}

# Each new connection, at each of the three, is this ztunnel's.
has_all() { # ZTUNNEL
	local other=zt1 n=${ONRAMP_TEST_VM:+1}
	[ "$1" = zt2 ] || other=zt2
	: >"$WORK/zt1"
	: >"$WORK/zt2"
	n=${n:-4}
	for _ in $(seq "$n"); do
		dial outside outside $POD 80
		dial outside outside $POD6 80
		dial pod pod 10.77.2.2 80
		dial pod pod fd00:77::22 80
		hbone outside outside $POD 80
	done
	is "$(grep -c '^outbound .* via=direct' "$WORK/$1") $(grep -c '^inbound-plain ' "$WORK/$1") $(grep -c '^inbound-hbone ' "$WORK/$1")" \
		"$((2 * n)) $((2 * n)) $n"
	run grep bound "$WORK/$other"
	is "$output" ""
}

@test "of two ztunnels the newest process has all; when it is killed its predecessor, at once" {
	zt_up zt2
	has_all zt2
	zt_kill KILL zt2
	has_all zt1
	zt_up zt2
	zt_kill KILL zt1
	has_all zt2
	zt_up zt1
	has_all zt1
	# A pod that the older one is told of later than the newer.
	agent_says del member
	said agent "ack del member"
	has_all zt1
	agent_says add "$(told member)"
	said agent "ack add member"
	zt_kill KILL zt1
	has_all zt2
	zt_up zt1
}

# Connections all the while, by all three ways in, and as many a second.
soaks() {
	local ms=${ONRAMP_TEST_VM:+600} pod to
	mkdir -p "$CG"/{outside,pod,member}/soak
	mkfifo "$WORK/soak"
	for pod in outside pod member; do
		case $pod in
		pod) to="10.77.2.2 80 fd00:77::22 80" ;;
		*) to="$POD 80 $POD6 80" ;;
		esac
		# shellcheck disable=SC2086 # pairs
		run_in $pod/soak $pod "$TCP" soak "${ms:-15}" direct $to <"$WORK/soak" >"$WORK/soak-$pod" 2>"$WORK/lost-$pod" 3>&- &
	done
	exec 9>"$WORK/soak"
	# One that is late opens it only now.
	for pod in outside pod member; do retry 100 grep -q direct= "$WORK/soak-$pod"; done
	rm "$WORK/soak"
}

none_lost() {
	local pod all
	exec 9>&-
	for pod in outside pod member; do retry 100 is_gone $pod/soak; done
	all=$(cat "$WORK"/soak-* | tr ' ' '\n' | awk -F = '{ n[$1] += $2 }
		END { print n["direct"] " direct, " n["proxied"] + n["wrong"] " wrong, " n["failed"] + 0 " failed" }')
	echo "# $1: $all" >&3
	run cat "$WORK"/lost-*
	is "$output" ""
	[[ $all == *" 0 wrong, 0 failed" ]]
}

@test "a ztunnel replaced by another, and back, under 200 connections a second: none is lost" {
	zt_kill TERM zt2
	zt_kill KILL zt1
	zt_up zt1 --hbone $POD,$POD6
	soaks
	for each in "zt1 zt2" "zt2 zt1"; do
		read -r old new <<<"$each"
		zt_up "$new" --hbone $POD,$POD6
		sleep 1
		# The old one has had none since.
		n=$(wc -l <"$WORK/$old")
		sleep 1
		is "$(tail -n "+$((n + 1))" "$WORK/$old")" ""
		zt_kill TERM "$old"
		sleep 0.5
	done
	none_lost "two replaced"
	for way in outbound inbound-plain inbound-hbone; do grep -q "^$way " "$WORK/zt1"; done
}

# One of the pod's, by what its kernel has of connections.
number_read() {
	number=$(ss -N "$RUN-pod" -Htan | grep -oE '127\.[1-9][0-9]*(\.[0-9]+){2}\]?:15001' | grep -oE '^[0-9.]+' | tail -n 1)
	[ -n "$number" ]
}

@test "a program of the pod that listens beside ztunnel, or nearer, gets nothing" {
	local n=${ONRAMP_TEST_VM:+1}
	mkdir "$CG/pod/squatter"
	dial pod pod 10.77.2.2 80
	retry 40 number_read
	for each in ":: 15001 15006" "0.0.0.0 15001 15006" "$POD 15001 15006" "$POD6 15001 15006" "$number 15001"; do
		# shellcheck disable=SC2086 # words
		launch "$WORK/squatter" run_in pod/squatter pod "$TCP" share $each
		for _ in $(seq "${n:-4}"); do
			dial outside outside $POD 80
			has "on=80"
			dial outside outside $POD6 80
			has "on=80"
			dial pod pod 10.77.2.2 80
			has "on=80"
			dial pod pod fd00:77::22 80
			has "on=80"
		done
		run -0 pod pod "$ROOT/build/sockets" ipv6-only fd00:77::22 80
		has "on=80"
		run -0 pod pod "$ROOT/build/sockets" bound-address fd00:77::22 80
		has "on=80"
		cgroup_end "$CG/pod/squatter"
		mkdir "$CG/pod/squatter"
	done
	rmdir "$CG/pod/squatter"
}

# The id of the program that the pin's link has; or of what else it has.
of_pin() { # NAME [FIELD]
	"$BPFTOOL" -j link show pinned "$PIN/inbound/$1" | grep -oE "\"${2-prog_id}\":[0-9]+" | cut -d : -f 2
}

@test "a load over it renews what leads to ztunnel, and no connection notices" {
	soaks
	for build in build/other build; do
		pod=$(of_pin pod) link=$(of_pin pod id) before=$(behind)
		ONRAMP=$ROOT/$build/onramp in_pod_loaded
		[ "$(behind)" != "$before" ]
		is "$(of_pin pod)" "$pod"
		is "$(of_pin pod id)" "$link"
	done
	sleep 0.5
	none_lost "two loads"
	# What was said of a pod stays with it.
	inbound bypass pod "/run/netns/$RUN-pod"
	in_pod_loaded
	dial outside outside $POD 80
	direct $POD 80 10.77.2.2
	# By whoever finds the pin: with another word of it.
	link=$(of_pin pod id)
	lead pod
	is "$(of_pin pod id)" "$link"
	dial outside outside $POD 80
	led $POD 80 10.77.2.2
}

@test "detached: what arrives passes, and what the pod dials does not; attached anew" {
	inbound detach pod
	[ ! -e "$PIN/inbound/pod" ]
	run -1 inbound detach pod
	has "detach: No such file or directory"
	arrived
	for address in $POD $POD6; do
		dial outside outside "$address" 80
		has " from=${output#* from=}"
	done
	direct $POD6 80 fd00:77::22
	dial pod pod 10.77.2.2 80
	count_arrivals ""
	grep -q '^outbound .* dst=10.77.2.2:80' "$WORK/zt1"
	lead pod
	dial outside outside $POD 80
	led $POD 80 10.77.2.2
}

@test "nothing behind a pod's program, or nothing before what is: refused, not passed or led astray" {
	"$BPFTOOL" map delete pinned "$PIN/maps/inbound_program" key 0 0 0 0
	refused outside outside $POD 80
	in_pod_loaded
	dial outside outside $POD 80
	led $POD 80 10.77.2.2
	# What was said last is still there, and was heard.
	pod_up stray 10.77.1.6
	serve stray 0.0.0.0 80
	inbound alone stray "/run/netns/$RUN-stray"
	arrived
	refused outside outside 10.77.1.6 80
	count_arrivals "refused=1"
	inbound detach stray
	pod_down stray
}

@test "a pod by the same name in another netns; one whose netns has gone" {
	pod_up fresh 10.77.1.4
	pod_up next 10.77.1.5
	serve fresh 0.0.0.0 80
	serve next 0.0.0.0 80
	inbound attach brief "/run/netns/$RUN-fresh"
	refused outside outside 10.77.1.4 80 # nobody listens there
	dial outside outside 10.77.1.5 80
	inbound attach brief "/run/netns/$RUN-next"
	refused outside outside 10.77.1.5 80
	dial outside outside 10.77.1.4 80
	direct 10.77.1.4 80 10.77.2.2
	is "$(find "$PIN/inbound" -type f | wc -l)" 3
	agent_says add "$(told next)"
	said agent "ack add next"
	dial outside outside 10.77.1.5 80
	led 10.77.1.5 80 10.77.2.2
	agent_says del next
	said agent "ack del next"
	pod_down next
	retry 100 netns_of_pin_has_gone brief
	inbound attach brief "/run/netns/$RUN-fresh"
	refused outside outside 10.77.1.4 80
	pod_down fresh
	retry 100 netns_of_pin_has_gone brief
	inbound detach brief
}

netns_of_pin_has_gone() { # NAME
	[ "$(of_pin "$1" netns_ino)" = 0 ]
}

# Of all links: the id of the cgroup, and what it is attached as.
links_read() {
	links=$("$BPFTOOL" -j link list | jq -r '.[] | select(.cgroup_id) | "\(.cgroup_id) \(.attach_type)"')
}

attached() { # CGROUP
	sed -nE "s/^$(stat -c %i "$1") (cgroup_)?//p" <<<"$links" | sort | xargs
}

@test "sockops, getsockopt, setsockopt and bind are on ztunnel's cgroups and the kubelet's alone" {
	names="inet4_connect inet4_getpeername inet4_getsockname inet6_connect inet6_getpeername inet6_getsockname"
	in_pod_loaded -d
	links_read
	is "$(attached "$CG")" "$(xargs -n 1 <<<"$names udp4_recvmsg udp4_sendmsg udp6_recvmsg udp6_sendmsg" | sort | xargs)"
	for cgroup in zt1 zt2; do
		is "$(attached "$CG/$cgroup")" "getsockopt inet4_bind inet6_bind setsockopt sock_ops"
	done
	is "$(attached "$CG/kubelet")" sock_ops
	for cgroup in pod member outside node ztunnel agent; do is "$(attached "$CG/$cgroup")" ""; done
	in_pod_loaded
	links_read
	is "$(attached "$CG")" "$names"
}

@test "-k of what holds all: each node program passes, and no pod's; ztunnel's listeners are noted once" {
	in_pod_loaded -k "$CG"
	dial node node $POD 80
	direct $POD 80 "$NODE_IP"
	dial outside outside $POD 80
	led $POD 80 10.77.2.2
	dial kubelet outside $POD 80
	led $POD 80 10.77.2.2
	is "$(entries probes)" 0
	arrived
	zt_up zt2
	has_all zt2
	zt_kill KILL zt2
	has_all zt1
	zt_kill KILL zt1
	refused outside outside $POD 80
	zt_up zt1
	has_all zt1
	in_pod_loaded
	dial node node $POD 80
	led $POD 80 "$NODE_IP"
}

@test "node mode takes its place, and unload takes all: what arrives passes" {
	before=$(links)
	for n in {1..20}; do
		ip netns add "$RUN-led$n"
		inbound attach "led$n" "/run/netns/$RUN-led$n"
	done
	mkfifo "$WORK/during"
	run_in outside/soak outside "$TCP" soak 2 direct $POD 80 <"$WORK/during" >"$WORK/soak" 2>"$WORK/lost" 3>&- &
	exec 9>"$WORK/during"
	load_from node -z "$ZTUNNEL_POD_IP" -t "$CG/zt1" -t "$CG/zt2"
	is "$(ls "$PIN/inbound")" ""
	exec 9>&-
	retry 100 is_gone outside/soak
	is "$(cat "$WORK/lost")" ""
	# One that comes late leads nobody.
	inbound attach led1 "/run/netns/$RUN-pod"
	dial outside outside $POD 80
	direct $POD 80 10.77.2.2
	inbound detach led1
	for n in {1..20}; do ip netns del "$RUN-led$n"; done
	dial outside outside $POD 80
	direct $POD 80 10.77.2.2
	in_pod_loaded
	lead pod member
	dial outside outside $POD 80
	led $POD 80 10.77.2.2
	is "$(links)" "$before"
	onramp unload
	[ ! -e "$PIN" ]
	dial outside outside $POD 80
	direct $POD 80 10.77.2.2
	dial pod pod 10.77.2.2 80
	direct 10.77.2.2 80 $POD
	is "$(netns_links)" ""
}

netns_links() {
	"$BPFTOOL" link | grep -A1 'type netns\|: netns' | grep -E "netns_ino ($(stat -Lc %i "/run/netns/$RUN-pod")|$(stat -Lc %i "/run/netns/$RUN-member"))" || :
}
links() {
	find "$PIN" -printf '/%P\n' | sort
}

@test "what has listened before the load is found, and is older than what listens after it" {
	[ ! -e "$PIN" ] || onramp unload
	# It runs already, and has not been told of any pod.
	: >"$WORK/zt2"
	run_in zt2 ztunnel "$ROOT/vmtests/ztunnel" --redial-max 0.1 "$WORK/later-socket" >>"$WORK/zt2" 2>&1 3>&- 9>&- &
	retry 100 grep -q "again_in" "$WORK/zt2"
	in_pod_loaded -e 10.77.1.0/24
	lead pod member
	dial outside outside $POD 80
	led $POD 80 10.77.2.2
	another_agent_up later pod member
	said zt2 ^ready
	has_all zt2
	# Now both have.
	onramp unload
	in_pod_loaded -e 10.77.1.0/24
	lead pod member
	for _ in 1 2 3; do
		dial outside outside $POD 80
		led $POD 80 10.77.2.2
	done
	zt_kill KILL zt1
	has_all zt2
}
