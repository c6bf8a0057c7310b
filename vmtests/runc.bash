# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# Pods as a kubelet's runtime makes them, in place of helpers.bash's light ones:
# a netns, CNI ADD (bridge, host-local), a pause container that comes first, app
# containers beside it, each with its own cgroup, mount and pid namespaces.
# Containers see this machine's root, so that any command of a test runs there.

# The pod's cgroup, which holds one for each container.
pod_cgroup() { # NAME
	echo "$CG/kubepods/burstable/pod$1"
}

pod_up() { # NAME IP
	netns_with_cni "$1" "$2"
	container_up "$1" pause sleep infinity
	container_up "$1" app sleep infinity
}

netns_with_cni() { # POD IP
	ip netns add "$RUN-$1"
	ip -n "$RUN-$1" link set lo up
	cni ADD "$1" "$2" >/dev/null
}

pod_down() { # NAME
	container_down "$1" app
	container_down "$1" pause
	cni DEL "$1"
	opens_stay "$1"
	ip netns del "$RUN-$1"
	rmdir "$(pod_cgroup "$1")"
}

cni() { # ADD|DEL POD [IP]
	local plugins
	for plugins in /usr/lib/cni /opt/cni/bin; do [ ! -x "$plugins/bridge" ] || break; done
	ip netns exec "$RUN-node" env CNI_COMMAND="$1" CNI_CONTAINERID="$RUN-$2" \
		CNI_NETNS="/run/netns/$RUN-$2" CNI_IFNAME=eth0 CNI_PATH="$plugins" \
		CNI_ARGS="IgnoreUnknown=1${3:+;IP=$3}" "$plugins/bridge" <<-END
		{ "cniVersion": "0.4.0", "name": "onramp", "type": "bridge", "bridge": "br0",
		  "ipam": { "type": "host-local", "dataDir": "$WORK/ipam",
		    "ranges": [[{ "subnet": "10.77.0.0/16", "gateway": "$NODE_IP" }]],
		    "routes": [{ "dst": "0.0.0.0/0" }] } }
	END
}

# runc sees a node with cgroup2 alone, also where the machine is a hybrid, and
# /'s mounts at $WORK/rootfs: both in a mount namespace that ends with it.
runc() { # ARGUMENT...
	unshare --mount sh -c '
		[ "$1" = /sys/fs/cgroup ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
		mount --rbind / "$2/rootfs" && shift 2 && exec "$@"' sh \
		"$(cgroup2_mount)" "$WORK" "$(command -v runc)" --root "$WORK/runc" "$@"
}

# A container runs its command from its start; waits until it has executed it.
container_up() { # POD CONTAINER COMMAND...
	local id=$1-$2 bundle=$WORK/bundles/$1-$2 cgroup
	cgroup=$(pod_cgroup "$1")/$2
	mkdir -p "$bundle" "$WORK/rootfs"
	CONTAINER_ROOT=$WORK/rootfs container_config "$1" "${cgroup#"$(cgroup2_mount)"}" "${@:3}" \
		>"$bundle/config.json"
	runc run --detach --pid-file "$bundle/pid" --bundle "$bundle" "$id" \
		</dev/null >"$bundle/out" 2>&1 3>&- || { cat "$bundle/out" >&2; return 1; }
	retry 100 container_runs "$(cat "$bundle/pid")"
}

# Whether runc's own process has made room for the command; or it has ended.
container_runs() { # PID
	local name=
	read -r name 2>/dev/null <"/proc/$1/comm" || :
	[[ $name != runc* ]]
}

container_down() { # POD CONTAINER
	runc delete --force "$1-$2"
}

# The OCI configuration that a runtime would write; a test changes it with jq.
container_config() { # POD CGROUP COMMAND...
	local words=("${@:3}") args capabilities='["CAP_NET_BIND_SERVICE", "CAP_KILL", "CAP_SYS_ADMIN",
		"CAP_NET_ADMIN", "CAP_DAC_OVERRIDE"]'
	words=("${words[@]//\\/\\\\}")
	words=("${words[@]//\"/\\\"}")
	args=$(printf ', "%s"' "${words[@]}")
	cat <<-END
		{ "ociVersion": "1.0.2",
		  "process": { "args": [${args#,}], "cwd": "/", "user": { "uid": 0, "gid": 0 },
		    "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
		    "capabilities": { "bounding": $capabilities, "effective": $capabilities,
		      "permitted": $capabilities } },
		  "root": { "path": "$CONTAINER_ROOT", "readonly": true },
		  "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
		  "linux": { "cgroupsPath": "$2", "namespaces": [
		    { "type": "network", "path": "/run/netns/$RUN-$1" }, { "type": "pid" },
		    { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "cgroup" }] } }
	END
}

# In the app container where there is one, as `kubectl exec` does.
run_in() { # CGROUP NETNS COMMAND...
	local name=$1
	[ -d "$WORK/runc/$name-app" ] || { light_run_in "$@"; return; }
	shift 2
	runc exec "$name-app" "$@"
}
