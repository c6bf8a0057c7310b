#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# scripts/onramp-take-over: pods that istio-cni has enrolled by its rules become onramp's,
# and istio-cni's again, while they dial and are dialled; and when it refuses.

load helpers.bash
load mesh.bash
load zds.bash

TAKE_OVER=$BATS_TEST_DIRNAME/../scripts/onramp-take-over
LEGACY=10.77.1.2 NFT=10.77.1.3 NATIVE=10.77.1.4

setup_file() {
	zds_node_up take_over
	NODE_ROOT=$WORK/root
	export NODE_ROOT
	kpod_up zt "$ZTUNNEL_POD_IP" 9
	is_ztunnel zt
	kpod_up legacy $LEGACY 2
	kpod_up nft $NFT 3
	kpod_up native $NATIVE 4
	kpod_up out 10.77.1.5 5 # not in the mesh
	plain_up server "$SERVER" 22
	serve server :: 80
	for pod in legacy nft native; do serve $pod :: 80; done
}

teardown_file() {
	zds_node_down
}

setup() {
	mkdir "$CG/agent" "$CG/kubelet"
	mkdir -p "$WORKLOADS/ztunnels"
	is_ztunnel zt
	node_files
	for pod in legacy nft native; do istio_enrols $pod; done
	host_rules
	agent
	zt_up zt
}

