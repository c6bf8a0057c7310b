#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native,long
# scripts/enroll-by-label against fake-apiserver, whose labels the real kubectl changes.
# What onramp-zds would say is written by the tests (with the real one:
# enroll_zds.bats).

load helpers.bash
load apiserver.bash

SCRIPT=$ROOT/scripts/enroll-by-label
LABELLED='.metadata.labels["istio.io/dataplane-mode"]'

setup_file() {
	node_up label # for its cgroup: who is left in it has outlived its shell
	mkdir "$CG/watcher"
	export HOME=$WORK KUBECONFIG=$WORK/kubeconfig STATE=$WORK/state
}

setup() {
	DIR=$STATE/workloads
	: >"$WORK/log"
	mkdir -p "$STATE/status"
	api_up
}

teardown() {
	local left=
	[ -n "${BATS_TEST_COMPLETED-}" ] || tail -n 20 "$WORK/log" "$WORK/api-log" | cut -c 1-150 >&2
	watcher_down KILL || left=yes
	kill "$(cat "$WORK/api")"
	rm -rf "$STATE"
	[ -z "$left" ] && is "$(cat "$WORK/api-log")" "" # the fake itself did not fail
}

teardown_file() {
	node_down
}

# Whose files are there, sorted, in a line; by the names in them.
in_dir() {
	grep -hs '^n' "$DIR"/*-*-*-*-* | paste -d / - - | sed 's/[a-z]*=//g' | sort -V | paste -sd ' '
}
are_in() { [ "$(in_dir)" = "$*" ]; }                                  # NAMESPACE/NAME...: these and no other
soon_in() { retry 300 are_in "$@" || is "$(in_dir)" "$*"; }           # NAMESPACE/NAME...
file() { cat "$DIR/$(uid "$1")"; }                                    # NAMESPACE/NAME
file_has() { file "$1" | grep -qxF "$2"; }                            # NAMESPACE/NAME LINE
logged() { grep -cF "$1" "$WORK/log" || :; }                          # TEXT: how many lines have it

# What makes a pod the mirror of a static one, or what says that it is.
mirror() { # HASH
	echo ".metadata.annotations += { \"kubernetes.io/config.hash\": \"$1\", \"kubernetes.io/config.mirror\": \"$1\" }"
}

one_left() { [ "$(in_dir | wc -w)" = 1 ]; }

# As onramp-zds would.
says() { # TEXT NAMESPACE/NAME...; no text: it has let go of them
	local pod
	for pod in "${@:2}"; do
		if [ -n "$1" ]; then
			echo "$1" >"$STATE/status/.new" && mv "$STATE/status/.new" "$STATE/status/$(uid "$pod")"
		else
			rm -f "$STATE/status/$(uid "$pod")"
		fi
	done
}

# Lists anew, with these knobs: all watches have expired.
relist() { # KNOBS
	local lists
	lists=$(requests "list pods" "list namespaces")
	fake '{"mute": "all"}'
	namespace "other$lists" | write
	fake "{$1, \"compact\": true, \"mute\": \"\"}"
	retry 200 at_least $((lists + 2)) "list pods" "list namespaces"
}

# Until the watcher has looked at everything that was written before.
settled() {
	object other/sentinel "$AMBIENT" | write
	retry 200 file_has other/sentinel name=sentinel
	remove other/sentinel
	retry 200 test ! -e "$DIR/$(uid other/sentinel)"
}

# --- who is in ----------------------------------------------------------------

# One pod a line: in or out; its namespace; what is special about it.
CASES="
in  ambient     .
out plain       .
in  plain       $AMBIENT
out ambient     $LABELLED = \"none\"
out none        .
in  none        $AMBIENT
in  ambient     $LABELLED = \"sidecar\"
out plain       $LABELLED = \"sidecar\"
out ambient     .spec.hostNetwork = true
out plain       .spec.hostNetwork = true | $AMBIENT
in  ambient     .spec.hostNetwork = false
out ambient     .metadata.annotations[\"sidecar.istio.io/status\"] = \"{}\"
out plain       .metadata.annotations[\"sidecar.istio.io/status\"] = \"\" | $AMBIENT
in  ambient     .spec.containers[0].name = \"istio-proxy\"
in  ambient     .metadata.labels.app = \"ztunnel\"
in  istio-system $AMBIENT
out istio-system $AMBIENT | .metadata.labels.app = \"ztunnel\"
out kube-system .
out kube-system $AMBIENT
out ambient     .status.phase = \"Succeeded\"
out plain       .status.phase = \"Failed\" | $AMBIENT
in  ambient     .status.phase = \"Running\"
in  ambient     .status.phase = \"Unknown\"
in  ambient     .metadata.deletionTimestamp = \"2026-01-01T00:00:00Z\"
in  ambient     del(.status)
in  ambient     .metadata.labels = null
in  ambient     del(.metadata.annotations)
in  ambient     .metadata.annotations[\"$NOTE\"] = \"disabled\"
out ambient     .spec.nodeName = \"node2\"
out ambient     del(.spec.nodeName)
out unknown     .
in  unknown     $AMBIENT
"

# All of them, with or without what is special.
all_cases() { # [EDIT for each, instead]
	local n=0 verdict namespace special
	for namespace in ambient kube-system; do namespace $namespace ambient; done
	namespace plain
	namespace istio-system
	namespace none none
	while read -r verdict namespace special; do
		[ -n "$verdict" ] || continue
		n=$((n + 1))
		object "$namespace/case$n" "${1-$special}"
	done <<<"$CASES"
}

expected() {
	local n=0 verdict namespace special
	while read -r verdict namespace special; do
		[ -n "$verdict" ] || continue
		n=$((n + 1))
		[ "$verdict" = out ] || echo "$namespace/case$n"
	done <<<"$CASES" | sort -V | paste -sd ' '
}

@test "the selection, $(grep -c . <<<"$CASES") kinds of pods, as they are listed" {
	all_cases | write
	[ "$(expected | wc -w)" -ge 15 ]
	watcher_up
	settled
	is "$(in_dir)" "$(expected)"
	is "$(ls "$DIR/ztunnels")" "$(uid istio-system/case17)"
	retry 50 grep -q "kube-system: is labelled, but never in" "$WORK/log"
	is "$(logged "kube-system: is labelled")" 1
}

@test "the same as they come, change and go" {
	watcher_up
	settled
	all_cases | write
	settled
	is "$(in_dir)" "$(expected)"
	# What was special ends, and begins again.
	all_cases . | write
	settled
	run -0 in_dir
	has ambient/case9 ambient/case12 ambient/case20
	[[ $output != *plain* && $output != *kube-system* ]]
	all_cases | write
	soon_in $(expected)
	# The namespaces' labels change places.
	label ambient -
	label plain =ambient
	changed_places() { [[ $(in_dir) != *ambient/* ]] && file_has plain/case2 name=case2; }
	retry 100 changed_places
	run -0 in_dir
	has plain/case2 plain/case3 plain/case8 none/case6
}

@test "what a file says, that of a pod with no address yet, and then with two" {
	namespace shop ambient | write
	watcher_up
	object shop/one | write
	soon_in shop/one
	is "$(file shop/one)" "namespace=shop
name=one
service_account=seller
by=enroll-by-label"
	is "$(stat -c '%a %u %F' "$DIR/$(uid shop/one)")" "600 0 regular file"
	is "$(stat -c '%a' "$DIR")" 700
	object shop/one '.status.podIPs = [{ ip: "10.99.0.1" }, { ip: "fd00:99::1" }, { ip: "1\nby=me" }, {}] |
		.metadata.annotations["ambient.istio.io/bypass-inbound-capture"] = "true" |
		.metadata.annotations["ambient.istio.io/dns-capture"] = "false"' | write
	retry 100 file_has shop/one ip=10.99.0.1
	is "$(file shop/one)" "namespace=shop
name=one
service_account=seller
ip=10.99.0.1
ip=fd00:99::1
bypass_inbound=true
dns=false
by=enroll-by-label"
	# The annotations are live; other values mean nothing.
	edit shop/one '{"metadata": {"annotations": {"ambient.istio.io/bypass-inbound-capture": "yes", "ambient.istio.io/dns-capture": "true"}}}'
	retry 100 file_has shop/one dns=true
	run ! file_has shop/one bypass_inbound=true
	object shop/three '.metadata.uid = "../escape"' | write
	object shop/two 'del(.spec.serviceAccountName)' | write
	retry 100 file_has shop/two service_account=default
	[ ! -e "$STATE/escape" ]
	# It ends, though it is not deleted: at once.
	object shop/one '.status.phase = "Succeeded"' | write
	soon_in shop/two
}

@test "a static pod, by the hash that the kubelet tells; made anew in the API it stays in" {
	hash=0123456789abcdef0123456789abcdef
	path=$DIR/01234567-89ab-cdef-0123-456789abcdef
	static="$(mirror $hash) | $AMBIENT"
	object shop/static "$static" | write
	watcher_up
	soon_in shop/static
	[ -e "$path" ]
	remove shop/static
	object shop/static "$static | .metadata.uid = \"11111111-1111-1111-1111-111111111111\"" | write
	settled
	[ -e "$path" ]
	remove shop/static
	retry 300 at_least 1 "get pods"
	retry 100 test ! -e "$path"
}

@test "a pod that names another's UID by an annotation: neither takes it out nor brings it in" {
	victim=$(uid shop/victim) other=$(uid shop/other)
	{ namespace shop ambient; object shop/victim; object shop/other "$LABELLED = \"none\""
		object a/lists "$(mirror "${other//-/}") | $AMBIENT"; } | write
	watcher_up
	soon_in shop/victim
	for uid in "$victim" "${victim//-/}"; do
		object "evil/out$uid" "$(mirror "$uid") | $LABELLED = \"none\"" | write
		object "evil/ended$uid" "$(mirror "$uid") | .status.phase = \"Failed\"" | write
	done
	for uid in "$other" "${other//-/}"; do object "evil/in$uid" "$(mirror "$uid") | $AMBIENT" | write; done
	settled
	is "$(in_dir)" shop/victim
	relist '"empty": ""'
	settled
	is "$(in_dir)" shop/victim
	remove "evil/out${victim//-/}"
	settled
	is "$(in_dir)" shop/victim
	# Nor without being a static pod: it is itself.
	object evil/self ".metadata.annotations[\"kubernetes.io/config.hash\"] = \"${victim//-/}\" | $AMBIENT" | write
	soon_in evil/self shop/victim
	[ -e "$DIR/$(uid evil/self)" ]
	# Of a list that it comes first in, as who began to watch just now would see it.
	watcher_down KILL
	rm -f "$DIR"/*-*
	watcher_up
	soon_in evil/self shop/victim
	settled
	is "$(logged "a/lists")$(logged evil/in)" 00
}

@test "whatever a pod's annotations say, its line is written in one piece" {
	eval "$(sed -n "/^SUMMARY='/,/^[^#]*'\$/p" "$SCRIPT")"
	notes=$(grep -o '\$notes\["[^"]*' "$SCRIPT" | cut -d '"' -f 2 | sort -u | jq -nRc '[inputs]')
	[ "$(jq length <<<"$notes")" -ge 5 ]
	run -0 jq -c "$SUMMARY pod" < <(object evil/long "$notes as \$notes | .metadata.name = \"n\" * 253 |
		.metadata.namespace = \"s\" * 63 | .spec.serviceAccountName = \"a\" * 253 |
		.metadata.annotations = ([\$notes[] | { key: ., value: (\"x\\n\" * 100000) }] | from_entries)")
	is "$(jq '.namespace | length' <<<"$output")" 63
	[ ${#output} -lt 4000 ] # PIPE_BUF, less what is put around it
}

@test "who takes the annotation of static pods is not the pod whose UID it says" {
	{ namespace shop ambient; namespace thieves; object shop/one; } | write
	watcher_up
	soon_in shop/one
	hash=$(uid shop/one)
	for mark in "$hash" "${hash//-/}"; do
		object thieves/one "$(mirror "$mark")" | write
		settled
		is "$(in_dir)" "shop/one"
		watcher_down KILL
		watcher_up
		settled
		is "$(in_dir)" "shop/one"
		remove thieves/one
		settled
	done
	sleep 5 # as long as it waits before it asks
	settled
	is "$(in_dir)" "shop/one"
	is "$(requests "get pods")" 0
}

@test "ztunnel's pod: its file goes with it, and options say where ztunnel is and who is never in" {
	object mesh/zt '.metadata.labels.app = "ztunnel"' | write
	object istio-system/zt ".metadata.labels.app = \"ztunnel\" | $AMBIENT" | write
	{ namespace a ambient; namespace kube-system ambient; object a/one; object kube-system/two; } | write
	watcher_up -i mesh -x a -x b
	soon_in istio-system/zt kube-system/two
	is "$(ls "$DIR/ztunnels")" "$(uid mesh/zt)"
	remove mesh/zt
	retry 100 test ! -e "$DIR/ztunnels/$(uid mesh/zt)"
}

@test "-s: who stays out has a file too, until it is in, or gone" {
	outside() { grep -hs '^n' "$DIR"/outside/* | paste -d / - - | sed 's/[a-z]*=//g' | sort -V | paste -sd ' '; }
	outside_are() { [ "$(outside)" = "$*" ]; }
	static="0123456789abcdef0123456789abcdef"
	{ namespace shop ambient; namespace kube-system; object shop/in; object shop/not "$LABELLED = \"none\""
		object kube-system/dns; object kube-system/node '.spec.hostNetwork = true'; object shop/done '.status.phase = "Failed"'
		object kube-system/static "$(mirror $static)"
		object istio-system/zt '.metadata.labels.app = "ztunnel"'; } | write
	watcher_up -s
	retry 100 outside_are kube-system/dns kube-system/static shop/not
	[ -e "$DIR/outside/01234567-89ab-cdef-0123-456789abcdef" ]
	soon_in shop/in
	# It joins; and leaves again.
	object shop/not "$AMBIENT" | write
	soon_in shop/in shop/not
	settled
	outside_are kube-system/dns kube-system/static shop/not # or it would be refused
	says enabled shop/not
	note_becomes shop/not enabled
	retry 100 outside_are kube-system/dns kube-system/static
	edit shop/not '{"metadata": {"labels": {"istio.io/dataplane-mode": "none"}}}'
	retry 100 outside_are kube-system/dns kube-system/static shop/not
	is "$(in_dir)" "shop/in shop/not" # first it is outside, then no workload any more
	soon_in shop/in
	# Gone, before its eyes or not.
	watcher_down KILL
	remove kube-system/static
	watcher_up -s
	retry 100 outside_are kube-system/dns shop/not
	remove kube-system/dns
	retry 100 outside_are shop/not
	watcher_down TERM
	watcher_up -r
	says "" shop/in shop/not
	retry 100 grep -q . "$CG/watcher/cgroup.procs"
	retry 100 nothing_runs
	is "$(in_dir)" ""
	outside_are shop/in shop/not
}

@test "files of others: neither written nor removed, whatever the API says" {
	mkdir -p "$DIR"
	for pod in shop/theirs shop/gone; do
		printf 'namespace=x\nname=y\nservice_account=z\nby=me\n' >"$DIR/$(uid $pod)"
	done
	{ namespace shop ambient; object shop/theirs; object shop/mine; } | write
	watcher_up
	retry 100 file_has shop/mine name=mine
	label shop -
	retry 100 test ! -e "$DIR/$(uid shop/mine)"
	remove shop/theirs
	settled
	file_has shop/theirs by=me
	file_has shop/gone by=me
}

# --- who leaves ---------------------------------------------------------------

@test "an empty list, an older list, a list that lags behind a restart: nobody leaves" {
	{ namespace shop ambient; object shop/one; object shop/two "$AMBIENT"; } | write
	old=$(curl -fsS "$URL/api/v1/pods" | jq -r .metadata.resourceVersion)
	object shop/three | write
	watcher_up
	soon_in shop/one shop/three shop/two
	# A server that lags, and knows neither the namespace nor two of the pods.
	watcher_down KILL
	fake "{\"lag\": $((old - 2))}"
	watcher_up
	settled
	fake '{"lag": 0}'
	is "$(in_dir)" "shop/one shop/three shop/two"
	is "$(logged "a list older than what was seen")" 2
	for knobs in '"empty": "pods"' '"empty": "namespaces"' '"empty": "pods", "gone": "event"'; do
		relist "$knobs"
		settled
		is "$knobs: $(in_dir)" "$knobs: shop/one shop/three shop/two"
		fake '{"empty": "", "gone": "status"}'
	done
	at_least 6 "get pods" # each that they lacked was asked for
	# The label was put on while a server that lags did not know; a list of it is old news.
	watcher_down KILL
	label shop -
	version=$(curl -fsS "$URL/api/v1/namespaces/shop" | jq -r .metadata.resourceVersion)
	label shop =ambient
	object shop/two "$LABELLED = \"none\"" | write
	object shop/two "$AMBIENT" | write
	watcher_up
	settled
	is_noted() { [ "$(cut -d ' ' -f 2 "$DIR/.seen")" -gt "$version" ]; }
	retry 50 is_noted
	watcher_down KILL
	fake "{\"lag\": $version}"
	fake '{"mute": "namespaces"}'
	watcher_up
	settled
	sleep 1.2
	is "$(in_dir)" "shop/one shop/three shop/two"
	fake '{"lag": 0, "mute": ""}'
	label shop -
	soon_in shop/two
}

@test "who is not listed has left only if the API server says so: 404, or another pod" {
	{ namespace shop ambient; for n in 1 2 3 4; do object shop/web-$n; done; } | write
	watcher_up
	soon_in shop/web-{1..4}
	watcher_down KILL
	remove shop/web-2 shop/web-3
	object shop/web-3 '.metadata.uid = "33333333-3333-3333-3333-333333333333" | .spec.nodeName = "node2"' | write
	fake '{"refuse": {"get pods": 500}}'
	watcher_up
	retry 100 at_least 2 "get pods"
	settled
	is "$(in_dir)" "shop/web-1 shop/web-2 shop/web-3 shop/web-4"
	fake '{"refuse": {}}'
	retry 300 are_in shop/web-1 shop/web-4
}

@test "while the API server is away, or throttles, nobody leaves; what changed is caught up with" {
	{ namespace shop ambient; object shop/one; object shop/two; } | write
	watcher_up
	soon_in shop/one shop/two
	fake '{"down": 4}'
	retry 200 sh -c 'curl -fs "$0/fake" >/dev/null' "$URL"
	is "$(in_dir)" "shop/one shop/two"
	object shop/three | write
	remove shop/two
	fake '{"compact": true}'
	retry 400 are_in shop/one shop/three
	fake '{"fail": 429, "cut": 0.001}'
	retry 300 grep -q "says 429" "$WORK/log"
	object shop/four | write
	is "$(in_dir)" "shop/one shop/three"
	fake '{"fail": 0, "cut": 0}'
	retry 400 are_in shop/four shop/one shop/three
}

@test "killed at any moment and started again: what it missed is made good" {
	{ namespace shop ambient; for n in 1 2 3; do object shop/pod$n; done; } | write
	watcher_up
	soon_in shop/pod1 shop/pod2 shop/pod3
	watcher_down KILL
	remove shop/pod1
	object shop/pod2 "$LABELLED = \"none\"" | write
	object shop/pod4 | write
	fake '{"fail": 503}' # while it cannot know, it does nothing
	watcher_up
	retry 100 grep -q "says 503" "$WORK/log"
	is "$(in_dir)" "shop/pod1 shop/pod2 shop/pod3"
	fake '{"fail": 0}'
	retry 200 are_in shop/pod3 shop/pod4
}

@test "killed as running pods join, or leave: by who comes next they are closed, and gone" {
	open=bypass_inbound=true
	pods=(shop/pod1 shop/pod2 shop/pod3)
	{ namespace shop; for pod in "${pods[@]}"; do object "$pod" '.status.phase = "Running"'; done; } | write
	watcher_up
	retry 100 test -e "$DIR/.seen"
	label shop =ambient
	soon_in "${pods[@]}"
	says enabled "${pods[@]}"
	for pod in "${pods[@]}"; do note_becomes "$pod" enabled; done
	sleep 1.1 # what it has seen is noted by now
	file_has shop/pod1 $open
	watcher_down KILL
	watcher_up
	are_closed() { ! grep -q $open "$DIR"/*-*-*-*-*; }
	retry 100 are_closed
	label shop -
	for pod in "${pods[@]}"; do note_becomes "$pod" ""; done
	sleep 1.1
	soon_in "${pods[@]}"
	watcher_down KILL
	watcher_up
	retry 100 one_left
	says "" "${pods[@]}"
	soon_in
}

@test "a file that was cut short as the node lost its power is written anew" {
	mkdir -p "$DIR"
	: >"$DIR/$(uid shop/one)"
	echo 5000 5000 >"$DIR/.seen"
	{ namespace shop ambient; object shop/one; } | write
	watcher_up
	soon_in shop/one
	remove shop/one
	soon_in
}

@test "of several that leave at once one waits until onramp-zds has let go of the others" {
	# A directory that is empty at once could be an accident, and onramp-zds lets nobody go.
	{ namespace shop ambient; for n in 1 2 3; do object shop/pod$n; done; } | write
	watcher_up
	soon_in shop/pod1 shop/pod2 shop/pod3
	says enabled shop/pod{1..3}
	retry 100 note_is shop/pod3 enabled
	label shop -
	retry 100 one_left
	left=$(in_dir)
	sleep 1.5
	is "$(in_dir)" "$left"
	for n in 1 2 3; do [ "$left" = shop/pod$n ] || says "" shop/pod$n; done
	soon_in
}

# --- the annotation, and events ------------------------------------------------

@test "the annotation: pending, enabled as onramp-zds says, set again where it is lost, off before the file" {
	{ namespace shop ambient; object shop/one; object shop/stranger; } | write
	watcher_up
	soon_in shop/one shop/stranger
	note_becomes shop/one pending
	says "pending not-started" shop/one
	settled
	is "$(note shop/one)" pending
	says enabled shop/one
	note_becomes shop/one enabled
	for lost in null '"disabled"' '"pending"'; do
		edit shop/one "{\"metadata\": {\"annotations\": {\"$NOTE\": $lost}}}"
		note_becomes shop/one enabled
	done
	is "$(note shop/stranger)" pending
	# By somebody who comes after the answer's writing, and before the answer.
	says "pending waits for ztunnel" shop/one
	note_becomes shop/one pending
	sleep 1.2
	fake '{"late": 2}'
	says enabled shop/one
	note_becomes shop/one enabled
	edit shop/one "{\"metadata\": {\"annotations\": {\"$NOTE\": \"pending\"}}}"
	sleep 2
	fake '{"late": 0}'
	note_becomes shop/one enabled
	# It got another netns.
	says "pending waits for ztunnel" shop/one
	note_becomes shop/one pending
	says enabled shop/one
	note_becomes shop/one enabled
	fake '{"refuse": {"patch pods/status": 500}}'
	label shop -
	retry 100 at_least 1 "patch pods/status"
	[ -e "$DIR/$(uid shop/one)" ]
	fake '{"refuse": {}}'
	note_becomes shop/one ""
	[ -e "$DIR/$(uid shop/one)" ] # istiod's news of it is on its way
	says "" shop/stranger
	retry 100 test ! -e "$DIR/$(uid shop/one)"
	# One that is out, and has it from before.
	edit shop/one "{\"metadata\": {\"annotations\": {\"$NOTE\": \"enabled\"}}}"
	note_becomes shop/one ""
}

@test "the clock is set, an hour back and an hour ahead: nobody waits for it to come round" {
	local faked=(/usr/lib/*/faketime/libfaketime.so.1)
	{ namespace shop ambient; object shop/one; } | write
	echo +0 >"$WORK/clock"
	# Of all its processes that which decides: the library has a semaphore for each
	# that begins, and now and then cannot make it.
	mkdir "$WORK/bin"
	cat >"$WORK/bin/jq" <<-END
		#!/bin/sh
		case "\$*" in
		*"foreach inputs as"*--args*) export LD_PRELOAD="${faked[0]}" FAKETIME_TIMESTAMP_FILE="$WORK/clock" \\
			FAKETIME_NO_CACHE=1 FAKETIME_DISABLE_SHM=1 DONT_FAKE_MONOTONIC=1 ;;
		esac
		exec $(type -P jq) "\$@"
	END
	chmod +x "$WORK/bin/jq"
	in_cgroup env PATH="$WORK/bin:$PATH" NODE_NAME=node1 "$ROOT/scripts/enroll-by-label" -w "$DIR" -a "$URL"
	soon_in shop/one
	note_becomes shop/one pending
	for clock in -3600 +0 +3600; do
		label shop -
		note_becomes shop/one ""
		echo "$clock" >"$WORK/clock" # as its file waits for a moment
		retry 100 test ! -e "$DIR/$(uid shop/one)"
		label shop =ambient
		soon_in shop/one
		note_becomes shop/one pending
	done
}

