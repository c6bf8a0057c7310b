# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# shellcheck shell=bash
# What suites of in-pod mode share beside helpers.bash: stand-ins for ztunnel and its
# agent, and programs in pods' netns that lead to it what arrives.

INBOUND=$ROOT/build/inbound
export INBOUND

told() { # POD
	echo "$1=/run/netns/$RUN-$1:default/$1/account"
}

# Tells each ztunnel that comes of these pods.
agent_up() { # POD...
	mkfifo "$WORK/says"
	another_agent_up agent "$@"
}

another_agent_up() { # NAME POD...
	local name=$1 pods=() pod
	shift
	for pod; do pods+=("$(told "$pod")"); done
	mkdir -p "$CG/$name"
	launch "$WORK/$name" listening run_in "$name" node "$ROOT/vmtests/zds" "$WORK/$name-socket" "${pods[@]}"
}

listening() {
	"$@" <>"$WORK/says"
}

agent_says() {
	echo "$*" >"$WORK/says"
}

# A ztunnel in a cgroup of that name, until it listens in all pods.
zt_up() { # NAME [OPTION]...
	mkdir -p "$CG/$1"
	launch "$WORK/$1" run_in "$1" ztunnel "$ROOT/vmtests/ztunnel" --redial-max 0.1 "${@:2}" "$WORK/agent-socket"
}

zt_kill() { # SIGNAL NAME: until its process is gone
	local pid
	read -r pid <"$CG/$2/cgroup.procs"
	kill "-$1" "$pid"
	retry 100 is_gone "$2"
}

is_gone() { # CGROUP
	local pid=
	read -r pid <"$CG/$1/cgroup.procs" || :
	[ -z "$pid" ]
}

said() { # FILE PATTERN
	retry 60 grep -q -- "$2" "$WORK/$1" || { cat "$WORK/$1" >&2; return 1; }
}

# As onramp-zds does: what arrives there goes to ztunnel, which may begin to listen.
lead() { # POD...
	local pod zt place=0
	for zt in "$CG"/zt{,1,2}; do
		[ ! -d "$zt" ] || [ -e "$PIN/links/sock_ops-$place" ] || inbound note "$place" "$zt"
		place=$((place + 1))
	done
	for pod; do inbound attach "$pod" "/run/netns/$RUN-$pod"; done
}

inbound() { # COMMAND [NAME [NETNS]]
	"$INBOUND" "$OBJECT" "$PIN" "$@"
}

# What has arrived since this was asked last, in counts: "inbound=1 probe=2".
declare -gA arrivals
arrived() {
	local line name
	counts=
	while read -r line; do
		name=${line#*reason=\"}
		name=${name%%\"*}
		line=${line##* }
		[ "$line" = "${arrivals[$name]-0}" ] ||
			counts+="${counts:+ }$name=$((line - ${arrivals[$name]-0}))"
		arrivals[$name]=$line
	done < <([ ! -e "$PIN" ] || grep ^onramp_arrivals_total "$PIN/metrics")
}

count_arrivals() { # COUNTS: these and no others
	arrived
	is "$counts" "$1"
}

# What istio-cni writes into a pod in ambient mode, DNS aside, but for the table's own
# lines: for iptables-restore, or ip6tables-restore. PROBE: where the kubelet's come from.
istio_mangle() {
	cat <<-END
		:ISTIO_OUTPUT - [0:0]
		:ISTIO_PRERT - [0:0]
		-A OUTPUT -j ISTIO_OUTPUT
		-A PREROUTING -j ISTIO_PRERT
		-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark
		-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
	END
}

istio_nat() { # PROBE LOOPBACK
	local probe=$1 own=$2
	cat <<-END
		:ISTIO_OUTPUT - [0:0]
		:ISTIO_PRERT - [0:0]
		-A OUTPUT -j ISTIO_OUTPUT
		-A PREROUTING -j ISTIO_PRERT
		-A ISTIO_OUTPUT -d $probe -p tcp -j ACCEPT
		-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
		-A ISTIO_OUTPUT ! -d $own -o lo -j ACCEPT
		-A ISTIO_OUTPUT ! -d $own -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
		-A ISTIO_PRERT -s $probe -p tcp -j ACCEPT
		-A ISTIO_PRERT ! -d $own -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
	END
}
