#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native,long
# scripts/enroll-by-label, with the real kubectl and the real loader, against
# fake-apiserver. Most pods are known to the API server only; r1 to r3 are real.

load helpers.bash

SCRIPT=$ROOT/scripts/enroll-by-label
MANIFEST=$ROOT/scripts/kubernetes/enroll-by-label.yaml

setup_file() {
	node_up label
	ztunnel_up
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	for n in 1 2 3; do pod_up r$n 10.77.1.$n; done
	dual_stack r1:101 ztunnel:9
	mkdir "$CG/watcher"
	reload_both
	export HOME=$WORK KUBECONFIG=$WORK/kubeconfig STATE=$WORK/run/enrolled
	# The loader, and a note of each call.
	export LOADER=$WORK/onramp CALLS=$WORK/calls
	printf '#!/bin/sh\necho "$*" >>%s\n[ ! -e %s ] && exec %s "$@"\n' "$CALLS" "$WORK/refuse" "$ONRAMP" >"$LOADER"
	chmod +x "$LOADER"
}

setup() {
	: >"$CALLS"
	: >"$WORK/log"
	api_up
}

teardown() {
	local left=
	[ -n "${BATS_TEST_COMPLETED-}" ] || tail -n 20 "$WORK/log" "$CALLS" "$WORK/api-log" | cut -c 1-150 >&2
	watcher_down KILL || left=yes
	kill "$(cat "$WORK/api")"
	[ -e "$PIN" ] || reload_both # a test unloaded
	clean
	[ -z "$left" ] && is "$(cat "$WORK/api-log")" "" # the fake itself did not fail
}

teardown_file() {
	node_down
}

reload_both() {
	reload -z "$ZTUNNEL_POD_IP6"
}

clean() { # no rule, no state
	local rules
	mapfile -t rules < <(awk '{ print $2 }' "$PIN/rules")
	[ ${#rules[@]} = 0 ] || onramp forget "${rules[@]}"
	rm -rf "$WORK/run"
}

api_up() {
	rm -f "$WORK/port"
	"$ROOT/vmtests/fake-apiserver" "$WORK/port" >"$WORK/api-log" 2>&1 3>&- &
	echo $! >"$WORK/api"
	disown
	retry 100 test -s "$WORK/port"
	URL=http://127.0.0.1:$(cat "$WORK/port")
	kubeconfig '{}' >"$KUBECONFIG"
}

kubeconfig() { # USER, as JSON
	jq -n --arg url "$URL" --argjson user "$1" '{ kind: "Config", apiVersion: "v1", "current-context": "fake",
		clusters: [{ name: "fake", cluster: { server: $url } }], users: [{ name: "user", user: $user }],
		contexts: [{ name: "fake", context: { cluster: "fake", user: "user" } }] }'
}

fake() { # KNOBS, as JSON
	curl -fsS -X PUT "$URL/fake" -d "$1" >/dev/null
}

requests() { # "VERB RESOURCE"...: how many there were
	curl -fsS "$URL/fake" | jq '[.[$ARGS.positional[]] // [] | length] | add' --args "$@"
}

at_least() { # N "VERB RESOURCE"...: so many requests were there
	[ "$(requests "${@:2}")" -ge "$1" ]
}

# Objects, one by one or many at once, as JSON for fake's "write".
namespace() { # NAME [MODE]
	jq -nc '{ kind: "Namespace", metadata: { name: $ARGS.positional[0],
		labels: (if $ARGS.positional[1] then { "istio.io/dataplane-mode": $ARGS.positional[1] } else {} end) } }' --args "$@"
}

object() { # NAMESPACE/NAME ADDRESSES [EDIT by jq]: a pod, as it may look
	jq -nc --arg at "$1" --arg ips "$2" '($ips | split(",")) as $ips | {
		kind: "Pod",
		metadata: { namespace: ($at | split("/")[0]), name: ($at | split("/")[1]), labels: { app: "shop" },
			annotations: { "kubernetes.io/config.seen": "x" }, creationTimestamp: "2026-01-01T00:00:00Z" },
		spec: { nodeName: "node1", containers: [{ name: "main", image: "shop:1" }] },
		status: { phase: "Running", podIP: $ips[0], podIPs: [$ips[] | { ip: . }] } } | '"${3:-.}"
}

