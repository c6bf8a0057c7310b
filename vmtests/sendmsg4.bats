#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# sendmsg4 and 6, recvmsg4 and 6, and connect to port 53: DNS capture, with real
# resolvers as clients and dnsmasq as both ztunnel's resolver and the pods' own.

load helpers.bash

CAPTURED=1.2.3.4 # what ztunnel's answers
DIRECT=5.6.7.8   # what the pods' own answers

setup_file() {
	node_up dns
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	pod_up outsider 10.77.3.3
	dual_stack client:1 server:2 ztunnel:9
	ip -n "$RUN-server" addr add 10.77.2.3/16 dev eth0
	resolver ztunnel ztunnel 15053 "$CAPTURED"
	resolver server server 53 "$DIRECT"
	cat >"$WORK/ask.py" <<-'END'
		# ask.py FAMILY connect|sendto RESOLVER...: asks each in turn, by one
		# socket; prints who answered, and what.
		import os, socket, sys
		family, how, resolvers = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
		s = socket.socket(family and socket.AF_INET6 or socket.AF_INET, socket.SOCK_DGRAM)
		s.settimeout(3)
		if "DEVICE" in os.environ:
		    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.environ["DEVICE"].encode())
		query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\1x\4test\0\0\1\0\1"
		for resolver in resolvers:
		    try:
		        if how == "connect":
		            s.connect((resolver, 53))
		            s.send(query)
		            peer = s.getpeername()
		        else:
		            s.sendto(query, (resolver, 53))
		            peer = None
		        answer, source = s.recvfrom(512)
		        assert not peer or peer[:2] == source[:2], (peer, source)
		        print("%s %d %s" % (source[0], source[1], socket.inet_ntoa(answer[-4:])))
		    except OSError as e:
		        print(resolver, "error", e.errno)
	END
	dns -d
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

dns() { # OPTION...
	node_mode -z "$ZTUNNEL_POD_IP6" -e 10.77.1.0/24 "$@"
}

resolver() { # CGROUP NETNS PORT ANSWER
	run_in "$1" "$2" dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= \
		--user=root --no-resolv --no-hosts --port="$3" --address="/#/$4" \
		>"$WORK/dnsmasq-$2" 2>&1 3>&- &
	disown
	retry 100 sh -c "ss -N '$RUN-$2' -lntH | grep -q ':$3 '"
}

ask() { pod client python3 "$WORK/ask.py" "$@"; }

queries() { metric "dns_queries_total{verdict=\"$1\"}"; }

@test "a query by sendto is captured; its answer comes from the resolver that was asked" {
	before=$(queries redirected)
	run -0 ask 0 sendto 10.77.2.2
	is "$output" "10.77.2.2 53 $CAPTURED"
	is "$(queries redirected)" $((before + 1))
}

@test "two resolvers by one socket, in turn: each answer from its own" {
	run -0 ask 0 sendto 10.77.2.2 10.77.2.3 10.77.2.2
	is "$output" "$(printf '10.77.2.%d 53 1.2.3.4\n' 2 3 2)"
}

@test "connected UDP: getpeername and recvfrom show the resolver" {
	run -0 ask 0 connect 10.77.2.2 10.77.2.3
	is "$output" "$(printf '10.77.2.%d 53 1.2.3.4\n' 2 3)"
}

@test "IPv6, and IPv4-mapped" {
	run -0 ask 6 sendto fd00:77::2 ::ffff:10.77.2.2
	is "$output" "fd00:77::2 53 $CAPTURED
::ffff:10.77.2.2 53 $CAPTURED"
	run -0 ask 6 connect fd00:77::2
	is "$output" "fd00:77::2 53 $CAPTURED"
	run -0 ask 6 connect ::ffff:10.77.2.2
	is "$output" "::ffff:10.77.2.2 53 $CAPTURED"
}

@test "dig, by UDP and TCP, and getaddrinfo, by UDP and TCP" {
	run -0 pod client dig +short +tries=1 @10.77.2.2 x.test
	is "$output" "$CAPTURED"
	run -0 pod client dig +short +tries=1 +tcp @10.77.2.2 x.test
	is "$output" "$CAPTURED"
	run -0 pod client dig +short +tries=1 @fd00:77::2 x.test
	is "$output" "$CAPTURED"
	for options in '' 'options use-vc'; do
		printf 'nameserver 10.77.2.2\n%s\n' "$options" >"$WORK/resolv.conf"
		run -0 pod client unshare --mount sh -c 'mount --bind "$1" "$(readlink -f /etc/resolv.conf)" &&
			getent -s dns ahostsv4 x.test' sh "$WORK/resolv.conf"
		has "$CAPTURED"
	done
	is "$(metric 'connects_total{verdict="redirected",reason="dns"}')" 2
}

@test "a resolver in bypass_rules is captured as well, but for its other ports" {
	dns -d -b 10.77.2.2
	run -0 ask 0 sendto 10.77.2.2 10.77.2.3
	is "$output" "10.77.2.2 53 $CAPTURED
10.77.2.3 53 $CAPTURED"
	run -0 pod client dig +short +tries=1 +tcp @10.77.2.2 x.test
	is "$output" "$CAPTURED"
	before=$(connects passed bypass)
	run -1 pod client "$TCP" dial 10.77.2.2 54
	is "$output" ECONNREFUSED
	is "$(connects passed bypass)" $((before + 1))
	"$BPFTOOL" map delete pinned "$PIN/maps/bypass_rules" key 128 0 0 0 $(bytes_of 10.77.2.2)
}

