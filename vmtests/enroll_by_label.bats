#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
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
	reload -z "$ZTUNNEL_POD_IP6"
	export HOME=$WORK KUBECONFIG=$WORK/kubeconfig STATE=$WORK/run/enrolled
	# The loader, and a note of each call.
	export LOADER=$WORK/onramp CALLS=$WORK/calls
	printf '#!/bin/sh\necho "$*" >>%s\nexec %s "$@"\n' "$CALLS" "$ONRAMP" >"$LOADER"
	chmod +x "$LOADER"
}

setup() {
	: >"$CALLS"
	: >"$WORK/log"
	api_up
}

teardown() {
	[ -n "${BATS_TEST_COMPLETED-}" ] || cat "$WORK/log" "$CALLS" >&2
	watcher_down KILL
	kill "$(cat "$WORK/api")"
	cgroup_end "$CG/api"
	reload # where a test unloaded
	clean
}

teardown_file() {
	node_down
}

clean() { # no rule, no state
	local rules
	mapfile -t rules < <(awk '{ print $2 }' "$PIN/rules")
	[ ${#rules[@]} = 0 ] || onramp forget "${rules[@]}"
	rm -rf "$WORK/run"
}

api_up() {
	rm -f "$WORK/port"
	mkdir -p "$CG/api"
	"$ROOT/vmtests/fake-apiserver" "$WORK/port" >"$WORK/api-log" 2>&1 3>&- &
	echo $! >"$WORK/api"
	disown
	retry 100 test -s "$WORK/port"
	URL=http://127.0.0.1:$(cat "$WORK/port")
	kubectl config set-cluster fake --server="$URL" >/dev/null
	kubectl config set-context fake --cluster=fake >/dev/null
	kubectl config use-context fake >/dev/null
}

fake() { # KNOBS, as JSON
	curl -fsS -X PUT "$URL/fake" -d "$1" >/dev/null
}

requests() { # "VERB RESOURCE"...: how many there were
	curl -fsS "$URL/fake" | jq '[.[$ARGS.positional[]] // 0] | add' --args "$@"
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

watcher_up() { # [OPTION...]
	sh -c 'echo 0 >"$0/cgroup.procs" && exec "$@"' "$CG/watcher" \
		env NODE_NAME=node1 ONRAMP="$LOADER" "$SCRIPT" -p "$PIN" -s "$STATE" "$@" 2>>"$WORK/log" 3>&- &
	echo $! >"$WORK/watcher"
	disown
}

watcher_down() { # SIGNAL
	[ -s "$WORK/watcher" ] || return 0
	kill -"$1" "$(cat "$WORK/watcher")" 2>/dev/null || :
	: >"$WORK/watcher"
	retry 100 nothing_runs
}

nothing_runs() { # of the watcher
	[ ! -s "$CG/watcher/cgroup.procs" ] && is "$(cat "$CG/watcher/cgroup.procs")" "" 2>/dev/null
}

# The addresses with an IN rule, without their length, in a line.
enrolled() {
	awk '$1 == "in" { sub("/.*", "", $2); printf "%s%s", sep, $2; sep = " " }' "$PIN/rules"
}

are_in() { # ADDRESS...: these and no other, in the order of the rules file
	[ "$(enrolled)" = "$*" ]
}

soon_in() {
	retry 100 are_in "$@" || { is "$(enrolled)" "$*"; false; }
}

captured() { # POD
	run -0 pod "$1" "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.2.2:80 "
}

released() { # POD
	run -0 pod "$1" "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
}

@test "a namespace's label, as README has it: captured, and released, no pod restarted" {
	{ namespace shop; object shop/one 10.77.1.1,fd00:77::101; } | write
	watcher_up
	retry 100 grep -q . <(requests "watch pods")
	released r1
	kubectl label namespace shop istio.io/dataplane-mode=ambient
	soon_in 10.77.1.1 fd00:77::101
	captured r1
	kubectl label namespace shop istio.io/dataplane-mode-
	soon_in
	released r1
	is "$(cat "$CALLS")" "enroll -p $PIN 10.77.1.1 fd00:77:0:0:0:0:0:101
forget -p $PIN 10.77.1.1 fd00:77:0:0:0:0:0:101"
}
