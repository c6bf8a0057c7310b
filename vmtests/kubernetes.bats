#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# scripts/kubernetes without an API server: Kubernetes' schemas, what becomes of
# ztunnel's DaemonSet by each overlay, and the README's commands.

load helpers.bash

setup() {
	cd "$ROOT/scripts/kubernetes" || return
	STATE=$BATS_TEST_TMPDIR/daemonset.json
	export STATE
	patch_local '{}' "$ROOT/vmtests/ztunnel.yaml"
}

# As the API server patches the DaemonSet; of FILE, or of what it is by now.
patch_local() { # PATCH [FILE] [OPTION...]
	kubectl patch --local -f "${2:-$STATE}" --patch "$1" -o json "${@:3}" >"$STATE.new" &&
		mv "$STATE.new" "$STATE"
}

right() { "$ROOT/vmtests/kubernetes-schema"; }
spec() { jq -c ".spec.template.spec | $1" "$STATE"; }

@test "the schemas: each overlay in ztunnel's DaemonSet, and every file of its own" {
	for overlay in */kustomization.yaml; do
		patch_local "$(kubectl kustomize "${overlay%/*}")"
		run -0 right <"$STATE"
		is "$output" "1 objects: right"
	done
	for file in *.yaml; do
		[ "$file" = remove.yaml ] || run -0 right <"$file"
	done
}

@test "the schemas are more than a formality" {
	wrong() { # JQ-FILTER WHAT-IS-SAID
		run -1 right < <(jq "$1" "$STATE")
		is "$output" "DaemonSet ztunnel.$2"
	}
	wrong '.spec.template.spec.hostPid = true' \
		'spec.template.spec.hostPid: no such field in V1PodSpec'
	wrong '.spec.template.spec.hostPID = "true"' \
		"spec.template.spec.hostPID: 'true' is no bool"
	wrong '.spec.template.spec.containers[0].name = null' \
		"spec.template.spec.containers[0].name: None is no str
DaemonSet ztunnel.spec.template.spec.containers[0]: Invalid value for \`name\`, must not be \`None\`"
	wrong 'del(.spec.selector)' 'spec: Invalid value for `selector`, must not be `None`'
	run -1 right </dev/null
	is "$output" "nothing to check"
}

@test "an overlay adds to ztunnel's pod, changes no more than it says, and only once" {
	before=$(spec .)
	patch_local "$(kubectl kustomize in-pod)"
	once=$(spec .)
	is "$(spec '[.initContainers, .volumes | map(.name)]')" \
		'[["onramp"],["onramp-bpffs","onramp-cgroup2","tmp"]]'
	is "$(spec 'del(.initContainers) | .volumes |= map(select(.name == "tmp"))')" "$before"
	patch_local "$(kubectl kustomize in-pod)"
	is "$(spec .)" "$once"
	patch_local "$(cat remove.yaml)"
	is "$(spec 'del(.initContainers | select(. == []))')" "$before"
}

@test "each overlay comes off again, but for ztunnel's environment" {
	without_env='del(.containers[0].env) | del(.initContainers | select(. == []))'
	before=$(spec "$without_env")
	for overlay in */kustomization.yaml; do
		patch_local "$(kubectl kustomize "${overlay%/*}")"
		[ "$(spec "$without_env")" != "$before" ]
		patch_local "$(cat remove.yaml)"
		is "$(spec "$without_env")" "$before"
	done
}

@test "Istio without its CNI: ztunnel listens on its own address, and as itself" {
	patch_local "$(kubectl kustomize istio-without-cni)"
	is "$(spec '[.containers[0].env[] | { (.name): .value }] | add')" \
		'{"INPOD_ENABLED":"false","ENABLE_ORIG_SRC":"false","POD_NAME":null}'
}

@test "the README's commands, in their order, where what is no program here is told" {
	patch_local '{ "spec": { "template": { "spec":
		{ "initContainers": [{ "name": "own", "image": "own" }] } } } }'
	commands() { # BLOCK: of the section, from 1
		awk -v block="$1" '/^## / { here = /In a cluster/ }
			here && /^```console/ { on = ++n == block; next }
			/^```/ { on = 0 }
			on { sub(/^\$ /, ""); print }' "$ROOT/README.md"
	}
	cat >"$BATS_TEST_TMPDIR/prelude" <<-'END'
		set -eu
		real=$(command -v kubectl)
		kubectl() {
			case "$*" in
			kustomize*) "$real" "$@" ;;
			"-n istio-system patch daemonset ztunnel "*) locally patch "${@:6}" ;;
			"-n istio-system set image daemonset/ztunnel "*) locally set image "${@:6}" ;;
			"get nodes -o name") printf 'node/%s\n' one two.example ;;
			"apply -f -") vmtests/kubernetes-schema ;;
			*) echo "kubectl $*" ;;
			esac
		}
		locally() {
			"$real" "$@" --local -f "$STATE" -o json >"$STATE.new"
			mv "$STATE.new" "$STATE"
		}
		ctr() { echo "ctr $*"; ls "${!#}"; }
		istioctl() { echo "istioctl $*"; }
	END
	for block in 2 1 3 4; do
		commands $block >"$BATS_TEST_TMPDIR/commands"
		[ -s "$BATS_TEST_TMPDIR/commands" ]
		cat "$BATS_TEST_TMPDIR/prelude" "$BATS_TEST_TMPDIR/commands" >"$BATS_TEST_TMPDIR/script"
		cd "$ROOT"
		run -0 bash "$BATS_TEST_TMPDIR/script"
		case $block in
		2) has "delete daemonset istio-cni-node"; is "$(spec .initContainers)" null ;;
		1) has "build/onramp.oci.tar"; is "$(spec '.initContainers | map(.image)')" '["localhost/onramp:latest"]' ;;
		3) is "$(spec '.initContainers | map(.image)')" '["localhost/onramp:2"]' ;;
		4) is "$(spec '.initContainers // []')" '[]'; is "$output" "1 objects: right
1 objects: right" ;;
		esac
	done
}
