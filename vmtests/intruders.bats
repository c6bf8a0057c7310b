#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=alone,once
# In-pod mode, inbound: what neighbours and a pod's own programs try, to get past ztunnel,
# to speak as somebody else, to stop it, or to make it call itself. (What they try
# outbound: hostile.bats.)

load helpers.bash
load mesh.bash

POD=10.77.1.2 POD6=fd00:77::2
EVIL=10.77.2.2 EVIL6=fd00:77::22
OWN2=10.77.9.9 OWN26=fd00:77::99

setup_file() {
	node_up intruders
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up pod $POD
	pod_up evil $EVIL # not enrolled
	ip -n "$RUN-pod" addr add $OWN2/16 dev eth0
	ip -n "$RUN-pod" addr add $OWN26/64 dev eth0 nodad # the last is the first
	dual_stack pod:2 evil:22
	routes_to_light_pods pod evil
	mkdir "$CG/zt" "$CG/kubelet"
	load_from node -a -t "$CG/zt" -k "$CG/kubelet" -e 10.77.1.0/24
	serve pod :: 80
	serve evil :: 80
	agent_up pod
	zt_up zt
	lead pod
	pod pod true
	pod evil true
	raw_tool
}

setup() {
	arrived
}

teardown_file() {
	node_down
}

dial() { # CGROUP NETNS ADDRESS PORT
	run -0 run_in "$1" "$2" "$TCP" dial "$3" "$4"
}

