#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# onramp-doctor on what a cluster does to a node: who tells ztunnel, pods that wait and
# why, what istio-cni left, load balancers, NAT, networks, runtimes, kernels; and how
# it tells that to machines. (The rest: doctor.bats.)
# bats file_tags=native

load helpers.bash
load mesh.bash
load zds.bash

setup_file() {
	zds_node_up doctor_cluster
	kpod_up zt "$ZTUNNEL_POD_IP" 9
	is_ztunnel zt
	mkdir "$CG/kubelet"
	zds_load -k "$CG/kubelet"
	zds_up
	zt_up zt
	kpod_up a 10.77.1.1 1
	workload a
	enabled a
	export OTHER=$WORK/bpf/other NODE_ROOT=$WORK/root API=$WORK/api
	mkdir -p "$NODE_ROOT" "$API" "$WORK/bin" "$WORK/dir/workloads/ztunnels" "$WORK/dir/status"
	"$BPFTOOL" prog loadall "$ROOT/build/other.bpf.o" "$OTHER"
	cat >"$WORK/bin/kubectl" <<-END
		#!/bin/sh
		case "\$*" in
		*pods*) cat "$API/pods" ;;
		*) cat "$API/namespaces" ;;
		esac
	END
	chmod 755 "$WORK/bin/kubectl"
	api_says
}

