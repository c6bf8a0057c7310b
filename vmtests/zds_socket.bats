#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# Where onramp-zds is found: its socket, which others may have, take or leave behind; and
# /metrics and /healthz, whoever asks for them and how slowly.

load helpers.bash
load mesh.bash
load zds.bash
load zds_peers.bash

setup_file() {
	peers_up zds_socket
	mkdir "$CG/zds2" "$CG/agent"
	ip -n "$RUN-node" addr add 127.0.0.2/8 dev lo
}

teardown() {
	cgroup_end "$CG/zds2"
	cgroup_end "$CG/agent"
	mkdir "$CG/zds2" "$CG/agent"
	[ ! -d "$ZDS_SOCKET" ] || rmdir "$ZDS_SOCKET"
	[ ! -d "$WORK/mounted" ] || mounted_gone
	peers_down
	log_is_plain "$WORK/zds"
}

# The onramp-zds whose socket is there, and what is mounted.
mounted_gone() {
	zds_kill
	while umount "$WORK/mounted" 2>/dev/null; do :; done
	rmdir "$WORK/mounted"
	zds_up
}

teardown_file() {
	zds_node_down
}

# Another, until it has said so.
zds2_up() { # PATTERN [OPTION]...
	: >"$WORK/zds2" # what the last one said
	run_in zds2 node "${ZDS:-$ROOT/build/onramp-zds}" -p "$PIN" -s "$ZDS_SOCKET" -w "$WORKLOADS" \
		"${@:2}" >"$WORK/zds2" 2>&1 3>&- 9>&- &
	disown
	zds2_says "$1"
}

zds2_says() { # PATTERN
	retry 200 grep -q "$1" "$WORK/zds2" || { cat "$WORK/zds2" >&2; return 1; }
}

@test "bound under another name, and then renamed: who dials finds one that listens, or none" {
	zds_pid
	is "$(ss -N "$RUN-node" -Hxl | awk -v at="$ZDS_SOCKET" 'index($5, at) == 1 { print $5 }')" \
		"$ZDS_SOCKET.$pid"
	is "$(stat -c '%F %a %u' "$ZDS_SOCKET")" "socket 600 0"
	is "$(find "$WORK" -name 'zds-socket*')" "$ZDS_SOCKET"
}

@test "never unlinked at its end, however that comes; the next takes its place, and ztunnel finds it" {
	zt_up zt
	workload pod
	enabled pod
	for signal in TERM INT KILL; do
		inode=$(stat -c %i "$ZDS_SOCKET")
		zds_kill $signal
		is "$(stat -c '%F %i' "$ZDS_SOCKET")" "socket $inode"
		zds_up
		[ "$(stat -c %i "$ZDS_SOCKET")" != "$inode" ]
		logged "^event=snapshot"
		is "$(status pod)" enabled
	done
	is "$(find "$WORK" -name 'zds-socket*')" "$ZDS_SOCKET"
}

@test "stands by while an agent answers there, and is healthy; takes over when that ends" {
	zds_kill
	launch "$WORK/agent" listening_to agent "$ROOT/vmtests/zds" "$ZDS_SOCKET"
	inode=$(stat -c %i "$ZDS_SOCKET")
	zds_up
	logged "^event=standing-by"
	run -0 asks 127.0.0.1 /healthz
	has "200 OK"
	sleep 2.5
	is "$(log_count '^event=(standing-by|listening)')" 1
	is "$(stat -c %i "$ZDS_SOCKET")" "$inode"
	workload pod
	cgroup_end "$CG/agent"
	mkdir "$CG/agent"
	logged "^event=listening"
	zt_up zt
	enabled pod
}

@test "two of them: one stands by, says so once, and is told of once; it takes over, and pods stay" {
	zt_up zt
	workload pod
	enabled pod
	before=$(log_count .)
	zds2_up "^event=ready"
	sleep 3.5
	# It has seen several times whether the first is there still.
	[ $(($(log_count .) - before)) -le 1 ]
	workload other
	enabled other
	sleep 1.5
	is "$(status other)" enabled
	is "$(rule other)" zds-in
	is "$(grep -c . "$WORK/zds2")" 2 # that it stands by, and that it is ready
	zds_kill
	zds2_says "^event=listening"
	zds2_says "^event=snapshot"
	log_is_plain "$WORK/zds2"
	workload third
	enabled pod other third
	no_workload other
	becomes other ""
	zt_kill TERM zt
	zds_up
	logged "^event=standing-by"
}

