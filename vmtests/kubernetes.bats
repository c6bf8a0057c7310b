#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# scripts/kubernetes without an API server: Kubernetes' schemas, what each overlay
# changes and no more, who may do what, and READMEs' commands.

load helpers.bash

# Each as YAML, as kubectl renders it, and as a list of its objects in JSON.
setup_file() {
	export RENDERED=$BATS_FILE_TMPDIR
	cd "$ROOT/scripts/kubernetes" || return
	for overlay in . */; do
		name=$RENDERED/${overlay%/}
		kubectl kustomize "$overlay" >"$name.yaml"
		kubectl patch --local -f "$name.yaml" --type merge --patch '{}' -o json | jq -sc . >"$name.json"
	done
	OVERLAYS=$(echo */ | sed 's#/##g; s/ *node-mode//')
	export OVERLAYS
}

right() { "$ROOT/vmtests/kubernetes-schema"; }

# Of what is rendered, in an array; by default all of the DaemonSet's pod.
rendered() { # OVERLAY [JQ-FILTER]
	jq -c "${2-$DAEMONSET | .spec.template}" "$RENDERED/$1.json"
}
DAEMONSET='.[] | select(.kind == "DaemonSet")'

# The places at which an overlay differs from the base, and what is there in it; with
# numbers for what is in a list.
changes() { # OVERLAY
	jq -rn --argjson base "$(rendered base 'map({ "\(.kind)/\(.metadata.name)": . }) | add')" \
		--argjson overlay "$(rendered "$1" 'map({ "\(.kind)/\(.metadata.name)": . }) | add')" '
		def leaves: [paths(scalars) as $path | { ($path | map(tostring) | join(".")): getpath($path) }] | add;
		($base | leaves) as $before | ($overlay | leaves) as $after
		| ($before + $after | keys_unsorted | unique[]) as $key
		| select($before[$key] != $after[$key])
		| $key + "=" + ($after[$key] | tostring | gsub("\n"; " "))' |
		sed 's/^DaemonSet\/onramp\.spec\.template\.//'
}

@test "the schemas: all of it, and each overlay" {
	for overlay in $OVERLAYS; do
		run -0 right <"$RENDERED/$overlay.yaml"
		[[ $output == *" objects: right" ]]
	done
	cmp "$RENDERED/..yaml" "$RENDERED/base.yaml"
}