@test "who is not enrolled, ztunnel itself and other ports are left alone" {
	run -0 pod outsider python3 "$WORK/ask.py" 0 sendto 10.77.2.2
	is "$output" "10.77.2.2 53 $DIRECT"
	run -0 pod ztunnel dig +short +tries=1 @10.77.2.2 x.test
	is "$output" "$DIRECT"
	run -0 node dig +short +tries=1 @10.77.2.2 x.test
	is "$output" "$DIRECT"
	before=$(queries redirected)
	run -0 pod client "$TCP" udp 10.77.2.2 54
	is "$output" "dialled=10.77.2.2:54"
	is "$(queries redirected)" "$before"
}

@test "a family that ztunnel has no address for is refused, never let through" {
	reload -d
	before=$(queries refused)
	run -0 ask 6 sendto fd00:77::2
	is "$output" "fd00:77::2 error 1"
	run -0 ask 6 connect fd00:77::2
	is "$output" "fd00:77::2 error 1"
	is "$(queries refused)" $((before + 2))
	dns -d
}

@test "without -d, again: the hooks are gone, and DNS is left alone" {
	dns
	run -0 ask 0 sendto 10.77.2.2
	is "$output" "10.77.2.2 53 $DIRECT"
	is "$(find "$PIN/links" -name '*msg*')" ""
	before=$(connects redirected outbound)
	run -1 pod client "$TCP" dial 10.77.2.2 53 # like any port: nobody is at 15001
	is "$output" ECONNREFUSED
	is "$(connects redirected outbound)" $((before + 1))
}

@test "in-pod mode: to ztunnel's in the pod; IPv4-mapped, both families, UDP and TCP" {
	mkdir "$CG/ztunnel/in-client" "$CG/ztunnel/dns-in-client"
	resolver ztunnel/dns-in-client client 15053 "$CAPTURED"
	launch "$WORK/in-pod" run_in ztunnel/in-client client "$TCP" serve :: 15001
	onramp unload
	in_pod_mode -d -e 10.77.1.0/24
	connects_from_now
	run -0 ask 0 sendto 10.77.2.2 10.77.2.3
	is "$output" "$(printf '10.77.2.%d 53 1.2.3.4\n' 2 3)"
	run -0 ask 0 connect 10.77.2.2 10.77.2.3
	is "$output" "$(printf '10.77.2.%d 53 1.2.3.4\n' 2 3)"
	run -0 ask 6 sendto fd00:77::2 ::ffff:10.77.2.2
	is "$output" "fd00:77::2 53 $CAPTURED
::ffff:10.77.2.2 53 $CAPTURED"
	run -0 ask 6 connect fd00:77::2
	is "$output" "fd00:77::2 53 $CAPTURED"
	for resolver in 10.77.2.2 fd00:77::2; do
		run -0 pod client dig +short +tries=1 +tcp "@$resolver" x.test
		is "$output" "$CAPTURED"
	done
	# By eth0 a query would go out, to loopback; what is not to be unbound is refused.
	for family in 0,10.77.2.2 6,fd00:77::2; do
		run -0 pod client env DEVICE=eth0 python3 "$WORK/ask.py" "${family%,*}" connect "${family#*,}"
		is "$output" "${family#*,} 53 $CAPTURED"
		run -0 pod client env DEVICE=eth0 python3 "$WORK/ask.py" "${family%,*}" sendto "${family#*,}"
		is "$output" "${family#*,} error 1"
	done
	run -0 run_in ztunnel/in-client client dig +short +tries=1 @10.77.2.2 x.test
	is "$output" "$DIRECT"
}

@test "in-pod mode, where ztunnel's DNS is off: TCP like any other port, UDP left alone and counted" {
	cgroup_end "$CG/ztunnel/dns-in-client"
	before=$(queries passed)
	run -0 ask 0 sendto 10.77.2.2
	is "$output" "10.77.2.2 53 $DIRECT"
	run -0 ask 6 connect fd00:77::2
	is "$output" "fd00:77::2 53 $DIRECT"
	is "$(queries passed)" $((before + 2))
	for resolver in 10.77.2.2 fd00:77::2; do
		run -0 pod client "$TCP" dial "$resolver" 53
		has " local=[::ffff:127." ":15001 " "=${resolver/#fd*/[fd00:77::2]}:53 "
	done
	# None at all: refused, for ztunnel may be on its way back. (UDP cannot be.)
	cgroup_end "$CG/ztunnel/in-client"
	run -1 pod client "$TCP" dial 10.77.2.2 53
	is "$output" ECONNREFUSED
	before=$(queries redirected)
	run -0 ask 0 connect 10.77.2.2
	is "$output" "10.77.2.2 error 111"
	is "$(queries redirected)" $((before + 1))
	# A program of the pod's that listens as ztunnel does is none.
	mkdir "$CG/client/own"
	launch "$WORK/own" run_in client/own client "$TCP" serve 127.0.0.1 15001
	run -0 ask 0 connect 10.77.2.2
	is "$output" "10.77.2.2 error 111"
	cgroup_end "$CG/client/own"
}