teardown() {
	[ ! -e "$CG/late" ] || cgroup_end "$CG/late"
	rm -rf "${NODE_ROOT:?}" "$WORK"/dir/*/*-*
	mkdir "$NODE_ROOT"
	api_says
}

teardown_file() {
	rm -rf "$OTHER"
	zds_node_down
}

# As in doctor.bats, but of this node's onramp-zds, and with an API server.
doctor() { # OPTION...
	local at=(run_in node node)
	[ -z "${outside-}" ] || at=()
	# shellcheck disable=SC2154 # the caller's
	PATH=${kubectl-$WORK/bin:}$PATH NODE_NAME=worker run "${at[@]}" unshare -m sh -ec "${break-}
		exec \"\$0\" \"\$@\"" "$ROOT/scripts/onramp-doctor" -r "$NODE_ROOT" -p "$PIN" \
		-c "$CG" -s "$ZDS_SOCKET" -w "$WORKLOADS" "$@"
}

# Exit status, and all the lines that are neither ok nor -.
says() { # STATUS [LINE]
	is "$status" "$1" || { echo "$output"; return 1; }
	is "$(grep -vE '^(ok|-)  ' <<<"$output")" "${2-}"
}

# What the API server has: a namespace that is labelled, and this node's pods, each as the
# doctor asks for it: HASH|UID|NAMESPACE|NAME|LABEL|ANNOTATION|HOST|SIDECAR|APP|PHASE.
api_says() { # [POD]...
	local uid
	uid_of a
	[ $# -gt 0 ] || set -- "|$uid|default|a||enabled||||Running"
	echo "default shop" >"$API/namespaces"
	printf '%s\n' "$@" >"$API/pods"
}

# A process by that name, in a cgroup of the node's that ends with the test.
process() { # COMM [CGROUP]
	local cgroup=late${2:+/$2}
	mkdir -p "$CG/$cgroup" "$WORK/processes"
	cp "$ROOT/build/hold" "$WORK/processes/$1"
	: >"$WORK/hold"
	light_run_in "$cgroup" node "$WORK/processes/$1" listen 127.0.0.1 0 <>"$WORK/silent" >"$WORK/hold" 2>&1 3>&- &
	disown
	retry 100 grep -q holding "$WORK/hold"
}

@test "healthy: onramp-zds serves ztunnel, all are enabled and annotated; on one screen" {
	doctor
	says 0
	is "$(grep '^-' <<<"$output")" ""
	has "ok    zds       onramp-zds serves $ZDS_SOCKET; ztunnels connected: 1" \
		"ok    workloads 1 pods are enabled, and none waits" \
		"ok    labels    1 pods are labelled, and onramp-zds knows them all" \
		"ok    nat " "ok    networks  no pod has several" "ok    runtimes " "ok    istio-cni " "ok    config "
	[ "$(fold -w 80 <<<"$output" | wc -l)" -le 24 ]
}

said_of() { # UID-DIGIT STATUS [LINE]...: in a DIR of our own
	local uid=0000000$1-5ca1-4ab1-8e0f-00c0ffee0001
	printf '%s\n' namespace=shop "name=cart-$1" service_account=cart "${@:3}" >"$WORK/dir/workloads/$uid"
	[ -z "$2" ] || echo "$2" >"$WORK/dir/status/$uid"
}

waits() { # STATUS LEVEL REASON REMEDY
	api_says "" # labels are another test's
	said_of 1 enabled
	said_of 2 "pending $3"
	said_of 3 "pending $3"
	[ "$3" != "no status" ] || rm -f "$WORK"/dir/status/0000000[23]*
	doctor -w "$WORK/dir/workloads"
	is "$status" "$1"
	is "$(grep ' workloads ' <<<"$output")" "$2  workloads shop/cart-2, shop/cart-3: not enabled ($3): $4"
}

@test "pods that wait, and why" {
	waits 1 FAIL "no status" "start onramp-zds"
	waits 1 FAIL "waits for ztunnel" "start ztunnel, and see zds"
}

@test "each reason has its remedy" {
	waits 0 warn not-started "wait, or see why the kubelet does not start it"
	waits 1 FAIL no-process "see why the kubelet does not start it"
	waits 1 FAIL address "its netns has no ip= of its file, so correct the file"
	waits 1 FAIL bad-file "correct its file, onramp-zds' log says how"
	waits 1 FAIL identity-changed "delete the pod, for who it is never changes"
	waits 1 FAIL unsupported "take annotation istio.io/reroute-virtual-interfaces away"
	waits 1 FAIL "ztunnel: Address already in use" "see ztunnel's log"
	waits 1 FAIL "sk_lookup: File exists" "see onramp-zds' log"
}

@test "one that really waits" {
	kpod_made late 10.77.1.7 7
	workload late
	becomes late "pending not-started"
	doctor
	no_workload late
	retry 200 leaves_only late ""
	kpod_down late
	says 0 "warn  workloads default/late: not enabled (not-started): wait, or see why the kubelet does not start it"
}

@test "labelled, but nobody wrote its file; enabled, but not annotated" {
	other=aaaaaaaa-5ca1-4ab1-8e0f-00c0ffee0001
	uid_of a
	api_says "|$uid|default|a||enabled||||Running" "|$other|shop|cart-1||||||Running"
	doctor
	says 1 "FAIL  labels    labelled, but not in $WORKLOADS, shop/cart-1: start enroll-by-label"
	api_says "|$other|bare|cart-1|ambient|||||Pending" # by its own label
	doctor
	says 1 "FAIL  labels    labelled, but not in $WORKLOADS, bare/cart-1: start enroll-by-label"
	for state in "" pending; do
		api_says "|$uid|default|a||$state||||Running"
		doctor
		says 1 "FAIL  labels    no annotation ambient.istio.io/redirection, so no HBONE to default/a: see enroll-by-label's log"
	done
	api_says "${uid//-/}|$other|default|a||enabled||||Running|${uid//-/}" # a static pod
	doctor
	says 0
	# Who only says to be one is not; and an annotation makes no pods, nor words for a screen.
	for hash in "${uid//-/}" ../status/.; do
		api_says "$hash|$other|shop|c||enabled||||Running|"
		doctor
		says 1 "FAIL  labels    labelled, but not in $WORKLOADS, shop/c: start enroll-by-label"
	done
	api_says $'x\n|1|shop|\e[2Jlook: run this'"|$other|default|a||enabled||||Running|"
	doctor
	says 0
	api_says "|$other|bare|b||||||Running" "|$other|shop|c|none|||||Running" \
		"|$other|shop|d|||true|||Running" "|$other|shop|e||||{}||Running" \
		"|$other|shop|f|||||ztunnel|Running" "|$other|shop|g||||||Succeeded" \
		"|$other|shop|h||||||Failed" "|$other|kube-system|i|ambient|||||Running"
	doctor
	says 0
	has "ok    labels    0 pods are labelled"
}

@test "asked by a real kubectl" {
	launch_api() {
		"$ROOT/vmtests/fake-apiserver" "$WORK/port" >"$WORK/api-log" 2>&1 3>&- &
		disown
		echo $! >"$WORK/api-pid"
		retry 100 test -s "$WORK/port"
	}
	launch_api
	url=http://127.0.0.1:$(<"$WORK/port")
	jq -n --arg url "$url" '{ kind: "Config", apiVersion: "v1", "current-context": "fake",
		clusters: [{ name: "fake", cluster: { server: $url } }],
		contexts: [{ name: "fake", context: { cluster: "fake", user: "" } }] }' >"$WORK/kubeconfig"
	uid_of a
	jq -n --arg uid "$uid" 'def pod($name; $meta; $spec; $phase): { kind: "Pod", apiVersion: "v1",
			metadata: ({ name: $name, namespace: "shop", uid: "bbbbbbbb-5ca1-4ab1-8e0f-00c0ffee0001" } + $meta),
			spec: ({ nodeName: "worker" } + $spec), status: { phase: $phase } };
		{ write: [{ kind: "Namespace", apiVersion: "v1", metadata: { name: "shop", uid: "n",
				labels: { "istio.io/dataplane-mode": "ambient" } } },
			{ kind: "Namespace", apiVersion: "v1", metadata: { name: "bare", uid: "m" } },
			pod("static"; { annotations: { "kubernetes.io/config.hash": ($uid | gsub("-"; "")),
				"kubernetes.io/config.mirror": ($uid | gsub("-"; "")),
				"ambient.istio.io/redirection": "enabled" } }; {}; "Running"),
			pod("lost"; {}; {}; "Running"),
			pod("no"; { labels: { "istio.io/dataplane-mode": "none" } }; {}; "Running"),
			pod("host"; {}; { hostNetwork: true }; "Running"),
			pod("sidecar"; { annotations: { "sidecar.istio.io/status": "{\"a\":[\"b\"]}" } }; {}; "Running"),
			pod("zt"; { labels: { app: "ztunnel" } }; {}; "Running"),
			pod("done"; {}; {}; "Succeeded"),
			pod("elsewhere"; {}; { nodeName: "other" }; "Running"),
			pod("bare"; { namespace: "bare" }; {}; "Running"),
			pod("label"; { namespace: "bare", labels: { "istio.io/dataplane-mode": "ambient" } }; {}; "Running")] }' |
		curl -fsS -X PUT "$url/fake" -d @- >/dev/null
	KUBECONFIG=$WORK/kubeconfig HOME=$WORK kubectl='' outside=yes doctor
	kill "$(<"$WORK/api-pid")"
	is "$status" 1
	[[ $output =~ "labelled, but not in $WORKLOADS, "(bare/label, shop/lost|shop/lost, bare/label)": start enroll-by-label" ]]
}

@test "no API server, or no kubectl: it says so, and goes on" {
	rm "$API/pods"
	doctor
	says 0
	has "-     labels    the API server says nothing of pods" "ok    workloads 1 pods"
	api_says
	mkdir "$WORK/tools"
	cp -rsn /usr/sbin/. /usr/bin/. "$WORK/tools"
	rm -f "$WORK/tools/kubectl"
	mv "$WORK/bin" "$WORK/away"
	PATH=$WORK/tools doctor
	mv "$WORK/away" "$WORK/bin"
	says 0
	has "-     labels    not looked at, nor whether pods are annotated: install kubectl"
}

@test "no ztunnel is connected, or none is known" {
	zt_kill KILL zt
	doctor -q
	has "FAIL  zds       no ztunnel is connected: start it, or see who was turned away in the log"
	said_of 1 enabled
	api_says ""
	doctor -q -w "$WORK/dir/workloads"
	has "FAIL  zds       no ztunnel is connected, and none is known: write its UID to $WORK/dir/workloads/ztunnels"
	zt_up zt
	zt_has_snapshot
}

@test "the kubelet's cgroup is gone, so that probes are not known" {
	rmdir "$CG/kubelet"
	retry 100 sh -c "'$BPFTOOL' link show pinned '$PIN/links/sock_ops-kubelet-0' | grep -qw 'cgroup_id 0'"
	doctor
	mkdir "$CG/kubelet"
	zds_load -k "$CG/kubelet"
	says 1 "FAIL  links     dead, by cgroup's removal or detached: sock_ops-kubelet-0: onramp load"
	doctor
	says 0
}

@test "nobody serves ztunnel's socket; istio-cni does; onramp-zds stands by" {
	nobody="FAIL  zds       nobody tells ztunnel of pods at $ZDS_SOCKET: start onramp-zds"
	zds_kill
	doctor
	says 1 "$nobody"
	process install-cni
	doctor
	beside="warn  istio-cni it runs beside onramp: see README.md for how it is taken over"
	says 0 "$beside
warn  zds       istio-cni tells ztunnel of pods, and nobody stands by: start onramp-zds"
	rm -f "$ZDS_SOCKET"
	python3 -c "
import socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind('$ZDS_SOCKET')
s.listen(16)
time.sleep(1000)" 3>&- &
	server=$!
	retry 100 test -S "$ZDS_SOCKET"
	zds_up
	logged standing-by
	doctor
	says 0 "$beside
warn  zds       istio-cni tells ztunnel, onramp-zds stands by: delete istio-cni's DaemonSet"
	cgroup_end "$CG/late"
	doctor
	says 1 "FAIL  zds       onramp-zds does not serve $ZDS_SOCKET: see its log, and who else does"
	kill $server
	logged listening
	zt_has_snapshot
	doctor
	says 0
}

@test "what istio-cni leaves in files" {
	cni=$NODE_ROOT/etc/cni/net.d
	mkdir -p "$cni" "$NODE_ROOT/opt/cni/bin" "$NODE_ROOT/var/run/istio-cni"
	echo '{ "plugins": [ { "type": "bridge" }, { "type":"istio-cni" } ] }' >"$cni/10-bridge.conflist"
	echo '{ "plugins": [ { "type": "bridge" } ] }' >"$cni/20-other.conflist"
	cp "$cni/10-bridge.conflist" "$cni/02-istio-cni.conflist"
	: >"$NODE_ROOT/opt/cni/bin/istio-cni"
	doctor -q
	says 1 "FAIL  istio-cni its $cni/02-istio-cni.conflist keeps pods from starting: remove it
FAIL  istio-cni its entry in $cni/10-bridge.conflist keeps pods from starting: take it out"
	rm "$cni"/*
	doctor
	says 0 "warn  istio-cni $NODE_ROOT/opt/cni/bin/istio-cni is left: remove it
warn  istio-cni $NODE_ROOT/var/run/istio-cni is left: remove it"
	process install-cni # while it runs, all that is its own
	doctor
	says 0 "warn  istio-cni it runs beside onramp: see README.md for how it is taken over"
}

@test "more than a screen is good for: the worst, and how many more" {
	mkdir -p "$NODE_ROOT/etc/cni/net.d" "$NODE_ROOT/var/run/istio-cni"
	for n in 1 2 3 4; do echo '{"type": "istio-cni"}' >"$NODE_ROOT/etc/cni/net.d/$n.conf"; done
	doctor
	is "$status" 1
	is "$(grep -c '^FAIL  istio-cni its entry in ' <<<"$output")" 3
	is "$(grep 'istio-cni and' <<<"$output")" "FAIL  istio-cni and 2 more: see --json"
	doctor --json
	is "$(jq '[.[] | select(.id == "istio-cni")] | length' <<<"$output")" 5
}

@test "what istio-cni leaves in the node's netns: its chain, its ipsets" {
	in_node() { nsenter --net="/run/netns/$RUN-node" "$@"; }
	for iptables in iptables-legacy iptables-nft; do
		in_node $iptables -t nat -N ISTIO_POSTRT
		doctor
		in_node $iptables -t nat -X ISTIO_POSTRT
		says 0 "warn  istio-cni its chain ISTIO_POSTRT is left in the node's table nat: flush and delete it"
	done
	cat >"$WORK/bin/ipset" <<-END
		#!/bin/sh
		echo istio-inpod-probes-v4
	END
	chmod 755 "$WORK/bin/ipset"
	doctor
	rm "$WORK/bin/ipset"
	says 0 "warn  istio-cni its ipset istio-inpod-probes-v4 is left: ipset destroy it"
}

@test "istio-cni's rules of table nat in an enrolled pod; those of other tables may stay" {
	in_pod() { nsenter --net="/run/netns/$RUN-a" "$@"; }
	takes() {
		doctor
		has "FAIL  istio-cni its nat rules in " " take what onramp leads: flush ISTIO_OUTPUT, ISTIO_PRERT there"
		is "$status" 1
	}
	for chain in iptables-legacy:OUTPUT iptables-nft:OUTPUT ip6tables-legacy:PRERT ip6tables-nft:PRERT; do
		in_pod "${chain%:*}" -t nat -N "ISTIO_${chain#*:}"
		takes
		in_pod "${chain%:*}" -t nat -X "ISTIO_${chain#*:}"
		in_pod "${chain%:*}" -t mangle -N "ISTIO_${chain#*:}"
	done
	in_pod nft add table inet istio-ambient-nat
	takes
	in_pod nft delete table inet istio-ambient-nat
	doctor
	says 0
}

attached() { # PROGRAM COMMAND...: while it is, before onramp
	"$BPFTOOL" cgroup attach "$CG/late" cgroup_inet4_connect pinned "$OTHER/$1" multi
	"${@:2}"
	"$BPFTOOL" cgroup detach "$CG/late" cgroup_inet4_connect pinned "$OTHER/$1"
}

who() { # PROGRAM
	local id
	id=$("$BPFTOOL" -j prog show pinned "$OTHER/$1" | grep -o '"id":[0-9]*')
	echo "$1 (id ${id#*:}, multi) on connect4 of $CG/late runs before onramp"
}

@test "a load balancer at connect() before onramp: Calico's, Cilium's; one that leaves pods alone" {
	mkdir "$CG/late"
	attached calico_connect_v4 doctor
	says 1 "FAIL  others    $(who calico_connect_v4), and ztunnel gets backends: set bpfConnectTimeLoadBalancing=Disabled"
	attached cil_sock4_connect doctor
	says 1 "FAIL  others    $(who cil_sock4_connect), and ztunnel gets backends: set socketLB.hostNamespaceOnly=true"
	attached other_connect4 doctor
	says 0 "warn  others    $(who other_connect4)"
	settings=$WORK/agent/tmp/cilium/config-map
	mkdir -p "$settings"
	cp "$ROOT/build/hold" "$WORK/agent/cilium-agent"
	light_run_in late node chroot "$WORK/agent" /cilium-agent listen 127.0.0.1 0 <>"$WORK/silent" >"$WORK/hold" 2>&1 3>&- &
	disown
	retry 100 grep -q holding "$WORK/hold"
	printf false >"$settings/bpf-lb-sock-hostns-only"
	attached cil_sock4_connect doctor
	is "$status" 1
	printf true >"$settings/bpf-lb-sock-hostns-only"
	attached cil_sock4_connect doctor
	says 0 "warn  others    $(who cil_sock4_connect)"
}

@test "kernels without IPv6, or without sockhash" {
	elsewhere=(-p "$WORK/bpf/not_loaded")
	on() { # RELEASE
		echo "$1" >"$WORK/release"
		break="mount --bind '$WORK/release' /proc/sys/kernel/osrelease"
	}
	mkdir "$NODE_ROOT/boot"
	printf '%s\n' CONFIG_BPF=y "# CONFIG_IPV6 is not set" >"$NODE_ROOT/boot/config-5.13.0"
	printf '%s\n' CONFIG_BPF=y CONFIG_IPV6=m >"$NODE_ROOT/boot/config-5.12.0"
	on 5.13.0
	doctor "${elsewhere[@]}"
	is "$status" 1
	has "FAIL  config    no IPv6, which the programs read of: boot one with CONFIG_IPV6"
	on 5.12.0
	doctor "${elsewhere[@]}"
	is "$status" 1
	has "FAIL  config    no sockhash: boot one with CONFIG_BPF_STREAM_PARSER, or 5.13"
	doctor # it is loaded, so that there is one
	has "ok    config    IPv6, and sockhash for ztunnel's listeners"
	mv "$NODE_ROOT/boot/config-5.12.0" "$NODE_ROOT/boot/config-5.13.0"
	on 5.13.0
	doctor "${elsewhere[@]}"
	has "ok    config    IPv6, and sockhash for ztunnel's listeners"
	on 5.12.0 # of which no file tells
	doctor "${elsewhere[@]}"
	has "ok    config    IPv6, and sockhash for ztunnel's listeners, as was tried"
	is "$(find "$WORK/bpf" -name 'onramp-doctor*')" ""
	doctor -p "$WORK/none"
	is "$(stat -f -c %T "$WORK")" "$(stat -f -c %T "${WORK%/*}")" # no bpffs
	has "-     config    not known: neither /proc/config.gz nor /boot/config-5.12.0 is there"
}

@test "runtimes that it cannot see into, in the mesh or not" {
	cannot="has pods here that onramp cannot see into: label none of them"
	process runsc-sandbox kubepods/pod00000002-5ca1-4ab1-8e0f-00c0ffee0001
	process virt-launcher kubepods/pod00000003-5ca1-4ab1-8e0f-00c0ffee0001
	process qemu-system-x86 kubepods/pod00000003-5ca1-4ab1-8e0f-00c0ffee0001/vm
	process cloud-hypervisor kata_overhead/1
	api_says ""
	doctor
	is "$status" 0
	for runtime in gVisor KubeVirt Kata; do has "warn  runtimes  $runtime $cannot"; done
	is "$(grep -c warn <<<"$output")" 3
	said_of 2 enabled
	doctor -q -w "$WORK/dir/workloads"
	says 1 "FAIL  runtimes  gVisor's pod shop/cart-2 goes past onramp, though in the mesh: take its label away"
}

@test "runtimes that are only set up" {
	mkdir -p "$NODE_ROOT/etc/containerd"
	printf '%s\n' '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]' '# runsc' \
		>"$NODE_ROOT/etc/containerd/config.toml"
	doctor
	says 0
	echo '  runtime_type = "io.containerd.runsc.v1"' >>"$NODE_ROOT/etc/containerd/config.toml"
	doctor
	says 0 "warn  runtimes  gVisor is set up, into whose pods onramp cannot see: label none of them"
}

@test "pods' cgroups in version 1 alone" {
	mkdir -p "$NODE_ROOT/sys/fs/cgroup/memory/kubepods"
	: >"$NODE_ROOT/sys/fs/cgroup/memory/kubepods/tasks"
	doctor
	says 1 "FAIL  v1        pods have no cgroup in cgroup2, so no UID: boot systemd.unified_cgroup_hierarchy=1"
	mkdir -p "$NODE_ROOT$(cgroup2_mount)/kubepods.slice"
	doctor
	says 0
}

# A NAT rule in the node's netns, while a connection goes through it.
natted() { # RULE...
	nsenter --net="/run/netns/$RUN-node" sh -ec '
		nft add table ip doctor
		nft add chain ip doctor out "{ type nat hook postrouting priority 100; }"'
	nsenter --net="/run/netns/$RUN-node" nft add rule ip doctor out "$@"
}

natted_no_more() {
	nsenter --net="/run/netns/$RUN-node" nft delete table ip doctor
}

second_network() { # POD IP
	ip -n "$RUN-$1" link add net1 type veth peer name "net-$1" netns "$RUN-node"
	ip -n "$RUN-$1" link set net1 up
	ip -n "$RUN-$1" addr add "$2" dev net1
}

@test "in-pod mode: a pod with a second network: which address counts" {
	second_network a 192.168.77.1/24
	doctor
	says 0
	has "ok    networks  1 pods have several; the first device's counts, such as 10.77.1.1"
	plain_up stranger 10.77.3.2
	run_in stranger stranger sleep 1000 3>&- &
	retry 100 grep -q . "$CG/stranger/cgroup.procs"
	second_network stranger 192.168.78.1/24
	onramp enroll 192.168.78.0/24
	doctor
	onramp forget 192.168.78.0/24
	pod_down stranger
	ip -n "$RUN-a" link del net1
	says 0 "warn  networks  10.77.3.2 counts, not 192.168.78.1/24, of which a rule speaks: onramp enroll 10.77.3.2"
}

@test "for machines: an array of findings" {
	doctor --json
	is "$status" 0
	jq -e 'map(select(.level != "ok")) == [] and length > 20 and
		all(.[]; keys == ["id", "level", "remedy", "text"]) and
		any(.[]; .id == "zds" and (.text | startswith("onramp-zds serves")))' <<<"$output"
	said_of 1 'pending ztunnel: "\quoted"	tab'
	api_says ""
	doctor -q --json -w "$WORK/dir/workloads"
	is "$status" 1
	jq -e '. == [{ id: "workloads", level: "fail", remedy: "see ztunnel'"'"'s log",
		text: "shop/cart-1: not enabled (ztunnel: \"\\quoted\"?tab)" }]' <<<"$output"
}

@test "for a report: all that it needs, and no secrets" {
	said_of 1 "pending address" ip=10.9.9.9 by=me password=hunter2
	echo hunter2 >"$WORK/hunter2"
	ln -s "$WORK/hunter2" "$WORK/dir/workloads/00000009-5ca1-4ab1-8e0f-00c0ffee0001"
	api_says ""
	SECRET=hunter2 doctor --bundle "$WORK/report.tar.gz" -w "$WORK/dir/workloads"
	is "$status" 1
	has " workloads shop/cart-1"
	is "$(stat -c %a "$WORK/report.tar.gz")" 600
	tar -C "$WORK" -xzf "$WORK/report.tar.gz"
	cd "$WORK/onramp-doctor"
	uid=00000001-5ca1-4ab1-8e0f-00c0ffee0001
	is "$(find . -type f | sort | tr '\n' ' ')" "./bpftool-cgroup-tree ./bpftool-link ./bpftool-prog ./bpftool-version ./doctor.json ./doctor.txt ./kernel ./metrics ./mounts ./pods ./rules ./status/$uid ./version ./workloads/$uid ./ztunnels "
	is "$(cat "status/$uid" "workloads/$uid")" "pending address
namespace=shop
name=cart-1
service_account=cart
ip=10.9.9.9
by=me"
	is "$(<doctor.txt)" "$output"
	jq -e 'any(.[]; .id == "workloads" and .level == "fail")' doctor.json
	grep -q onramp_connects_total metrics
	grep -q 10.77.1.1 pods
	grep -q connect4 bpftool-prog
	run grep -r hunter2 .
	is "$output" ""
	doctor --bundle "$WORK/none/report.tar.gz"
	is "$status" 1
	has "onramp-doctor: cannot write $WORK/none/report.tar.gz."
}

@test "in-pod mode: NAT of what the node dials at a pod; istio-cni's is known" {
	serve a :: 80
	for as in 10.77.0.250 169.254.7.127; do
		ip -n "$RUN-node" addr add $as/32 dev br0
		natted ip daddr 10.77.1.1 snat to $as
		node "$TCP" dial 10.77.1.1 80 || :
		doctor
		natted_no_more
		ip -n "$RUN-node" addr del $as/32 dev br0
		[ $as != 10.77.0.250 ] ||
			says 1 "FAIL  nat       NAT shows pod 10.77.1.1 the node's 10.77.0.1 as $as, also for probes: exempt it"
	done
	is "$(grep -c 169.254.7.127 <<<"$output")" 0
}

# From here on in node mode, without onramp-zds.
node_mode_up() {
	[ ! -e "$WORK/node_mode" ] || return 0
	: >"$WORK/node_mode"
	zds_kill
	kpods_down
	zt_kill KILL zt
	onramp unload
	plain_up client 10.77.1.2
	plain_up server 10.77.2.2
	run_in client client sleep 1000 3>&- &
	serve server 0.0.0.0 80
	serve zt 0.0.0.0 15001 15006 15053
	uid_of zt
	reload -e 10.77.1.0/24 -t "$CG/kubepods/besteffort/pod$uid"
}

in_node_mode() { # OPTION...
	doctor -w "$WORK/no-dir" "$@"
}

@test "node mode: NAT between pod and ztunnel" {
	node_mode_up
	pod client "$TCP" dial 10.77.2.2 80
	in_node_mode
	says 0
	ip -n "$RUN-node" addr add 10.77.0.250/32 dev br0
	ip -n "$RUN-client" route replace "$ZTUNNEL_POD_IP" via "$NODE_IP"
	nsenter --net="/run/netns/$RUN-node" sysctl -qw net.ipv4.ip_forward=1
	natted ip saddr 10.77.1.2 snat to 10.77.0.250
	pod client "$TCP" dial 10.77.2.2 80 || :
	in_node_mode
	natted_no_more
	says 1 "FAIL  nat       NAT shows ztunnel 10.77.1.2 as 10.77.0.250: exempt what goes to $ZTUNNEL_POD_IP"
}

@test "node mode: a second network of a pod" {
	node_mode_up
	second_network client 192.168.77.1/24
	in_node_mode -q
	in_node_mode
	has "warn  networks  10.77.1.2 counts, not 192.168.77.1/24, which is captured too: load -b its network"
	reload -b 192.168.77.0/24
	in_node_mode
	ip -n "$RUN-client" link del net1
	has "ok    networks  1 pods have several; the first device's counts, such as 10.77.1.2"
}
