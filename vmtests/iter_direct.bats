#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# iter_direct: connections from before a pod was enrolled. They are left alone, are
# counted (iter_pods' DIRECT), and are what `ss -K -F direct` resets: these alone.

load helpers.bash

export HOLD=$ROOT/build/hold
MANY=1100 # more than one reading of the file has

setup_file() {
	node_up direct
	ztunnel_up
	pod_up client 10.77.1.2
	with_own_table pod_up two 10.77.1.3
	pod_up server 10.77.2.2
	dual_stack client:1 two:3 server:2 ztunnel:9
	ip -n "$RUN-client" addr add 10.77.1.20/16 dev eth0
	ip -n "$RUN-server" addr add 10.77.2.9/16 dev eth0
	holds ztunnel ztunnel listen "$ZTUNNEL_POD_IP6" 15001
	holds server server listen :: 80
	holds client client listen :: 8080
	holds direct client dial 1 10.77.2.2 80 1 fd00:77::2 80 1 ::ffff:10.77.2.2 80 \
		bound 10.77.2.2 80 bound fd00:77::2 80 bound-port 10.77.2.2 80 \
		listened 10.77.2.2 80 accepted 10.77.2.2 80 shared 10.77.2.2 80 \
		half-closed 10.77.2.2 80 in-flight 10.77.2.2 80
	# Loopback, the pod's own addresses, one that will be bypassed, an orphan.
	holds others client dial 1 127.0.0.1 8080 1 ::1 8080 1 10.77.1.2 8080 \
		1 10.77.1.20 8080 1 fd00:77::1 8080 1 10.77.2.9 80 closed 10.77.2.2 80
	holds neighbour two dial 2 10.77.2.2 80
	holds inbound server dial 3 10.77.1.2 8080 1 fd00:77::1 8080
	holds upstream ztunnel dial 1 10.77.2.2 80
	holds node node dial 1 10.77.2.2 80
	reload -z "$ZTUNNEL_POD_IP6" -b 10.77.2.9
}

# Netns that the command makes have a table of connections of their own, since 6.1.
with_own_table() { # COMMAND...
	nsenter --net="/run/netns/$RUN-node" bash -c '
		table=/proc/sys/net/ipv4/tcp_child_ehash_entries
		[ ! -e $table ] || echo 64 >$table
		. "$ROOT/vmtests/helpers.bash"
		"$@"' sh "$@"
}

teardown_file() {
	node_down
}

# Connections in the background, by a name.
holds() { # NAME POD hold's arguments...
	rm -f "$WORK/$1"
	mkfifo "$WORK/$1"
	: >"$WORK/$1.out" # or the one before is taken for this
	run_in "${CGROUP:-$2}" "$2" "$HOLD" "${@:3}" <>"$WORK/$1" >"$WORK/$1.out" 2>&1 3>&- &
	disown
	retry 200 grep -q . "$WORK/$1.out"
	is "$(cat "$WORK/$1.out")" holding
}

# What became of them.
state() { # NAME
	local lines
	lines=$(wc -l <"$WORK/$1.out")
	echo >"$WORK/$1"
	retry 200 sh -c "[ \$(wc -l <'$WORK/$1.out') -gt $lines ]"
	tail -n 1 "$WORK/$1.out"
}

end() { # NAME...
	for name; do echo end >"$WORK/$name"; done
}

# What pods says of the pod.
direct() { # IP
	awk -v ip="$1" '$NF == ip { print $4 }' "$PIN/pods"
}

# README's command, for the pod; with other OPTIONs than -tK.
ss_in() { # POD OPTION...
	local command pid
	read -r pid <"$CG/$1/cgroup.procs"
	command=$(sed -n 's/^# \(nsenter -t PID .*\)/\1/p' "$ROOT/README.md")
	command=${command/PID/$pid}
	command=${command/-tK/${*:2}}
	eval "${command/\/sys\/fs\/bpf\/onramp/$PIN}"
}

