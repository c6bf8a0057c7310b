#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=alone,once
# Everything at once, at random from a seed, for as long as you like: `make soak`
# takes 20 minutes (SOAK_MINUTES), SEED=N repeats a run's events in their order.
#
# What may fail: connections and queries of enrolled pods that overlap a time when
# ztunnel was away. What may be told nothing (but never something wrong): those that
# overlap a time when handovers was full. Both, or see where they were sent: those that
# overlap a load from one mode to the other. What may come from the wrong resolver: an
# answer on its way while DNS capture is switched on or off.

load helpers.bash

SECONDS_TO_SOAK=${SOAK_MINUTES:+$((SOAK_MINUTES * 60))}
SECONDS_TO_SOAK=${SECONDS_TO_SOAK:-${ONRAMP_TEST_SOAK:-30}}
SEED=${SEED:-$((EPOCHSECONDS % 32768))}
BPFCALL=$ROOT/build/bpfcall
HOSTILE=$ROOT/build/hostile
DESTINATIONS="10.77.2.2 80 10.77.2.2 53 fd00:77::2 80"
MS=${ONRAMP_TEST_VM:+100} # between a pod's connections
MS=${MS:-10}
LOAD_MS=${ONRAMP_TEST_VM:+6000}
LOAD_MS=${LOAD_MS:-300} # in which a load may be killed
# Attempts of hostile.c that need nobody else, and that no capability helps.
ATTEMPTS=(plain-connect ztunnels-uid-gid own-netns-after-socket cgroups-below-20-deep
	accepted-then-dials becomes-ipv4 mptcp-fast-open io-uring-thread ipv6 from-loopback)

setup_file() {
	node_up soak
	export ABOVE=$CG CG=$CG/below # so that onramp can move up and down
	mkdir -p "$CG/node" "$CG/ztunnel/in-light" "$CG/in" "$CG/out"
	pod_up server 10.77.2.2
	pod_up one 10.77.1.2
	pod_up two 10.77.1.3
	pod_up hostile 10.77.1.9
	pod_up flooder 10.77.1.66
	pod_up stranger 10.77.3.2
	pod_up sometimes 10.77.4.2
	dual_stack server:2 one:12 two:13 hostile:19 stranger:32 sometimes:42
	routes_to_light_pods server
	launch "$WORK/server" run_in server server "$TCP" both :: 80 53
	# All know ztunnel's two addresses: who asks for one that is away is refused
	# when it is back. Where a flood goes nobody answers.
	neighbours node br0 02:77:00:00:00
	for pod in one two hostile sometimes stranger; do neighbours "$pod" eth0 02:77:00:00:00; done
	neighbours flooder eth0 02:de:ad:00:00
	ip -n "$RUN-flooder" neigh add 10.77.9.9 lladdr 02:de:ad:00:00:99 dev eth0
	SELF=10.77.1.9 SELF6=fd00:77::19 SERVER=10.77.2.2 SERVER6=fd00:77::2
	export SELF SELF6 SERVER SERVER6 NODE=$NODE_IP ATTACHED=$CG CGROUP=$CG/hostile/own
	export ZTUNNEL=$ZTUNNEL_POD_IP ZTUNNEL6=$ZTUNNEL_POD_IP6
	mkdir "$CGROUP"
	mkfifo "$WORK/never" # says nothing
}

neighbours() { # NAME DEVICE MAC
	ip -n "$RUN-$1" -batch - <<-END
		neigh add 10.77.0.8 lladdr $3:08 dev $2
		neigh add 10.77.0.9 lladdr $3:09 dev $2
		neigh add fd00:77::8 lladdr $3:08 dev $2
		neigh add fd00:77::9 lladdr $3:09 dev $2
	END
}

teardown_file() {
	CG=$ABOVE
	node_down
}

excused() { # WHY FROM: until now
	echo "$2 $EPOCHREALTIME $1" >>"$WORK/excuses"
}

# ztunnel's pods: z8 and z9 in turn, and a listener in each pod that is enrolled.
ztunnel_pod_up() { # 8|9
	pod_up "z$1" "10.77.0.$1" "ztunnel/z$1"
	# One MAC for one address, or its neighbours would seek the one before.
	ip -n "$RUN-z$1" -batch - <<-END
		link set eth0 address 02:77:00:00:00:0$1
		addr add fd00:77::$1/64 dev eth0 nodad
		route add default via fd00:77::ff
	END
	zt=$1
}