@test "a pod that runs joins and leaves with what arrives let through, until istiod has told of it" {
	open=bypass_inbound=true
	{ namespace shop; object shop/old '.status.phase = "Running"'; object shop/new "$AMBIENT"; } | write
	watcher_up
	soon_in shop/new
	label shop =ambient
	object shop/istios ".metadata.annotations[\"$NOTE\"] = \"enabled\" | .status.phase = \"Running\"" | write
	soon_in shop/istios shop/new shop/old
	file_has shop/old $open
	run ! grep -l $open "$DIR/$(uid shop/new)" "$DIR/$(uid shop/istios)"
	sleep 1.7
	file_has shop/old $open # as long as there is no annotation
	says enabled shop/old
	note_becomes shop/old enabled
	is_closed() { ! file_has shop/old $open; }
	retry 100 is_closed
	label shop -
	retry 100 file_has shop/old $open
	note_becomes shop/old ""
	says "" shop/istios
	soon_in shop/new
}

@test "what istio-cni has enabled stays so while onramp-zds stands by" {
	{ namespace shop ambient; object shop/one ".metadata.annotations[\"$NOTE\"] = \"enabled\""; } | write
	says "pending waits for ztunnel" shop/one
	watcher_up
	soon_in shop/one
	version() { curl -fsS "$URL/api/v1/namespaces/shop/pods/one" | jq -r .metadata.resourceVersion; }
	before=$(version)
	settled
	sleep 1.2
	is "$(note shop/one)" enabled
	is "$(version)" "$before"
}