@test "something takes its place, or removes it: made anew; another that answers has it, until it ends" {
	zt_up zt
	inode=$(stat -c %i "$ZDS_SOCKET")
	was_lost=0
	lost() {
		was_lost=$((was_lost + 1))
		logged_times "^event=socket-lost" $was_lost
		logged_times "^event=listening" $((was_lost + 1))
		[ "$(stat -c '%F %a' "$ZDS_SOCKET")" = "socket 600" ]
	}
	rm "$ZDS_SOCKET"
	lost
	: >"$ZDS_SOCKET"x
	mv "$ZDS_SOCKET"x "$ZDS_SOCKET"
	lost
	python3 -ISc '
import socket, sys
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(sys.argv[1])' "$ZDS_SOCKET"x
	mv "$ZDS_SOCKET"x "$ZDS_SOCKET"
	lost
	# Nothing can be bound there; that is said once, and once more when it can be.
	rm "$ZDS_SOCKET"
	mkdir "$ZDS_SOCKET"
	logged "^event=cannot-listen"
	run -0 asks 127.0.0.1 /healthz
	has "503"
	sleep 2.5
	is "$(log_count "^event=cannot-listen")" 1
	rmdir "$ZDS_SOCKET"
	lost
	run -0 asks 127.0.0.1 /healthz
	has "200 OK"
	launch "$WORK/agent" listening_to agent "$ROOT/vmtests/zds" "$ZDS_SOCKET"
	logged "^event=standing-by"
	cgroup_end "$CG/agent"
	mkdir "$CG/agent"
	lost
	# What was connected goes on all the while.
	workload pod
	enabled pod
}

@test "another file system is mounted over it, with a socket of the same number: made anew" {
	local at=$WORK/mounted
	zds_kill
	mkdir "$at"
	mount -t tmpfs none "$at"
	ZDS_SOCKET=$at/socket zds_up
	inode=$(stat -c %i "$at/socket")
	mount -t tmpfs none "$at"
	python3 -ISc '
import socket, sys
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(sys.argv[1])' "$at/socket"
	is "$(stat -c %i "$at/socket")" "$inode"
	logged "^event=socket-lost"
	retry 100 [ -e "$at/socket" ]
	logged_times "^event=listening" 2
}

logged_times() { # PATTERN COUNT
	retry 200 log_count_is "$@"
}

log_count_is() {
	[ "$(log_count "$1")" = "$2" ]
}

@test "a path that cannot be: one line, status 1" {
	for path in "$WORK/none/socket" "$WORK/$(printf '%0108d' 0)" "$WORK/bpf"; do
		run -1 run_in zds2 node timeout 60 "${ZDS:-$ROOT/build/onramp-zds}" -p "$PIN" -s "$path" -w "$WORKLOADS"
		is "$(grep -c '^onramp-zds: ' <<<"$output")" 1
		has "give -s"
	done
	is "$(find "$WORK" -name '*.[0-9]*' -type s)" ""
}

# Prints what is answered to a GET, with its head.
asks() { # ADDRESS PATH [PORT [SOURCE]]
	node timeout 10 python3 -ISc '
import socket, sys
to, path, port, *source = sys.argv[1:]
s = socket.create_connection((to, int(port)), 5, (source[0], 0) if source else None)
s.sendall(b"GET %s HTTP/1.0\r\n\r\n" % path.encode())
print(b"".join(iter(lambda: s.recv(65536), b"")).decode())' "$1" "$2" "${3-9990}" "${@:4}" 2>/dev/null
}

