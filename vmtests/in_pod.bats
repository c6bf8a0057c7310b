#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# In-pod mode, outbound: ztunnel, in its own cgroup, listens inside the netns of pods
# that rules enrol, and finds each destination by a number in the address that it was
# reached at, or by the client's socket. (DNS: sendmsg4.bats; every kind of socket:
# sockets.bats; what a hostile pod tries: hostile.bats.)

load helpers.bash

setup_file() {
	node_up in_pod
	mkdir "$CG/ztunnel"
	pod_up server 10.77.2.2
	pod_up client 10.77.1.2
	pod_up other 10.77.1.3
	pod_up outsider 10.77.3.2 # not enrolled
	dual_stack client:1 server:2 outsider:9
	serve server :: 80 81 53
	in_pod_mode -e 10.77.1.0/24
	listen_in client
	# Ends of connections that the tools do not have.
	cat >"$WORK/ends.py" <<-'END'
		import ctypes, os, socket, sys
		libc = ctypes.CDLL(None)
		def dial(to, kind="", local=None):
		    s = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
		    s.settimeout(10)
		    if kind == "ipv6-only":
		        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
		    if kind == "bound":
		        s.bind((os.environ["OWN"], 0))
		    if local:
		        s.setsockopt(socket.IPPROTO_IP, 24, 1) # IP_BIND_ADDRESS_NO_PORT
		        s.bind(local)
		    s.connect(to)
		    return s
		def name(peer):
		    return ("[%s]:%d" if ":" in peer[0] else "%s:%d") % peer[:2]
		def told(s): # as tcp says it
		    print("dialled=%s from=%s %s" % (name(s.getpeername()), name(s.getsockname()),
		        s.recv(512).decode().strip()), flush=True)
	END
	connects_from_now
}

teardown() {
	connects_add_up
}

teardown_file() {
	node_down
}

# ztunnel listens in the pod's netns, or no more.
listen_in() { # POD [tcp's COMMAND]
	mkdir -p "$CG/ztunnel/$1"
	launch "$WORK/ztunnel-in-$1" run_in "ztunnel/$1" "$1" "$TCP" "${2-share}" :: 15001
}
leave() { # POD
	cgroup_end "$CG/ztunnel/$1"
}

python() { # POD SCRIPT, which begins with ends.py
	pod "$1" env PYTHONDONTWRITEBYTECODE=1 OWN="${OWN-}" \
		python3 -ISc "import sys; sys.path.append('$WORK'); from ends import *
$2"
}