@test "a StatefulSet pod's successor keeps its annotation" {
	{ namespace shop ambient; object shop/web-0; } | write
	watcher_up
	soon_in shop/web-0
	says enabled shop/web-0
	note_becomes shop/web-0 enabled
	fake '{"mute": "pods"}' # the watch lags behind
	remove shop/web-0
	successor=22222222-2222-2222-2222-222222222222
	object shop/web-0 ".metadata.uid = \"$successor\" | .metadata.annotations[\"$NOTE\"] = \"enabled\"" | write
	patches=$(requests "patch pods/status")
	label shop -
	retry 100 at_least $((patches + 1)) "patch pods/status"
	is "$(note shop/web-0)" enabled # that was of another pod
	label shop =ambient
	fake '{"mute": ""}'
	retry 100 test -e "$DIR/$successor"
	says "" shop/web-0
	echo enabled >"$STATE/status/$successor"
	note_becomes shop/web-0 enabled
}

@test "250 pods: all in, and all their annotations within 10 s, on few connections" {
	jq -nc '{ kind: "Namespace", metadata: { name: "shop", labels: { "istio.io/dataplane-mode": "ambient" } } },
		(range(250) | { kind: "Pod", metadata: { namespace: "shop", name: "pod\(.)",
			uid: "00000000-0000-0000-0000-\(1000000000000 + . | tostring | .[1:])", labels: {} },
		  spec: { nodeName: "node1" }, status: { phase: "Pending" } })' | write
	watcher_up
	all_in() { [ "$(find "$DIR" -maxdepth 1 -name '*-*' | wc -l)" = 250 ]; }
	retry 200 all_in
	noted() { curl -fsS "$URL/api/v1/pods" | jq -e --arg note "$NOTE" --arg text "$1" '[.items[] | select(.metadata.annotations[$note] == $text)] | length == 250' >/dev/null; }
	retry 200 noted pending
	before=$(curl -fsS "$URL/fake" | jq .connections)
	since=${EPOCHREALTIME/.}
	for file in "$DIR"/*-*; do echo enabled >"$STATE/status/${file##*/}"; done
	retry 400 noted enabled
	took=$(((${EPOCHREALTIME/.} - since) / 1000))
	connections=$(($(curl -fsS "$URL/fake" | jq .connections) - before))
	echo "# 250 annotations in $took ms, $connections connections, with those of this test" >&3
	read -r load _ </proc/loadavg # what else runs on this machine, too
	[ "$took" -le $((10000 * (1 + ${load%.*} / 2))) ]
	is "$(requests "patch pods/status")" 500
}

