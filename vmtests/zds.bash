# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# What the suites of onramp-zds share beside helpers.bash and mesh.bash, which are to be
# loaded before: pods in cgroups as a kubelet names them, known by their names here, and
# what is written of them; onramp-zds, and stand-ins for ztunnel that it tells.

# The node, DIR and its neighbours below a path that is root's alone: /tmp is not.
zds_node_up() { # NAME of the node
	node_up "$1"
	ip -n "$RUN-node" addr add fd00:77::ff/64 dev br0 nodad
	STATE=/run/onramp-test-$RUN
	WORKLOADS=$STATE/workloads
	ZDS_SOCKET=$WORK/zds-socket
	export STATE WORKLOADS ZDS_SOCKET
	mkdir -p "$CG/zds"
	[ -z "${ONRAMP_TEST_VM-}" ] || chmod 755 /run # virtme's is everybody's
	mkdir -m 755 "$STATE"
	mkdir -m 700 "$WORKLOADS" "$WORKLOADS/ztunnels"
}

zds_node_down() {
	node_down
	[ -z "${STATE-}" ] || rm -rf "$STATE"
}

# shellcheck disable=SC2120 # suites give options
zds_load() { # OPTION...: ztunnel's cgroup is for onramp-zds to find
	load_from node -a "$@"
}

# Sets uid to a pod's.
uid_of() { # NAME
	read -r uid <"$WORK/uid-$1"
}

# Sets cgroup to a pod's, below the node's: NAME, or NAME/BELOW. Others are as they are.
cgroup_of() { # NAME
	local uid below=
	cgroup=$1
	[ -e "$WORK/uid-${1%%/*}" ] || return 0
	uid_of "${1%%/*}"
	[[ $1 != */* ]] || below=/${1#*/}
	cgroup=kubepods/besteffort/pod$uid$below
}

# For pod(), serve() and what else runs by a pod's name: in a cgroup of its own, below the
# pod's, as a container is.
run_in() { # CGROUP NETNS COMMAND...
	local cgroup name=$1
	shift
	[ ! -e "$WORK/uid-$name" ] || name=$name/app
	cgroup_of "$name"
	light_run_in "$cgroup" "$@"
}

# For launch, of an agent that waits for what is said to it: nobody says anything.
listening_to() { # CGROUP COMMAND...
	run_in "$1" node "${@:2}" </dev/null
}

# A pod that has run nothing: a UID, its cgroup, and a netns with addresses IP and fd00:77::N.
kpod_made() { # NAME IP [N]
	kpod_named "$1"
	netns_made "$@"
}

netns_made() { # NAME IP [N]: and its cgroup
	local cgroup
	cgroup_of "$1"
	plain_up "$1" "$2" "${3-}" "$cgroup/app"
}

# Nothing but its UID, of which files may tell before there is a cgroup.
kpod_named() { # NAME
	[ -e "$WORK/uid-$1" ] || cat /proc/sys/kernel/random/uuid >"$WORK/uid-$1"
}

# A pod that has no UID.
plain_up() { # NAME IP [N [CGROUP]]
	light_pod_up "$1" "$2" "${4-$1}"
	has_ipv6 "$1" "${3-}"
}

has_ipv6() { # POD [N]
	[ -z "$2" ] || ip -n "$RUN-$1" addr add "fd00:77::$2/64" dev eth0 nodad
}

# Its first program, which stays.
sandbox() { # NAME
	local cgroup
	cgroup_of "$1/sandbox"
	mkdir -p "$CG/$cgroup"
	launch "$WORK/sandbox-$1" run_in "$1/sandbox" "$1" sh -c 'echo ready; exec sleep 1000000'
}

kpod_up() { # NAME IP [N]
	kpod_made "$@"
	sandbox "$1"
}

# What runs in it ends, with its cgroups; its netns stays.
kpod_end() { # NAME
	local cgroup
	cgroup_of "$1"
	cgroup_end "$CG/$cgroup"
}

# What runs in it next is to find its cgroup, as a kubelet makes it.
kpod_begins_again() { # NAME
	local cgroup
	cgroup_of "$1"
	mkdir -p "$CG/$cgroup/app"
}

kpod_down() { # NAME
	kpod_end "$1"
	netns_down "$1"
	rm "$WORK/uid-$1"
}

netns_down() { # POD
	light_pod_down "$1"
}

# Its sandbox is made anew, as after a crash: another netns by the same UID. What ran
# in the one before has ended, and its cgroup stays.
sandbox_anew() { # NAME IP [N]
	containers_end "$1"
	netns_down "$1"
	netns_made "$@"
}

# All programs of a pod end; its cgroups stay, as where there is no sandbox process.
containers_end() { # NAME
	local cgroup below
	cgroup_of "$1"
	for below in "$CG/$cgroup"/*/; do
		cgroup_end "$below"
		mkdir "$below"
	done
}

# All but ztunnels, whatever they have come to.
kpods_down() {
	local file name uid
	for file in "$WORK"/uid-*; do
		name=${file##*/uid-}
		uid_of "$name"
		[ ! -e "$WORKLOADS/ztunnels/$uid" ] || continue
		rm -f "$WORKLOADS/$uid"
		kpod_down "$name" || :
	done
}

