# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# What the suites share: a node with pods of its own. Everything is named after
# the process that made it ($RUN), lives in cgroups and netns made here, and is
# taken down by node_down; names that outlive a suite tell which one leaked.

bats_require_minimum_version 1.5.0 2>/dev/null || : # not under bats: the demo
# BATS notes where it is before each command: in an emulated machine that takes
# longer than most commands. There, only when one has failed.
if [ -n "${ONRAMP_TEST_VM-}" ]; then
	set +T
	bats_error_trap() {
		bats_check_status_from_trap
		[ -n "$BATS_DEBUG_LAST_STACK_TRACE_IS_VALID" ] || bats_capture_stack_trace
		BATS_DEBUG_LAST_STACK_TRACE_IS_VALID=1
	}
fi

ROOT=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
ONRAMP=$ROOT/build/onramp
OBJECT=$ROOT/build/onramp.bpf.o
TCP=$ROOT/build/tcp
BPFTOOL=${BPFTOOL:-$("$ROOT/scripts/find-bpftool")}
export ROOT ONRAMP OBJECT TCP BPFTOOL

NODE_IP=10.77.0.1 # the node's address on the pods' bridge
ZTUNNEL_POD_IP=10.77.0.9
ZTUNNEL_POD_IP6=fd00:77::9
export NODE_IP ZTUNNEL_POD_IP ZTUNNEL_POD_IP6

cgroup2_mount() {
	awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts
}

# A node: netns with a bridge, a cgroup to attach to, a bpffs to pin in.
node_up() { # NAME
	RUN=or$$-$1
	CG=$(cgroup2_mount)/$RUN
	WORK=$(mktemp -d "${TMPDIR:-/tmp}/$RUN-XXXX")
	PIN=$WORK/bpf/onramp
	export RUN CG WORK PIN
	mkdir "$CG" "$CG/node" "$WORK/bpf"
	mkfifo "$WORK/silent"
	mount -t bpf bpf "$WORK/bpf"
	ip netns add "$RUN-node"
	# A bridge without an address of its own takes its ports', as they come and go.
	ip -n "$RUN-node" -batch - <<-END
		link set lo up
		link add br0 address 02:77:00:00:00:ff type bridge
		link set br0 up
		addr add $NODE_IP/16 dev br0
	END
}

# A light pod: netns, veth to the bridge, address, cgroup.
pod_up() { light_pod_up "$@"; }
light_pod_up() { # NAME [IP] [CGROUP]
	ip netns add "$RUN-$1"
	ip -n "$RUN-$1" -batch - <<-END
		link set lo up
		link add eth0 type veth peer name v$1 netns $RUN-node
		${2:+addr add $2/16 dev eth0}
		link set eth0 up
		${2:+route add default via $NODE_IP}
	END
	ip -n "$RUN-node" link set "v$1" master br0 up
	mkdir -p "$CG/${3:-$1}"
}

# IPv6 beside what there is: the node's fd00:77::ff, and fd00:77::N for each pod.
dual_stack() { # NAME:N...
	local pod
	ip -n "$RUN-node" addr add fd00:77::ff/64 dev br0 nodad
	for pod; do
		ip -n "$RUN-${pod%%:*}" addr add "fd00:77::${pod#*:}/64" dev eth0 nodad
	done
}

# Between these pods and light ones of pods.c, which have routes for a bridge.
routes_to_light_pods() { # NAME...
	local pod
	ip netns exec "$RUN-node" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
	for pod; do ip -n "$RUN-$pod" route add default via fd00:77::ff; done
}

pod_down() { light_pod_down "$@"; }
light_pod_down() { # NAME
	cgroup_end "$CG/$1"
	opens_stay "$1"
	ip -n "$RUN-node" link del "v$1" # the netns would take it along, but later
	ip netns del "$RUN-$1"
}

# Ends what runs in the cgroup and below, and removes it.
cgroup_end() { # DIRECTORY
	local dir pid
	[ -d "$1" ] || return 0
	shopt -s globstar
	for _ in {1..100}; do
		[ -d "$1" ] || return 0 # gone by itself
		for dir in "$1"/**/; do
			# It may go by itself, as a container's does.
			while read -r pid; do kill -9 "$pid" 2>/dev/null || :; done \
				2>/dev/null <"$dir/cgroup.procs" || :
		done
		! find "$1" -type d -delete 2>/dev/null || return 0
		a_moment
	done
	echo "cgroup $1 is still populated" >&2
	return 1
}

pod_cgroup() { # NAME
	echo "$CG/$1"
}

# Runs a command in a cgroup and a netns, as its first and only process.
run_in() { light_run_in "$@"; }
light_run_in() { # CGROUP NETNS COMMAND...
	local cgroup=$1 netns=$2
	shift 2
	"$TCP" in "$CG/$cgroup/cgroup.procs" "/run/netns/$RUN-$netns" "$@"
}
pod() { local name=$1; shift; run_in "$name" "$name" "$@"; } # NAME COMMAND...
node() { run_in node node "$@"; }                            # COMMAND...