@test "pending for 10 s: one event, with the reason; a KubeVirt pod is unsupported" {
	{ namespace shop ambient; object shop/one; object shop/two; object shop/three
		object shop/vm '.metadata.annotations["istio.io/reroute-virtual-interfaces"] = "k6t-eth0"'; } | write
	says "pending waits for ztunnel" shop/one
	says enabled shop/two shop/vm
	watcher_up
	settled
	is "$(requests "create events")" 0
	sleep 9 # and then a tick, and a moment: a machine at rest tries often
	retry 150 at_least 3 "create events"
	note_is shop/vm pending
	says enabled shop/three
	note_becomes shop/three enabled
	sleep 1.2
	is "$(curl -fsS "$URL/api/v1/events" | jq -r '.items[] | "\(.involvedObject.name) \(.involvedObject.uid) \(.message)"' | sort)" \
		"one $(uid shop/one) onramp: for 10 s not in the mesh: waits for ztunnel
three $(uid shop/three) onramp: for 10 s not in the mesh: no onramp-zds
vm $(uid shop/vm) onramp: for 10 s not in the mesh: unsupported: istio.io/reroute-virtual-interfaces: what comes by a virtual interface goes past ztunnel"
}

@test "each request is made whole, whenever it comes" {
	local api=http://x node=node1 long n stub=$WORK/stub
	eval "$(sed -n "/^credentials()/,/^}/p; /^send()/,/^}/p; /^REQUESTS='/,/end'\$/p" "$SCRIPT")"
	ANSWERS=empty
	mkdir -p "$stub"
	printf '#!/bin/sh\ncat >>%s/sent\n' "$stub" >"$stub/curl"
	chmod +x "$stub/curl"
	printf -v long '%03500d' 0
	# Just when it stops to wait for more.
	for n in {1..60}; do
		echo "event uid object shop pod$n $long"
		sleep 0.0$((45 + RANDOM % 10))
	done | PATH=$stub:$PATH send
	is "$(grep -o 'pod[0-9]*' "$stub/sent" | paste -sd ' ')" "$(printf 'pod%d ' {1..60} | sed 's/ $//')"
	is "$(grep -o '0\{3500\}' "$stub/sent" | wc -l)" 60
}