# The file says "none", whoever reads it there.
says_none() { # POD...
	local pod
	for pod; do
		run -0 ip netns exec "$RUN-$pod" cat "$PIN/direct"
		is "$output" "sport = :0"
		run -0 ip netns exec "$RUN-$pod" ss -tnH -F "$PIN/direct"
		is "$output" ""
	done
}

@test "each is counted once, whoever opened it how; others are not" {
	is "$(direct 10.77.1.2)" 11
	is "$(direct 10.77.1.2)" 11
	is "$(direct 10.77.1.3)" 2
	is "$(direct 10.77.2.2)" 4
	is "$(direct "$ZTUNNEL_POD_IP")" 0
}

@test "the file names those of the reader's pod, once it is enrolled" {
	says_none client two server ztunnel node
	onramp enroll 10.77.1.0/24 10.77.0.0/24 # ztunnel's address and the node's as well
	says_none server ztunnel node
	run -0 ss_in client -tnH
	is "$(awk '$5 ~ /:80$/' <<<"$output" | wc -l)" 11
	is "${#lines[@]}" 11
	run -0 ss_in two -tnH
	is "${#lines[@]}" 2
	is "$(direct 10.77.1.2)" 11
}

@test "by default they are left alone" {
	is "$(state direct)" "11 open"
	is "$(state others)" "6 open"
	is "$(state neighbour)" "2 open"
	is "$(state inbound)" "4 open"
}

@test "a captured one is not direct" {
	holds captured client dial 1 fd00:77::2 80
	is "$(state ztunnel)" "1 open"
	is "$(direct 10.77.1.2)" 11
}

@test "ss -K resets these and no others; the next connect() is captured" {
	run -0 ss_in client -tK
	is "$(state direct)" "11 ECONNABORTED"
	is "$(state server)" "10 ECONNRESET, 1 closed, 6 open"
	is "$(state others)" "6 open"
	is "$(state captured)" "1 open"
	is "$(state neighbour)" "2 open"
	is "$(state inbound)" "4 open"
	is "$(direct 10.77.1.2)" 0
	is "$(direct 10.77.1.3)" 2
	says_none client
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "orig4=10.77.2.2:80 "
}

@test "$MANY connections: named in two readings" {
	onramp exclude 10.77.1.3
	holds many two dial "$MANY" fd00:77::2 80
	onramp forget 10.77.1.3
	is "$(direct 10.77.1.3)" $((MANY + 2))
	ss_in two -tnK >"$WORK/reset"
	left=$(direct 10.77.1.3)
	[ "$left" -ge $((MANY + 2 - 1000)) ]
	[ "$left" -le $((MANY + 2 - 990)) ] # a few are lost where the kernel's buffer ends
	ss_in two -tK >"$WORK/reset"
	is "$(direct 10.77.1.3)" 0
	is "$(state many)" "$MANY ECONNABORTED"
}

@test "in-pod mode, with a listener that is older than the load" {
	onramp unload
	end direct many captured upstream
	mkdir "$CG/ztunnel/in"
	CGROUP=ztunnel/in holds in client listen :: 15001
	CGROUP=ztunnel/in holds upstream client dial 2 10.77.2.2 80
	holds direct client dial 3 10.77.2.2 80 2 fd00:77::2 80
	"$ONRAMP" load -z 127.0.0.1 -z ::1 -p "$PIN" -c "$CG" -n "/run/netns/$RUN-node" \
		-t "$CG/ztunnel" -b 10.77.2.9
	is "$(direct 10.77.1.2)" 5
	holds captured client dial 1 10.77.2.2 80
	is "$(direct 10.77.1.2)" 5
	says_none server two node
	onramp exclude 10.77.1.2
	says_none client
	onramp forget 10.77.1.2
	run -0 ss_in client -tK
	is "$(state direct)" "5 ECONNABORTED"
	is "$(state upstream)" "2 open"
	is "$(state captured)" "1 open"
	is "$(state others)" "6 open"
	is "$(direct 10.77.1.2)" 0
}
