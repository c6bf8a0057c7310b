#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# The loader as ztunnel's init container: alone in an empty, read-only root.

export ONRAMP_TEST_RUNTIME=runc
load helpers.bash

# What the table of scripts/README.md names. Before 5.11 locked memory is limited as well.
CAPABILITIES=(CAP_BPF CAP_PERFMON CAP_NET_ADMIN)
[ "$(printf '%s\n' 5.11 "$(uname -r)" | sort -V | head -n 1)" = 5.11 ] ||
	CAPABILITIES+=(CAP_SYS_RESOURCE)

setup_file() {
	node_up init
	pod_up old 10.77.1.8 # runs before onramp and ztunnel
	pod_up server 10.77.2.2
	serve server 0.0.0.0 80
	pod_up ztunnel "$ZTUNNEL_POD_IP"
}

teardown_file() {
	node_down
}

# Runs the loader to its end, in the pod, with these capabilities only.
init_container() { # POD ZTUNNEL_IP CAPABILITY...
	local bundle=$WORK/bundles/$1-init cgroup at
	# Where the table has it, which is not where AppArmor's profiles forbid to write.
	at=$(sed -n "s#^| the node's /sys/fs/bpf at \([^ ,]*\).*#\1#p" "$ROOT/scripts/README.md")
	[[ $at == /* && $at != /sys/* ]] || return
	mkdir -p "$bundle" "$WORK/init-root"
	cp "$ONRAMP" "$WORK/init-root/onramp"
	cgroup=$(pod_cgroup "$1")/init
	CONTAINER_ROOT=$WORK/init-root container_config "$1" "${cgroup#"$(cgroup2_mount)"}" \
		/onramp load --enroll 10.77.1.0/24 --node-netns /node-netns --pin-dir "$at/onramp" |
		jq --arg ip "$2" --arg at "$at" --arg bpffs "$WORK/bpf" --arg node "/run/netns/$RUN-node" --arg cgroup "/sys/fs/cgroup${CG#"$(cgroup2_mount)"}" '
			.process.env = ["ZTUNNEL_IP=" + $ip]
			| .process.capabilities[] = $ARGS.positional
			| .mounts += [
				{ destination: "/sys", type: "sysfs", source: "sysfs", options: ["ro"] },
				{ destination: "/node-netns", source: $node, options: ["bind"] },
				{ destination: $at, source: $bpffs, options: ["bind"] },
				{ destination: "/sys/fs/cgroup", source: $cgroup, options: ["bind"] }]
			' --args -- "${@:3}" >"$bundle/config.json"
	runc run --bundle "$bundle" "$1-init" 3>&-
}

@test "one capability less: it fails, names them, and changes nothing" {
	for less in "${CAPABILITIES[@]}"; do
		rest=()
		for one in "${CAPABILITIES[@]}"; do [ "$one" = "$less" ] || rest+=("$one"); done
		run -1 init_container ztunnel "$ZTUNNEL_POD_IP" "${rest[@]}"
		has "onramp: " "$less"
		is "${#lines[@]}" 1
		[ ! -e "$PIN" ]
	done
}

@test "it loads with ${CAPABILITIES[*]}, before ztunnel starts" {
	run -0 init_container ztunnel "$ZTUNNEL_POD_IP" "${CAPABILITIES[@]}"
	is "$output" ""
	is "$(find "$WORK/init-root" -type f -size +0)" "$WORK/init-root/onramp"
	# Nothing goes around a ztunnel that is not there yet.
	run -1 pod old "$TCP" dial 10.77.2.2 80
	is "$output" ECONNREFUSED
	serve ztunnel 0.0.0.0 15001 15006
	run -0 pod old "$TCP" dial 10.77.2.2 80
	has "local=$ZTUNNEL_POD_IP:" " on=15001" "orig4=10.77.2.2:80 " "from=10.77.1.8:"
	run -0 pod ztunnel "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
}

@test "ztunnel's pod is replaced by one with another address: pods follow" {
	pod_up ztunnel2 10.77.0.10
	run -0 init_container ztunnel2 10.77.0.10 "${CAPABILITIES[@]}"
	is "$output" ""
	serve ztunnel2 0.0.0.0 15001 15006
	pod_down ztunnel
	run -0 pod old "$TCP" dial 10.77.2.2 80
	has "local=10.77.0.10:" " on=15001" "orig4=10.77.2.2:80 " "from=10.77.1.8:"
	run -0 pod ztunnel2 "$TCP" dial 10.77.2.2 80
	has "local=10.77.2.2:80 "
	pod_up young 10.77.1.9
	run -0 pod young "$TCP" dial 10.77.2.2 80
	has "local=10.77.0.10:" " on=15001" "orig4=10.77.2.2:80 "
}

@test "pods from before onramp, which do nothing, are known to the node's programs" {
	pod_up idle 10.77.1.7
	onramp unload
	run -0 init_container ztunnel2 10.77.0.10 "${CAPABILITIES[@]}"
	run -0 node "$TCP" dial 10.77.1.7 80
	has "local=10.77.0.10:" " on=15006"
}