# --- watches -------------------------------------------------------------------

@test "410, as a status and as an event: listed anew, once; a watch that is cut goes on" {
	{ namespace shop ambient; object shop/one; object shop/two; } | write
	watcher_up
	soon_in shop/one shop/two
	for gone in status event; do
		lists=$(requests "list pods")
		fake "{\"mute\": \"pods\", \"gone\": \"$gone\", \"cut\": 0}" # two is gone, three there: it is never told
		remove shop/two
		object shop/three | write
		fake '{"compact": true, "mute": ""}'
		soon_in shop/one shop/three
		is "$(requests "list pods")" $((lists + 1))
		object shop/two | write
		remove shop/three
		soon_in shop/one shop/two
	done
	for how in torn reset; do
		lists=$(requests "list pods" "list namespaces")
		watches=$(requests "watch pods")
		fake "{\"cut\": 2.1, \"how\": \"$how\", \"bookmark\": 0.2}"
		for n in 1 2 3 4; do
			object shop/one ".status.podIPs = [{ ip: \"10.99.0.$n\" }]" | write
			retry 100 file_has shop/one "ip=10.99.0.$n"
			sleep 0.5
		done
		retry 200 at_least $((watches + 2)) "watch pods"
		is "$(requests "list pods" "list namespaces")" "$lists"
	done
}