write() { # objects from stdin
	jq -sc '{ write: . }' | curl -fsS -X PUT "$URL/fake" -d @- >/dev/null
}

remove() { # NAMESPACE/POD...: those that are there
	local pods=("${@/\//\/pods\/}")
	curl -sS -X DELETE "${pods[@]/#/$URL/api/v1/namespaces/}" >/dev/null
}

watcher_up() {
	in_cgroup env NODE_NAME=node1 ONRAMP="$LOADER" "$SCRIPT" -p "$PIN" -s "$STATE"
}

in_cgroup() { # COMMAND..., in the background
	sh -c 'echo 0 >"$0/cgroup.procs" && exec "$@"' "$CG/watcher" "$@" 2>>"$WORK/log" 3>&- &
	echo $! >"$WORK/watcher"
}

watcher_down() { # SIGNAL
	[ -s "$WORK/watcher" ] || return 0
	kill -"$1" "$(cat "$WORK/watcher")" 2>/dev/null || :
	: >"$WORK/watcher"
	retry 100 nothing_runs || { ps -o pid,ppid,pgid,stat,wchan:20,args -p "$(paste -sd , "$CG/watcher/cgroup.procs")" | cut -c 1-150; false; } >&2
}

nothing_runs() { # of the watcher
	[ ! -s "$CG/watcher/cgroup.procs" ] && is "$(cat "$CG/watcher/cgroup.procs")" "" 2>/dev/null
}

# The addresses with an IN rule as long as they are, in a line, in order.
enrolled() {
	awk '$1 == "in" && /\/(32|128)$/ { sub("/.*", "", $2); print $2 }' "$PIN/rules" |
		sed 's/:0*\([0-9a-f]\)/:\1/g; s/\(:0\)\+:/::/' | paste -sd ' '
}

are_in() { # ADDRESS...: these and no other
	[ "$(enrolled)" = "$*" ]
}

soon_in() {
	retry 100 are_in "$@" || { is "$(enrolled)" "$*"; false; }
}

called() { # LINE...: what the loader was called with since the last time
	is "$(sed "s# -p $PIN##" "$CALLS")" "$(printf '%s\n' "$@")"
	: >"$CALLS"
}

logged() { # TEXT: how many lines have it
	grep -cF "$1" "$WORK/log" || :
}

# Until the watcher has looked at everything that was written before.
settled() {
	{ object default/sentinel 10.98.0.1 '.metadata.labels["istio.io/dataplane-mode"] = "ambient"'; } | write
	retry 200 grep -q 'in *10.98.0.1/32' "$PIN/rules"
	remove default/sentinel
	retry 200 sh -c '! grep -q 10.98.0.1/32 "$0"' "$PIN/rules"
	sed -i 's/ 10\.98\.0\.1\>//; /^[a-z]* -p [^ ]*$/d' "$CALLS"
}

label() { # NAMESPACE =MODE, or -: as users do
	kubectl label --overwrite namespace "$1" "istio.io/dataplane-mode$2" >/dev/null
}

captured() { # POD
	run -0 pod "$1" "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.2.2:80 "
}

released() { # POD
	run -0 pod "$1" "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
}

# --- who is in ----------------------------------------------------------------

