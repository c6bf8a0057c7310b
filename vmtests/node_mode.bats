#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# Node mode's promises that no hook keeps by itself: whatever a pod does, ztunnel's
# ports and other pods' destinations are left alone; a destination that is lost is never
# another one; one that is not lost is whole.

load helpers.bash

setup_file() {
	node_up node_mode
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up client 10.77.1.2
	pod_up other 10.77.1.4
	pod_up server 10.77.2.2
	dual_stack ztunnel:9 client:1 server:2
	serve ztunnel :: 15001 15006 15053
	serve server :: 80
	node_mode -d -z "$ZTUNNEL_POD_IP6" -e 10.77.1.0/24 -e 10.78.0.0/16
}

teardown_file() {
	node_down
}

captured() { # PORT DESTINATION
	case $2 in
	\[*) has "local=[$ZTUNNEL_POD_IP6]:$1 " " orig6=$2 " "dialled=$2 " ;;
	*) has "local=[::ffff:$ZTUNNEL_POD_IP]:$1 " " orig4=$2 " "dialled=$2 " ;;
	esac
}

# Something else listens at ztunnel's ports now, in the cgroup that it is known by.
ztunnel_becomes() { # COMMAND...
	mkdir "$CG/ztunnel/$BATS_TEST_NUMBER"
	kill "$(cat "$CG"/ztunnel/cgroup.procs "$CG"/ztunnel/*/cgroup.procs)"
	retry 100 nobody_listens
	launch "$WORK/becomes" run_in "ztunnel/$BATS_TEST_NUMBER" ztunnel "$@"
}

nobody_listens() {
	is "$(ip netns exec "$RUN-ztunnel" ss -Hltn)" "" 2>/dev/null
}

@test "ztunnel's sockets have the ports that it listens on, and it has all others to dial from" {
	ip netns exec "$RUN-ztunnel" sysctl -qw net.ipv4.ip_local_port_range="40000 40003"
	for n in {1..8}; do
		run -0 pod client "$TCP" dial "10.9.9.$n" "80$n"
		captured 15001 "10.9.9.$n:80$n"
	done
	run -0 pod client "$TCP" dial fd00:9::9 80
	captured 15001 "[fd00:9::9]:80"
	run -0 pod client "$TCP" dial 10.9.9.9 53
	captured 15053 10.9.9.9:53
	run ip netns exec "$RUN-ztunnel" ss -Htan
	has TIME-WAIT # as each of its own, where it was the first to close
	is "$(awk '{ sub(".*:", "", $4); print $4 }' <<<"$output" | sort -u | xargs)" "15001 15006 15053"
	run -0 pod ztunnel "$TCP" dial 10.77.2.2 80 4
	is "${#lines[@]}" 4
}

# docker or podman in an enrolled pod: its containers have netns of their own, and go
# out as the pod.
@test "behind NAT: an error, never a destination that another has dialled" {
	mkdir "$CG/client/inner"
	ip netns add "$RUN-inner"
	ip -n "$RUN-client" -batch - <<-END
		link add vinner type veth peer name eth0 netns $RUN-inner
		addr add 10.78.0.1/16 dev vinner
		link set vinner up
	END
	ip -n "$RUN-inner" -batch - <<-END
		addr add 10.78.0.2/16 dev eth0
		link set eth0 up
		route add default via 10.78.0.1
	END
	ip netns exec "$RUN-client" sysctl -qw net.ipv4.ip_forward=1
	ip netns exec "$RUN-client" iptables -t nat -A POSTROUTING -s 10.78.0.0/16 -j MASQUERADE
	for conntrack in no yes; do # in ztunnel's netns, whose kernel then knows an answer
		[ $conntrack = no ] || ip netns exec "$RUN-ztunnel" iptables -t nat -A PREROUTING \
			-p tcp --dport 9 -j REDIRECT --to-ports 15001
		for n in {1..4}; do
			run -0 pod client "$TCP" dial "10.9.9.$n" 80
			captured 15001 "10.9.9.$n:80"
		done
		for n in 5 6; do
			run -0 run_in client/inner inner "$TCP" dial "10.9.9.$n" 80
			has "dialled=10.9.9.$n:80 " " peer=[::ffff:10.77.1.2]:" " orig4=E" " orig6=E"
		done
	done
	ip netns exec "$RUN-ztunnel" iptables -t nat -F
	is "$(entries handovers)" 0
}