@test "an annotation of any length tears no line of others" {
	jq -nc 'range(1500) | { kind: "Namespace", metadata: { name: "space\(.)" } }' >"$WORK/spaces"
	{ namespace shop ambient; object shop/one
	for n in 1 2 3 4; do object thieves/$n ".metadata.annotations[\"$NOTE\"] = \"x\" * 200000"; done; } |
		cat "$WORK/spaces" - | write
	for n in 1 2 3; do
		watcher_up
		retry 200 file_has shop/one name=one
		settled
		watcher_down KILL
	done
	is "$(logged "start this again")" 0
}

@test "no busy loop: the longer it fails, the longer it waits" {
	namespace shop ambient | write
	# The pauses double, and each may be a quarter less: 0.2, 0.4, 0.8, 1.6 s.
	paused() {
		curl -fsS "$URL/fake" | jq -e --argjson known "$known" '(.["list pods"] + .["watch pods"]) | sort
			| .[$known:] as $new | [range(1; $new | length) | $new[.] - $new[. - 1]] | length >= 3 and max >= 1.2' >/dev/null
	}
	for knobs in '"fail": 500, "cut": 0.001' '"html": true, "cut": 0.001' '"cut": 0.001, "how": "reset"'; do
		watcher_up
		settled
		known=$(requests "list pods" "watch pods")
		fake "{$knobs}"
		retry 300 paused
		watcher_down KILL
		fake '{"fail": 0, "cut": 0, "how": "end", "html": false}'
	done
}

