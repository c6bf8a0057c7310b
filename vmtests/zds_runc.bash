# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# zds.bash's pods as a kubelet's runtime makes them, beside runc.bash: CNI ADD first, the
# sandbox, and a container for each cgroup below the pod's that something is to run in.
# What has no UID is light still.

pod_cgroup() { # NAME
	local cgroup
	cgroup_of "$1"
	echo "$CG/$cgroup"
}

netns_made() { # NAME IP [N]
	mkdir -p "$(pod_cgroup "$1")"
	netns_with_cni "$1" "$2"
	has_ipv6 "$1" "${3-}"
}

netns_down() { # NAME
	cni DEL "$1"
	ip netns del "$RUN-$1"
}

sandbox() { # NAME
	container_forgotten "$1-sandbox"
	container_up "$1" sandbox sleep infinity
}

# Their cgroups go with containers, the pod's stays.
containers_end() { # NAME
	local state
	for state in "$WORK/runc/$1"-*/; do container_forgotten "$(basename "$state")"; done
}

kpod_end() { # NAME
	containers_end "$1"
	cgroup_end "$(pod_cgroup "$1")"
}

container_forgotten() { # CONTAINER
	[ ! -d "$WORK/runc/$1" ] || runc delete --force "$1"
}

# In a container of the pod: app's is there until all end, and whatever runs in it is
# executed beside its first program; another's is what runs in it.
run_in() { # CGROUP NETNS COMMAND...
	local name=${1%%/*} below=app container cgroup
	if [ ! -e "$WORK/uid-$name" ]; then
		light_run_in "$@"
		return
	fi
	[[ $1 != */* ]] || below=${1#*/}
	container=$name-${below//\//-}
	shift 2
	if [ "$below" = app ]; then
		[ -d "$WORK/runc/$container" ] || container_up "$name" app sleep infinity
		runc exec "$container" "$@"
		return
	fi
	container_forgotten "$container"
	cgroup=$(pod_cgroup "$name")/$below
	rmdir "$cgroup" 2>/dev/null || : # a caller made it, and runc would rather
	mkdir -p "$WORK/bundles/$container" "$WORK/rootfs"
	CONTAINER_ROOT=$WORK/rootfs container_config "$name" "${cgroup#"$(cgroup2_mount)"}" "$@" \
		>"$WORK/bundles/$container/config.json"
	runc run --bundle "$WORK/bundles/$container" "$container"
}