@test "connect()s that come to nothing leave nothing behind, for this pod or another" {
	fails='
import socket, sys
for to, source in (zip(sys.argv[1:], ("127.0.0.1", "::1", "::ffff:127.0.0.1"))):
    for i in range(100):
        s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
        s.setblocking(False)
        s.bind((source, 0))
        s.connect_ex((to, 443))
        s.close()'
	nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all
		--inh-caps=-all /usr/bin/python3 -c "$fails")
	pod client true
	before=$(connects redirected outbound),$(connects redirected inbound)
	pod client "${nobody[@]}" 10.9.9.9 fd00:9::9 ::ffff:10.9.9.9
	node "${nobody[@]}" 10.77.1.2 fd00:77::1 ::ffff:10.77.1.2
	is "$(connects redirected outbound),$(connects redirected inbound)" \
		"$((${before%,*} + 300)),$((${before#*,} + 300))"
	is "$(entries handovers)" 0
	is "$(metric 'map_full_total{map="handovers"}')" 0
	run -0 pod other "$TCP" dial 10.77.2.2 80
	captured 15001 10.77.2.2:80
	run -0 node "$TCP" dial 10.77.1.4 80
	captured 15006 10.77.1.4:80
	# Who is not enrolled finds none of them at ztunnel's ports.
	for port in 15001 15006 15053; do
		run -0 pod server "$TCP" dial "$ZTUNNEL_POD_IP" "$port"
		has " orig4=E" " orig6=E"
	done
}

@test "asked for late: the pod is gone, and the next one has its address" {
	ztunnel_becomes "$TCP" web :: 15001 15006
	pod_up early 10.77.1.5
	ip -n "$RUN-early" addr add fd00:77::5/64 dev eth0 nodad
	kill -STOP "$(cat "$CG/ztunnel/$BATS_TEST_NUMBER/cgroup.procs")"
	pod early "$TCP" early 1 10.20.30.40 443
	pod early "$TCP" early 1 fd00:20::40 443
	pod_down early
	pod_up heir 10.77.1.5
	ip -n "$RUN-heir" addr add fd00:77::5/64 dev eth0 nodad
	pod heir "$TCP" early 2 10.9.9.9 80
	pod heir "$TCP" early 2 fd00:9::9 80
	kill -CONT "$(cat "$CG/ztunnel/$BATS_TEST_NUMBER/cgroup.procs")"
	retry 100 sh -c "[ \"\$(grep -c orig4 '$WORK/becomes')\" = 6 ]"
	run sed -n 's/.*orig4=\([^ ]*\) orig6=\([^ ]*\) .*/\1 \2/; s/E[A-Z]* *//p' "$WORK/becomes"
	is "$output" "10.20.30.40:443 
[fd00:20::40]:443
10.9.9.9:80 
10.9.9.9:80 
[fd00:9::9]:80
[fd00:9::9]:80"
	is "$(entries handovers)" 0
	pod_down heir
}

@test "a link-local destination keeps its scope: the proxy can dial it" {
	ztunnel_becomes python3 -c '
import socket, sys
s = socket.create_server(("::", 15001), family=socket.AF_INET6)
print("ready", flush=True)
while True:
    c = s.accept()[0]
    name = c.getsockopt(41, 80, 28)
    to = (socket.inet_ntop(socket.AF_INET6, name[8:24]), int.from_bytes(name[2:4], "big"), 0,
        int.from_bytes(name[24:28], sys.byteorder))
    with socket.socket(socket.AF_INET6) as out:
        out.connect(to)
        c.sendall(out.makefile("rb").readline())
    c.close()'
	link_local=$(ip -n "$RUN-server" -6 -o addr show dev eth0 scope link | awk '{ sub("/.*", "", $4); print $4 }')
	for scoped in "$TCP dial $link_local%eth0" "$ROOT/build/sockets by-device $link_local"; do
		# shellcheck disable=SC2086 # words
		run -0 pod client $scoped 80
		has "dialled=[$link_local]:80 " " local=[$link_local]:80 " " on=80"
		[[ $output != *"peer=[fd00:77::1]:"* ]]
	done
}

# Without CAP_NET_RAW a socket stays bound. By eth1 it may meet somebody who has ztunnel's
# address as well.
@test "bound to a device that does not lead to ztunnel: refused; to the pod's own, captured" {
	ztunnel_becomes "$TCP" share :: 15001
	ip -n "$RUN-client" link add eth1 type veth peer name eth1 netns "$RUN-server"
	ip -n "$RUN-client" addr add 172.20.0.2/24 dev eth1
	ip -n "$RUN-client" link set eth1 up
	for to in 10.77.2.2 fd00:77::2; do
		for device in eth0 eth1; do
			run pod client setpriv --bounding-set=-all --inh-caps=-all python3 -ISc "
import socket
s = socket.socket(socket.AF_INET6 if ':' in '$to' else socket.AF_INET)
s.settimeout(3)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'$device')
try:
    s.connect(('$to', 80))
    print(s.recv(300).decode())
except OSError as e:
    print(e.errno)"
			if [ "$device" = eth0 ]; then has ":15001 "; else is "$output" 1; fi
		done
	done
	ip -n "$RUN-client" link del eth1
}