# The proxy was reached by a number, and all names are as they are without onramp.
captured() { # ORIGINAL [FAMILY-OF-THE-POD'S-ADDRESS]
	local own=10.77.1.2 original=orig4 port output=${output//::ffff:/}
	[[ $1 != \[* ]] || { own=fd00:77::1 original=orig6; }
	output=${output//[\[\]]/}
	[[ $output =~ \ local=127\.(12[89]|1[3-9].|2..)\.[0-9.]+:15001\  ]] ||
		{ echo "no number: $output" >&2; return 1; }
	port=${output#* peer="$own":}
	has "dialled=${1//[\[\]]/} from=$own:${port%% *} " " $original=${1//[\[\]]/} "
}

direct() { # DESTINATION
	has "dialled=$1 " " local=[::ffff:${1%:*}]:${1##*:} "
}

number() { # the output's
	number=${output#* local=\[::ffff:}
	number=${number%%\]*}
}

set_of() { # NUMBER: in which set it is
	local byte
	IFS=. read -ra byte <<<"$1"
	echo $(((byte[2] << 8 | byte[3]) >> 3 & 511))
}

@test "a rule enrols a pod, at the next connect() of a running process; a listener nobody" {
	listen_in outsider
	steps_begin pod outsider
	step 1
	direct 10.77.2.2:80
	onramp enroll 10.77.3.2
	step 2
	has " local=[::ffff:127." " orig4=10.77.2.2:80 " "from=10.77.3.2:"
	onramp exclude fd00:77::9
	step 3
	direct 10.77.2.2:80
	onramp forget 10.77.3.2 fd00:77::9
	exec 9>&-
	leave outsider
}

@test "each destination has a number, and all names are as without onramp: both families" {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	captured 10.77.2.2:80
	has " orig6=E"
	number
	first=$number
	run -0 pod client "$TCP" dial 10.77.2.2 81
	captured 10.77.2.2:81
	number
	[ "$number" != "$first" ]
	run -0 pod client "$TCP" dial 10.77.2.2 80
	number
	is "$number" "$first"
	run -0 pod client "$TCP" dial ::ffff:10.77.2.2 80
	captured 10.77.2.2:80
	has "dialled=[::ffff:10.77.2.2]:80 from=[::ffff:10.77.1.2]:"
	number
	is "$number" "$first"
	run -0 pod client "$TCP" dial fd00:77::2 80
	captured "[fd00:77::2]:80"
	has "local=[::ffff:127." " orig4=E"
}

@test "IPv6 alone: by the client's socket, to ::1 or to the pod's own address" {
	run -0 pod client "$ROOT/build/sockets" ipv6-only fd00:77::2 80
	has "dialled=[fd00:77::2]:80 from=[fd00:77::1]:" " local=[::1]:15001 peer=[fd00:77::1]:" \
		" orig4=E" " orig6=[fd00:77::2]:80 "
	run -0 pod client "$ROOT/build/sockets" bound-address fd00:77::2 80
	has "dialled=[fd00:77::2]:80 from=[fd00:77::1]:" " local=[fd00:77::1]:15001 peer=[fd00:77::1]:" \
		" orig4=E" " orig6=[fd00:77::2]:80 "
}

@test "a socket bound to a device; one bound to another address of the pod's keeps that" {
	for address in 10.77.2.2 fd00:77::2; do
		run -0 pod client "$ROOT/build/sockets" by-device "$address" 80
		[ "$address" = 10.77.2.2 ] || address=[$address]
		captured "$address:80"
	done
	ip -n "$RUN-client" addr add 10.77.9.9/16 dev eth0
	run -0 python client 'told(dial(("10.77.2.2", 80), local=("10.77.9.9", 0)))
told(dial(("::ffff:10.77.2.2", 80), local=("::ffff:10.77.9.9", 0)))'
	ip -n "$RUN-client" addr del 10.77.9.9/16 dev eth0
	for output in "${lines[@]//::ffff:/}"; do
		output=${output//[\[\]]/}
		has "dialled=10.77.2.2:80 from=10.77.9.9:" " peer=10.77.9.9:" " orig4=10.77.2.2:80 "
	done
	is "${#lines[@]}" 2
}

@test "nobody listens: refused, both families; nothing goes around ztunnel" {
	for address in 10.77.2.2 ::ffff:10.77.2.2 fd00:77::2; do
		[ "$address" != fd00:77::2 ] || ip -n "$RUN-other" addr add fd00:77::3/64 dev eth0 nodad
		run -1 pod other "$TCP" dial "$address" 80
		is "$output" ECONNREFUSED
	done
	ip -n "$RUN-other" addr del fd00:77::3/64 dev eth0
}

@test "a family that the pod has no address of: ENETUNREACH, as without onramp" {
	before=$(connects refused unreachable)
	run -1 pod other "$TCP" dial fd00:77::2 80
	never_began 1
	is "$output" ENETUNREACH
	is "$(connects refused unreachable)" $((before + 1))
}

@test "loopback, own addresses and bypasses are left alone" {
	for address in 127.0.0.1 10.77.1.2 ::1 fd00:77::1; do
		run -1 pod client "$TCP" dial "$address" 9
		is "$output" ECONNREFUSED
	done
	"$BPFTOOL" map update pinned "$PIN/maps/bypass_rules" \
		key 128 0 0 0 $(bytes_of 10.77.2.2) value 3 0 0 0
	run -0 pod client "$TCP" dial 10.77.2.2 80
	direct 10.77.2.2:80
	# One socket, first to ztunnel, then past it.
	run -0 pod client "$TCP" again 10.9.9.9 80 10.77.2.2 80
	has connected
	direct 10.77.2.2:80
	has "from=10.77.1.2:"
	"$BPFTOOL" map delete pinned "$PIN/maps/bypass_rules" key 128 0 0 0 $(bytes_of 10.77.2.2)
}

@test "one socket, dialled again: the second destination counts, by a number and by the socket" {
	run -0 pod client "$TCP" again 10.77.2.2 80 10.77.2.2 81
	has connected
	captured 10.77.2.2:81
	run -0 python client '
s = dial(("fd00:77::2", 80), "ipv6-only")
told(s)
libc.connect(s.fileno(), b"\0" * 16, 16) # AF_UNSPEC
s.connect(("fd00:77::2", 81))
told(s)'
	has "dialled=[fd00:77::2]:80 " " orig6=[fd00:77::2]:80 "
	has "dialled=[fd00:77::2]:81 from=[fd00:77::1]:" " orig6=[fd00:77::2]:81 "
}

@test "a number is its own pod's: dialled by others it stands for nothing" {
	listen_in other
	listen_in outsider
	run -0 pod client "$TCP" dial 10.77.2.2 99 # which nobody else does
	number
	lost=$(metric 'handovers_total{result="lost"}')
	for pod in other outsider; do
		run -0 pod "$pod" "$TCP" dial "$number" 15001
		has "dialled=$number:15001 " " orig4=E" " orig6=E"
	done
	is "$(metric 'handovers_total{result="lost"}')" $((lost + 4))
	# Its own pod gets no further by it than by the destination itself, and by one that
	# was never given, or by none, nowhere.
	run -0 pod client "$TCP" dial "$number" 15001
	has " orig4=10.77.2.2:99 "
	for forged in 127.128.0.0 127.128.0.1 127.255.255.254 127.0.0.1; do
		run -0 pod client "$TCP" dial "$forged" 15001
		has " orig4=E" " orig6=E"
	done
	# Nor for ztunnel, who would believe the address that it was reached at.
	refused=$(connects refused itself)
	for own in "$number" 127.0.0.1 0.0.0.0 10.77.1.2 ::1 :: fd00:77::1 ::ffff:10.77.1.2; do
		run -1 run_in ztunnel/client client "$TCP" dial "$own" 15001
		is "$output" EPERM
	done
	never_began 8
	is "$(connects refused itself)" $((refused + 8))
	leave other
	leave outsider
}

stopped() { # STOP|CONT: ztunnel in client
	kill "-$1" "$(cat "$CG/ztunnel/client/cgroup.procs")"
}

# ... once no socket of a client's is left that has closed.
goes_on() {
	retry 40 sh -c "[ -z \"\$(ss -N '$RUN-client' -Htan state fin-wait-1)\" ]"
	stopped CONT
}

# To 15006 come neighbours: ztunnel would take what the number stands for as what one of
# them has dialled, and go there without its policy.
@test "a number says where to at ztunnel's outbound port alone" {
	run -0 pod client "$TCP" dial 10.77.2.2 80
	number
	mkdir "$CG/ztunnel/inbound"
	launch "$WORK/ztunnel-inbound" run_in ztunnel/inbound client "$TCP" share :: 15006 15008
	for port in 15006 15008; do
		run -0 pod client "$TCP" dial "$number" $port
		has " local=[::ffff:$number]:$port " " orig4=E"
	done
	cgroup_end "$CG/ztunnel/inbound"
}

# A set whose last way has its last generation.
numbers_nearly_through() { # NETNS-ID SET
	local -a key value
	key=("$(number_bytes 8 "$1")" "$(number_bytes 8 "$2")")
	value=("$(number_bytes 8 0)")
	for way in 0 1 2 3 4 5 6 7; do
		# An address, its port, and the generation: in use, but for the last.
		value+=("0 0 0 0 0 0 0 0 0 0 255 255 10 1 1 1 $(number_bytes 2 $((1000 + way)))")
		value+=("$(number_bytes 2 2046) $(number_bytes 4 0) $(number_bytes 4 $((way < 7)))")
		value+=("$(number_bytes 4 $((way < 7 ? $(cut -d . -f 1 /proc/uptime) : 0)))")
	done
	# shellcheck disable=SC2068,SC2086 # words
	"$BPFTOOL" map update pinned "$PIN/maps/numbers" key ${key[@]} value ${value[@]}
}

number_bytes() { # COUNT NUMBER: lowest first
	local i
	for ((i = 0; i < $1; i++)); do printf '%d ' $(($2 >> 8 * i & 255)); done
}

@test "no number is the broadcast address of 127/8, which nobody can dial" {
	local id port
	read -r id _ < <(ip netns exec "$RUN-client" cat "$PIN/links/iter_netns")
	# A destination of the last set, by number_give()'s hash.
	for ((port = 1000; port < 9000; port++)); do
		hash=$(((0x02024d0affff0000 ^ port << 17) * -7046029254386353131))
		hash=$(((hash ^ (hash >> 32 & 0xffffffff)) * -7046029254386353131))
		[ $((hash >> 55 & 511)) != 511 ] || break
	done
	numbers_nearly_through "$id" 511
	run -0 pod client "$TCP" dial 10.77.2.2 $port
	captured 10.77.2.2:$port
	number
	is "$(set_of "$number")" 511
	[ "$number" != 127.255.255.255 ]
}

@test "clients that have sent and closed before the proxy accepts: all arrive" {
	leave client
	listen_in client web
	stopped STOP
	for address in 10.77.2.2 ::ffff:10.77.2.2 fd00:77::2; do
		pod client "$TCP" early 20 "$address" 80
	done
	goes_on
	retry 200 sh -c "[ \$(grep -c local= '$WORK/ztunnel-in-client') = 60 ]"
	is "$(grep -c ' peer=\[::ffff:10.77.1.2\]:.* orig4=10.77.2.2:80 ' "$WORK/ztunnel-in-client")" 40
	is "$(grep -c ' peer=\[fd00:77::1\]:.* orig6=\[fd00:77::2\]:80 ' "$WORK/ztunnel-in-client")" 20
	# Without a number the socket would have to be there: the proxy gets an error.
	stopped STOP
	OWN=fd00:77::1 python client 'for kind in "bound", "ipv6-only":
    s = dial(("fd00:77::2", 80), kind); s.send(b"x"); s.close()'
	goes_on
	retry 200 sh -c "[ \$(grep -c local= '$WORK/ztunnel-in-client') = 62 ]"
	is "$(tail -n 2 "$WORK/ztunnel-in-client" | grep -c ' orig4=E.* orig6=E')" 2
	leave client
	listen_in client
}

# Destinations of one set of numbers, by the hash in in_pod.h: 10.9.9.9 and these ports.
ports_of_a_set() { # COUNT
	python3 -ISc '
def set_of(port):
    m, k = 2**64 - 1, 0x9e3779b97f4a7c15
    ip = int.from_bytes(bytes([0, 0, 255, 255, 10, 9, 9, 9]), "little")
    h = (ip ^ port << 17) * k & m
    return ((h ^ h >> 32) * k & m) >> 55
print(*[p for p in range(1, 65536) if set_of(p) == set_of(7)][:'"$1"'])'
}

@test "more destinations than a set has numbers, under way at once: looked up instead, counted" {
	ports=$(ports_of_a_set 20)
	before=$(metric 'map_full_total{map="numbers"}')
	stopped STOP
	launch "$WORK/set" python client "
all = [dial(('10.9.9.9', port)) for port in map(int, '$ports'.split())]
print('ready', flush=True)
for s in all: told(s); s.close()"
	is "$(metric 'map_full_total{map="numbers"}')" $((before + 12))
	stopped CONT
	retry 200 sh -c "[ \$(wc -l <'$WORK/set') = 21 ]"
	sets=
	for port in $ports; do
		output=$(grep "dialled=10.9.9.9:$port " "$WORK/set")
		captured "10.9.9.9:$port"
		number
		[ "$number" = 127.128.0.0 ] || sets+="$(set_of "$number") "
	done
	is "$(grep -c 'local=\[::ffff:127.128.0.0\]' "$WORK/set")" 12
	is "$(tr ' ' '\n' <<<"$sets" | grep . | sort | uniq -c | awk '{ print $1 }')" 8
}

# A proxy that takes one connection and holds it.
holding_proxy() {
	leave client
	mkdir "$CG/ztunnel/client"
	launch "$WORK/holds" run_in ztunnel/client client python3 -ISc '
import socket
l = socket.create_server(("::", 15001), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
s = l.accept()[0]
l.close()
s.send(b"x")
s.recv(1)'
}

@test "a number given to another destination is a new one; older connections keep their names" {
	read -ra ports <<<"$(ports_of_a_set 9)"
	mkfifo "$WORK/renewed"
	holding_proxy
	launch "$WORK/old" python client "
s = dial(('10.9.9.9', ${ports[0]})); s.recv(1); print('ready', flush=True)
open('$WORK/renewed').read(); print(*s.getpeername(), *s.getsockname()[:1])"
	listen_in client
	run -0 pod client "$TCP" dial 10.9.9.9 "${ports[0]}"
	number
	old=$number
	retry 40 new_numbers
	[ "$(set_of "$number")" = "$(set_of "$old")" ]
	# The one before stands for nothing any more: not for who has it now.
	run -0 pod client "$TCP" dial "$old" 15001
	has " orig4=E" " orig6=E"
	echo >"$WORK/renewed"
	retry 100 grep -q 10.77 "$WORK/old"
	is "$(tail -n 1 "$WORK/old")" "10.9.9.9 ${ports[0]} 10.77.1.2"
}

@test "an IPv6 client keeps its names when its number is another's" {
	holding_proxy
	rm "$WORK/renewed"
	mkfifo "$WORK/renewed"
	launch "$WORK/old" python client "
s = dial(('fd00:77::2', 80)); s.recv(1); print('ready', flush=True)
open('$WORK/renewed').read(); print(*s.getpeername()[:2], *s.getsockname()[:1])"
	keys_of numbers | forgotten numbers
	echo >"$WORK/renewed"
	retry 100 grep -q fd00 "$WORK/old"
	is "$(tail -n 1 "$WORK/old")" "fd00:77::2 80 fd00:77::1"
	leave client
	listen_in client
}

@test "a client whose proxy is gone has its pod's address, were its number another's" {
	leave client
	holding_proxy
	mkfifo "$WORK/gone"
	launch "$WORK/old" python client "
s = dial(('10.77.2.2', 80)); s.recv(1); print('ready', flush=True)
open('$WORK/gone').read(); print('own', *s.getsockname()[:1])"
	leave client
	keys_of numbers | forgotten numbers
	echo >"$WORK/gone"
	retry 100 grep -q own "$WORK/old"
	is "$(tail -n 1 "$WORK/old")" "own 10.77.1.2"
	listen_in client
}

# The keys of all entries, a line each.
keys_of() { # MAP
	"$BPFTOOL" -j map dump pinned "$PIN/maps/$1" | jq -r '.[].key | join(" ")'
}

# Takes out the entries of the keys on stdin.
forgotten() { # MAP
	local key
	while read -r key; do
		# shellcheck disable=SC2086 # words
		"$BPFTOOL" map delete pinned "$PIN/maps/$1" key hex ${key//0x/}
	done
}

# All but the first destination, until they have all eight numbers of the set.
new_numbers() {
	local port mine=
	for port in "${ports[@]:1}"; do
		run -0 pod client "$TCP" dial 10.9.9.9 "$port"
		captured "10.9.9.9:$port"
		number
		[ "$number" = 127.128.0.0 ] || mine+="${number##*.} "
	done
	[ "$(tr ' ' '\n' <<<"$mine" | grep . | sort -u | wc -l)" = 8 ]
}

# A proxy that reads until the client has closed, and then closes, or sends on.
ending_proxy() {
	leave client
	mkdir "$CG/ztunnel/client"
	launch "$WORK/ending" run_in ztunnel/client client python3 -ISc '
import socket, time
l = socket.create_server(("::", 15001), family=socket.AF_INET6, dualstack_ipv6=True, backlog=99)
print("ready", flush=True)
while True:
    s = l.accept()[0]
    what = s.recv(1)
    s.sendall(what)
    while s.recv(100): pass
    time.sleep(0.01)
    try:
        for i in range(what == b"t" and 50): s.sendall(b"x"); time.sleep(0.02)
        print("closed")
    except OSError: print("told", flush=True)
    s.close()'
}

@test "the client closes first: the proxy's socket ends, and is told; every way, both families" {
	ending_proxy
	OWN=fd00:77::1 python client '
for what in b"e", b"t":
    for to in "10.77.2.2", "fd00:77::2":
        for kind in [""] if to == "10.77.2.2" else ["", "bound", "ipv6-only"]:
            for i in range(3 if what == b"e" else 1):
                s = dial((to, 80), kind); s.send(what); assert s.recv(1) == what; s.close()'
	retry 100 sh -c "[ \$(grep -c told '$WORK/ending') = 4 ]"
	retry 40 sh -c "[ -z \"\$(ss -N '$RUN-client' -Htan state last-ack)\" ]"
	leave client
	listen_in client
}

@test "a pod that dials many destinations reaches each of them" {
	# One of its own, whose ends in TIME_WAIT are nobody else's.
	pod_up many 10.77.1.4
	ip -n "$RUN-many" addr add fd00:77::4/64 dev eth0 nodad
	listen_in many
	n=${ONRAMP_TEST_VM:+1200}
	run -0 pod many "$TCP" each "${n:=100000}" 10.9.0.0 80
	is "$output" "proxied=$n direct=0 wrong=0 failed=0"
	run -0 pod many "$TCP" each $((n / 6)) fd00:9:: 80
	is "$output" "proxied=$((n / 6)) direct=0 wrong=0 failed=0"
	echo "# $(entries numbers) sets of numbers, $(metric 'map_full_total{map="numbers"}') looked up" >&3
	[ "$(entries numbers)" -le 1024 ]
	leave many
	pod_down many
}

@test "a port is free again a second later, however many connections went there" {
	leave client
	mkdir "$CG/ztunnel/client"
	launch "$WORK/proxy" run_in ztunnel/client client "$ROOT/build/bench" proxy 15001
	ip netns exec "$RUN-client" sysctl -qw net.ipv4.ip_local_port_range="60000 60999"
	for pause in 2 0; do
		run -0 pod client "$ROOT/build/bench" client -W -n 900 -o 10.77.2.2:80 10.77.2.2 80
		sleep $pause
	done
	ip netns exec "$RUN-client" sysctl -qw net.ipv4.ip_local_port_range="32768 60999"
	leave client
	listen_in client
}

@test "one listener on IPv4 alone: what goes to an IPv6 address is refused" {
	ip -n "$RUN-other" addr add fd00:77::3/64 dev eth0 nodad
	mkdir -p "$CG/ztunnel/other"
	launch "$WORK/v4" run_in ztunnel/other other "$TCP" serve 0.0.0.0 15001
	run -0 pod other "$TCP" dial 10.77.2.2 80
	has " orig4=10.77.2.2:80 " "dialled=10.77.2.2:80 " " peer=10.77.1.3:"
	run -0 pod other "$TCP" dial fd00:77::2 80
	has " orig6=[fd00:77::2]:80 " "dialled=[fd00:77::2]:80 "
	run -1 pod other "$ROOT/build/sockets" ipv6-only fd00:77::2 80
	is "$output" ECONNREFUSED
	leave other
	ip -n "$RUN-other" addr del fd00:77::3/64 dev eth0
}

@test "a program that visits the pod, and a netns that is no pod of a cgroup's: without numbers" {
	listen_in other
	before=$(metric 'map_full_total{map="numbers"}')
	pod client true
	run -0 run_in client other "$TCP" dial 10.77.2.2 80
	has " local=[::ffff:127.128.0.0]:15001 peer=[::ffff:10.77.1.3]:" " orig4=10.77.2.2:80 " \
		"dialled=10.77.2.2:80 from=10.77.1.3:"
	is "$(metric 'map_full_total{map="numbers"}')" "$before"
	leave other
}

@test "numbers has no room: looked up by the client's socket instead, counted; what has one keeps it" {
	full='map_full_total{map="numbers"}'
	run -0 pod client "$TCP" dial 10.77.2.2 80
	number
	mine=$number
	"$ROOT/build/bpfcall" fill "$PIN/maps/numbers" 0
	pod_up fresh 10.77.1.8
	listen_in fresh
	before=$(metric "$full")
	run -0 pod fresh "$TCP" dial 10.77.2.2 80
	has "dialled=10.77.2.2:80 from=10.77.1.8:" " local=[::ffff:127.128.0.0]:15001 " \
		" peer=[::ffff:10.77.1.8]:" " orig4=10.77.2.2:80 "
	is "$(metric "$full")" $((before + 1))
	run -0 pod client "$TCP" dial 10.77.2.2 80
	"$ROOT/build/bpfcall" drain "$PIN/maps/numbers"
	captured 10.77.2.2:80
	number
	is "$number" "$mine"
	leave fresh
	pod_down fresh
}

@test "what a pod has of numbers goes with its last cgroup" {
	before=$(entries numbers)
	pod_up brief 10.77.1.7
	listen_in brief
	mkdir "$CG/brief/app"
	for port in 1 2 3; do run_in brief/app brief "$TCP" dial 10.77.2.2 $port; done
	pod brief true
	is "$(entries numbers)" $((before + 3))
	leave brief
	rmdir "$CG/brief/app"
	is "$(entries numbers)" $((before + 3))
	pod_down brief
	is "$(entries numbers)" "$before"
}

@test "so does it with a home that a cgroup leaves for the node's netns, or has under another address" {
	before=$(entries numbers)
	pod_up left 10.77.1.8
	at_home_elsewhere left
	listen_in left
	mkdir "$CG/visitor"
	run_in visitor left "$TCP" dial 10.77.2.2 1
	is "$(entries numbers)" $((before + 1))
	ip -n "$RUN-left" addr flush dev eth0 scope global
	ip -n "$RUN-left" addr add 10.77.1.9/16 dev eth0
	run_in visitor left "$TCP" dial 10.77.2.2 2
	is "$(entries numbers)" $((before + 2)) # the number of the first is good for as long
	for _ in 1 2; do run_in visitor node true; done
	is "$(entries numbers)" "$before"
	leave left
	rmdir "$CG/visitor"
	pod_down left
	is "$(entries homes)" "$(home_netns)"
}

# As ztunnel is, which lives in a pod of its own.
at_home_elsewhere() { # POD whose ztunnel it is
	mkdir "$CG/ztunnel/$1"
	run_in "ztunnel/$1" server true
}

# How many netns are the homes of all that runs here, as pods has them.
home_netns() {
	awk 'NR > 1 { print $2 }' "$PIN/pods" | sort -u | wc -l
}

# Another has the pod's address, and had it first; or pod_ips has no room for it.
@test "a container that ends takes none of its pod's numbers, whoever holds the pod's address" {
	pod_up first 10.77.1.7
	pod first true
	pod_up second 10.77.1.7
	mkdir "$CG"/second/{app,side}
	at_home_elsewhere second
	listen_in second
	for full in '' yes; do
		[ -z "$full" ] || "$ROOT/build/bpfcall" fill "$PIN/maps/pod_ips" 0
		before=$(entries numbers)
		run_in second/side second true
		kill -STOP "$(cat "$CG/ztunnel/second/cgroup.procs")"
		run_in second/app second "$TCP" dial 10.77.2.2 80 >"$WORK/waits" 3>&- &
		retry 100 sh -c "[ -n \"\$(ss -N '$RUN-second' -Htn state established dport = :15001)\" ]"
		is "$(entries numbers)" $((before + 1))
		rmdir "$CG/second/side"
		for _ in 1 2; do node true; done
		kill -CONT "$(cat "$CG/ztunnel/second/cgroup.procs")"
		wait $!
		output=$(cat "$WORK/waits")
		has "dialled=10.77.2.2:80 from=10.77.1.7:" " orig4=10.77.2.2:80 "
		rmdir "$CG/second/app"
		node true
		is "$(entries numbers)" "$before"
		mkdir "$CG"/second/{app,side}
		[ -z "$full" ] || "$ROOT/build/bpfcall" drain "$PIN/maps/pod_ips"
	done
	leave second
	pod_down second
	pod_down first
}

@test "nor does one that no load has counted, by an older release; when the pod ends they go" {
	local uid=pod00000000-0000-4000-8000-000000000001
	before=$(entries numbers)
	pod_up uncounted 10.77.1.10 $uid
	mkdir "$CG/$uid/side"
	listen_in uncounted
	run_in $uid/side uncounted "$TCP" dial 10.77.2.2 80
	is "$(entries numbers)" $((before + 1))
	keys_of pod_netns | forgotten homes
	rmdir "$CG/$uid/side"
	for _ in 1 2; do node true; done
	is "$(entries numbers)" $((before + 1))
	leave uncounted
	rmdir "$CG/$uid"
	node true
	is "$(entries numbers)" "$before"
	pod_down uncounted
}

@test "what ztunnel opens inside a pod's netns passes, and so do node programs" {
	before=$(connects passed ztunnel)
	run -0 run_in ztunnel/client client "$TCP" dial 10.77.2.2 80
	direct 10.77.2.2:80
	has " peer=[::ffff:10.77.1.2]:"
	is "$(connects passed ztunnel)" $((before + 1))
	onramp enroll 10.77.2.2
	pod server true
	run -0 node "$TCP" dial 10.77.2.2 80
	onramp forget 10.77.2.2
	direct 10.77.2.2:80
	# A port of ztunnel's elsewhere is anybody's.
	run -1 run_in ztunnel/client client "$TCP" dial 10.77.2.2 15001
	is "$output" ECONNREFUSED
}

@test "ztunnel dials from many pods' netns in turn: no device is read for that" {
	before=$(metric cache_misses_total)
	run -0 run_in ztunnel/client client python3 -ISc '
import ctypes, os, socket, sys
libc = ctypes.CDLL(None)
netns = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
for i in range(20):
    assert not libc.setns(netns[i % 2], 0)
    socket.create_connection(("10.77.2.2", 80)).close()' "/run/netns/$RUN-client" "/run/netns/$RUN-other"
	is "$(metric cache_misses_total)" "$before"
}

@test "ztunnel is who -t names, and stays so; the loader knows it without an address" {
	mkdir "$CG/next"
	onramp enroll 10.77.3.2
	for _ in 1 2; do # as a pod's, which is remembered, and void then
		run -1 run_in next outsider "$TCP" dial 10.77.2.2 80
		is "$output" ECONNREFUSED
	done
	run -0 --separate-stderr in_pod_mode -t "$CG/next"
	is "$stderr" ""
	is "$(entries ztunnels)" 2
	for cgroup in ztunnel next; do
		run -0 run_in "$cgroup" outsider "$TCP" dial 10.77.2.2 80
		direct 10.77.2.2:80
	done
	run -1 pod outsider "$TCP" dial 10.77.2.2 80
	is "$output" ECONNREFUSED
	onramp forget 10.77.3.2
	rmdir "$CG/next"
	is "$(entries ztunnels)" 1
}

@test "127/8 is what it is to programs that have no ztunnel, and for datagrams" {
	for where in node "pod outsider"; do
		# shellcheck disable=SC2086 # words
		run -0 $where python3 -ISc '
import socket, time
def each(kind, to):
    c = socket.socket(socket.AF_INET, kind)
    c.connect(to)
    return c
print(*each(socket.SOCK_DGRAM, ("127.64.0.5", 53)).getpeername())
numbered = socket.create_server(("127.128.0.1", 15001))
print(*each(socket.SOCK_STREAM, numbered.getsockname()).getsockname()[:1])
server = socket.create_server(("127.100.0.1", 9999))
c = each(socket.SOCK_STREAM, server.getsockname())
server.accept()[0].close()
time.sleep(0.1)
print(*c.getpeername())'
		is "$output" "127.64.0.5 53
127.0.0.1
127.100.0.1 9999"
	done
	run -0 pod client python3 -ISc '
import socket
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
c.connect(("127.64.0.5", 53))
print(*c.getpeername())'
	is "$output" "127.64.0.5 53"
}

@test "pods says who is in" {
	pod outsider true
	is "$(awk '/ 10.77.(1|3).2$/ { print $1, $NF }' "$PIN/pods" | sort | xargs)" "in 10.77.1.2 out 10.77.3.2"
}