@test "lists: the first from the server's memory, later ones not older than what was seen, 504: the newest" {
	queries() { curl -fsS "$URL/fake" | jq -r '.queries[] | select(contains("watch=1") | not) | select(startswith("/api/v1/pods")) | sub(".*node1&?"; "")'; }
	object shop/one "$AMBIENT" | write
	watcher_up
	soon_in shop/one
	seen=$(curl -fsS "$URL/api/v1/namespaces" | jq -r .metadata.resourceVersion)
	object shop/two "$AMBIENT" | write
	soon_in shop/one shop/two
	relist "\"lag\": $((seen - 1))"
	three() { [ "$(queries | wc -l)" = 3 ]; }
	retry 200 three
	[[ $(queries | paste -sd ' ') =~ ^resourceVersion=0\ resourceVersion=([0-9]+)\&resourceVersionMatch=NotOlderThan\ $ ]]
	[ "${BASH_REMATCH[1]}" -gt "$seen" ]
}

# --- its processes ------------------------------------------------------------

@test "TERM: status 0 at once, nothing runs on, all stay" {
	{ namespace shop ambient; object shop/one; } | write
	for when in at-once watching failing; do
		[ "$when" != failing ] || fake '{"fail": 500}'
		watcher_up
		[ "$when" != watching ] || soon_in shop/one
		[ "$when" != failing ] || retry 100 grep -q "as told" "$WORK/log"
		pid=$(cat "$WORK/watcher")
		retry 100 sh -c 'tr "\0" " " <"/proc/$0/cmdline" | grep -q enroll-by-label' "$pid"
		kill -TERM "$pid"
		ended=0
		wait "$pid" || ended=$?
		[ "$when" = at-once ] || is "$ended" 0
		retry 20 nothing_runs
	done
	is "$(in_dir)" shop/one
}