ztunnel_serves() {
	mkdir "$CG/ztunnel/z$zt/app"
	launch "$WORK/z$zt" run_in "ztunnel/z$zt/app" "z$zt" "$TCP" both :: 15001 15006 15053
}

ztunnel_ends() { # 8|9
	cgroup_end "$CG/ztunnel/z$1"
	ip -n "$RUN-node" link del "vz$1"
	ip netns del "$RUN-z$1"
}

listener_begins() { # POD N
	mkdir "$CG/ztunnel/in-$1-$2"
	launch "$WORK/in-$1-$2" run_in "ztunnel/in-$1-$2" "$1" "$TCP" both :: 15001 15053
}

# Load that lasts until `calm` closes 9, which nobody else has open.
lasting() { # NAME COMMAND...
	"${@:2}" <"$WORK/until" >"$WORK/$1.sums" 2>"$WORK/$1.log" 3>&- 9>&- &
	pids+=($!)
}

calm() {
	local pid
	exec 9>&-
	for pid in "${pids[@]}"; do retry 600 ended "$pid"; done
}

ended() { # PID
	! kill -0 "$1" 2>/dev/null
}

light_pods() { # in|out NET FATE [OPTION]...
	lasting "$1" node "$ROOT/build/pods" -p $((MS * 10)) -s "$SEED" -n "${3/proxied/any}" "${@:4}" \
		"$CG/$1" "$2" 1000000 16 "$TCP" soak $((MS * 20)) "$3" 10.77.2.2 80 fd00:77::2 80
}

# What is loaded, in one of its ways.
mode_options() {
	# In node mode ztunnel is known by its cgroup or its netns, or by both.
	netns=node
	roll 3
	case $mode$rolled in
	in-pod*) options=(-t "$CG/ztunnel") ;;
	node0) options=() netns=z$zt ;;
	node1) options=(-t "$CG/ztunnel/z$zt") netns=z$zt ;;
	node2) options=(-t "$CG/ztunnel/z$zt") ;;
	esac
	[ "$mode" = in-pod ] || options+=(-z "10.77.0.$zt" -z "fd00:77::$zt")
	roll 2
	[ "$rolled" = 0 ] || options+=(-H)
	roll 2
	[ "$rolled" = 0 ] || options+=(-a)
	roll 2
	where=$CG
	[ "$rolled" = 0 ] || where=$ABOVE
	options+=(-c "$where")
	roll 3
	dns=$rolled
	[ "$dns" = 0 ] || options+=(-d)
	roll 2
	loader=$ONRAMP
	[ "$rolled" = 0 ] || loader=$ROOT/build/other/onramp
}

# Where sockops leaves the clients, what is half-made then stays.
note_load() {
	[ "$mode" = "$loaded" ] || touch "$WORK/left"
	echo "$EPOCHREALTIME   $netns ${options[*]//"$ABOVE"/.}" >>"$WORK/events"
}

load_it() { # OPTION...
	nsenter --net="/run/netns/$RUN-$netns" "$loader" load -p "$PIN" -n "/run/netns/$RUN-node" \
		"${options[@]}" "$@"
}

load_somehow() {
	local from=$EPOCHREALTIME
	mode_options
	note_load
	load_it "$@"
	excused switch "$from"
	[ "$mode" = "$loaded" ] || excused mode "$from"
	loaded=$mode
	roll 3
	[ "$rolled" != 0 ] || note_ids
}