# What is written of a pod, word by word; and as it mostly is.
workload_text() { # NAME [LINE]...
	local uid
	uid_of "$1"
	(
		umask 077
		printf '%s\n' "${@:2}" >"$WORKLOADS/.new-$BASHPID"
		mv "$WORKLOADS/.new-$BASHPID" "$WORKLOADS/$uid"
	)
}

workload() { # NAME [LINE]...
	workload_text "$1" namespace=default "name=$1" service_account=account "${@:2}"
}

no_workload() { # NAME
	local uid
	uid_of "$1"
	rm "$WORKLOADS/$uid"
}

is_ztunnel() { # NAME
	local uid
	uid_of "$1"
	(umask 077 && : >"$WORKLOADS/ztunnels/$uid")
}

# Prints what is said of it; nothing: there is no such file.
status() { # NAME
	local uid text=
	uid_of "$1"
	read -r text 2>/dev/null <"$STATE/status/$uid" || :
	echo "$text"
}

status_is() { # NAME TEXT
	[ "$(status "$1")" = "$2" ]
}

# It is so, or will be.
becomes() { # NAME TEXT
	retry 200 status_is "$@" && return
	echo "status of $1: $(status "$1")" >&2
	tail -n 20 "$WORK/zds" >&2
	return 1
}

enabled() { # NAME...
	local name
	for name; do becomes "$name" enabled; done
}

# onramp-zds, until it is ready; its metrics are served in the node's netns.
# shellcheck disable=SC2120
zds_up() { # OPTION...
	launch "$WORK/zds" run_in zds node "${ZDS:-$ROOT/build/onramp-zds}" -p "$PIN" -s "$ZDS_SOCKET" \
		-w "$WORKLOADS" -m 127.0.0.1:9990 "$@"
}

zds_kill() { # [SIGNAL]: KILL
	zt_kill "${1-KILL}" zds
}

zds_pid() { # sets pid; fails if it does not run
	pid=
	read -r pid <"$CG/zds/cgroup.procs" || :
	[ -n "$pid" ]
}

zds_signals() { # STOP|CONT
	local pid
	zds_pid
	kill "-$1" "$pid"
}

# From now on it may have so many descriptors more than it has.
descriptors_left() { # COUNT|all
	local pid n=0
	zds_pid
	while [ -e "/proc/$pid/fd/$n" ]; do n=$((n + 1)); done
	if [ "$1" = all ]; then n=4096; else n=$((n + $1)); fi
	prlimit --pid "$pid" --nofile="$n:"
}

# What it takes of a CPU, in hundredths of a second.
zds_ticks() {
	local pid
	zds_pid
	awk '{ print $14 + $15 }' "/proc/$pid/stat"
}

logged() { # PATTERN: onramp-zds has, since it was started, or will
	retry 200 grep -qE -- "$1" "$WORK/zds" && return
	echo "not logged: $1" >&2
	tail -n 20 "$WORK/zds" >&2
	return 1
}