teardown() {
	zt_kill KILL zt || :
	zds_kill || :
	for cgroup in agent zds kubelet; do cgroup_end "$CG/$cgroup" || :; done
	mkdir "$CG/zds"
	"$ONRAMP" unload -p "$PIN" 2>/dev/null || :
	rm -rf "$NODE_ROOT" "$ZDS_SOCKET" "${WORKLOADS:?}"/* "$WORKLOADS/.take-over" "$STATE/status"
	for pod in legacy nft native; do istio_forgets $pod; done
	inside node nft flush ruleset
}

inside() { # NETNS COMMAND...
	ip netns exec "$RUN-$1" "${@:2}"
}

# What there is of istio-cni on a node; /var/run is a link, as it mostly is.
node_files() {
	local uid
	mkdir -p "$NODE_ROOT"/{etc/cni/net.d,opt/cni/bin,run/istio-cni,var/log/pods}
	ln -s /run "$NODE_ROOT/var/run"
	: >"$NODE_ROOT/opt/cni/bin/bridge"
	: >"$NODE_ROOT/opt/cni/bin/istio-cni"
	: >"$NODE_ROOT/run/istio-cni/istio-cni-kubeconfig"
	cat >"$NODE_ROOT/etc/cni/net.d/10-pods.conflist" <<-'END'
		{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}, {"type": "istio-cni"}, {"type": "portmap"}]}
	END
	chmod 640 "$NODE_ROOT/etc/cni/net.d/10-pods.conflist"
	cp "$NODE_ROOT/etc/cni/net.d/10-pods.conflist" "$NODE_ROOT/etc/cni/net.d/02-istio-cni.conflist"
	echo '{"name": "other", "plugins": [{"type": "ptp", "note": "istio-cni"}]}' >"$NODE_ROOT/etc/cni/net.d/20-other.conflist"
	for pod in legacy nft native; do
		uid_of $pod
		mkdir -p "$NODE_ROOT/var/log/pods/default_${pod}_$uid/app"
	done
}

# As the agent of Istio 1.31 writes them, DNS aside.
istio_enrols() { # POD
	local family iptables probe own
	for family in '' 6; do
		ip ${family:+-6} -n "$RUN-$1" rule add fwmark 0x111/0xfff pref 32764 lookup 100
		ip ${family:+-6} -n "$RUN-$1" route add local default dev lo table 100
		probe=169.254.7.127 own=127.0.0.1/32
		[ -z "$family" ] || probe=fd16:9254:7127:1337:ffff:ffff:ffff:ffff own=::1/128
		iptables=ip${family}tables-$1
		[ "$1" != native ] || iptables=ip${family}tables-nft
		inside "$1" "$iptables-restore" --noflush <<-END
			*mangle
			$(istio_mangle)
			COMMIT
		END
		[ "$1" != native ] || continue
		inside "$1" "$iptables-restore" --noflush <<-END
			*nat
			:MINE - [0:0]
			-A OUTPUT -p udp -m udp --dport 9 -j MINE
			$(istio_nat $probe $own)
			COMMIT
		END
	done
	[ "$1" = native ] || return 0
	inside "$1" nft -f - <<-END
		table inet istio-ambient-nat {
			chain istio-output {
				meta l4proto tcp ip daddr 169.254.7.127 accept
				meta l4proto tcp meta mark & 0xfff == 0x111 accept
				oifname lo ip daddr != 127.0.0.1 accept
				oifname lo ip6 daddr != ::1 accept
				meta l4proto tcp ip daddr != 127.0.0.1 meta mark & 0xfff != 0x539 redirect to :15001
				meta l4proto tcp ip6 daddr != ::1 meta mark & 0xfff != 0x539 redirect to :15001
			}
			chain istio-prerouting {
				meta l4proto tcp ip saddr 169.254.7.127 accept
				meta l4proto tcp ip6 saddr fd16:9254:7127:1337:ffff:ffff:ffff:ffff accept
				ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
				ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
			}
			chain output {
				type nat hook output priority -100;
				jump istio-output
			}
			chain prerouting {
				type nat hook prerouting priority -100;
				jump istio-prerouting
			}
		}
	END
}

routes_go() { # POD
	local family
	for family in '' -6; do
		ip $family -n "$RUN-$1" rule del pref 32764 2>/dev/null || :
		ip $family -n "$RUN-$1" route flush table 100 2>/dev/null || :
	done
}

istio_forgets() { # POD
	local family kind
	routes_go "$1"
	for family in '' 6; do
		for kind in legacy nft; do
			[ $kind = nft ] || [ "$1" = legacy ] || continue
			for table in nat mangle; do
				inside "$1" ip${family}tables-$kind -t $table -F
				inside "$1" ip${family}tables-$kind -t $table -X
			done
		done
	done
	inside "$1" nft flush ruleset
}

# The node's, by which the kubelet's probes are known.
host_rules() {
	inside node iptables-nft-restore --noflush <<-END
		*nat
		:ISTIO_POSTRT - [0:0]
		-A POSTROUTING -j ISTIO_POSTRT
		-A ISTIO_POSTRT -m owner --socket-exists -d 10.77.1.0/24 -p tcp -j SNAT --to-source 169.254.7.127
		COMMIT
	END
}

# It tells each ztunnel of these.
agent() {
	local pod uid pods=()
	for pod in legacy nft native; do
		uid_of $pod
		pods+=("$uid=/run/netns/$RUN-$pod:default/$pod/account")
	done
	launch "$WORK/agent" listening_to agent "$ROOT/vmtests/zds" "$ZDS_SOCKET" "${pods[@]}"
}

agent_ends() { # as Go's does: its socket goes with it
	cgroup_end "$CG/agent"
	rm -f "$ZDS_SOCKET"
	mkdir "$CG/agent"
	istio_leaves_host
}

istio_leaves_host() {
	inside node iptables-nft -t nat -D POSTROUTING -j ISTIO_POSTRT 2>/dev/null || return 0
	inside node iptables-nft -t nat -F ISTIO_POSTRT
	inside node iptables-nft -t nat -X ISTIO_POSTRT
}

onramp_applied() {
	zds_load -k "$CG/kubelet"
	for pod in legacy nft native; do workload $pod; done
	zds_up
	logged "^event=standing-by"
}

takes_over() { # OPTION...
	"$TAKE_OVER" --root "$NODE_ROOT" --node-netns "/run/netns/$RUN-node" --cgroup "$CG" --pin-dir "$PIN" \
		--workloads "$WORKLOADS" --socket "$ZDS_SOCKET" "$@" 2>&1
}

# All that it might change.
everything() {
	local pod
	for pod in node legacy nft native; do
		for iptables in iptables-nft ip6tables-nft; do inside $pod $iptables-save 2>/dev/null | sed '/^#/d; s/\[.*//'; done
		inside $pod nft list ruleset 2>/dev/null | sed 's/packets [0-9]* bytes [0-9]*//'
		ip -n "$RUN-$pod" rule
	done
	for iptables in iptables-legacy ip6tables-legacy; do inside legacy $iptables-save | sed '/^#/d; s/\[.*//'; done
	find "$NODE_ROOT" "$STATE" | sort
	find "$NODE_ROOT" -type f -exec cat {} +
	ls "$PIN/inbound" 2>/dev/null || :
}