@test "whichever of its processes is killed, it goes on or ends whole; a file says that it lives" {
	{ namespace shop; object shop/one; } | write
	went_on=0 ended=0
	for ((i = 0; ; i++)); do
		watcher_up -l "$WORK/alive"
		settled
		[ "$i" != 0 ] || retry 100 test -e "$WORK/alive"
		mapfile -t pids < <(sort -n "$CG/watcher/cgroup.procs")
		[ "$i" -lt ${#pids[@]} ] || break
		kill -9 "${pids[i]}" || : # it had ended
		label shop =ambient
		alive_and_in() { are_in shop/one && kill -0 "$(cat "$WORK/watcher")" 2>/dev/null; }
		all_right() { nothing_runs || alive_and_in; }
		retry 100 all_right
		if nothing_runs; then ended=$((ended + 1)); else went_on=$((went_on + 1)); fi
		watcher_down KILL
		label shop -
		rm -rf "$DIR"
	done
	echo "# of $i processes, killed one by one: it went on $went_on times, ended whole $ended times" >&3
	[ "$went_on" -ge 2 ]
	[ "$ended" -ge 4 ]
}

@test "a part that hangs: the file that says that it lives gets old, and all ends" {
	rm -f "$WORK/alive"
	watcher_up -l "$WORK/alive"
	retry 100 test -e "$WORK/alive"
	while read -r pid; do
		[[ $(tr '\0' ' ' <"/proc/$pid/cmdline") != jq*removing* ]] || kill -STOP "$pid"
	done <"$CG/watcher/cgroup.procs"
	retry 600 nothing_runs
	: >"$WORK/watcher"
	is "$(logged "a part of it ended or hangs")" 1
}

@test "what it is not told rightly it refuses, in one line" {
	refuses() { # TEXT OPTION...
		run -1 timeout 5 env -u NODE_NAME "$SCRIPT" -w "$DIR" "${@:2}"
		is "${#lines[@]}" 1
		has "$1"
		[ ! -e "$DIR" ]
	}
	refuses NODE_NAME
	refuses "Node 1" -n "Node 1"
	refuses shop -n node1 shop
	refuses "-- q" -q
	refuses "give the API server" -n node1
	refuses "https://x" -n node1 -a https://x
	refuses "A B" -n node1 -a "$URL" -x "A B"
	run -1 "$SCRIPT" -n node1 -a "$URL" -w /proc/self/nothing/workloads
	is "${#lines[@]}" 1
	has /proc/self/nothing
}

@test "-r: annotations off, its files away, an end when onramp-zds has let go of all" {
	{ namespace shop ambient; for n in 1 2 3; do object shop/pod$n; done
		object istio-system/zt '.metadata.labels.app = "ztunnel"'; } | write
	watcher_up
	soon_in shop/pod1 shop/pod2 shop/pod3
	says enabled shop/pod{1..3}
	note_becomes shop/pod3 enabled
	watcher_down TERM
	watcher_up -r
	pid=$(cat "$WORK/watcher")
	for n in 1 2 3; do note_becomes shop/pod$n ""; done
	retry 100 one_left
	is "$(find "$DIR/outside" -type f | wc -l)" 3 # or a strict onramp would refuse them
	sleep 1.2
	kill -0 "$pid"
	one_left
	[ -e "$DIR/ztunnels/$(uid istio-system/zt)" ] # who is told that pods leave
	retry 50 grep -q "pods to go" "$WORK/log"
	says "" shop/pod{1..3}
	retry 100 nothing_runs
	ended=0
	wait "$pid" || ended=$?
	is "$ended" 0
	is "$(in_dir)" ""
	is "$(find "$DIR/ztunnels" -type f)" ""
	is "$(find "$DIR/outside" -type f | wc -l)" 3 # until it is unloaded
	[ ! -e "$DIR/.seen" ]
}

@test "READMEs' commands: a file, and none, and no pod restarted" {
	{ namespace shop; object shop/one; } | write
	mapfile -t commands < <(section scripts/README.md "Enrolment by label" | sed -n 's/^# //p'
		section README.md "In a cluster" | sed -n 's/^\$ \(kubectl label \)/\1/p')
	is "${#commands[@]}" 4
	DIR=$WORK/lib/onramp/workloads
	mkdir -p "$WORK/lib"
	# Where its files are by default, in a mount namespace of its own.
	in_cgroup unshare --mount bash -c '
		mount --bind "$0" /var/lib && cd "$1" && eval "$2" &&
		retry() { until (: </dev/tcp/127.0.0.1/8001) 2>/dev/null; do sleep 0.1; done; } && retry &&
		eval "$3" && echo $! >"$4" && wait
		' "$WORK/lib" "$ROOT" "${commands[0]}" "${commands[1]/worker-1/node1}" "$WORK/started"
	retry 100 test -s "$WORK/started"
	settled
	is "$(in_dir)" ""
	bash -ec "${commands[2]}"
	soon_in shop/one
	bash -ec "${commands[3]}"
	soon_in
	mapfile -t pids <"$CG/watcher/cgroup.procs"
	kill "${pids[@]}" || :
	retry 100 nothing_runs
	rm -rf "${WORK:?}/lib"
}