# Starts a server in a pod and waits until it says that it is ready.
serve() { server_up serve "$@"; } # POD ADDRESS PORT...
web() { server_up web "$@"; }     # POD ADDRESS PORT...
server_up() { # serve|web POD ADDRESS PORT...
	launch "$WORK/serve-$2-$4" run_in "$2" "$2" "$TCP" "$1" "${@:3}"
}

# In the background, until it writes that it is ready, which it is waited for.
launch() { # FILE COMMAND...: its output goes there
	local out=$1
	shift
	: >"$out" # or the one before is taken for ready
	"$@" </dev/null >>"$out" 2>&1 3>&- 9>&- &
	disown # or bash tells of its end
	ready "$out"
}

# Waits until a server has written that it is ready, for 5 seconds at most.
ready() { # FILE
	local said=()
	for _ in {1..100}; do
		[ ! -e "$1" ] || mapfile -t said <"$1"
		[[ ${said[*]-} != *ready* ]] || return 0
		a_moment
	done
	echo "gave up: in $1: ${said[*]-}" >&2
	return 1
}

a_moment() { # 50 ms, without a program
	read -rt 0.05 _ <>"$WORK/silent" || :
}

# The command until it succeeds, N times at most, 50 ms apart.
retry() { # N COMMAND...
	local n=$1
	shift
	while ! "$@"; do
		[ $((n -= 1)) -gt 0 ] || { echo "gave up: $*" >&2; return 1; }
		if [ -p "${WORK-}/silent" ]; then a_moment; else sleep 0.05; fi
	done
}

# For suites that leave it to chance, which a seed repeats: RANDOM=N.
roll() { # N: sets rolled, a number below it
	rolled=$((RANDOM % $1))
}

pause() { # MS-AT-MOST
	roll "$1"
	sleep "$((rolled / 1000)).$(printf %03d $((rolled % 1000)))"
}

ztunnel_up() {
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	serve ztunnel 0.0.0.0 15001 15006 15053
}

# Node mode, with nothing but the address; from the node's netns, or another.
reload() { # OPTION...
	load_from "${ONRAMP_NETNS-node}" -z "$ZTUNNEL_POD_IP" "$@"
}

load_from() { # POD|node OPTION...
	nsenter --net="/run/netns/$RUN-$1" "$ONRAMP" load -p "$PIN" -c "$CG" \
		-n "/run/netns/$RUN-node" "${@:2}"
}

# As they are meant to be: ztunnel is known by its cgroup. Counts what escapes.
node_mode() { # OPTION...
	reload -a -t "$(pod_cgroup ztunnel)" "$@"
}

in_pod_mode() { # OPTION...
	load_from node -a -t "$CG/ztunnel" "$@"
}

# What a load has written to settings, and that again: done sooner than another load,
# where it was settings alone that the load between had changed.
settings_read() {
	settings=$("$BPFTOOL" -j map lookup pinned "$PIN/maps/settings" key 0 0 0 0)
	settings=${settings#*\"value\":[}
	settings=${settings%%]*}
	settings=${settings//[\",]/ }
}

settings_write() {
	# shellcheck disable=SC2086 # bytes
	"$BPFTOOL" map update pinned "$PIN/maps/settings" key 0 0 0 0 value $settings
}

# Writes bytes over those that begin at OFFSET, as a load would.
settings_change() { # OFFSET BYTE...
	local byte=$1 all
	settings_read
	shift
	read -ra all <<<"$settings"
	for value; do
		all[byte]=$value
		byte=$((byte + 1))
	done
	settings="${all[*]}" settings_write
}

# A node with ztunnel, an enrolled client and a server that is not.
client_and_server_up() { # NAME of the node
	node_up "$1"
	ztunnel_up
	pod_up client 10.77.1.2
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	node_mode -e 10.77.1.0/24
}

onramp() { # COMMAND [CIDR...]
	"$ONRAMP" "$1" -p "$PIN" "${@:2}"
}

metric() { # NAME-AND-LABELS
	awk -v name="onramp_$1" '$1 == name { print $2 }' "$PIN/metrics"
}

connects() { # VERDICT REASON
	metric "connects_total{verdict=\"$1\",reason=\"$2\"}"
}

# Each connect() is counted, once: what metrics have add up to what the TCP of
# all netns here began (ActiveOpens: onramp has no hand in it) and to what ended
# before that (see never_began). setup_file begins with `connects_from_now`, and
# each test's teardown is `connects_add_up`.
connects_from_now() {
	: >"$WORK/opens"
	connects_add_up 2>/dev/null || :
}

connects_add_up() {
	awk -v opens="$("$TCP" opens "/run/netns/$RUN"-*)" '
		FILENAME ~ /opens$/ { opens += $1; next }
		/^onramp_connects_total/ { counted += $2 }
		END {
			if (counted == opens) exit
			print "connects in metrics: " counted ", made: " opens >"/dev/stderr"
			print counted - opens >>ARGV[1] # the next test is not to blame
			exit 1
		}' "$WORK/opens" "$PIN/metrics"
}

never_began() { # N: connect()s that failed before the handshake
	echo "$1" >>"$WORK/opens"
}

opens_stay() { # POD: whose netns goes
	[ ! -e "$WORK/opens" ] || "$TCP" opens "/run/netns/$RUN-$1" >>"$WORK/opens"
}

# No connection of an enrolled pod got past connect() unjudged.
nothing_escaped() {
	is "escaped $(metric escaped_total)" "escaped 0"
}

entries() { # MAP: how many entries it has
	"$ROOT/build/bpfcall" count "$PIN/maps/$1"
}

# The id of the program that what arrives at pods goes on in.
behind() {
	"$BPFTOOL" -j map dump pinned "$PIN/maps/inbound_program" | jq -c '.[].value'
}

# Of what bpftool shows, in all.
kib() {
	grep -o '"bytes_memlock":[0-9]*' |
		awk -F : '{ sum += $2 } END { print int(sum / 1024) " KiB" }'
}

memory_of_maps() {
	for map in "$PIN"/maps/*; do "$BPFTOOL" -j map show pinned "$map"; done | kib
}

memory_of_programs() {
	for link in "$PIN"/links/* "$PIN"/{pods,metrics}; do
		"$BPFTOOL" -j link show pinned "$link"
	done | grep -o '"prog_id":[0-9]*' | cut -d : -f 2 | while read -r id; do
		"$BPFTOOL" -j prog show id "$id"
	done | kib
}

cgroup_id() { # NAME, below the node's
	stat -c %i "$CG/$1"
}

# IPv4 a.b.c.d as the 16 bytes that the maps hold, for bpftool.
bytes_of() { # IP
	echo 0 0 0 0 0 0 0 0 0 0 255 255 "${1//./ }"
}

node_down() {
	local ns mine escaped
	[ -n "${RUN-}" ] || return 0
	escaped=$([ ! -e "$PIN/metrics" ] || metric escaped_total)
	[ ! -e "$PIN" ] || onramp unload
	cgroup_end "$CG"
	for ns in "/run/netns/$RUN"-*; do echo "netns del ${ns##*/}"; done | ip -batch -
	umount "$WORK/bpf"
	rm -rf --one-file-system "$WORK"
	mine=$(ip netns list | grep "^$RUN" || :)
	[ -z "$mine" ] || { echo "netns leaked: $mine" >&2; return 1; }
	# A suite where connections escape on purpose says how many.
	[ "${escaped:-${ESCAPES:-0}}" = "${ESCAPES:-0}" ] || { echo "escaped: $escaped" >&2; return 1; }
}

