# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# What scripts/bench and bench-scale share: proxies, clients, and what is loaded.
# Sets traps: the node goes with the shell.

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "not root, so no BPF: run sudo make bench"
# shellcheck source=vmtests/helpers.bash
. "${BASH_SOURCE[0]%/*}/helpers.bash"
# shellcheck source=vmtests/mesh.bash
. "$ROOT/vmtests/mesh.bash"

CPU=${CPU:-$(($(nproc) - 1))} OUT=${OUT:-$ROOT/build} BENCH=$ROOT/build/bench
mkdir -p "$OUT"
trap node_down EXIT
trap 'exit 130' INT TERM

# A container's cgroup is as deep as a kubelet makes it.
cgroup_of() { # NETNS
	if [ "$1" = node ]; then echo node; else echo "kubepods/burstable/pod-$1/app"; fi
}

declare -A proxies
# A proxy in ztunnel's cgroup and a pod's netns: its pid is in proxies.
proxy_up() { # NETNS [OPTION]... PORT
	local netns=$1 cgroup=ztunnel/$1
	[ "$1" != server ] || cgroup=server # it is not ztunnel
	shift
	mkdir -p "$CG/$cgroup"
	: >"$WORK/proxy-$netns"
	# Braces: bash would tell of their end on our standard error.
	{ run_in "$cgroup" "$netns" "$BENCH" proxy -c "$CPU" "$@" >"$WORK/proxy-$netns"; } \
		2>"$WORK/proxy-$netns.err" 3>&- &
	ready "$WORK/proxy-$netns"
	read -r "proxies[$netns]" <"$CG/$cgroup/cgroup.procs"
}

client() { # NETNS PROXY OPTION... IP PORT
	local netns=$1 proxy=$2
	shift 2
	run_in "$(cgroup_of "$netns")" "$netns" "$BENCH" client -c "$CPU" -p "${proxies[$proxy]}" "$@"
}

machine() {
	printf '%s, %d CPUs' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)"
}

iptables='iptables-legacy' # or it would be nftables once more
"$iptables" -t nat -S >/dev/null 2>&1 || iptables=iptables

rules_of_istio() { # POD
	ip -n "$RUN-$1" -batch - <<-END
		rule add fwmark 0x111/0xfff pref 32764 lookup 100
		route add local 0.0.0.0/0 dev lo table 100
	END
	ip netns exec "$RUN-$1" "$iptables-restore" <<-END
		*mangle
		$(istio_mangle)
		COMMIT
		*nat
		$(istio_nat 169.254.7.127 127.0.0.1/32)
		COMMIT
	END
}

# In-pod mode as it is where onramp-zds has told ztunnel of the client's pod: what arrives
# is led, the redirected connections of its own too.
in_pod() {
	"$ONRAMP" load -e 10.77.1.0/24 -t "$CG/ztunnel" -p "$PIN" -c "$CG" \
		-n "/run/netns/$RUN-node"
	lead client
}

# What is loaded now. Unloaded is unloaded: no program stays attached elsewhere,
# for the kernel then asks at every connect() whether there is one.
loaded=none
state() { # none|in-pod|node|plain: node mode without -t
	[ "$1" != "$loaded" ] || return 0
	[ "$loaded" = none ] || onramp unload
	case $1 in
	in-pod) in_pod ;;
	node) reload -e 10.77.1.0/24 -t "$CG/ztunnel" ;;
	plain) reload -e 10.77.1.0/24 2>"$WORK/warned" || die "$(cat "$WORK/warned")" ;;
	esac
	loaded=$1
}

# All of onramp's: what one object loads has one BTF.
ours() { # prog|map
	"$BPFTOOL" -j "$1" show | jq --argjson map \
		"$("$BPFTOOL" -j map show pinned "$PIN/maps/settings")" 'map(select(.btf_id == $map.btf_id))'
}

# On a terminal a line that is written over, and empty at the end.
say_progress() { # TEXT
	if [ -t 2 ]; then printf '\r\e[K%s' "$*" >&2; elif [ -n "$*" ]; then printf '%s\n' "$*" >&2; fi
}

