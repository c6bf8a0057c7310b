#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# scripts/kubernetes, as kubectl renders it, by runc: what loads onramp, as the
# DaemonSet's init container and in node mode as ztunnel's. (The rest: daemonset.bats.)

load runc.bash
load manifest.bash
load helpers.bash

POD_UID=0a1b2c3d-1111-2222-3333-444455556666
# In in-pod mode it is onramp-zds that makes ztunnel known.

setup_file() {
	node_up manifest
	for file in onramp.oci.tar onramp-node.oci.tar kubernetes-base.json; do
		[ -s "$ROOT/build/$file" ] || { echo "make image manifests" >&2; return 1; }
	done
	mkdir "$WORK/image" "$WORK/node-image"
	tar -xf "$(layers_of "$ROOT/build/onramp.oci.tar")" -C "$WORK/image"
	# The loader needs nothing of what is below it.
	tar -xf "$(layers_of "$ROOT/build/onramp-node.oci.tar" | tail -n 1)" -C "$WORK/node-image"
	pod_up client 10.77.1.8
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	serve ztunnel 0.0.0.0 15001 15006
	pod_up onramp 10.77.0.20
}

teardown_file() {
	node_down
}

# The pod's cgroup as kubelet names it, by the systemd driver.
kubelets_cgroup() {
	echo "$CG/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${POD_UID//-/_}.slice"
}

# Runs a container to its end.
run_manifest() { # OVERLAY CONTAINER POD IMAGE-ROOT [JQ-FILTER]
	local bundle=$WORK/bundle cgroup
	mkdir -p "$bundle" "$WORK/rootfs"
	cgroup=$(kubelets_cgroup)/init
	manifest_config "$1" "$2" "$3" "${cgroup#"$(cgroup2_mount)"}" "$4" "${5:-.}" \
		>"$bundle/config.json" || return
	runc run --bundle "$bundle" "$3-init" 3>&-
}

load_container() { # [JQ-FILTER]
	run_manifest "${OVERLAY-base}" load onramp "${IMAGE-$WORK/node-image}" "$LOCKED | ${1:-.}"
}

in_ztunnels_pod() { # [JQ-FILTER]
	run_manifest node-mode onramp ztunnel "$WORK/image" "$LOCKED | ${1:-.}"
}

named() { # NAME CGROUP: a program of the node's, for as long as its cgroup
	mkdir -p "$CG/$2"
	launch "$WORK/$1" run_in "$2" node bash -c \
		'printf %s "$0" >/proc/self/comm && echo ready && read -r <>"$1"' "$1" "$WORK/silent"
}

kubelets() {
	"$BPFTOOL" -j map dump pinned "$PIN/maps/kubelets" |
		jq -r '.[].key | map(ltrimstr("0x")) | reverse | join("")' | while read -r id; do
		echo $((16#$id))
	done
}

@test "load: in-pod mode, with DNS; it finds the kubelet, and needs nothing but the one file" {
	named kubelet system.slice/kubelet.service
	run -0 load_container
	is "$output" ""
	is "$(kubelets)" "$(stat -c %i "$CG/system.slice")"
	[ -e "$PIN/links/sendmsg4" ]
	[ -e "$PIN/programs/bind4" ] # which in node mode is attached by the load
	is "$(onramp rules)" ""
}

@test "load: once more with another loader, it is an upgrade: programs change, rules stay" {
	program() { "$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .prog_id; }
	before=$(program)
	onramp enroll 10.77.9.0/24
	mkdir -p "$WORK/newer/usr/local/bin"
	cp "$ROOT/build/other/onramp" "$WORK/newer/usr/local/bin/onramp"
	IMAGE=$WORK/newer run -0 load_container
	is "$output" ""
	[ "$(program)" != "$before" ]
	is "$(onramp rules)" "in      10.77.9.0/24"
}

@test "load: without SYS_PTRACE it would not find the kubelet, with less it does not load" {
	run -0 load_container '.process.capabilities[] -= ["CAP_SYS_PTRACE"]'
	is "$(kubelets)" ""
	onramp unload
	for less in BPF NET_ADMIN PERFMON; do
		run -1 load_container ".process.capabilities[] -= [\"CAP_$less\"]"
		has "CAP_$less"
		[ ! -e "$PIN" ]
	done
}

@test "load: its memory limit counts: with 8 MiB the loader does not live" {
	grep -q memory "$(cgroup2_mount)/cgroup.controllers" || skip "cgroup2 has no memory here"
	[ "$LOCKED" = . ] || skip "before 5.11 maps are not the cgroup's memory, but locked"
	run load_container ".linux.resources.memory.limit = 8388608"
	[[ $status = 137 || $output =~ OOM-killed|"Cannot allocate memory" ]] || { echo "$output"; return 1; }
}

@test "strict: refuses who has no rule, and not its own pod" {
	OVERLAY=strict run -0 load_container
	is "$output" ""
	is "$(onramp rules)" "out     $POD_UID"
	onramp unload
}

@test "no-dns: leaves DNS alone" {
	OVERLAY=no-dns run -0 load_container
	[ ! -e "$PIN/links/sendmsg4" ]
	onramp unload
}

@test "Kind: the node's netns is found by its process 1" {
	local bundle=$WORK/bundle cgroup
	cgroup=$(kubelets_cgroup)/init
	# In a pid namespace whose first process is the node's.
	as_in_kind() { # JQ-FILTER
		manifest_config kind load onramp "${cgroup#"$(cgroup2_mount)"}" "$WORK/node-image" \
			"$LOCKED | $1" >"$bundle/config.json"
		export -f runc cgroup2_mount
		nsenter --net="/run/netns/$RUN-node" unshare --pid --fork --mount-proc --kill-child \
			bash -c 'runc run --bundle "$0" onramp-kind; exit' "$bundle" 3>&-
	}
	run -1 as_in_kind '.process.capabilities[] -= ["CAP_SYS_PTRACE"]'
	has "onramp: /proc/1/ns/net: "
	run -0 as_in_kind .
	is "$output" ""
	is "$("$BPFTOOL" -j map lookup pinned "$PIN/maps/settings" key 0 0 0 0 |
		jq .formatted.value.node_netns)" "$(stat -Lc %i "/run/netns/$RUN-node")"
	onramp unload
}

@test "node mode: ztunnel's init container loads onramp, before or beside ztunnel" {
	run -0 in_ztunnels_pod
	is "$output" ""
	onramp enroll 10.77.1.0/24
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:15001 " "orig4=10.77.2.2:80 "
	# ztunnel is known by the netns that it was loaded in, and the kubelet left alone.
	onramp enroll "$ZTUNNEL_POD_IP"
	run -0 pod ztunnel "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
	serve client 0.0.0.0 80
	run -0 node "$TCP" dial 10.77.1.8 80
	has "local=10.77.1.8:80 "
	is "$(onramp rules | grep bypass)" "bypass  169.254.169.254/32"
}

@test "node mode: it needs nothing in its root but the one file, and the rights of scripts/README.md" {
	is "$(find "$WORK/image" -type f -size +0)" "$WORK/image/onramp"
	cmp "$WORK/image/onramp" "$ONRAMP"
	is "$(jq -r '.spec.template.spec.initContainers[0].securityContext.capabilities
		| "\(.drop) " + ([.add[] | "CAP_" + .] | join(", "))' "$ROOT/build/kubernetes-node-mode.json")" \
		"[\"ALL\"] $(section scripts/README.md "Three ways to use it" |
			sed -n 's/^| \(CAP_BPF[^|]*\) |.*/\1/p')"
	onramp unload
}