# The app's answer, to a connection that ztunnel made, or to this very one.
led() { is_led yes; }
direct() { is_led no; }
is_led() {
	local from peer
	has " on=80" " from=" "peer="
	from=${output#* from=} peer=${output#*peer=}
	from=${from%% *} peer=${peer%% *}
	if [ "${from##*:}" = "${peer##*:}" ]; then is no "$1"; else is yes "$1"; fi
}

# How many connections the pod's kernel has taken up.
pod_took() {
	awk '/^Tcp:/ && seen++ { print $6 }' <(nsenter --net="/run/netns/$RUN-pod" cat /proc/net/snmp)
}

# raw "SOURCE DESTINATION SPORT DPORT..."...: SYNs to the pod's device with what addresses
# one likes, from evil's.
raw_tool() {
	POD_MAC=$(ip -n "$RUN-pod" -j link show eth0 | grep -oE '"address":"[0-9a-f:]+"' | cut -d '"' -f 4)
	export POD_MAC
	cat >"$WORK/raw.py" <<-'END'
		import os, socket, struct, sys
		def checksum(data):
		    s = sum(struct.unpack("!%dH" % (len(data) // 2), data))
		    while s >> 16: s = (s & 0xffff) + (s >> 16)
		    return ~s & 0xffff
		def segment(source, to, sport, dport, flags=2, seq=1000, ack=0, data=b""):
		    v6 = ":" in to
		    a, b = (socket.inet_pton(10 if v6 else 2, x) for x in (source, to))
		    tcp = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 80, flags, 65535, 0, 0) + data
		    pseudo = a + b + (struct.pack("!II", len(tcp), 6) if v6 else struct.pack("!HH", 6, len(tcp)))
		    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp + b"\0" * (len(tcp) % 2))) + tcp[18:]
		    if v6:
		        return 0x86dd, struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + a + b + tcp
		    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + a + b
		    return 0x800, ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp
		def wire():
		    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
		    s.bind(("eth0", 0))
		    return s
		def send(s, *what, **how):
		    kind, packet = segment(*what, **how)
		    s.send(bytes.fromhex(os.environ["POD_MAC"].replace(":", "")) + b"\x02\x77\0\0\0\x66" + kind.to_bytes(2, "big") + packet)
		if __name__ == "__main__":
		    s = wire()
		    for words in map(str.split, sys.argv[1:]):
		        for dport in words[3:]:
		            send(s, words[0], words[1], int(words[2]), int(dport))
	END
}

raw() {
	run -0 run_in evil evil python3 -ISB "$WORK/raw.py" "$@"
}

# With the pod's kernel as lenient as it can be made.
lenient() { # 0|1
	ip netns exec "$RUN-pod" sysctl -qw net.ipv4.conf.all.route_localnet="$1" \
		net.ipv4.conf.eth0.route_localnet="$1" net.ipv4.conf.all.accept_local="$1" \
		net.ipv4.conf.eth0.accept_local="$1" net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
}

@test "SYNs with the pod's own addresses, or loopback's, as their source: no connection comes of them" {
	took=$(pod_took)
	all=()
	for each in "127.0.0.1 $POD" "127.9.9.9 $POD" "127.64.0.1 $POD" "$POD $POD" "$OWN2 $POD" "$POD $OWN2" \
		"::1 $POD6" "$POD6 $POD6" "$OWN26 $POD6" "127.0.0.1 127.128.0.1" "127.9.9.9 127.128.0.1" "$POD 127.128.0.1" \
		"127.9.9.9 127.0.0.1" "::1 ::1" "$POD6 ::1" "::ffff:127.0.0.1 $POD6" "::ffff:$POD $POD6"; do
		all+=("$each 40000 80 15001 15006 15008")
	done
	for n in 0 1; do
		lenient $n
		raw "${all[@]}"
		a_moment
		a_moment
		is "$(pod_took)" "$took"
		is "$(ss -N "$RUN-pod" -Htan exclude listening dport = :40000)" ""
	done
	lenient 0
	arrived
	echo "# these were let through to onramp by the kernel: $counts" >&3
}

# Packets in their due order, with data in the SYN, as a kernel would not send them.
python_evil() { # SCRIPT
	run -0 run_in evil evil env PYTHONDONTWRITEBYTECODE=1 python3 -ISc "import sys; sys.path.append('$WORK'); from raw import *
$1"
}

@test "TCP Fast Open: a cookie from before does not carry data past ztunnel" {
	ip netns exec "$RUN-pod" sysctl -qw net.ipv4.tcp_fastopen=3
	ip netns exec "$RUN-evil" sysctl -qw net.ipv4.tcp_fastopen=1
	mkdir "$CG/pod/fast"
	launch "$WORK/fast" run_in pod/fast pod python3 -ISc '
import socket
l = socket.socket(socket.AF_INET6); l.setsockopt(6, 23, 16) # TCP_FASTOPEN
l.bind(("::", 81)); l.listen()
print("ready", flush=True)
while True:
    s, name = l.accept()
    s.send(b"%s %d %d " % (s.recv(9), name[1], s.getsockopt(6, 11, 232)[5] >> 5 & 1)); s.close()'
	inbound bypass pod "/run/netns/$RUN-pod"
	fast='
for to in ("10.77.1.2", 81), ("fd00:77::2", 81):
    s = socket.socket(10 if ":" in to[0] else 2)
    s.sendto(b"hello", 0x20000000, to) # MSG_FASTOPEN
    own = s.getsockname()[1]
    what, peer, with_syn = s.recv(99).decode().split()
    print(what, "direct" if own == int(peer) else "led", s.getsockopt(6, 11, 232)[5] >> 5 & 1)'
	python_evil "$fast" # gets a cookie
	python_evil "$fast" # and uses it
	is "$output" "hello direct 1
hello direct 1"
	lead pod
	python_evil "$fast"
	is "$output" "hello led 0
hello led 0"
	count_arrivals "inbound=2 bypass=4"
	cgroup_end "$CG/pod/fast"
}

@test "from a port that the pod has in TIME-WAIT, of a connection that passed: anew it is led" {
	inbound bypass pod "/run/netns/$RUN-pod"
	python_evil "
for to, port in ('$POD', 20001), ('$POD6', 20002):
    s = socket.socket(10 if ':' in to else 2)
    s.setsockopt(1, 2, 1); s.bind(('', port)); s.connect((to, 80))
    while s.recv(999): pass
    s.close()"
	lead pod
	retry 40 time_waits 2
	sleep 1.1 # by whole seconds the pod tells the new from the old
	for each in "20001 $POD" "20002 $POD6"; do
		run -0 run_in evil evil "$TCP" from "${each% *}" "${each#* }" 80
		led
	done
	count_arrivals "inbound=2 bypass=2"
}

time_waits() { # COUNT
	[ "$(ss -N "$RUN-pod" -Htan state time-wait '( dport = :20001 or dport = :20002 )' | wc -l)" = "$1" ]
}

@test "SYN cookies: the rows hold for the ACK that takes the SYN's place" {
	ip netns exec "$RUN-pod" sysctl -qw net.ipv4.tcp_syncookies=2
	for address in $POD $POD6; do
		dial evil evil "$address" 80
		led
		dial kubelet node "$address" 80
		direct
		dial pod pod "$address" 80
		direct
	done
	run -1 run_in evil evil "$TCP" dial $POD 15001
	is "$output" ECONNREFUSED
	# An ACK by hand, without a SYN.
	took=$(pod_took)
	python_evil "
s = wire()
for to, own in ('$POD', '$EVIL'), ('$POD6', '$EVIL6'):
    for port in 80, 15001, 15006, 15008:
        for ack in range(0, 1 << 32, 1 << 26): send(s, own, to, 20009, port, flags=16, ack=ack)"
	a_moment
	is "$(pod_took)" "$took"
	ip netns exec "$RUN-pod" sysctl -qw net.ipv4.tcp_syncookies=1
	is "$(entries probes)" 0
}

@test "MPTCP: led like any other" {
	mptcp='
import socket, sys
try: s = socket.socket(10 if ":" in sys.argv[1] else 2, socket.SOCK_STREAM, 262)
except OSError: print("none"); sys.exit()
s.connect((sys.argv[1], 80))
print("MPTCP from=%s:%d" % s.getsockname()[:2], s.recv(512).decode())'
	for address in $POD $POD6; do
		run -0 run_in evil evil python3 -ISc "$mptcp" "$address"
		[ "$output" != none ] || skip "not in this kernel"
		led
	done
}

@test "a program that chooses among those that listen beside it: not among ztunnel's" {
	mkdir "$CG/pod/chooser"
	launch "$WORK/chooser" run_in pod/chooser pod python3 -ISc '
import ctypes, socket, struct
code = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 1)) # return 1: the second
for port in 15001, 15006, 15008:
    l = socket.socket(socket.AF_INET6)
    l.setsockopt(1, 15, 1) # SO_REUSEPORT
    l.bind(("::", port))
    l.listen()
    l.setsockopt(1, 51, struct.pack("@HP", 1, ctypes.addressof(code))) # SO_ATTACH_REUSEPORT_CBPF
    globals()["l%d" % port] = l
