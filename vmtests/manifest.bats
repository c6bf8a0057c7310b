#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# scripts/kubernetes, as kubectl renders it, by runc: the very command, arguments,
# environment, mounts, limits and security context, and the very image's root.

# In that order: pods are light ones, only the manifests' containers runc's.
load runc.bash
load helpers.bash

setup_file() {
	node_up manifest
	for file in onramp.oci.tar kubernetes-kind.json kubernetes-unload.json; do
		[ -s "$ROOT/build/$file" ] || { echo "make image manifests" >&2; return 1; }
	done
	image_root "$WORK/image"
	# The in-pod overlay's image has a shell and find besides.
	mkdir -p "$WORK/watcher/bin"
	cp "$(command -v busybox)" "$WORK/image/onramp" "$WORK/watcher/bin"
	for applet in sh find tr head; do ln -s busybox "$WORK/watcher/bin/$applet"; done
	pod_up client 10.77.1.8
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	serve ztunnel 0.0.0.0 15001 15006
}

teardown_file() {
	node_down
}

# The pod's cgroup as kubelet names it, by the systemd driver or by the other.
DRIVER=systemd
POD_UID=0a1b2c3d-1111-2222-3333-444455556666
kubelets_cgroup() {
	case $DRIVER in
	systemd) echo "$CG/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${POD_UID//-/_}.slice" ;;
	cgroupfs) echo "$CG/kubepods/burstable/pod$POD_UID" ;;
	esac
}

# Unpacks what the archive has for this machine.
image_root() { # DIRECTORY
	local blobs=$WORK/blobs index arch=amd64
	[ "$(uname -m)" = x86_64 ] || arch=arm64
	mkdir -p "$blobs" "$1"
	tar -xf "$ROOT/build/onramp.oci.tar" -C "$blobs"
	blob() { # JQ-FILTER FILE: the file of the digest that it finds there
		echo "$blobs/blobs/$(jq -r "$1.digest" --arg arch $arch "$2" | tr : /)"
	}
	index=$(blob '.manifests[0]' "$blobs/index.json")
	tar -xf "$(blob '.layers[0]' "$(blob \
		'.manifests[] | select(.platform.architecture == $arch) | ' "$index")")" -C "$1"
}

# Runs the first container of a rendered manifest to its end, in ztunnel's pod. The
# node is a netns of ours: where the manifest does not name it, we do.
run_manifest() { # NAME IMAGE-ROOT [JQ-FILTER on the OCI configuration]
	local bundle=$WORK/bundle cgroup controllers node=.
	mkdir -p "$bundle" "$WORK/rootfs"
	cgroup=$(kubelets_cgroup)/init
	controllers=$(cat "$(cgroup2_mount)/cgroup.controllers")
	case $1 in kind | unload) ;; *) node='.process.args += ["--node-netns=/node-netns"]
		| .mounts += [{ destination: "/node-netns", source: $netns, options: ["bind"] }]' ;; esac
	CONTAINER_ROOT=$2 container_config ztunnel "${cgroup#"$(cgroup2_mount)"}" - |
		jq -L "$ROOT/vmtests" --slurpfile rendered "$ROOT/build/kubernetes-$1.json" \
			--arg netns "/run/netns/$RUN-node" --arg ip "$ZTUNNEL_POD_IP" \
			--arg uid "$POD_UID" --arg bpffs "$WORK/bpf" --arg cgroup2 "/sys/fs/cgroup${CG#"$(cgroup2_mount)"}" \
			--arg node_ns "/proc/${NODE_INIT-}/ns" --arg controllers "$controllers" '
			include "manifest";
			first_container($rendered[0].spec.template.spec;
				{ "status.podIPs": $ip, "metadata.uid": $uid };
				{ "/sys/fs/bpf": $bpffs, "/sys/fs/cgroup": $cgroup2, "/proc/1/ns": $node_ns };
				"/bin")
			| if $controllers | test("memory") then . else del(.linux.resources) end
			| '"$node | ${3:-.}" >"$bundle/config.json" || return
	runc run --bundle "$bundle" ztunnel-init 3>&-
}

# Before 5.11 locked memory is limited as well: see the base.
LOCKED=.
[ "$(printf '%s\n' 5.11 "$(uname -r)" | sort -V | head -n 1)" = 5.11 ] ||
	LOCKED='.process.capabilities[] += ["CAP_SYS_RESOURCE"]'