# One pod a line: in or out; its namespace; what is special about it.
LABELLED='.metadata.labels["istio.io/dataplane-mode"]'
CASES="
in  ambient  .
out plain    .
in  plain    $LABELLED = \"ambient\"
out ambient  $LABELLED = \"none\"
out none     .
in  none     $LABELLED = \"ambient\"
in  ambient  $LABELLED = \"sidecar\"
out plain    $LABELLED = \"sidecar\"
out ambient  .spec.hostNetwork = true
out plain    .spec.hostNetwork = true | $LABELLED = \"ambient\"
in  ambient  .spec.hostNetwork = false
out ambient  .metadata.annotations[\"sidecar.istio.io/status\"] = \"{}\"
out plain    .metadata.annotations[\"sidecar.istio.io/status\"] = \"\" | $LABELLED = \"ambient\"
in  ambient  .spec.containers[0].name = \"istio-proxy\"
out ambient  .metadata.labels.app = \"ztunnel\"
out ambient  .status.phase = \"Succeeded\"
out plain    .status.phase = \"Failed\" | $LABELLED = \"ambient\"
in  ambient  .status.phase = \"Pending\"
in  ambient  .status.phase = \"Unknown\"
in  ambient  .metadata.deletionTimestamp = \"2026-01-01T00:00:00Z\"
out ambient  .status = { phase: \"Pending\" }
out ambient  del(.status)
in  ambient  .metadata.labels = null
in  ambient  del(.metadata.annotations)
in  ambient  .status.podIPs += [{ ip: \"no address\" }, { ip: \"010.1.1.1\" }, { ip: (\"1\" * 99) }, { ip: \"10.99.0.2\n10.99.0.4\" }, { ip: \"* 10.99.0.5\" }, {}]
out ambient  .status.podIPs = [{ ip: \"10.99.0.300\" }, { ip: \"::ffff:10.99.0.1\" }, {}]
out ambient  .spec.nodeName = \"node2\"
out ambient  del(.spec.nodeName)
out unknown  .
in  unknown  $LABELLED = \"ambient\"
in  ambient  .status.podIPs += [{ ip: \"fd00:99::1\" }]
in  ambient  .status.podIPs[0].ip = \"fd00:99::2\"
out ambient  .status.podIPs += [{ ip: \"fd00:99::3\" }] | $LABELLED = \"none\"
"

# All of them, with or without what is special; 10.99.0.N is the Nth one's.
all_cases() { # [EDIT for each, instead]
	local n=0 verdict namespace special
	namespace ambient ambient
	namespace plain
	namespace none none
	while read -r verdict namespace special; do
		[ -n "$verdict" ] || continue
		n=$((n + 1))
		object "$namespace/case$n" "10.99.0.$n" "${1-$special}"
	done <<<"$CASES"
}

expected() {
	local n=0 verdict namespace special v4=() v6=()
	while read -r verdict namespace special; do
		[ -n "$verdict" ] || continue
		n=$((n + 1))
		[ "$verdict" = in ] || continue
		[[ $special == *podIPs\[0\]* ]] || v4+=("10.99.0.$n")
		[[ ! $special =~ fd00:99::[0-9] ]] || v6+=("${BASH_REMATCH[0]}")
	done <<<"$CASES"
	echo "${v4[@]}" "${v6[@]}"
}

@test "the selection, $(grep -c . <<<"$CASES") kinds of pods, as they are listed" {
	all_cases | write
	[ "$(expected | wc -w)" -ge 15 ]
	watcher_up
	settled
	are_in $(expected)
	is "$(wc -l <"$CALLS")" 1 # all in one go
}

@test "the same as they come, change and go" {
	watcher_up
	settled
	all_cases | write
	settled
	is "$(enrolled)" "$(expected)"
	# What was special ends, and begins again.
	all_cases . | write
	settled
	run -0 enrolled
	has 10.99.0.4 10.99.0.9 10.99.0.12 10.99.0.15 10.99.0.16 10.99.0.21
	all_cases | write
	settled
	is "$(enrolled)" "$(expected)"
	# The namespaces' labels change places.
	label ambient -
	label plain =ambient
	settled
	run -0 enrolled
	has 10.99.0.2 10.99.0.3 10.99.0.6 10.99.0.8
	[[ $output != *"10.99.0.1 "* ]]
	remove {ambient,plain,none,unknown}/case{1..33}
	soon_in
}

# --- rules of others ----------------------------------------------------------

@test "what the operator made stays: wider rules, a pod's own, OUT rules; before, meanwhile, after" {
	onramp enroll 10.50.0.0/16 10.99.0.1 10.99.0.2 10.99.0.3 fd00:99::1
	onramp exclude 10.99.0.4 10.51.0.0/16 fd00:99::2
	before=$(cat "$PIN/rules")
	{
		namespace shop ambient; namespace plain
		object shop/one 10.99.0.1,fd00:99::1
		object plain/three 10.99.0.3
		object shop/four 10.99.0.4,fd00:99::2
		object shop/five 10.99.0.5
	} | write
	watcher_up
	settled
	called "enroll 10.99.0.5"
	label shop -
	settled
	called "forget 10.99.0.5"
	is "$(cat "$PIN/rules")" "$before"
	# Rules that were the watcher's: what the operator did to them counts...
	label shop =ambient
	retry 100 grep -q "in *10.99.0.5/32" "$PIN/rules"
	onramp exclude 10.99.0.5
	settled
	label shop -
	settled
	called "enroll 10.99.0.5"
	is "$(grep -F 10.99.0.5 "$PIN/rules")" "out     10.99.0.5/32"
	# ... but a label is stronger than none.
	onramp forget 10.99.0.5
	label shop =ambient
	retry 100 grep -q "in *10.99.0.5/32" "$PIN/rules"
	onramp forget 10.99.0.5
	retry 100 grep -q "in *10.99.0.5/32" "$PIN/rules"
	called "enroll 10.99.0.5" "enroll 10.99.0.5"
}

@test "nothing is called when nothing changed: kubelet's news, cuts" {
	{ namespace shop ambient; object shop/one 10.99.0.1,fd00:99::1; object shop/two 10.99.0.2; } | write
	watcher_up
	soon_in 10.99.0.1 10.99.0.2 fd00:99::1
	called "enroll 10.99.0.1 10.99.0.2 fd00:99:0:0:0:0:0:1"
	for n in {1..20}; do
		object shop/one 10.99.0.1,fd00:99::1 ".status.conditions = [$n]"
		namespace "other$n"
	done | write
	fake '{"cut": 0.2}'
	retry 200 at_least 5 "watch pods"
	settled
	called ""
}

@test "an address goes from one pod to another: whose it is now counts, in whatever order it is told" {
	watcher_up
	ambient="$LABELLED = \"ambient\""
	object a/old 10.99.0.1 "$ambient" | write
	soon_in 10.99.0.1
	# The newcomer is told of first.
	object b/new 10.99.0.1 | write
	soon_in
	# The old one is still told of: for some reason or other, then as being deleted.
	object a/old 10.99.0.1 "$ambient | .metadata.labels.touched = \"yes\"" | write
	settled
	are_in
	object a/old 10.99.0.1 "$ambient | .metadata.deletionTimestamp = \"2026-01-01T00:00:00Z\"" | write
	settled
	are_in
	# So says a list, too.
	watcher_down TERM
	watcher_up
	settled
	are_in
	remove a/old
	settled
	are_in
	# And the other way round, in one go.
	{ object b/new 10.99.0.1 '.status.phase = "Failed"'; object c/newer 10.99.0.1 "$ambient"; } | write
	soon_in 10.99.0.1
	{ object b/new 10.99.0.1 '.metadata.labels.touched = "late"'; } | write # its status is not up to date
	settled
	: "b/new was given it last now, as far as can be told"
	are_in
	object c/newer 10.99.0.9 "$ambient" | write
	soon_in 10.99.0.9
	# A pod from before the holder is given its address, and the holder's next.
	object a/first 10.99.0.1 | write
	object b/second 10.99.0.2 "$ambient" | write
	soon_in 10.99.0.2 10.99.0.9
	object a/first 10.99.0.2 | write
	soon_in 10.99.0.9
	object b/second 10.99.0.3 "$ambient" | write
	soon_in 10.99.0.3 10.99.0.9
	# A pod of the same name is another pod.
	remove c/newer b/second
	object c/newer 10.99.0.9 | write
	soon_in
}

@test "the two watches tell in any order" {
	{ namespace early ambient; namespace late; } | write
	watcher_up
	settled
	fake '{"mute": "namespaces"}'
	object late/one 10.99.0.1 | write
	label late =ambient
	label early -
	object early/two 10.99.0.2 | write
	soon_in 10.99.0.2 # as far as it can know
	fake '{"mute": "pods"}'
	soon_in 10.99.0.1
	{ object late/one 10.99.0.3; object early/two 10.99.0.2 "$LABELLED = \"ambient\""; } | write
	curl -fsS -X DELETE "$URL/api/v1/namespaces/late" >/dev/null
	soon_in
	namespace late ambient | write
	soon_in 10.99.0.1
	fake '{"mute": ""}'
	soon_in 10.99.0.2 10.99.0.3
}

# --- what breaks --------------------------------------------------------------

@test "an outage changes nothing, and what changed meanwhile is caught up with" {
	{ namespace shop ambient; object shop/one 10.99.0.1; object shop/two 10.99.0.2; } | write
	watcher_up
	soon_in 10.99.0.1 10.99.0.2
	called "enroll 10.99.0.1 10.99.0.2"
	fake '{"down": 4}'
	retry 200 sh -c 'curl -fs "$0/fake" >/dev/null' "$URL"
	called ""
	object shop/three 10.99.0.3 | write
	fake '{"write": [], "compact": true}'
	retry 400 are_in 10.99.0.1 10.99.0.2 10.99.0.3
	called "enroll 10.99.0.3"
	are_in 10.99.0.1 10.99.0.2 10.99.0.3
}

@test "410, as a status and as an event: listed anew, once, and only what differs is done" {
	{ namespace shop ambient; object shop/one 10.99.0.1; object shop/two 10.99.0.2; } | write
	watcher_up
	soon_in 10.99.0.1 10.99.0.2
	: >"$CALLS"
	for gone in status event; do
		lists=$(requests "list pods")
		# Two is gone, three there: the watch is never told.
		fake "{\"mute\": \"pods\", \"gone\": \"$gone\"}"
		remove shop/two
		object shop/three 10.99.0.3 | write
		fake '{"compact": true, "mute": ""}'
		soon_in 10.99.0.1 10.99.0.3
		called "enroll 10.99.0.3" "forget 10.99.0.2"
		is "$(requests "list pods")" $((lists + 1))
		object shop/two 10.99.0.2 | write
		remove shop/three
		soon_in 10.99.0.1 10.99.0.2
		: >"$CALLS"
	done
	[ "$(logged Expired)" -ge 1 ]
}

@test "a watch that is cut goes on where it was, without a list" {
	namespace shop ambient | write
	for how in end torn reset; do
		watcher_up
		settled
		lists=$(requests "list pods" "list namespaces")
		fake "{\"cut\": 2.1, \"how\": \"$how\", \"bookmark\": 0.2}"
		watches=$(requests "watch pods")
		for n in {1..12}; do
			object shop/one "10.99.0.$n" | write
			soon_in "10.99.0.$n"
		done
		retry 200 at_least $((watches + 3)) "watch pods"
		is "$(requests "list pods" "list namespaces")" "$lists"
		watcher_down KILL
		fake '{"cut": 0}'
	done
}

@test "no busy loop: the longer it fails, the longer it waits" {
	namespace shop ambient | write
	# The pauses double, and each may be a quarter less: 0.2, 0.4, 0.8, 1.6, 3.2 s.
	paused() {
		curl -fsS "$URL/fake" | jq -e --argjson known "$known" '(.["list pods"] + .["watch pods"]) | sort
			| .[$known:] as $new | [range(1; $new | length) | $new[.] - $new[. - 1]] | length >= 4 and max >= 2.4' >/dev/null
	}
	for knobs in '"fail": 500, "cut": 0.001' '"html": true, "cut": 0.001' \
		'"cut": 0.001, "how": "end"' '"cut": 0.001, "how": "reset"'; do
		watcher_up
		settled
		known=$(requests "list pods" "watch pods")
		fake "{$knobs}"
		retry 300 paused
		watcher_down KILL
		fake '{"fail": 0, "cut": 0, "how": "end", "html": false}'
	done
	is "$(enrolled)" ""
}

@test "killed and restarted it makes good what it missed, and still knows which rules are its own" {
	onramp enroll 10.99.0.9
	{ namespace shop ambient; for n in 1 2 9; do object shop/pod$n 10.99.0.$n; done; } | write
	watcher_up
	soon_in 10.99.0.1 10.99.0.2 10.99.0.9
	watcher_down KILL
	remove shop/pod1
	remove shop/pod9
	object shop/pod3 10.99.0.3 | write
	: >"$CALLS"
	# While it cannot know, it does nothing.
	fake '{"fail": 503}'
	watcher_up
	retry 100 sh -c '[ "$(grep -c "as told" "$0")" -ge 4 ]' "$WORK/log"
	called ""
	fake '{"fail": 0}'
	retry 200 are_in 10.99.0.2 10.99.0.3 10.99.0.9
	settled
	called "enroll 10.99.0.3" "forget 10.99.0.1"
	are_in 10.99.0.2 10.99.0.3 10.99.0.9
}

@test "killed between its note and the rule, or the loader refuses: tried again, nothing lost" {
	{ namespace shop ambient; object shop/one 10.99.0.1; } | write
	touch "$WORK/refuse"
	watcher_up
	retry 100 sh -c '[ "$(wc -l <"$0")" -ge 2 ]' "$CALLS"
	watcher_down KILL
	are_in
	is "$(cat "$STATE")" 10.99.0.1
	rm "$WORK/refuse"
	watcher_up
	soon_in 10.99.0.1
	touch "$WORK/refuse"
	label shop -
	retry 100 grep -q forget "$CALLS"
	are_in 10.99.0.1
	rm "$WORK/refuse"
	soon_in
}

@test "onramp is not loaded: it waits, and says so once; loaded again: enrolled again" {
	onramp unload
	{ namespace shop ambient; object shop/one 10.99.0.1; } | write
	watcher_up
	retry 100 grep -q "waiting for onramp load" "$WORK/log"
	namespace other ambient | write
	retry 100 at_least 1 "watch pods"
	called ""
	reload_both
	soon_in 10.99.0.1
	is "$(logged waiting)" 1
	onramp unload
	retry 100 sh -c '[ "$(grep -c waiting "$0")" = 2 ]' "$WORK/log"
	reload_both
	soon_in 10.99.0.1
	reload_both # an upgrade
	settled
	called "enroll 10.99.0.1" "enroll 10.99.0.1"
}

# --- its processes ------------------------------------------------------------

@test "TERM: status 0 at once, nothing runs on, rules stay" {
	{ namespace shop ambient; object shop/one 10.99.0.1; } | write
	for when in at-once watching failing; do
		[ "$when" != failing ] || fake '{"fail": 500}'
		watcher_up
		[ "$when" != watching ] || soon_in 10.99.0.1
		[ "$when" != failing ] || retry 100 grep -q "as told" "$WORK/log"
		pid=$(cat "$WORK/watcher")
		retry 100 sh -c 'tr "\0" " " <"/proc/$0/cmdline" | grep -q enroll-by-label' "$pid"
		kill -TERM "$pid"
		ended=0
		wait "$pid" || ended=$?
		[ "$when" = at-once ] || is "$ended" 0
		retry 20 nothing_runs
	done
	are_in 10.99.0.1
}

@test "whichever of its processes is killed, it goes on or ends whole" {
	{ namespace shop; object shop/one 10.99.0.1; } | write
	went_on=0 ended=0
	for ((i = 0; ; i++)); do
		watcher_up
		settled
		mapfile -t pids < <(sort -n "$CG/watcher/cgroup.procs")
		[ "$i" -lt ${#pids[@]} ] || break
		kill -9 "${pids[i]}"
		label shop =ambient
		alive_and_in() { are_in 10.99.0.1 && kill -0 "$(cat "$WORK/watcher")" 2>/dev/null; }
		all_right() { nothing_runs || alive_and_in; }
		retry 100 all_right
		if nothing_runs; then ended=$((ended + 1)); else went_on=$((went_on + 1)); fi
		watcher_down KILL
		label shop -
		watcher_up
		soon_in
		watcher_down KILL
	done
	echo "# of $i processes, killed one by one: it went on $went_on times, ended whole $ended times" >&3
	[ "$went_on" -ge 4 ]
	[ "$ended" -ge 4 ]
}

@test "what it is not told rightly it refuses, in one line" {
	refuses() { # TEXT OPTION...
		run -1 timeout 5 env -u NODE_NAME "$SCRIPT" -p "$PIN" -s "$STATE" "${@:2}"
		is "${#lines[@]}" 1
		has "$1"
	}
	refuses NODE_NAME
	refuses "Node 1" -n "Node 1"
	refuses shop -n node1 shop
	refuses "-- q" -q
	refuses "/proc/self" -n node1 -s /proc/self/nothing/state
	ONRAMP=/nonexistent refuses /nonexistent -n node1
}

# --- with 200 pods ------------------------------------------------------------

@test "200 pods, watches cut every 2 s: captured and released within 2 s of the label" {
	pods() {
		namespace shop
		for ((n = 1; n <= 3; n++)); do object shop/real$n 10.77.1.$n; done
		for ((n = 1; n <= 197; n++)); do object shop/pod$n 10.99.1.$n,fd00:99::$n; done
	}
	pods | write
	fake '{"cut": 2, "bookmark": 0.5}'
	watcher_up
	settled
	goes_to() { # PORT
		run -0 pod "r$pod" "$TCP" dial 10.77.2.2 80
		[[ $output == *":$1 peer="* ]]
	}
	time_to() { # PORT, from when kubectl has set the label
		local since
		label shop "$2"
		since=${EPOCHREALTIME/.}
		retry 200 goes_to "$1"
		took=$(((${EPOCHREALTIME/.} - since) / 1000))
	}
	worst_in=0 worst_out=0
	# On a fast machine 16 rounds are over before the watches were cut so often.
	for ((round = 0; round < 16 || $(requests "watch pods") < 5; round++)); do
		how=(end torn reset)
		fake "{\"how\": \"${how[round % 3]}\"}"
		pod=$((round % 3 + 1))
		time_to 15001 =ambient
		worst_in=$((took > worst_in ? took : worst_in))
		time_to 80 -
		worst_out=$((took > worst_out ? took : worst_out))
	done
	retry 100 are_in
	echo "# 397 addresses, worst of $round, from the label: captured $worst_in ms, released $worst_out ms" >&3
	[ "$worst_in" -le 2000 ]
	[ "$worst_out" -le 2000 ]
	at_least 5 "watch pods"
	is "$(wc -l <"$CALLS")" $((2 * round))
	# Listed anew, with all of them in: none of them leaves for a moment.
	label shop =ambient
	settled
	: >"$CALLS"
	fake '{"cut": 0, "gone": "event", "compact": true}'
	settled
	called ""
}

# --- README and manifest ------------------------------------------------------

section() { # the README's
	sed -n '/^## Enrolment by label/,/^## What/p' "$ROOT/README.md"
}

@test "the README's commands: captured, and released, no pod restarted" {
	{ namespace shop; object shop/one 10.77.1.1,fd00:77::101; } | write
	mapfile -t commands < <(section | sed -n 's/^# //p')
	is "${#commands[@]}" 3
	# Where onramp is by default, in a mount namespace with nothing else in /run.
	in_cgroup unshare --mount bash -c '
		mount --bind "$0" /sys/fs/bpf && mount -t tmpfs none /run &&
		cd "$1" && PATH=$1/build:$PATH && eval "$2" && echo $! >"$3" && wait
		' "$WORK/bpf" "$ROOT" "${commands[0]/worker-1/node1}" "$WORK/started"
	retry 100 test -s "$WORK/started"
	cp "$WORK/started" "$WORK/watcher"
	settled
	released r1
	bash -ec "${commands[1]}"
	soon_in 10.77.1.1 fd00:77::101
	captured r1
	bash -ec "${commands[2]}"
	soon_in
	released r1
}

manifest() { # JQ-FILTER of its objects, in an array
	kubectl label --local --overwrite -o json -f "$MANIFEST" checked=yes | jq -rs "$1"
}

# The watcher as the DaemonSet's container: root, with these capabilities only,
# nothing writable but what is mounted, and known to the API server as the account.
as_container() { # CAPABILITY...
	local bounding=-all name
	for name; do bounding+=${name:+,+${name,,}}; done
	kubeconfig '{ "as": "account" }' >"$WORK/account"
	mkdir -p "$WORK/run"
	# /tmp may be a mount of its own.
	in_cgroup unshare --mount sh -c 'mount --rbind "$1" "$1" && mount -o remount,bind,ro "$1" &&
		mount --bind "$0" "$0" && mount -o remount,bind,rw "$0" &&
		mount -o remount,bind,ro / && ! touch "$0.no" 2>/dev/null && ! touch /no 2>/dev/null &&
		shift && exec "$@"' "$WORK/run" "$WORK" \
		setpriv --bounding-set="$bounding" --inh-caps=-all --no-new-privs \
		env KUBECONFIG="$WORK/account" NODE_NAME=node1 ONRAMP="$ONRAMP" \
		"$SCRIPT" -p "$PIN" -s "$STATE"
}

@test "the manifest's role and capabilities are enough, and no verb of the role can be missing" {
	is "$(manifest 'map(.kind) | join(" ")')" "ServiceAccount ClusterRole ClusterRoleBinding DaemonSet"
	mapfile -t role < <(manifest '.[1].rules[] | .verbs[] as $verb | "\($verb) \(.resources[])"')
	mapfile -t capabilities < <(manifest '.[3].spec.template.spec.containers[0].securityContext.capabilities.add[]')
	is "$(manifest '.[3].spec.template.spec.containers[0].securityContext | "\(.capabilities.drop) \(.readOnlyRootFilesystem) \(.runAsUser) \(.allowPrivilegeEscalation)"')" \
		'["ALL"] true 0 false'
	is "${#role[@]} ${#capabilities[@]}" "4 1"
	{ namespace shop ambient; object shop/one 10.99.0.1; } | write
	allow() { fake "$(jq -nc '{ roles: { account: $ARGS.positional } }' --args "$@")"; }
	# Each step of the way: list, then watch, then the rule.
	for missing in "${role[@]}"; do
		mapfile -t rest < <(printf '%s\n' "${role[@]}" | grep -vxF "$missing")
		is "${#rest[@]}" 3
		allow "${rest[@]}"
		: >"$WORK/log"
		as_container "${capabilities[@]}"
		retry 100 grep -q "cannot $missing" "$WORK/log"
		watcher_down KILL
	done
	allow "${role[@]}"
	# CAP_BPF: before 5.19 to use a map at all, where unprivileged_bpf_disabled is
	# set; since then the pins' permissions are what counts.
	is "${capabilities[*]}" BPF
	for given in BPF none; do
		: >"$WORK/log"
		label shop =ambient
		as_container "${given/none/}"
		if [ "$given" = BPF ] || [ "$(printf '%s\n' 5.19 "$(uname -r)" | sort -V | head -n 1)" = 5.19 ]; then
			soon_in 10.99.0.1
			label shop -
			soon_in
		else
			retry 100 grep -q "not permitted" "$WORK/log"
		fi
		is "$(logged cannot)" 0
		watcher_down KILL
	done
}