print("ready", flush=True)
while True: l15001.accept()'
	for _ in 1 2 3 4; do
		for address in $POD $POD6; do
			dial evil evil "$address" 80
			led
		done
		dial pod pod $EVIL 80
		has "dialled=$EVIL:80 "
		dial pod pod $EVIL6 80
		has "dialled=[$EVIL6]:80 "
	done
	run -0 run_in evil evil timeout 5 bash -c "exec 5<>/dev/tcp/$POD/15008; echo 'CONNECT $POD:80 me' >&5; cat <&5"
	has "peer=[::ffff:$EVIL]:"
	cgroup_end "$CG/pod/chooser"
}

# The kubelet's connection, which stays; its port is in $port.
kubelet_holds() { # ADDRESS
	run_in kubelet node "$ROOT/build/hold" dial 1 "$1" 80 <>"$WORK/silent" >"$WORK/holds" 2>&1 3>&- &
	retry 60 grep -q holding "$WORK/holds"
	port=$(ss -N "$RUN-node" -Htn dst "$1" dport = :80 | awk '{ sub(/.*:/, "", $4); print $4 }')
}
kubelet_ends() {
	cgroup_end "$CG/kubelet"
	mkdir "$CG/kubelet"
	load_from node -a -t "$CG/zt" -k "$CG/kubelet"
}

@test "the kubelet's ports, while it has a connection: not from a neighbour's own address, nor from another port" {
	for each in "$POD $EVIL" "$POD6 $EVIL6"; do
		read -r address own <<<"$each"
		kubelet_holds "$address"
		run -0 run_in evil evil "$TCP" from "$port" "$address" 80
		led
		count_arrivals "inbound=1 probe=1"
		# Nor a node program that is not the kubelet's, from another port of the same address.
		dial node node "$address" 80
		led
		kubelet_ends
		run -0 run_in node node "$TCP" from "$port" "$address" 80
		led
		count_arrivals "inbound=2"
	done
}

@test "what kube-proxy masquerades has the node's address: led" {
	ip netns exec "$RUN-node" nft -f - <<-END
		table ip kube {
			chain nodeport { type nat hook prerouting priority -100; tcp dport 30080 dnat to $POD:80; }
			chain onward { type nat hook postrouting priority 100; ip daddr $POD masquerade; }
		}
	END
	dial evil evil "$NODE_IP" 30080
	led
	has "peer=[::ffff:$NODE_IP]:"
	kubelet_holds $POD
	run -0 run_in evil evil "$TCP" from "$port" "$NODE_IP" 30080
	led
	has "peer=[::ffff:$NODE_IP]:"
	ip netns exec "$RUN-node" nft delete table ip kube
	kubelet_ends
	count_arrivals "inbound=2 probe=1"
}

descriptors() {
	find "/proc/$pid/fd" -mindepth 1 | wc -l
}

@test "ztunnel does not call itself: its own 15001 by each address, a probe of it, a bound client gone early" {
	read -r pid <"$CG/zt/cgroup.procs"
	before=$(descriptors)
	lost=$(wc -l <"$WORK/zt")
	for address in $POD $POD6 $OWN2 $OWN26 127.0.0.1 ::1 127.128.0.5 ::ffff:$POD; do
		run -0 run_in pod pod timeout 5 bash -c "cat </dev/tcp/$address/15001"
		is "$output" ""
	done
	run -1 run_in kubelet node "$TCP" dial $POD 15001
	run -1 run_in kubelet node "$TCP" dial $POD6 15001
	kill -STOP "$pid"
	run_in pod pod python3 -ISc '
import socket, sys
for only in False, True:
    s = socket.socket(socket.AF_INET6)
    if only: s.setsockopt(41, 26, 1) # IPV6_V6ONLY
    else: s.bind((sys.argv[1], 0))
    s.connect((sys.argv[2], 80)); s.send(b"x"); s.close()' $POD6 $EVIL6
	retry 40 sh -c "[ -z \"\$(ss -N '$RUN-pod' -Htan state fin-wait-1)\" ]"
	kill -CONT "$pid"
	# Its dial to that port at the pod's own addresses is what makes it so, wherever from.
	for address in $POD $POD6 $OWN2 $OWN26 ::ffff:$POD; do
		run -1 run_in zt pod "$TCP" dial "$address" 15001
		is "$output" EPERM
	done
	a_moment
	[ "$(descriptors)" -le $((before + 2)) ]
	[ $(($(wc -l <"$WORK/zt") - lost)) -lt 15 ]
	dial pod pod $EVIL 80
	has "dialled=$EVIL:80 "
}