# How many lines of its log are like this, since log_mark.
log_mark() {
	once=()
	log_begin=$(($(wc -l <"$WORK/zds") + 1))
}
log_count() { # PATTERN
	tail -n "+${log_begin-1}" "$WORK/zds" | grep -cE -- "$1" || :
}
# Since log_mark; and nobody_left sees to it that it stays so.
logged_once() { # PATTERN
	retry 200 log_count_is "$1" 1 && once+=("$1") && return
	echo "not logged once: $1" >&2
	tail -n "+${log_begin-1}" "$WORK/zds" >&2
	return 1
}
log_count_is() { # PATTERN COUNT
	[ "$(log_count "$1")" = "$2" ]
}

zds_metric() { # NAME-AND-LABELS
	node timeout 10 bash -c 'exec 5<>/dev/tcp/127.0.0.1/9990
		printf "GET /metrics HTTP/1.0\r\n\r\n" >&5
		cat <&5' | awk -v name="$1" '$1 == name { print $2 }'
}

# Sets way to what becomes of a connection: refused, direct, ztunnel, or what it fails with.
way_of() { # POD ADDRESS [PORT]
	way_from "$1" "$@"
}

way_from() { # CGROUP POD ADDRESS [PORT]: of a program there
	local from peer
	run run_in "$1" "$2" "$TCP" dial "$3" "${4-80}"
	way=$output
	[[ $way != ECONNREFUSED && $way != EPERM ]] || way=refused
	[ "$status" = 0 ] || return 0
	from=${output#* from=} peer=${output#* peer=}
	from=${from%% *} peer=${peer%% *}
	way=ztunnel # the server's peer is another than the client
	[ "${from##*:}" != "${peer##*:}" ] || way=direct
}

# All that a pod, which has a server on port 80, dials at one that has too, and the other
# way round: both families.
goes() { # WAY POD IP N OTHER IP N
	local pair
	for pair in "$2 $6" "$2 fd00:77::$7" "$5 $3" "$5 fd00:77::$4"; do
		# shellcheck disable=SC2086 # words
		way_of $pair
		is "$pair: $way" "$pair: $1"
	done
}

# As at a node's boot: the unit's command line, of this node.
unit_starts() { # DIRECTORY of workloads
	local line
	line=$(sed -n 's/^ExecStart=//p' "$ROOT/scripts/systemd/onramp.service")
	[[ $line = /usr/local/sbin/onramp\ *\ /var/lib/onramp/workloads ]]
	line=${line#* }
	# shellcheck disable=SC2086 # words
	command "$ONRAMP" ${line% *} "$1" -p "$PIN" -c "$CG" -n "/run/netns/$RUN-node"
}

# How often a ztunnel was told this, as a stand-in says it.
told_count() { # NAME WHAT
	grep -c "^told $2" "$WORK/$1" || :
}

told_is() { # NAME WHAT COUNT
	[ "$(told_count "$1" "$2")" = "$3" ]
}

# A stand-in for ztunnel in a pod, told by onramp-zds; until it has its snapshot.
zt_up() { # NAME [OPTION]...
	local cgroup
	cgroup_of "$1/zt"
	mkdir -p "$CG/$cgroup"
	launch "$WORK/$1" run_in "$1/zt" "$1" "$ROOT/vmtests/ztunnel" --redial-max 0.1 --retry 1 "${@:2}" "$ZDS_SOCKET"
}

zt_kill() { # SIGNAL NAME: until its process is gone
	local pid cgroup
	cgroup_of "$2"
	[ "$cgroup" = "$2" ] || cgroup+=/zt
	read -r pid <"$CG/$cgroup/cgroup.procs"
	kill "-$1" "$pid"
	retry 100 is_gone "$cgroup"
}

# Sets uid, and key to its bytes.
key_of() { # NAME
	local hex i
	uid_of "$1"
	hex=${uid//-/}
	key=
	for ((i = 0; i < 32; i += 2)); do key+=" ${hex:i:2}"; done
}

# What mesh_pods has of a pod's UID, by the bits' names; nothing: no entry.
rule() { # NAME
	local key word text=
	key_of "$1"
	# shellcheck disable=SC2086 # bytes
	word=$("$BPFTOOL" -j map lookup pinned "$PIN/maps/mesh_pods" key hex $key 2>/dev/null) || word=
	[[ $word =~ '"value":["0x'([0-9a-f]+) ]] || return 0
	word=$((16#${BASH_REMATCH[1]}))
	for bit in in:1 out:2 zds-in:4 zds-out:8 dns:16 no-dns:32; do
		((!(word & ${bit#*:}))) || text+=" ${bit%:*}"
	done
	echo "${text# }"
}

rule_is() { # NAME TEXT
	[ "$(rule "$1")" = "$2" ]
}

# Each trace of a pod: pins, maps, status. uid_netns has it for as long as its cgroup is there.
traces() { # NAME
	local uid key
	key_of "$1"
	find "$PIN/inbound" "$PIN/links" "$STATE/status" -name "*$uid*" 2>/dev/null || :
	[ -z "$(rule "$1")" ] || echo "mesh_pods: $(rule "$1")"
	# shellcheck disable=SC2086 # bytes
	! "$BPFTOOL" map lookup pinned "$PIN/maps/uid_netns" key hex $key >/dev/null 2>&1 || echo uid_netns
}

# Of all pods.
what_there_is() {
	echo "$(find "$PIN/inbound" -type f 2>/dev/null | wc -l) led, $(entries mesh_pods) rules," \
		"$(entries uid_netns) netns, $(find "$STATE/status" -name '[0-9a-f]*' | wc -l) statuses"
}

# What costs nothing is looked at first.
leaves_only() { # NAME TRACES
	local uid
	uid_of "$1"
	[ ! -e "$STATE/status/$uid" ] && [ ! -e "$STATE/status/.$uid" ] && [ "$(traces "$1")" = "$2" ]
}

# Connections of it all the while, a pair of ADDRESS PORT after the other, until stops;
# each that fails, or has another fate, is told. DIALS_MS: between two of them.
dials() { # NAME FATE ADDRESS PORT...
	local cgroup
	cgroup_of "$1/dials"
	mkdir -p "$CG/$cgroup"
	[ -p "$WORK/dials" ] || mkfifo "$WORK/dials"
	run_in "$1/dials" "$1" "$TCP" soak "${DIALS_MS:-${ONRAMP_TEST_VM:+10}5}" "${@:2}" <"$WORK/dials" \
		>"$WORK/dials-$1" 2>"$WORK/lost-$1" 3>&- 9>&- &
	disown
}

dials_begin() { # NAME...: they have, since dials
	local name
	exec 9>"$WORK/dials"
	for name; do retry 200 grep -q = "$WORK/dials-$name"; done
}

dials_end() { # NAME...
	local name cgroup
	exec 9>&-
	for name; do
		cgroup_of "$name/dials"
		retry 200 is_gone "$cgroup"
	done
}

sum_of() { # POD...: how many they have dialled
	local pod
	for pod; do cat "$WORK/dials-$pod"; done |
		awk -F '[ =]' '{ sum += $2 + $4 + $6 + $8 } END { print sum + 0 }'
}

dials_stop() { # NAME...: and none was lost
	local name
	dials_end "$@"
	for name; do is "$(cat "$WORK/lost-$name")" ""; done
}

# For the suites of how pods come and go: a ztunnel, and a server that is no pod's.
SERVER=10.77.2.2 SERVER6=fd00:77::22

members_node_up() { # NAME of the node
	zds_node_up "$1"
	kpod_up zt "$ZTUNNEL_POD_IP" 9
	plain_up server $SERVER 22
	serve server :: 80
	server_up both server :: 53
	cat >"$WORK/ask.py" <<-'END'
		import socket, struct, sys
		query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\4name\4test\0\0\1\0\1"
		def ask(to, kind):
		    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, kind)
		    s.settimeout(5)
		    if kind == socket.SOCK_DGRAM:
		        s.sendto(query, (to, 53))
		    else:
		        s.connect((to, 53))
		        s.send(struct.pack("!H", len(query)) + query)
		    return "ztunnel" if s.recv(512)[-4:] == bytes((10, 9, 9, 9)) else "direct"
		for to in sys.argv[1:]:
		    for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
		        try: print(ask(to, kind), end=" ")
		        except OSError as error: print(type(error).__name__, end=" ")
	END
	is_ztunnel zt
	zds_load "${@:2}"
	zds_up
	members_zt_up
}

members_zt_up() {
	zt_up zt --dns name.test=10.9.9.9
}

zt_signals() { # SIGNAL NAME
	local cgroup pid
	cgroup_of "$2/zt"
	read -r pid <"$CG/$cgroup/cgroup.procs"
	kill "-$1" "$pid"
}

# A pod that is enabled, with a server on port 80.
member_up() { # NAME N [LINE]...
	kpod_made "$1" "10.77.1.$2" "$2"
	workload "$1" "${@:3}"
	serve "$1" :: 80
	enabled "$1"
}

goes_by() { # WAY NAME N
	goes "$1" "$2" "10.77.1.$3" "$3" server $SERVER 22
}

# It leaves, and then ends: nothing of it is left.
member_down() { # NAME
	no_workload "$1"
	retry 200 leaves_only "$1" uid_netns || { traces "$1" >&2; return 1; }
	kpod_end "$1"
	retry 200 leaves_only "$1" "" || { traces "$1" >&2; return 1; }
	kpod_down "$1"
}

late() {
	zds_metric onramp_pods_enrolled_late_total
}

becomes_way() { # WAY POD ADDRESS
	way_of "$2" "$3"
	[ "$way" = "$1" ]
}

zt_has_snapshot() { # the last onramp-zds'
	logged event=snapshot
	retry 200 zt_is_connected
}
zt_is_connected() {
	[ "$(zds_metric ztunnel_connected)" = 1 ]
}

# Connections each way all the while.
dial_each_way() { # NAME N
	dials "$1" direct $SERVER 80 $SERVER6 80
	dials server direct "10.77.1.$2" 80 "fd00:77::$2" 80
	dials_begin "$1" server
}

answered_by() { # POD WHO: by both families and both protocols
	run -0 pod "$1" python3 -IS "$WORK/ask.py" "$SERVER" "$SERVER6"
	[ "$output" = "$2 $2 $2 $2 " ] || { echo "$output"; return 1; }
}

# For the suites of what files and DIR are like: a and b are enabled, whatever happens, and
# of c a test may say what it likes.
bystanders_up() { # NAME of the node
	local each
	zds_node_up "$1"
	kpod_up zt "$ZTUNNEL_POD_IP"
	plain_up server $SERVER
	serve server :: 80
	is_ztunnel zt
	zds_load
	zds_up
	zt_up zt
	for each in a:1 b:2 c:3; do kpod_up "${each%:*}" "10.77.1.${each#*:}"; done
	workload a
	workload b
	enabled a b
}

bystanders_setup() {
	log_mark
	del_before=$(told_count zt del)
}

bystanders_teardown() {
	local uid name
	zds_pid || zds_up
	uid_of c
	rm -rf "${WORKLOADS:?}/$uid"
	for name in a b; do
		uid_of $name
		if [ ! -e "$WORKLOADS/$uid" ] || ! status_is $name enabled; then workload $name; fi
	done
	enabled a b
	retry 200 leaves_only c uid_netns
}

goes_at_all() { # WAY NAME
	way_of "$2" $SERVER
	is "$2: $way" "$2: $1"
}

nobody_left() {
	sleep 1.2 # or they will
	for pattern in "${once[@]}"; do is "$pattern: $(log_count "$pattern")" "$pattern: 1"; done
	is "$(status a) $(status b)" "enabled enabled"
	is "$(rule a) $(rule b)" "zds-in zds-in"
	goes_at_all ztunnel a
	goes_at_all ztunnel b
	is "$(told_count zt del)" "$del_before"
}

# shellcheck source=vmtests/zds_runc.bash
[ "${ONRAMP_TEST_RUNTIME-}" != runc ] || . "$ROOT/vmtests/zds_runc.bash"