@test "the schemas are more than a formality" {
	wrong() { # KIND JQ-FILTER WHAT-IS-SAID
		run -1 right < <(jq ".[] | select(.kind == \"$1\") | $2" "$RENDERED/base.json")
		is "$output" "$1 onramp.$3"
	}
	wrong DaemonSet '.spec.template.spec.hostPid = true' \
		'spec.template.spec.hostPid: no such field in V1PodSpec'
	wrong DaemonSet '.spec.template.spec.hostPID = "true"' \
		"spec.template.spec.hostPID: 'true' is no bool"
	wrong DaemonSet '.spec.template.spec.containers[0].name = null' \
		"spec.template.spec.containers[0].name: None is no str
DaemonSet onramp.spec.template.spec.containers[0]: Invalid value for \`name\`, must not be \`None\`"
	wrong DaemonSet 'del(.spec.selector)' 'spec: Invalid value for `selector`, must not be `None`'
	# What the packaged client may not know.
	wrong DaemonSet '.spec.template.spec.containers[0].securityContext.appArmorProfile.type = 1' \
		'spec.template.spec.containers[0].securityContext.appArmorProfile.type: 1 is no str'
	wrong ValidatingAdmissionPolicy '.spec.validations[0].expresion = "true"' \
		'spec.validations[0].expresion: no such field in V1Validation'
	wrong ValidatingAdmissionPolicy 'del(.spec.validations[0].expression)' \
		'spec.validations[0]: Invalid value for `expression`, must not be `None`'
	run -1 right </dev/null
	is "$output" "nothing to check"
}

@test "each overlay changes what it says, and nothing else" {
	is "$(changes no-dns)" "spec.initContainers.0.args.2=null"
	is "$(changes strict)" 'spec.containers.1.args.2=-s
spec.initContainers.0.args.3=--strict
spec.initContainers.0.args.4=--exclude=$(POD_UID)
spec.initContainers.0.env.0.name=POD_UID
spec.initContainers.0.env.0.valueFrom.fieldRef.fieldPath=metadata.uid'
	is "$(changes untaint)" "metadata.labels.k8s-app=istio-cni-node"
	run changes gke
	is "$(grep -v '^ResourceQuota/' <<<"$output")" ""
	has "ResourceQuota/onramp.metadata.namespace=onramp" "values.0=system-node-critical"
	run changes openshift
	is "$(grep -v '^SecurityContextConstraints/' <<<"$output")" "spec.containers.1.args.2=-i
spec.containers.1.args.3=kube-system"
	is "$(rendered kind | jq -c '.spec.initContainers | map(.name), .[1].args')" \
		'["bpffs","load"]
["load","--pin-dir=/node/bpf/onramp","--dns","--node-netns=/proc/1/ns/net"]'
	is "$(rendered kind | jq -c 'del(.spec.initContainers)')" "$(rendered base | jq -c 'del(.spec.initContainers)')"
	run changes remove
	is "$(grep -vE '^spec\.(initContainers|containers\.[01]\.(command|args|readinessProbe|livenessProbe|volumeMounts))\.' <<<"$output")" ""
}

# By this the DaemonSet is one and the same: what is applied takes the other's place.
@test "each is the same DaemonSet, of one image: the Makefile's" {
	image=$(sed -n 's/^NODE_IMAGE := //p' "$ROOT/Makefile")
	for overlay in $OVERLAYS; do
		is "$(rendered "$overlay" "$DAEMONSET"' | [.metadata.namespace, .metadata.name, .spec.selector.matchLabels,
			([.spec.template.spec | (.initContainers // [])[], .containers[] | .image] | unique)]')" \
			'["onramp","onramp",{"app":"onramp"},["'"$image"'"]]'
	done
}

@test "who may do what: the token is enroll-by-label's, DIR is onramp-zds' to read" {
	for overlay in $OVERLAYS; do
		pod=$(rendered "$overlay" "$DAEMONSET | .spec.template.spec")
		is "$(jq -c '.automountServiceAccountToken' <<<"$pod") $(rendered "$overlay" \
			'.[] | select(.kind == "ServiceAccount") | .automountServiceAccountToken')" "false false"
		mounts() { # VOLUME: who has it, and how
			jq -r --arg volume "$1" '(.initContainers // [])[], .containers[]
				| .name + " " + (.volumeMounts // [] | .[] | select(.name == $volume)
					| if .readOnly then "ro" else "rw" end)' <<<"$pod" | paste -sd ,
		}
		is "$(mounts token)" "enroll-by-label ro"
		is "$(mounts workloads)" "zds ro,enroll-by-label rw"
		is "$(mounts ztunnel)" "zds rw"
	done
	rights() {
		rendered base "$DAEMONSET"' | .spec.template.spec | .initContainers + .containers | map(select(.name == "'"$1"'"))[0]
			| "\(.securityContext.capabilities.drop) \(.securityContext.capabilities.add // [] | sort)"' | jq -r .
	}
	is "$(rights load)" '["ALL"] ["BPF","NET_ADMIN","PERFMON","SYS_PTRACE"]'
	is "$(rights zds)" '["ALL"] ["SYS_ADMIN","SYS_PTRACE"]'
	is "$(rights enroll-by-label)" '["ALL"] []'
	is "$(rendered base '.[] | select(.kind == "ClusterRole").rules')" \
		'[{"apiGroups":[""],"resources":["pods","namespaces"],"verbs":["get","list","watch"]},{"apiGroups":[""],"resources":["pods/status"],"verbs":["patch"]},{"apiGroups":[""],"resources":["events"],"verbs":["create"]}]'
}

@test "its pods are never in the mesh, and no sidecar is put into them" {
	for overlay in $OVERLAYS; do
		is "$(rendered "$overlay" | jq -c '.metadata.labels | [.["istio.io/dataplane-mode", "sidecar.istio.io/inject"]]')" \
			'["none","false"]'
	done
	is "$(rendered base '.[] | select(.kind == "Namespace").metadata.labels | has("istio.io/dataplane-mode")')" false
}

@test "OpenShift: its SCC allows what the pods ask for" {
	is "$(rendered openshift '(.[] | select(.kind == "SecurityContextConstraints")) as $scc
		| (.[] | select(.kind == "DaemonSet").spec.template.spec) as $pod
		| [$pod.initContainers[], $pod.containers[] | .securityContext.capabilities.add // [] | .[]] - $scc.allowedCapabilities
		  + [$pod.volumes[] | keys[] | select(. != "name")] - $scc.volumes
		  + ($scc.users - ["system:serviceaccount:onramp:onramp"])')" '[]'
	# Other clusters know no SCC, so that remove cannot have it: deleted is openshift.
	objects='map(.kind + "/" + .metadata.name) | sort'
	is "$(rendered openshift "$objects")" \
		"$(rendered remove ". + [{ kind: \"SecurityContextConstraints\", metadata: { name: \"onramp\" } }] | $objects")"
	grep -q '`scripts/kubernetes/openshift`' "$ROOT/README.md"
}

# As the API server patches ztunnel's DaemonSet.
patched() { # PATCH, of what $STATE is
	kubectl patch --local -f "$STATE" --patch "$1" -o json >"$STATE.new"
	mv "$STATE.new" "$STATE"
}
spec() { jq -c ".spec.template.spec | $1" "$STATE"; }

@test "node mode: a patch for ztunnel's DaemonSet, which changes no more than it says, only once" {
	STATE=$BATS_TEST_TMPDIR/daemonset.json
	kubectl patch --local -f "$ROOT/vmtests/ztunnel.yaml" --patch '{}' -o json >"$STATE"
	before=$(spec .)
	patched "$(cat "$RENDERED/node-mode.yaml")"
	run -0 right <"$STATE"
	once=$(spec .)
	is "$(spec '[.initContainers, .volumes | map(.name)]')" \
		'[["onramp"],["onramp-bpffs","onramp-cgroup2","tmp"]]'
	is "$(spec '.initContainers[0] | [.args[1:], .env[0].name]')" \
		'[["--pin-dir=/node/bpf/onramp","--kubelet-cgroup=/","--bypass=169.254.169.254/32"],"ZTUNNEL_IP"]'
	is "$(spec '[.containers[0].env[] | { (.name): .value }] | add')" \
		'{"INPOD_ENABLED":"false","POD_NAME":null}'
	is "$(spec 'del(.initContainers) | .volumes |= map(select(.name == "tmp"))
		| .containers[0].env[0].value = "true"')" "$before"
	patched "$(cat "$RENDERED/node-mode.yaml")"
	is "$(spec .)" "$once"
}

@test "READMEs' commands, in their order, where what is no program here is told" {
	for readme in README.md scripts/README.md; do
		section $readme "In a cluster" | awk '
			/^```console/ { on = 1; next }
			/^```/ { on = 0 }
			on && sub(/^\$ |^  /, "")' # a command, or what it goes on with
	done >"$BATS_TEST_TMPDIR/commands"
	cat - "$BATS_TEST_TMPDIR/commands" >"$BATS_TEST_TMPDIR/script" <<-'END'
		set -eu
		real=$(command -v kubectl)
		kubectl() {
			case "$*" in
			"apply -k "* | "delete -k "*) echo "$1 $3"; "$real" kustomize "$3" | vmtests/kubernetes-schema ;;
			"-n onramp set image daemonset/onramp "*)
				"$real" "${@:3:2}" -f "$WORKLOAD" "${@:6}" --local -o json |
					jq -c '[.spec.template.spec | .initContainers[], .containers[] | .image] | unique' ;;
			"-n istio-system patch daemonset ztunnel "*)
				"$real" patch --local -f vmtests/ztunnel.yaml "${@:6}" -o json |
					jq -c '[.spec.template.spec.initContainers[].name]' ;;
			"kustomize "*) "$real" "$@" ;;
			"get nodes -o name") printf 'node/node-%d\n' 1 2 ;;
			"debug "*) # kubectl knows the command's options, and only then asks a server
				"$real" -s http://127.0.0.1:1 "$@" 2>&1 | grep -o 'connection .* was refused'
				# Of :latest a kubelet would look for another, where nobody has it.
				echo "debug $2 $4 $5"
				"scripts/$7" "${@:8}" --help | head -n 1 ;;
			*) echo "kubectl $*" ;;
			esac
		}
		make() { echo "make $*"; }
		ctr() { echo "ctr $*"; ls "${!#}"; }
	END
	export WORKLOAD=$BATS_TEST_TMPDIR/daemonset.json
	rendered base "$DAEMONSET" >"$WORKLOAD"
	cd "$ROOT"
	run -0 bash "$BATS_TEST_TMPDIR/script"
	image="--image-pull-policy=IfNotPresent --image=localhost/onramp-node:latest"
	refused="connection to the server 127.0.0.1:1 was refused"
	take_over="onramp-take-over [--back] [--dry-run] [--wait SECONDS] [OPTION]..."
	is "$output" "make image
ctr -n k8s.io images import build/onramp-node.oci.tar
build/onramp-node.oci.tar
apply scripts/kubernetes
7 objects: right
kubectl -n onramp rollout status daemonset onramp
kubectl label namespace shop istio.io/dataplane-mode=ambient
kubectl label namespace shop istio.io/dataplane-mode-
make image NODE_IMAGE=localhost/onramp-node:2
ctr -n k8s.io images import build/onramp-node.oci.tar
build/onramp-node.oci.tar
[\"localhost/onramp-node:2\"]
apply scripts/kubernetes/remove
7 objects: right
kubectl -n onramp rollout status daemonset onramp
delete scripts/kubernetes/remove
7 objects: right
$refused
debug node/node-1 $image
$take_over
$refused
debug node/node-2 $image
$take_over
kubectl logs NODE-DEBUGGER-POD
kubectl -n istio-system delete daemonset istio-cni-node
[\"onramp\"]"
}
