#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# Other programs on onramp's cgroup, its parents and its children, among them a
# socket load balancer (other.bpf.c) with a service 10.96.0.10 whose backend is
# 10.77.2.2. A child's programs run before its parent's, and on one cgroup the
# first that came runs first: onramp must be the first to run, or the proxy gets
# the backend for the service that the program dialled.

load helpers.bash

SERVICE=10.96.0.10
BACKEND=10.77.2.2

setup_file() {
	node_up crowded
	export ABOVE=$CG CG=$CG/below OTHER=$WORK/bpf/other
	mkdir -p "$CG/node"
	ztunnel_up
	pod_up client 10.77.1.2
	pod_up stranger 10.77.3.2 # not enrolled
	pod_up server "$BACKEND"
	serve server 0.0.0.0 80
	"$BPFTOOL" prog loadall "$ROOT/build/other.bpf.o" "$OTHER"
}

teardown_file() {
	CG=$ABOVE
	node_down
}

# Attaches the load balancer, runs the command, and detaches.
beside() { # multi|link|override|exclusive CGROUP COMMAND...
	local flags
	case $1 in
	link) "$ROOT/build/bpfcall" link "$2" "$OTHER/other_connect4" "$WORK/bpf/link" ;;
	*)
		flags=${1#exclusive}
		# shellcheck disable=SC2086 # no word for exclusive
		"$BPFTOOL" cgroup attach "$2" cgroup_inet4_connect pinned "$OTHER/other_connect4" $flags
		;;
	esac
	"${@:3}"
	if [ "$1" = link ]; then
		"$BPFTOOL" link detach pinned "$WORK/bpf/link" # the pin's end is not at once its own
		rm "$WORK/bpf/link"
	else
		"$BPFTOOL" cgroup detach "$2" cgroup_inet4_connect pinned "$OTHER/other_connect4"
	fi
}

proxy_gets() { # ADDRESS, for the service
	run -0 pod client "$TCP" dial "$SERVICE" 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=$1:80 " "dialled=$1:80 "
}

# The load balancer is at work: it alone knows where the service is.
stranger_reaches_backend() {
	run -0 pod stranger "$TCP" dial "$SERVICE" 80
	has "local=$BACKEND:80 "
}

proxy_gets_service() {
	proxy_gets "$SERVICE"
	stranger_reaches_backend
}

proxy_gets_backend() {
	proxy_gets "$BACKEND"
	stranger_reaches_backend
}

load_and() { # COMMAND...
	node_mode -e 10.77.1.0/24
	"$@"
}

# Another's program keeps onramp out: one line that names what, and nothing changed.
refused_by() { # NAMED
	before=$("$BPFTOOL" -j cgroup tree "$ABOVE")
	run -1 --separate-stderr node_mode
	is "$output" ""
	is "${#stderr_lines[@]}" 1
	[[ $stderr == "onramp: connect4: cannot attach to $CG: "*"$1"* ]] ||
		{ echo "got: $stderr" >&2; return 1; }
	[ ! -e "$PIN" ]
	is "$("$BPFTOOL" -j cgroup tree "$ABOVE")" "$before"
}

@test "exclusively on the same cgroup or a parent, before onramp: said so, nothing changed" {
	beside exclusive "$CG" refused_by "in the way: other_connect4"
	beside exclusive "$ABOVE" refused_by "in the way: other_connect4"
}

@test "load balancer on a parent, before onramp or after: the proxy gets the service" {
	beside multi "$ABOVE" load_and proxy_gets_service
	beside multi "$ABOVE" proxy_gets_service
	beside link "$ABOVE" proxy_gets_service
}

@test "load balancer on the same cgroup, after onramp: the proxy gets the service" {
	beside multi "$CG" proxy_gets_service
	beside link "$CG" proxy_gets_service
}

@test "an upgrade keeps onramp's turn, whatever is on a parent by now" {
	beside multi "$CG" beside exclusive "$ABOVE" load_and proxy_gets_service
	beside override "$ABOVE" proxy_gets "$SERVICE"
}