# Which of Istio's chains are in table nat, of all kinds.
nat_chains() { # POD
	for kind in legacy nft; do
		[ $kind = nft ] || [ "$1" = legacy ] || continue
		for family in '' 6; do inside "$1" ip${family}tables-$kind -t nat -S 2>/dev/null | grep -o 'ISTIO[A-Z_]*' || :; done
	done
	inside "$1" nft list table inet istio-ambient-nat 2>/dev/null | grep -E 'redirect|jump|accept$' || :
}

# As the kubelet's: from it, to the app itself.
probed() { # IP...
	local ip
	for ip; do
		run -0 run_in kubelet node "$TCP" dial "$ip" 80
		from=${output#* from=} peer=${output#* peer=}
		from=${from%% *} peer=${peer%% *}
		is "$ip: ${peer##*:}" "$ip: ${from##*:}"
	done
}

all_dial() {
	dials legacy any "$SERVER" 80 fd00:77::22 80 $NFT 80 fd00:77::4 80
	dials nft any "$SERVER" 80 fd00:77::22 80 $NATIVE 80 fd00:77::2 80
	dials native any "$SERVER" 80 fd00:77::22 80 $LEGACY 80 fd00:77::3 80
	dials out any $LEGACY 80 fd00:77::2 80 $NFT 80 fd00:77::3 80 $NATIVE 80 fd00:77::4 80
	dials_begin legacy nft native out
}

# Each of its connections since all_dial, and none that nobody made: PEER and PEER6 as ztunnel
# saw them.
all_by_ztunnel() { # NAME outbound|inbound-plain PEER PEER6 MORE
	local dialled seen
	dialled=$(awk -F '[= ]' '{ sum += $2 + $4 } END { print sum }' "$WORK/dials-$1")
	seen=$(grep -cE "^$2 peer=\\[?($3|$4)\\]?:" "$WORK/zt")
	[ "$dialled" -gt 100 ]
	is "$1: $seen" "$1: $((dialled + $5))"
}

refuses() { # PATTERN OPTION...
	before=$(everything)
	run -1 takes_over "${@:2}"
	[[ $output =~ $1 ]] || { echo "$output" >&2; return 1; }
	is "$(wc -l <<<"$output")" 1
	unchanged
}

unchanged() { # since before
	is "$(diff <(echo "$before") <(everything))" ""
}

@test "refused, and nothing changed: not loaded, no onramp-zds, istio-validation, a pod without a file, wrong words" {
	# A pod may look like onramp-zds, listen like istio-cni, and be root for itself.
	launch "$WORK/impostor" run_in out out unshare -Urn python3 -c '
import socket, sys, time
open("/proc/self/comm", "w").write("onramp-zds")
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind("\0/" + sys.argv[1])
listener.listen()
print("ready", flush=True)
time.sleep(600)' "${ZDS_SOCKET##*/}"
	refuses 'no such option: see --help' --bakc
	refuses '--wait soon: not seconds' --wait soon
	refuses "$PIN: onramp is not loaded"
	zds_load -k "$CG/kubelet"
	refuses 'onramp-zds does not run'
	zds_up
	refuses "no file in $WORKLOADS: .*default/(legacy|nft|native) "
	for pod in legacy nft native; do workload $pod; done
	uid_of nft
	mkdir "$NODE_ROOT/var/log/pods/default_nft_$uid/istio-validation"
	refuses "a container istio-validation, .*: default/nft \\($uid\\): "
	refuses "a container istio-validation" --dry-run
	rm -r "$NODE_ROOT/var/log/pods"
	refuses "/var/log/pods of $NODE_ROOT: not there"
	zds_kill
	agent_ends
	refuses 'onramp-zds does not run' --back
}

@test "--dry-run says it all, and changes nothing" {
	onramp_applied
	inside out iptables-nft-restore <<-END # a sidecar's, by istio-init
		*nat
		:ISTIO_INBOUND - [0:0]
		:ISTIO_OUTPUT - [0:0]
		-A OUTPUT -p tcp -j ISTIO_OUTPUT
		-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -j RETURN
		COMMIT
	END
	before=$(everything)
	run -0 takes_over --dry-run
	for pod in legacy nft native; do has "would have: taken out of table nat of default/$pod "; done
	has "(iptables-legacy ip6tables-legacy)" "(iptables-nft ip6tables-nft)" "(nft)" \
		"taken out of $NODE_ROOT/etc/cni/net.d/10-pods.conflist: istio-cni" \
		"removed $NODE_ROOT/opt/cni/bin/istio-cni" "removed $NODE_ROOT/run/istio-cni" ISTIO_POSTRT
	sleep 1.2
	unchanged
	run -0 takes_over --back --dry-run
	unchanged
	inside out nft flush ruleset
}

@test "over and back: no connection is lost, probes arrive, each step is done once; nothing of istio-cni's is left" {
	onramp_applied
	run_in legacy legacy "$TCP" dial "$SERVER" 80
	all_dial
	probed $LEGACY $NFT $NATIVE
	run -2 takes_over
	has "delete istio-cni's DaemonSet"
	for pod in legacy nft native; do
		is "$(nat_chains $pod)" ""
		is "$(status $pod)" enabled
		inside $pod iptables-nft -t mangle -S | grep -q ISTIO_ || [ $pod = legacy ]
		is "$(ip -n "$RUN-$pod" rule | grep -c 0x111)" 1
	done
	inside legacy iptables-legacy -t mangle -S | grep -q ISTIO_
	# What is another's stays.
	inside legacy iptables-legacy -t nat -S | grep -q 'dport 9 -j MINE'
	inside nft ip6tables-nft -t nat -S | grep -q 'dport 9 -j MINE'
	probed $LEGACY $NFT $NATIVE
	run -2 takes_over
	[[ $output != *"taken out"* ]]
	agent_ends
	logged "^event=listening"
	probed $LEGACY $NFT $NATIVE
	run -0 takes_over
	probed $LEGACY $NFT $NATIVE
	is "$(jq -c '[.plugins[].type]' "$NODE_ROOT/etc/cni/net.d/10-pods.conflist")" '["bridge","portmap"]'
	is "$(stat -c %a "$NODE_ROOT/etc/cni/net.d/10-pods.conflist")" 640
	is "$(cd "$NODE_ROOT" && find etc opt run -type f -o -name "istio*" | sort | xargs)" \
		"etc/cni/net.d/10-pods.conflist etc/cni/net.d/20-other.conflist opt/cni/bin/bridge"
	[ ! -e "$WORKLOADS/.take-over" ]
	run -0 takes_over
	is "$(grep -cvE '^(ready|next|socket|end) ' <<<"$output")" 0
	# In time, none that dials 15006 goes to ztunnel any more.
	retry 60 refused_at $LEGACY 15006

	run -2 takes_over --back
	has "apply istio-cni"
	# The agent finds nothing of its own, which it would drop packets to replace; what
	# connections from before need is there all the same.
	for pod in legacy nft native; do
		for kind in legacy nft; do
			[ $kind = nft ] || [ $pod = legacy ] || continue
			for family in '' 6; do
				run inside $pod ip${family}tables-$kind-save
				[[ $output != *ISTIO* ]]
			done
		done
		inside $pod nft list table inet onramp-hand-back | grep -q 'ct mark'
	done
	for pod in legacy nft native; do
		routes_go $pod
		istio_enrols $pod
	done
	agent
	host_rules
	run -2 takes_over --back
	has "delete onramp's DaemonSet"
	for pod in legacy nft native; do run ! inside $pod nft list table inet onramp-hand-back; done
	probed $LEGACY $NFT $NATIVE
	zds_kill
	run -0 takes_over --back
	[ ! -e "$PIN" ]
	is "$(find "$STATE" -type f)" ""
	sleep 0.5
	dials_stop legacy nft native out
	all_by_ztunnel legacy outbound $LEGACY fd00:77::2 1
	all_by_ztunnel nft outbound $NFT fd00:77::3 0
	all_by_ztunnel native outbound $NATIVE fd00:77::4 0
	all_by_ztunnel out inbound-plain 10.77.1.5 fd00:77::5 0
}

refused_at() { # IP PORT
	run pod out "$TCP" dial "$1" "$2"
	[ "$output" = ECONNREFUSED ]
}

@test "--wait goes on when the agent has gone; who came meanwhile is taken over too; what a killed one left is taken on" {
	onramp_applied
	mkdir -p "$NODE_ROOT/opt"
	takes_over --wait 60 >"$WORK/says-take" 3>&- &
	script=$!
	retry 400 grep -q "^next" "$WORK/says-take" || { cat "$WORK/says-take" >&2; false; }
	istio_forgets nft
	istio_enrols nft
	agent_ends
	wait $script || { cat "$WORK/says-take" >&2; false; }
	is "$(nat_chains nft)" ""
	is "$(grep -c 'taken out of table nat of default/nft' "$WORK/says-take")" 2
	[ ! -e "$NODE_ROOT/opt/cni/bin/istio-cni" ]
}
