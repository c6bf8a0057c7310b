# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# What the suites of enroll-by-label share beside helpers.bash, which is to be loaded
# before: fake-apiserver, objects there, and the watcher. HOME and KUBECONFIG are theirs.

NOTE=ambient.istio.io/redirection
# shellcheck disable=SC2034 # for suites
AMBIENT='.metadata.labels["istio.io/dataplane-mode"] = "ambient"'

api_up() {
	rm -f "$WORK/port"
	"$ROOT/vmtests/fake-apiserver" "$WORK/port" >"$WORK/api-log" 2>&1 3>&- &
	echo $! >"$WORK/api"
	disown
	retry 100 test -s "$WORK/port"
	URL=http://127.0.0.1:$(cat "$WORK/port")
	jq -n --arg url "$URL" '{ kind: "Config", apiVersion: "v1", "current-context": "fake",
		clusters: [{ name: "fake", cluster: { server: $url } }], users: [{ name: "user", user: {} }],
		contexts: [{ name: "fake", context: { cluster: "fake", user: "user" } }] }' >"$KUBECONFIG"
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

# A pod, as it is when it has been given to this node, and edited by jq.
object() { # NAMESPACE/NAME [EDIT]
	jq -nc --arg at "$1" --arg uid "$(uid "$1")" '{
		kind: "Pod",
		metadata: { namespace: ($at | split("/")[0]), name: ($at | split("/")[1]), uid: $uid, labels: { app: "shop" },
			annotations: { "kubernetes.io/config.seen": "x" }, creationTimestamp: "2026-01-01T00:00:00Z" },
		spec: { nodeName: "node1", serviceAccountName: "seller", containers: [{ name: "main", image: "shop:1" }] },
		status: { phase: "Pending" } } | '"${2:-.}"
}

uid() { # NAMESPACE/NAME
	local hash
	hash=$(md5sum <<<"$1")
	echo "${hash:0:8}-${hash:8:4}-${hash:12:4}-${hash:16:4}-${hash:20:12}"
}

write() { # objects from stdin
	jq -sc '{ write: . }' | curl -fsS -X PUT "$URL/fake" -d @- >/dev/null
}

edit() { # NAMESPACE/NAME JSON: a merge patch, by somebody
	curl -fsS -X PATCH "$URL/api/v1/namespaces/${1%/*}/pods/${1#*/}" -d "$2" >/dev/null
}

remove() { # NAMESPACE/POD...: those that are there
	local pods=("${@/\//\/pods\/}")
	curl -sS -X DELETE "${pods[@]/#/$URL/api/v1/namespaces/}" >/dev/null
}

label() { # NAMESPACE =MODE, or -: as users do
	kubectl label --overwrite namespace "$1" "istio.io/dataplane-mode$2" >/dev/null
}

note() { # NAMESPACE/NAME: its annotation, as the API server has it; nothing: none
	curl -fsS "$URL/api/v1/namespaces/${1%/*}/pods/${1#*/}" | jq -r --arg note "$NOTE" '.metadata.annotations[$note] // ""'
}
note_is() { [ "$(note "$1")" = "$2" ]; }
note_becomes() { retry 300 note_is "$@" || is "$(note "$1")" "$2"; } # NAMESPACE/NAME TEXT

watcher_up() { # OPTION...
	in_cgroup env NODE_NAME=node1 "$ROOT/scripts/enroll-by-label" -w "$DIR" -a "$URL" "$@"
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
