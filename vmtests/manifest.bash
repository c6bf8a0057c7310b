# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# For the suites that run what kubectl renders, by runc: the very command, arguments,
# environment, mounts, limits and security context. To be loaded between runc.bash and
# helpers.bash: pods are light ones, only the manifests' containers runc's.

# The blobs of the layers of an image, this machine's, from the lowest.
layers_of() { # ARCHIVE
	local blobs=$WORK/blobs-${1##*/} arch=amd64 manifest
	[ "$(uname -m)" = x86_64 ] || arch=arm64
	if [ ! -e "$blobs" ]; then
		mkdir -p "$blobs"
		tar -xf "$1" -C "$blobs"
	fi
	blob() { # JQ-FILTER FILE: the file of the digest that it finds there
		echo "$blobs/blobs/$(jq -r "$1.digest" --arg arch $arch "$2" | tr : /)"
	}
	manifest=$(blob '.manifests[0]' "$blobs/index.json")
	# A list of images comes first, where there are several.
	[ "$(jq 'has("manifests")' "$manifest")" = false ] ||
		manifest=$(blob '.manifests[] | select(.platform.architecture == $arch) | ' "$manifest")
	jq -r '.layers[].digest' "$manifest" | sed "s#^sha256:#$blobs/blobs/sha256/#"
}

# The OCI configuration of a container of build/kubernetes-OVERLAY.json's DaemonSet, in a
# pod of ours. CGROUP, below cgroup2's mount, is the container's. The node is a netns of
# ours: where the manifest does not name it, we do.
manifest_config() { # OVERLAY CONTAINER POD CGROUP IMAGE-ROOT [JQ-FILTER on it]
	local controllers node=.
	controllers=$(cat "$(cgroup2_mount)/cgroup.controllers")
	case $1:$2 in
	kind:* | remove:*) ;;
	*:load | *:onramp) node='.process.args += ["--node-netns=/node-netns"]
		| .mounts += [{ destination: "/node-netns", source: $netns, options: ["bind"] }]' ;;
	esac
	mkdir -p "$WORK/tmp" "$WORK/ztunnel" "$WORK/token"
	CONTAINER_ROOT=$5 container_config "$3" "$4" - |
		jq -L "$ROOT/vmtests" --slurpfile rendered "$ROOT/build/kubernetes-$1.json" \
			--arg name "$2" --arg netns "/run/netns/$RUN-node" --arg ip "$ZTUNNEL_POD_IP" \
			--arg uid "$POD_UID" --arg work "$WORK" --arg state "${STATE-}" \
			--arg cgroup2 "/sys/fs/cgroup${CG#"$(cgroup2_mount)"}" \
			--arg controllers "$controllers" '
			include "manifest";
			container($rendered[] | select(.kind == "DaemonSet").spec.template.spec; $name;
				{ "status.podIPs": $ip, "metadata.uid": $uid, "spec.nodeName": "node1" };
				{ "/sys/fs/bpf": "\($work)/bpf", "/sys/fs/cgroup": $cgroup2,
				  "/var/run/ztunnel": "\($work)/ztunnel", "tmp": "\($work)/tmp",
				  "token": "\($work)/token", "/var/lib/onramp/workloads": "\($state)/workloads",
				  "/var/lib/onramp/status": "\($state)/status" };
				"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
			| if $controllers | test("memory") then . else del(.linux.resources) end
			| '"$node | ${6:-.}"
}

# Before 5.11 locked memory is limited as well: see the base.
# shellcheck disable=SC2034
LOCKED=.
[ "$(printf '%s\n' 5.11 "$(uname -r)" | sort -V | head -n 1)" = 5.11 ] ||
	LOCKED='.process.capabilities[] += ["CAP_SYS_RESOURCE"]'