@test "Istio without its CNI: the init container loads onramp, before or beside ztunnel" {
	run -0 run_manifest istio-without-cni "$WORK/image" "$LOCKED"
	is "$output" ""
	onramp enroll 10.77.1.0/24
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:" " on=15001" "orig4=10.77.2.2:80 "
	run -0 pod ztunnel "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
}

# bats test_tags=once
@test "it needs nothing in its root but the one file, and leaves nothing there" {
	is "$(find "$WORK/image" -type f -size +0)" "$WORK/image/onramp"
	cmp "$WORK/image/onramp" "$ONRAMP"
}

@test "once more with another loader, it is an upgrade: programs change, rules stay" {
	program() { "$BPFTOOL" -j link show pinned "$PIN/links/connect4" | jq .prog_id; }
	before=$(program)
	mkdir -p "$WORK/newer"
	cp "$ROOT/build/other/onramp" "$WORK/newer/onramp"
	run -0 run_manifest istio-without-cni "$WORK/newer" "$LOCKED"
	is "$output" ""
	[ "$(program)" != "$before" ]
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:" " on=15001" "orig4=10.77.2.2:80 "
}

# bats test_tags=once
@test "its capabilities are the README's" {
	is "$(jq -r '.spec.template.spec.initContainers[0].securityContext.capabilities
		| "\(.drop) " + ([.add[] | "CAP_" + .] | join(", "))' "$ROOT/build/kubernetes-base.json")" \
		"[\"ALL\"] $(sed -n 's/^| \(CAP_BPF[^|]*\) |.*/\1/p' "$ROOT/README.md")"
}

@test "its memory limit counts: with 8 MiB the loader does not live" {
	grep -q memory "$(cgroup2_mount)/cgroup.controllers" || skip "cgroup2 has no memory here"
	[ "$LOCKED" = . ] || skip "before 5.11 maps are not the cgroup's memory, but locked"
	run run_manifest istio-without-cni "$WORK/image" \
		"$LOCKED | .linux.resources.memory.limit = 8388608"
	[[ $status = 137 || $output =~ OOM-killed|"Cannot allocate memory" ]] || { echo "$output"; return 1; }
}

@test "the Job unloads, without any capability" {
	run -0 run_manifest unload "$WORK/image"
	is "$output" ""
	[ ! -e "$PIN" ]
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
}

# bats test_tags=once
@test "Kind: the node's netns is found by its process 1, and its programs are captured" {
	nsenter --net="/run/netns/$RUN-node" unshare --pid --fork --kill-child \
		sleep infinity 3>&- &
	node=$!
	retry 100 pgrep -P $node
	NODE_INIT=$(pgrep -P $node)
	run -1 run_manifest kind "$WORK/image" \
		"$LOCKED | .process.capabilities[] -= [\"CAP_SYS_PTRACE\"]"
	has "onramp: /node/ns/net: "
	run -0 run_manifest kind "$WORK/image" "$LOCKED"
	kill $node
	is "$output" ""
	onramp enroll 10.77.1.0/24
	pod client true
	run -0 node "$TCP" dial 10.77.1.8 80
	has "local=$ZTUNNEL_POD_IP:" " on=15006" "orig4=10.77.1.8:80 "
	run -0 run_manifest unload "$WORK/image"
}

# bats test_tags=once
@test "in-pod: it finds ztunnel's cgroup as kubelet's systemd driver names it" {
	in_pod
}

# bats test_tags=once
@test "in-pod: and as the cgroupfs driver does" {
	DRIVER=cgroupfs POD_UID=7a1b2c3d-1111-2222-3333-444455556666
	in_pod
}

in_pod() {
	local inside
	inside=$(kubelets_cgroup)/inside
	run -0 run_manifest in-pod "$WORK/watcher" "$LOCKED"
	is "$output" ""
	mkdir "$inside"
	launch "$WORK/inside" run_in "${inside#"$CG/"}" client "$TCP" share :: 15001
	run -0 pod client "$TCP" dial 10.77.2.2 80
	cgroup_end "$inside"
	[[ $output == *" local=[::ffff:127."*" orig4=10.77.2.2:80 "* ]] || { echo "$output"; return 1; }
	run -0 pod client "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
}

# bats test_tags=once
@test "in-pod: where it does not find the pod, it says so and changes nothing" {
	run -0 run_manifest unload "$WORK/image"
	run -2 run_manifest in-pod "$WORK/watcher" '.process.env += ["POD_UID=0-0"]'
	has "no cgroup of pod 0-0"
	[ ! -e "$PIN" ]
}
