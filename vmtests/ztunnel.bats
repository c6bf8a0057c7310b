#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# The stand-ins for ztunnel and for its agent, without onramp: what other suites
# take for granted of them. What redirection would do is done with routes here.

load helpers.bash

setup_file() {
	node_up ztunnel
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	pod_up other 10.77.3.2
	pod_up far 10.77.4.2
	dual_stack client:1 server:2 other:3 far:4
	mkdir "$CG/agent"
	mkfifo "$WORK/says" "$WORK/types"
	serve server :: 80
	launch "$WORK/echo" pod server python3 -ISc 'import socket
s = socket.create_server(("::", 82), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    client = s.accept()[0]
    for line in client.makefile("rb"): client.sendall(line)
    client.close()'
	serve far :: 15001
	# As if by connect(): the client's own 15001 has all that is for a 15001, but not
	# what ztunnel dials.
	for family in -4 -6; do
		ip -n "$RUN-client" $family rule add pref 1 fwmark 0x539 lookup main
		ip -n "$RUN-client" $family rule add pref 2 dport 15001 lookup 100
		ip -n "$RUN-server" $family rule add sport 80-82 lookup 100
		ip -n "$RUN-server" $family route add local default dev lo table 100
	done
	ip netns exec "$RUN-client" sysctl -qw net.ipv4.conf.eth0.accept_local=1
	ip -n "$RUN-client" route add local 10.77.0.0/16 dev lo src 10.77.1.2 table 100
	ip -n "$RUN-client" route add local fd00:77::/64 dev lo src fd00:77::1 table 100
}

setup() {
	agent_up "$(told client)" "$(told server)"
	ztunnel_up --hbone 10.77.2.0/24,fd00:77::2 --deny 10.77.0.1 --dns Name.test=10.1.2.3
}

teardown() {
	cgroup_end "$CG/ztunnel"
	cgroup_end "$CG/agent"
	mkdir "$CG/ztunnel" "$CG/agent"
}

teardown_file() {
	node_down
}

told() { # POD [NETNS]
	echo "$1=/run/netns/$RUN-${2-$1}:default/$1/account"
}
agent_up() { # POD...
	# Its standard input would be /dev/null, in the background.
	launch "$WORK/agent" run_in agent node sh -c 'exec "$@" <>"$0"' "$WORK/says" \
		"$ROOT/vmtests/zds" "$WORK/socket" "$@"
}
agent_says() {
	echo "$*" >"$WORK/says"
}
ztunnel_up() { # OPTION...
	launch "$WORK/ztunnel" run_in ztunnel ztunnel "$ROOT/vmtests/ztunnel" --retry 0.3 \
		--redial-max 0.1 "$@" "$WORK/socket"
}
logged() { # agent|ztunnel PATTERN
	retry 60 grep -q -- "$2" "$WORK/$1" || { cat "$WORK/$1" >&2; return 1; }
}
ports() { # POD: what ztunnel listens on there by TCP, in the order that it was opened in
	nsenter --net="/run/netns/$RUN-$1" ss -Htlne |
		awk '/fwmark:0x539/ { sub(/.*:/, "", $4); print $3, $4, $0 }' |
		sed 's/^\([^ ]* [^ ]*\).* ino:\([0-9]*\).*/\2 \1/' | sort -n | awk '{ print $2 ":" $3 }' | xargs
}
ALL="128:15053 128:15053 128:15008 128:15006 128:15001"
tunnel() { # POD ADDRESS TARGET: what comes back
	run -0 pod "$1" timeout 5 bash -c "exec 5<>/dev/tcp/$2/15008; echo 'CONNECT $3 me' >&5; cat <&5"
}
tunnelled() { # says when it has an echo; then what echo there is of what is typed, or "ended"
	pod other timeout 5 bash -c "exec 5<>/dev/tcp/10.77.2.2/15008; echo 'CONNECT 10.77.2.2:82 me' >&5
		echo ready >&5; { read -r; echo \"\$REPLY\"; read -r || REPLY=ended; echo \"\$REPLY\"; } <&5 &
		read -r; echo \"\$REPLY\" >&5; exec 5>&-; wait" <>"$WORK/types" 3>&- &
}
knock() { # POD ADDRESS PORT
	run -0 pod "$1" timeout 5 bash -c "exec 5<>/dev/tcp/$2/$3; cat <&5"
	is "$output" ""
}

@test "it says hello, and acks each pod when it listens there, in the real one's order" {
	logged agent "^hello 0801 pid=$(cat "$CG/ztunnel/cgroup.procs")$"
	is "$(sed '1,2d' "$WORK/agent" | xargs)" "ack add client ack add server ack snapshot"
	is "$(ports client)" "$ALL"
	is "$(ports server)" "$ALL"
	is "$(nsenter --net="/run/netns/$RUN-client" ss -Huln | awk '{ print $4 }' | xargs)" "127.0.0.1:15053 [::1]:15053"
	is "$(xargs <"$WORK/ztunnel")" "told add client default/client/account told add server default/server/account told snapshot ready"
}

@test "where lo has no IPv6, DNS is on 127.0.0.1 alone" {
	ip netns exec "$RUN-other" sysctl -qw net.ipv6.conf.lo.disable_ipv6=1
	agent_says add "$(told other)"
	logged agent "ack add other"
	ip netns exec "$RUN-other" sysctl -qw net.ipv6.conf.lo.disable_ipv6=0
	is "$(ports other)" "${ALL#* }"
}

@test "DNS: one name, by UDP and TCP; all else is refused" {
	for how in @127.0.0.1 "@::1 +tcp"; do
		# shellcheck disable=SC2086
		run -0 pod client dig $how -p 15053 +tries=1 name.TEST
		has "status: NOERROR" "10.1.2.3"
		# shellcheck disable=SC2086
		run -0 pod client dig $how -p 15053 +tries=1 another.test
		has "status: REFUSED"
	done
}

@test "outbound: to the original destination, as the pod, or to port 15008 of a pod that has HBONE" {
	run -0 pod client "$TCP" dial 10.77.4.2 15001
	has "dialled=10.77.4.2:15001 " " peer=[::ffff:10.77.1.2]:"
	logged ztunnel '^outbound peer=10.77.1.2:[0-9]* dst=10.77.4.2:15001 via=direct$'
	run -0 pod client "$TCP" dial fd00:77::4 15001
	has " peer=[fd00:77::1]:"
	logged ztunnel '^outbound peer=\[fd00:77::1\]:[0-9]* dst=\[fd00:77::4\]:15001 via=direct$'

	knock client 10.77.2.2 15001
	logged ztunnel '^outbound peer=10.77.1.2:[0-9]* dst=10.77.2.2:15001 via=hbone$'
	logged ztunnel '^inbound-hbone peer=10.77.1.2:[0-9]* dst=10.77.2.2:15001 via=refused error=self-call$'
	knock client fd00:77::2 15001
	logged ztunnel '^inbound-hbone peer=\[fd00:77::1\]:[0-9]* dst=\[fd00:77::2\]:15001 '
}

@test "inbound: the app sees the client's address, another port" {
	for each in "10.77.2.2 10.77.2.2:80 ::ffff:10.77.3.2" "fd00:77::2 [fd00:77::2]:80 fd00:77::3"; do
		read -r address target seen <<<"$each"
		tunnel other "$address" "$target"
		has " peer=[$seen]:"
		port=${output##*" peer=[$seen]:"}
		logged ztunnel "^inbound-hbone peer=.* via=hbone bound=.*:${port%% *}$"
	done
}

@test "what it refuses: itself, another's address, no header, a denied client" {
	tunnel other 10.77.2.2 10.77.1.2:80
	is "$output" ""
	logged ztunnel " dst=10.77.1.2:80 via=refused error=not-at-10.77.2.2"
	tunnel other 10.77.2.2 rubbish
	logged ztunnel " via=refused error=no-header"
	tunnel other 10.77.2.2 10.77.2.2:15006
	logged ztunnel " dst=10.77.2.2:15006 via=refused error=self-call"
	knock other 10.77.2.2 15006
	logged ztunnel "^inbound-plain peer=10.77.3.2:.* via=refused error=self-call"
	knock client 127.0.0.1 15001
	logged ztunnel "^outbound peer=127.0.0.1:.* via=refused error=self-call"
	mkdir -p "$CG/node"
	run -0 node bash -c "exec 5<>/dev/tcp/10.77.2.2/15008; echo CONNECT 10.77.2.2:80 me >&5; cat <&5"
	is "$output" ""
	logged ztunnel "^inbound-hbone peer=10.77.0.1:.* via=refused error=policy"
}

@test "an app that is not there: the client is told by its connection's end" {
	tunnel other 10.77.2.2 10.77.2.2:81
	is "$output" ""
	logged ztunnel " dst=10.77.2.2:81 via=hbone bound=10.77.3.2:[0-9]* error=ECONNREFUSED"
}

@test "a bind that is refused is nacked, and tried again until it is not" {
	mkdir -p "$CG/squatter"
	launch "$WORK/squatter" run_in squatter other "$TCP" serve :: 15006
	agent_says add "$(told other)"
	logged agent "^nack add other: failure to start proxy"
	logged ztunnel "^nack other error=EADDRINUSE"
	is "$(ports other)" ""
	logged ztunnel "^not bound other error=EADDRINUSE"
	is "$(grep -c ready "$WORK/ztunnel")" 1
	cgroup_end "$CG/squatter"
	logged ztunnel "^bound other"
	retry 20 is "$(grep -c ready "$WORK/ztunnel")" 2
	agent_says del other
	logged agent "ack del other"
	is "$(ports other)" ""
}

@test "told again: nothing; of another netns: it moves there" {
	before=$(nsenter --net="/run/netns/$RUN-client" ss -Htlne | grep -o 'ino:[0-9]*')
	agent_says add "$(told client)"
	logged agent "^ack add client$"
	retry 60 sh -c "[ \$(grep -c 'ack add client' '$WORK/agent') = 2 ]"
	is "$(nsenter --net="/run/netns/$RUN-client" ss -Htlne | grep -o 'ino:[0-9]*')" "$before"
	agent_says add "$(told client ztunnel)"
	retry 60 sh -c "[ \$(grep -c 'ack add client' '$WORK/agent') = 3 ]"
	is "$(ports client)" ""
	is "$(ports ztunnel)" "$ALL"
}

@test "del: listeners and connections end at once" {
	tunnelled >"$WORK/held"
	ready "$WORK/held"
	agent_says del server
	logged agent "^ack del server"
	echo still >"$WORK/types"
	wait $! || :
	is "$(tail -n 1 "$WORK/held")" ended
	is "$(ports server)" ""
	is "$(ports client)" "$ALL"
}

@test "an agent that went: all goes on; the next one's snapshot drops what it does not name" {
	cgroup_end "$CG/agent"
	mkdir "$CG/agent"
	logged ztunnel "^zds error=ECONNREFUSED again_in=0.1s"
	is "$(ports server)" "$ALL"
	tunnel other 10.77.2.2 10.77.2.2:80
	has " peer="
	: >"$WORK/ztunnel"
	agent_up "$(told other)" client
	ready "$WORK/ztunnel"
	is "$(sed '1,2d' "$WORK/agent" | xargs)" "ack add other ack keep client ack snapshot"
	is "$(ports client)" "$ALL"
	is "$(ports server)" ""
}

@test "rubbish is nacked and it dials again; what comes too late ends it" {
	agent_says raw 1234
	logged agent "^nack raw 1234: failure to read message"
	retry 60 sh -c "[ \$(grep -c '^ack snapshot' '$WORK/agent') = 2 ]"
	is "$(ports server)" "$ALL"
	agent_says keep client
	logged agent "^nack keep client: failure to process message"
	logged ztunnel "^protocol error: keep"
	retry 60 sh -c "[ -z \"\$(cat '$CG/ztunnel/cgroup.procs')\" ]"
}

@test "two of them in a pod: its SO_REUSEPORT is another's too" {
	mkdir "$CG/ztunnel/second"
	launch "$WORK/second" run_in ztunnel/second ztunnel "$ROOT/vmtests/ztunnel" "$WORK/socket"
	is "$(ports client)" "$ALL $ALL"
	agent_says del server
	logged second "^told del server"
	logged ztunnel "^told del server"
}

@test "SIGTERM: no listener, but what is connected may end by itself" {
	tunnelled >"$WORK/drained"
	ready "$WORK/drained"
	kill -TERM "$(cat "$CG/ztunnel/cgroup.procs")"
	logged ztunnel "^stopping connections=1"
	is "$(ports server)$(ports client)" ""
	[ -n "$(cat "$CG/ztunnel/cgroup.procs")" ]
	echo still >"$WORK/types"
	wait $!
	is "$(tail -n 1 "$WORK/drained")" still
	retry 60 sh -c "[ -z \"\$(cat '$CG/ztunnel/cgroup.procs')\" ]"
}

@test "node mode: the three ports in its own netns; what is for itself is refused" {
	launch "$WORK/node" run_in ztunnel ztunnel "$ROOT/vmtests/ztunnel" --node "$ZTUNNEL_POD_IP"
	is "$(nsenter --net="/run/netns/$RUN-ztunnel" ss -Htln | awk '{ print $4 }' | sort | xargs)" "*:15001 *:15006 *:15008"
	for port in 15001 15006; do
		knock other "$ZTUNNEL_POD_IP" $port
		logged node " peer=10.77.3.2:[0-9]* dst=$ZTUNNEL_POD_IP:$port via=refused error=self-call$"
	done
}