@test "-m PORT: IPv4 and IPv6; -m ADDR:PORT: there alone; what is neither: one line" {
	zds2_up "^event=ready" -m 9991
	for address in 127.0.0.1 ::1 127.0.0.2 $NODE_IP fd00:77::ff; do
		run -0 asks "$address" /healthz 9991
		[[ $output == "HTTP/1."?" 200 OK"*$'\n'ok* ]]
		run -0 asks "$address" /metrics 9991
		has "200 OK" "text/plain; version=0.0.4" "ztunnel_connected 0"
	done
	for path in / /metrics/x /healthzz; do
		run -0 asks 127.0.0.1 $path 9991
		has "404 Not Found"
	done
	cgroup_end "$CG/zds2"
	mkdir "$CG/zds2"
	while read -r where there elsewhere; do
		zds2_up "^event=ready" -m "$where"
		run -0 asks "$there" /healthz 9991
		has "200 OK"
		for address in $elsewhere; do run ! asks "$address" /healthz 9991; done
		cgroup_end "$CG/zds2"
		mkdir "$CG/zds2"
	done <<-END
		127.0.0.2:9991 127.0.0.2 127.0.0.1 ::1 $NODE_IP
		$NODE_IP:9991 $NODE_IP 127.0.0.1 ::1 fd00:77::ff
		[::1]:9991 ::1 127.0.0.1 fd00:77::ff
		[fd00:77::ff]:9991 fd00:77::ff ::1 127.0.0.1
		0.0.0.0:9991 127.0.0.1 ::1 fd00:77::ff
	END
	for where in "" x 0 65536 99999999999999999999 -1 :9991 1.2.3:9991 ::1:9991 "[::1]" 127.0.0.1:x \
		10.9.9.9:9991; do
		run -1 run_in zds2 node timeout 60 "${ZDS:-$ROOT/build/onramp-zds}" -p "$PIN" -s "$ZDS_SOCKET" \
			-w "$WORKLOADS" -m "$where"
		is "$(grep -c '^onramp-zds: ' <<<"$output")" 1
		has "give"
	done
}

@test "-m PORT without AF_INET6, as with ipv6.disable=1: IPv4" {
	: >"$WORK/zds2"
	# The library tries twice.
	run_in zds2 node strace -qq -o "$WORK/sockets" -e trace=socket \
		-e inject=socket:error=EAFNOSUPPORT:when=1..2 "${ZDS:-$ROOT/build/onramp-zds}" -p "$PIN" \
		-s "$ZDS_SOCKET" -w "$WORKLOADS" -m 9991 >"$WORK/zds2" 2>&1 3>&- 9>&- &
	disown
	zds2_says "^event=ready"
	is "$(grep -c '^socket(AF_INET6.*INJECTED' "$WORK/sockets")" 2
	run -0 asks 127.0.0.1 /healthz 9991
	has "200 OK"
}

@test "healthz does not depend on ztunnel, metrics say whether one is connected" {
	is "$(zds_metric ztunnel_connected)" 0
	run -0 asks 127.0.0.1 /healthz
	has "200 OK"
	zt_up zt
	is "$(zds_metric ztunnel_connected)" 1
	workload pod
	enabled pod
	is "$(zds_metric 'onramp_zds_pods{state="enabled"}')" 1
	zt_kill KILL zt
	retry 200 is_not_connected
	run -0 asks 127.0.0.1 /healthz
	has "200 OK"
	is "$(zds_metric 'onramp_zds_pods{state="enabled"}')" 1
}

is_not_connected() {
	[ "$(zds_metric ztunnel_connected)" = 0 ]
}

@test "the text: each family has HELP and TYPE once, before its samples; labels are quoted" {
	# One whose reason has all that ztunnel may say in it.
	workload pod
	peer newest zt hello 'refuse:pod="\\\n}{,=\xff\xc3' serve
	becomes pod 'pending ztunnel: ???}{,=??'
	workload other
	enabled other
	is "$(zds_metric 'onramp_zds_pods{state="pending"}')" 1
	asks 127.0.0.1 /metrics >"$WORK/text"
	run -0 python3 -IS - "$WORK/text" <<-'END'
		import re, sys
		head, _, text = open(sys.argv[1], "rb").read().replace(b"\r", b"").partition(b"\n\n")
		helped, typed, seen, family = set(), {}, set(), None
		for line in text.decode("utf-8").rstrip("\n").split("\n"):
		    if found := re.fullmatch(r"# HELP ([a-z_]+) [A-Z].*\.", line):
		        assert found[1] not in helped, line
		        family = found[1]
		        helped.add(family)
		    elif found := re.fullmatch(r"# TYPE ([a-z_]+) (counter|gauge)", line):
		        assert found[1] == family and family not in typed, line
		        typed[family] = found[2]
		        assert family.endswith("_total") == (found[2] == "counter"), line
		    else:
		        label = r'[a-z]+="(?:[^"\\\n]|\\[\\"n])*"'
		        found = re.fullmatch(r"([a-z_]+)(?:\{%s(?:,%s)*\})? [0-9]+" % (label, label), line)
		        assert found and found[1] == family and family in typed, line
		        assert line.rpartition(" ")[0] not in seen, line
		        seen.add(line.rpartition(" ")[0])
		print(len(typed), "families")
	END
	[ "${output% families}" -gt 12 ] || { echo "$output"; false; }
	grep -qxF 'onramp_zds_pending{reason="ztunnel: ???}{,=??"} 1' "$WORK/text"
}