@test "load balancer on a child, or before onramp on the same cgroup: the proxy gets the backend" {
	beside multi "$CG/client" proxy_gets "$BACKEND"
	beside link "$CG/client" proxy_gets "$BACKEND"
	beside exclusive "$CG/client" proxy_gets "$BACKEND"
	onramp unload
	beside link "$CG" load_and proxy_gets_backend
}

@test "sockops programs with events of their own take none from onramp" {
	other_sockops() { # attach|detach [multi]
		for where in "$ABOVE" "$CG" "$CG/client"; do
			"$BPFTOOL" cgroup "$1" "$where" cgroup_sock_ops \
				pinned "$OTHER/other_sockops" "${@:2}"
		done
	}
	other_sockops attach multi
	run -0 pod client "$TCP" dial "$BACKEND" 80
	has "orig4=$BACKEND:80 "
	# Only its end, an event too, takes this one out of handovers.
	ip netns exec "$RUN-ztunnel" iptables -A INPUT -p tcp --dport 15001 \
		-j REJECT --reject-with tcp-reset
	run -1 pod client "$TCP" dial "$BACKEND" 80
	ip netns exec "$RUN-ztunnel" iptables -F
	other_sockops detach
	is "$output $(entries handovers)" "ECONNREFUSED 0"
}

# A second onramp, with a cgroup, pins, ztunnel and pods of its own.
second() { # COMMAND [OPTION...]
	"${SLOWLY[@]}" "$ONRAMP" "$1" -p "$WORK/bpf/second" "${@:2}"
}

second_proxy_up() {
	mkdir -p "$ABOVE/second/guest" "$ABOVE/second/ztunnel"
	launch "$WORK/second" run_in ../second/ztunnel ztunnel2 "$TCP" serve 0.0.0.0 15001
}

second_load() {
	second load -z 10.77.0.10 -t "$ABOVE/second/ztunnel" -c "$ABOVE/second" \
		-n "/run/netns/$RUN-node" -e 10.77.4.0/24
}

guest_reaches() { # ADDRESS...
	run -0 run_in ../second/guest guest "$TCP" dial "$BACKEND" 80
	has "$@"
}

@test "two side by side, with their own cgroups and pins: each its own pods, rules and ztunnel" {
	pod_up ztunnel2 10.77.0.10
	pod_up guest 10.77.4.2
	# The first's pod runs a program when exec is attached and settings are to come:
	# strace waits at the pins from exec's to connect4's, or longer.
	links=$WORK/bpf/second/links
	SLOWLY=(exec strace -qq -o /dev/null -e trace=/^rename
		-e inject=/^rename:delay_exit=300000:when=1..13)
	second_proxy_up
	second_load 3>&- &
	retry 600 test -e "$links/sched_process_exec"
	kill -STOP $!
	pod client true
	by_then=$(ls "$links")
	kill -CONT $!
	wait $!
	[[ $by_then != *connect4* ]]
	SLOWLY=()
	guest_reaches "local=10.77.0.10:15001 " "orig4=$BACKEND:80 "
	proxy_gets "$SERVICE"
	run cat "$WORK/bpf/second/pods"
	has " 10.77.4.2"
	run ! grep -q 10.77.1.2 "$WORK/bpf/second/pods"
	run ! grep -q 10.77.4.2 "$PIN/pods"
	onramp exclude 10.77.4.2
	second exclude 10.77.1.2
	guest_reaches "local=10.77.0.10:15001 "
	proxy_gets "$SERVICE"
}

@test "its cgroup removed and made again: load sees that its links are dead" {
	cgroup_end "$ABOVE/second"
	mkdir -p "$ABOVE/second/guest"
	guest_reaches "local=$BACKEND:80 "
	second_proxy_up
	second_load
	guest_reaches "local=10.77.0.10:15001 " "orig4=$BACKEND:80 "
	second unload
	retry 50 guest_reaches "local=$BACKEND:80 " # the kernel detaches a moment later
	proxy_gets "$SERVICE" # of the first
}
