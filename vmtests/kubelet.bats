#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# Probes arrive at what they are for: the kubelet's (-k), and anybody's of ztunnel.
# Which cgroups are the kubelet's by default: loader.bats.

load helpers.bash

setup_file() {
	node_up kubelet
	pod_up ztunnel "$ZTUNNEL_POD_IP"
	pod_up member 10.77.1.3
	dual_stack ztunnel:9 member:3
	serve ztunnel :: 15021 15001 15006
	serve member :: 80
	mkdir -p "$CG/kubelet/unit" "$CG/other"
	loaded -e 10.77.1.0/24 -k "$CG/kubelet"
	pod member true
}

teardown_file() {
	node_down
}

loaded() { # OPTION...
	node_mode -z "$ZTUNNEL_POD_IP6" "$@"
}

# A program of the node in a cgroup of it dials a pod.
dials() { # CGROUP ADDRESS PORT
	run_in "$1" node "$TCP" dial "$2" "$3"
}

arrives() { # CGROUP
	run -0 dials "$1" 10.77.1.3 80
	has "dialled=10.77.1.3:80 " " local=[::ffff:10.77.1.3]:80 "
	run -0 dials "$1" fd00:77::3 80
	has "dialled=[fd00:77::3]:80 " " local=[fd00:77::3]:80 "
	run -0 dials "$1" ::ffff:10.77.1.3 80
	has " local=[::ffff:10.77.1.3]:80 "
}

captured() { # CGROUP
	run -0 dials "$1" 10.77.1.3 80
	has "dialled=10.77.1.3:80 " " local=[::ffff:$ZTUNNEL_POD_IP]:15006 " " orig4=10.77.1.3:80 "
	run -0 dials "$1" fd00:77::3 80
	has "dialled=[fd00:77::3]:80 " " local=[$ZTUNNEL_POD_IP6]:15006 " " orig6=[fd00:77::3]:80 "
}

@test "-k: what is in its cgroup or below arrives, other node programs are captured" {
	arrives kubelet
	arrives kubelet/unit
	captured node
}

# It is said of programs of the node's netns.
@test "-k: a program of that cgroup in a pod's netns is the pod's" {
	run -0 run_in kubelet member "$TCP" dial 10.77.2.2 80
	has " local=[::ffff:$ZTUNNEL_POD_IP]:15001 " " orig4=10.77.2.2:80 "
}

@test "-k: a probe tells what is there, whatever ztunnel does" {
	run -1 dials kubelet 10.77.1.3 9999 # where nothing listens
	is "$output" ECONNREFUSED
	cgroup_end "$CG/ztunnel"
	arrives kubelet
	run -1 dials node 10.77.1.3 80
	is "$output" ECONNREFUSED
	mkdir "$CG/ztunnel"
	serve ztunnel :: 15021 15001 15006
	loaded -k "$CG/kubelet" # it has another cgroup now
	captured node
}

@test "-k: several; a load without one takes it back; what its cgroup was is nobody's" {
	loaded -k "$CG/other" -k "$CG/kubelet/unit"
	arrives other
	arrives kubelet/unit
	captured kubelet
	loaded
	captured other
	loaded -k "$CG/other"
	is "$(entries kubelets)" 1
	rmdir "$CG/other"
	is "$(entries kubelets)" 0
}

@test "-k /: no program of the node is captured" {
	loaded -k /
	arrives node
	arrives kubelet
	loaded -k "$CG/kubelet"
	captured node
}

ztunnels_own_arrive() {
	pod ztunnel true
	for address in "$ZTUNNEL_POD_IP" "$ZTUNNEL_POD_IP6"; do
		run -0 dials node "$address" 15021
		has " on=15021" "dialled=" "$address"
	done
}

@test "probes of ztunnel itself arrive, whoever's, though its addresses are enrolled" {
	loaded -e 10.77.0.0/16 -e fd00:77::/64
	ztunnels_own_arrive
	for from in ztunnel node; do # known by its netns, and by nothing
		onramp unload
		load_from "$from" -z "$ZTUNNEL_POD_IP" -z "$ZTUNNEL_POD_IP6" -e 10.77.0.0/16 -e fd00:77::/64
		ztunnels_own_arrive
		captured node
	done
}