@test "clients that say nothing, half of it, or read nothing, 40 of each: they hold up nobody" {
	zt_up zt
	run_in zds2 node python3 -ISc '
import socket, sys, time
all = []
for kind in (b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50):
    for i in range(40):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        s.connect(("127.0.0.1", 9990))
        s.sendall(kind)
        all.append(s)
print("ready", flush=True)
time.sleep(1000)' >"$WORK/slow" 2>&1 3>&- 9>&- &
	disown
	retry 200 grep -q ready "$WORK/slow"
	began=$SECONDS
	workload pod
	enabled pod
	no_workload pod
	becomes pod ""
	[ -n "${ONRAMP_TEST_VM-}" ] || [ $((SECONDS - began)) -le 3 ]
	# Others are answered at once; who shares the address with them, when they are timed out.
	run -0 asks 127.0.0.1 /healthz 9990 127.0.0.2
	has "200 OK"
	retry 30 healthy_again
}

is_fresh() { # FILE: touched within the last seconds
	[ -n "$(find "$1" -newermt '-3 seconds')" ]
}

@test "-l FILE: there and fresh while it serves, whoever has all places of /healthz; not where it cannot, or hangs" {
	local file=$WORK/alive
	zds_kill
	zds_up -l "$file"
	is_fresh "$file"
	is "$(stat -c %a "$file")" 600
	run_in zds2 node python3 -ISc '
import socket, time
all = [socket.create_connection(("127.0.0.1", 9990), 5, ("127.0.0.%d" % (3 + i // 8), 0)) for i in range(80)]
print("ready", flush=True)
time.sleep(1000)' >"$WORK/slow" 2>&1 3>&- 9>&- &
	disown
	retry 200 grep -q ready "$WORK/slow"
	touch -d '1 minute ago' "$file"
	run -1 asks 127.0.0.1 /healthz
	retry 30 is_fresh "$file"
	cgroup_end "$CG/zds2"
	mkdir "$CG/zds2"
	rm "$ZDS_SOCKET"
	mkdir "$ZDS_SOCKET" # nothing can be bound there
	retry 30 test ! -e "$file"
	rmdir "$ZDS_SOCKET"
	retry 30 is_fresh "$file"
	zds_signals STOP
	touch -d '1 minute ago' "$file"
	sleep 2
	run ! is_fresh "$file"
	zds_signals CONT
	retry 30 is_fresh "$file"
	run -1 run_in zds2 node timeout 60 "${ZDS:-$ROOT/build/onramp-zds}" -p "$PIN" \
		-s "$WORK/second.sock" -w "$WORKLOADS" -l "$WORK/none/alive"
	is "$output" "onramp-zds: $WORK/none/alive: No such file or directory: give -l"
	[ ! -e "$WORK/second.sock" ]
}

@test "few descriptors left: no pod gets them, who asks does; none: they wait, which costs nothing" {
	local n
	zt_up zt
	descriptors_left 50
	workload pod
	becomes pod "pending netns: Too many open files"
	is "$(zds_metric ztunnel_connected)" 1
	descriptors_left 0
	n=$(zds_ticks)
	(sleep 2; descriptors_left all) 3>&- &
	run -0 asks 127.0.0.1 /healthz
	has "200 OK"
	[ $(($(zds_ticks) - n)) -lt 20 ]
	enabled pod
}

healthy_again() {
	run asks 127.0.0.1 /healthz
	[[ $output == *"200 OK"* ]] && return
	sleep 1
	return 1
}