# shellcheck source=vmtests/runc.bash
[ "${ONRAMP_TEST_RUNTIME-}" != runc ] || . "$ROOT/vmtests/runc.bash"

# For checks on output: says what was there when it was not what was wanted.
has() { # TEXT...
	local text
	for text; do
		[[ $output == *"$text"* ]] && continue
		printf 'wanted: %s\ngot: %s\n' "$text" "$output" >&2
		return 1
	done
}

# A section of a README: its heading, and all up to the next one of its level or above.
# In what is fenced # begins no heading.
section() { # FILE HEADING
	awk -v heading="$2" '
		/^```/ { fenced = !fenced }
		!fenced && /^#+ / {
			level = index($0, " ")
			if (on && level <= on) exit
			if (substr($0, level + 1) == heading) on = level
		}
		on
		END { exit !on }' "$ROOT/$1"
}

is() { # ACTUAL WANTED
	[ "$1" = "$2" ] || { printf 'wanted: %s\ngot: %s\n' "$2" "$1" >&2; return 1; }
}

# A program that dials 10.77.2.2:80 once for each step, and goes on: as COMMAND... runs it.
steps_begin() { # COMMAND...
	mkfifo "$WORK/steps"
	"$@" "$TCP" steps 10.77.2.2 80 <"$WORK/steps" >"$WORK/dialled" 3>&- &
	exec 9>"$WORK/steps"
}

step() { # N [WANTED...]: of what it says of the Nth, which is in output then
	echo >&9
	retry 100 sh -c "[ \$(wc -l <'$WORK/dialled') -ge $1 ]"
	output=$(sed -n "$1p" "$WORK/dialled")
	has "${@:2}"
}

# A process of that name in a cgroup and a netns, for as long as its cgroup lives.
named() { # NAME CGROUP NETNS [COMMAND...]
	[ -e "$BATS_TEST_TMPDIR/$1" ] || cp "$TCP" "$BATS_TEST_TMPDIR/$1"
	mkdir -p "$CG/$2"
	"$TCP" in "$CG/$2/cgroup.procs" "/run/netns/$RUN-$3" "${@:4}" \
		"$BATS_TEST_TMPDIR/$1" share 127.0.0.1 $((20000 + RANDOM % 10000)) >/dev/null 3>&- &
	disown
	retry 100 grep -q "$1" "/proc/$!/comm"
}

# The ids in map kubelets, in order.
kubelets() {
	"$BPFTOOL" -j map dump pinned "$PIN/maps/kubelets" |
		jq -r '.[].formatted.key' | sort -n | paste -sd ' '
}

ids() { # DIRECTORY...: as kubelets prints them
	stat -c %i "$@" | sort -n | paste -sd ' '
}