# The ids of all that is ours now. (bpftool batch stops after the first link.)
ids_now() {
	local file kind id
	for file in "$PIN"/links/* "$PIN"/{pods,metrics}; do
		"$BPFTOOL" -j link show pinned "$file" 2>/dev/null || : # of a load that was killed
	done | grep -oE '"(prog_id|id)":[0-9]+' | sed 's/"id":/link /; s/"prog_id":/prog /' |
		while read -r kind id; do
			echo "$kind $id"
			[ "$kind" = link ] || "$BPFTOOL" -j prog show id "$id" |
				grep -oE '"map_ids":\[[0-9,]*' | grep -oE '[0-9]+' | sed 's/^/map /'
		done
	for file in "$PIN"/maps/*; do "$BPFTOOL" -j map show pinned "$file"; done |
		grep -oE '"id":[0-9]+' | sed 's/"id":/map /'
}

note_ids() {
	ids_now >"$WORK/now"
	sort -u -o "$WORK/ids" "$WORK/now" "$WORK/ids"
}

# The events.

event_load() { load_somehow; }

event_mode() {
	case $mode in node) mode=in-pod ;; *) mode=node ;; esac
	load_somehow
}

event_killed() {
	local from=$EPOCHREALTIME pid
	mode_options
	note_load
	load_it >/dev/null 2>&1 3>&- 9>&- &
	pid=$!
	pause "$LOAD_MS"
	kill -9 "$pid" 2>/dev/null || :
	wait "$pid" 2>/dev/null || :
	roll 2
	[ "$rolled" = 0 ] || load_somehow
	excused switch "$from"
}

event_rules() {
	local cidr=10.200.$((RANDOM % 200)).0/24 command
	roll 3
	command=(enroll exclude forget)
	onramp "${command[rolled]}" 10.77.4.0/24 2>/dev/null || [ "$rolled" = 2 ] # was not there
	onramp enroll "$cidr" fd00:77:200::/48
	onramp exclude 10.77.3.0/24
	onramp forget "$cidr" fd00:77:200::/48
}

event_bpftool() {
	local key
	key="120 0 0 0 $(bytes_of 10.77.4.0)"
	roll 3
	# shellcheck disable=SC2086 # bytes
	case $rolled in
	0) "$BPFTOOL" map delete pinned "$PIN/maps/mesh_rules" key $key 2>/dev/null || : ;;
	*) "$BPFTOOL" map update pinned "$PIN/maps/mesh_rules" key $key value "$rolled" 0 0 0 ;;
	esac
}

event_ztunnel_restarted() {
	local from=$EPOCHREALTIME
	cgroup_end "$CG/ztunnel/z$zt/app"
	pause 700
	ztunnel_serves
	excused away "$from"
}

# As an init container: what the old one has accepted by then ends with it, and no more.
# It listens before the load, or after: then it takes over as it does.
event_ztunnel_replaced() {
	local old=$zt from
	ztunnel_pod_up $((17 - zt))
	roll 2
	if [ "$rolled" = 0 ]; then
		ztunnel_serves
		load_somehow
	else
		load_somehow
		pause 300
		ztunnel_serves
	fi
	from=$EPOCHREALTIME
	ztunnel_ends "$old"
	excused away "$from"
}

event_listener_replaced() {
	local from
	listener_begins one $((listener + 1))
	from=$EPOCHREALTIME
	cgroup_end "$CG/ztunnel/in-one-$listener"
	excused away "$from"
	listener=$((listener + 1))
}

event_flood() {
	roll 2000
	pod flooder timeout 2 "$TCP" flood $((rolled + 100)) 10.77.9.9 81 <>"$WORK/never" >/dev/null 2>&1 3>&- 9>&- &
	disown
}

event_storm() {
	roll 2
	pod hostile timeout "$((rolled + 1))" "$HOSTILE" storm 10.9.9.9 >/dev/null 2>&1 3>&- 9>&- &
	disown
}

event_hostile() {
	roll ${#ATTEMPTS[@]}
	pod hostile "$HOSTILE" make soak "${ATTEMPTS[rolled]}" >>"$WORK/attempts"
}

event_execs() {
	mkdir -p "$CG/one/storm"
	roll 100
	run_in one/storm one sh -c "i=$rolled; while [ \$((i -= 1)) -gt 0 ]; do /bin/true; done"
	rmdir "$CG/one/storm"
}

event_cgroups() {
	local dirs=("$CG"/two/{a,b,c,d}{1,2,3,4})
	mkdir "${dirs[@]}"
	run_in two/a1 two true
	run_in two/d4 two true
	run_in two/c3 node true
	rmdir "${dirs[@]}"
}

event_full() {
	local maps=(cgroup_info_map pod_ips mesh_rules bypass_rules) map from=$EPOCHREALTIME
	roll ${#maps[@]}
	map=${maps[rolled]}
	"$BPFCALL" fill "$PIN/maps/$map" 2 >/dev/null
	pause 500
	"$BPFCALL" drain "$PIN/maps/$map" >/dev/null
	excused "$map" "$from"
}

event_read() {
	cat "$PIN/pods" "$PIN/metrics" "$PIN/links/iter_task" >/dev/null
	onramp rules >/dev/null
}

# Judgement. A line of a log is "FROM TO FATE DESTINATION: WHAT".
bad() { # LOG...: what no excuse covers, of enrolled pods
	(cd "$WORK" && awk '
		function excuse(why,  i) {
			for (i = 1; i <= n; i++)
				if (kind[i] == why && $1 < to[i] && $2 > from[i]) return 1
			return 0
		}
		FILENAME == "excuses" { from[++n] = $1; to[n] = $2; kind[n] = $3; next }
		$3 == "failed" && (excuse("away") || excuse("mode")) { next }
		$3 == "wrong" && / orig4=E[A-Z]* orig6=E/ && (excuse("handovers") || excuse("mode")) { next }
		$3 == "wrong" && / peer ([[]::ffff:)?127[.]| peer .*:15001:/ && excuse("mode") { next }
		$3 == "wrong" && FILENAME == "dns.log" && excuse("switch") { next }
		{ print FILENAME ": " $0 }' excuses "$@")
}

# What happened in the ten seconds before each fault and during it, until when.
around_faults() {
	(cd "$WORK" && sort -m events <(awk '{ print $1, "   until", $2, $3 }' excuses | sort) | awk '
		FILENAME == "bad" { if (n < 100) { from[++n] = $2 - 10; to[n] = $3 + 1 }; next }
		{ for (i = 1; i <= n; i++) if ($1 > from[i] && $1 < to[i]) { print; next } }' bad -)
}

sums() { # FATE NAME...
	local fate=$1
	shift
	(cd "$WORK" && cat "${@/%/.sums}") | grep -v ^node | tr ' ' '\n' |
		awk -F = -v fate="$fate" '$1 == fate { sum += $2 } END { print sum + 0 }'
}

nodes() { # FATE NAME
	sed -n 's/^node //p' "$WORK/$2.sums" | tr ' ' '\n' |
		awk -F = -v fate="$1" '$1 == fate { sum += $2 } END { print sum + 0 }'
}

progress() {
	echo "# $(printf '%02d:%02d' $((SECONDS / 60)) $((SECONDS % 60))) $events events," \
		"$(sums proxied one two in sometimes dns) proxied," \
		"$(sums direct stranger out sometimes dns) direct," \
		"$(sums failed one two in sometimes dns) refused, $(sums direct one two in) escaped" >&3
}

# What the maps keep of what lives no more.
dead() {
	[ -e "$WORK/left" ] || "$BPFTOOL" -j map dump pinned "$PIN/maps/handovers" |
		grep -o '"key":[^]]*' | sed 's/^/handovers: /'
	cat "$PIN/pods" >"$WORK/pods" # which lists the living
	# But for those that no cgroup has: what came and went while cgroup_info_map was full.
	"$BPFTOOL" -j map dump pinned "$PIN/maps/pod_ips" | sed 's/},{/},\n{/g' >"$WORK/pod_ips"
	held=$(grep -c '"cgroups":[1-9]' "$WORK/pod_ips" || :)
	[ "$held" = "$(awk 'NR > 1 && $3 { n++ } END { print n + 0 }' "$WORK/pods")" ] || {
		echo "pod_ips: not as pods"
		cat "$WORK/pods" "$WORK/pod_ips"
	}
	awk -v away=$((17 - zt)) 'NR > 1 && ($NF !~ /^(10[.]77[.]|fd00:(00)?77:)/ ||
		$NF == "10.77.0." away) { print "pods: " $NF }' "$WORK/pods"
	# Eight bytes, the lowest first; ids stay below 2^48.
	"$BPFTOOL" -j map dump pinned "$PIN/maps/cgroup_info_map" |
		grep -o '"key":[^]]*' | grep -o '"0x[^]]*' | tr -d '"' | while IFS=, read -ra key; do
		printf '%d\n' "0x${key[5]#0x}${key[4]#0x}${key[3]#0x}${key[2]#0x}${key[1]#0x}${key[0]#0x}"
	done | sort | comm -23 - <(find "$ABOVE" -type d -printf '%i\n' | sort) |
		sed 's/^/cgroup_info_map: /'
}

nobody_dead() {
	dead >"$WORK/dead"
	[ ! -s "$WORK/dead" ]
}

@test "$SECONDS_TO_SOAK s of everything at random: nothing escapes, nothing is told wrong, nothing stays" {
	echo "# SEED=$SEED: to repeat it" >&3
	echo "failed with SEED=$SEED" # shown if it does
	RANDOM=$SEED SECONDS=0 events=0 mode=node loaded=none listener=1 shown=0
	touch "$WORK"/{excuses,ids,attempts}
	mkfifo "$WORK/until"
	exec 9<>"$WORK/until"
	ztunnel_pod_up 9
	ztunnel_serves
	for pod in one two hostile sometimes; do listener_begins "$pod" 1; done
	[ -z "${ONRAMP_TEST_VM-}" ] || everything >"$WORK/before"
	load_somehow -e 10.77.1.0/24 -e 10.78.0.0/16
	note_ids
	# shellcheck disable=SC2086 # pairs
	{
		lasting one pod one "$TCP" soak "$MS" proxied $DESTINATIONS
		lasting two pod two "$TCP" soak "$MS" proxied $DESTINATIONS
		lasting stranger pod stranger "$TCP" soak "$MS" direct $DESTINATIONS
		lasting sometimes pod sometimes "$TCP" soak "$MS" any $DESTINATIONS
	}
	lasting dns pod two "$TCP" ask "$MS" any 10.77.2.2 53 fd00:77::2 53
	light_pods in 78 proxied -z "$CG/ztunnel/in-light"
	light_pods out 79 direct
	mapfile -t all < <(declare -F | sed -n 's/^declare -f \(event_.*\)/\1/p')
	all+=(event_load event_load event_killed event_killed event_mode event_flood event_flood)
	while [ "$SECONDS" -lt "$SECONDS_TO_SOAK" ]; do
		roll ${#all[@]}
		echo "$EPOCHREALTIME ${all[rolled]}" >>"$WORK/events"
		"${all[rolled]}"
		events=$((events + 1))
		if [ "$SECONDS" -ge $((shown + 10)) ]; then
			progress
			shown=$SECONDS
		fi
		pause 500
	done
	load_somehow # repairs what a killed one has left
	note_ids
	calm
	progress
	echo "# $(sed -n 's/.* event_//p' "$WORK/events" | sort | uniq -c | sed 's/^ *\(.*\) \(.*\)/\2 \1/' |
		paste -sd ,)" >&3
	bad one.log two.log in.log sometimes.log dns.log >"$WORK/bad"
	(cd "$WORK" && grep -H . stranger.log out.log) >>"$WORK/bad" || :
	grep ESCAPED "$WORK/attempts" >>"$WORK/bad" || :
	if [ -s "$WORK/bad" ]; then
		awk -F : 'seen[$1]++ < 5' "$WORK/bad" # of each log
		echo "$(wc -l <"$WORK/bad") in all: $(cut -d ' ' -f 1,4 "$WORK/bad" | sort | uniq -c | xargs)"
		around_faults
		return 1
	fi
	for fate in proxied:one proxied:two proxied:in direct:stranger direct:out proxied:dns; do
		[ "$(sums "${fate%:*}" "${fate#*:}")" -gt 0 ]
	done
	echo "# light pods' node connections: in $(nodes proxied in) proxied," \
		"$(nodes direct in) direct; out $(nodes direct out) direct" >&3
	is "$(nodes proxied out) $(sums proxied stranger out) $(sums direct one two in)" "0 0 0"
	retry 100 nobody_dead || { head -n 100 "$WORK/dead"; return 1; }
	nothing_escaped
}

everything() {
	local kind
	for kind in prog map link; do
		"$BPFTOOL" -j "$kind" list | grep -oE '"id":[0-9]+' | sed "s/.*:/$kind /"
	done
}

@test "after unload nothing of it is loaded: neither link nor program nor map" {
	[ "$(wc -l <"$WORK/ids")" -gt 30 ]
	echo "# $(cut -d ' ' -f 1 "$WORK/ids" | uniq -c | xargs) noted" >&3
	onramp unload
	left() { sort "$WORK/ids" | comm -12 - <(everything | sort); }
	all_gone() { [ -z "$(left)" ]; }
	retry 200 all_gone || { left; return 1; }
	# Where there is nobody else, of all.
	[ -z "${ONRAMP_TEST_VM-}" ] || retry 200 all_as_before
}

all_as_before() {
	diff <(sort "$WORK/before") <(everything | sort)
}
