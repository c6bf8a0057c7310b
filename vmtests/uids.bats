#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# Which pod's a netns is, by UID: how a pod's cgroup is called, and what neither a pod nor
# its neighbours change. (What rules of UIDs say, full maps: uid_rules.bats.)

load helpers.bash
load uids.bash

setup_file() {
	uids_up uids
}

# One netns for all: it is nobody's again when the pod's cgroup has gone.
@test "names that a kubelet gives a pod's cgroup, nested in any parent" {
	local digits=${A//-/} scores=${A//-/_}
	onramp enroll "$A"
	for name in "pod$A" "kubepods/burstable/pod$A/0123456789abcdef" "pod$digits/c" \
		"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$scores.slice/cri-containerd-0123.scope" \
		"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod$scores.slice/c" \
		"kubepods-pod$digits.slice/crio-0123456789abcdef.scope/container" \
		"docker/0123/kubelet.slice/kubelet-kubepods-besteffort-pod$scores.slice/crio-conmon-0123.scope" \
		"docker/0123/kubepods/pod$A/c" "a/b/c/d/e/f/g/pod$A/h/i/j/k/l/m/n/o/p/q" "-pod$scores.slice" \
		"$(printf 'x%.0s' {1..209})-pod$scores.slice" "x-pod-pod$digits.slice"; do
		mkdir -p "$CG/named/$name"
		enrolled "named/$name" one
		is "$name $(whose one)" "$name $A"
		cgroup_end "$CG/named"
		is "$name $(whose one)" "$name "
	done
}

@test "names that are no pod's" {
	local digits=${A//-/} scores=${A//-/_}
	onramp enroll "$A"
	for name in pod pod- podium "$A" "apod$A" "pod${A^^}" "pod${digits^^}" "pod${A%?}" "pod${A}0" "pod$A.slice" \
		"pod$scores" "pod$scores.slice" "pod${digits%?}" "pod${digits}0" "pod$digits.slice" \
		"pod${A/-/}" "pod${A%-*}_${A##*-}" "pod${A%?}g" "pod$A-x" "pod$A.scope" "POD$A" \
		"kubepods-pod$A.slice" "kubepods-pod$scores" "kubepods-pod$scores.slice.slice" \
		"kubepods-pod$scores.scope" "kubepods-pod$scores-slice" "kubepods-pod${scores}.alice" \
		"kubepods-pod${digits}xslice" "kubepods-pod${scores%?}.slice" "kubepods-pod${scores}0.slice" \
		"kubepods-pod${scores^^}.slice" "kubepods_pod$scores.slice" "kubepods-pod${digits%?}.slice" \
		"crio-pod$digits" "cri-containerd-$digits.scope" "kubepods-$scores.slice"; do
		mkdir "$CG/named" "$CG/named/$name"
		run dial "named/$name" one
		is "$name $(whose one) $status" "$name  0"
		cgroup_end "$CG/named"
	done
}

@test "the topmost name counts: a child named as another pod changes nothing, nor does its removal" {
	onramp enroll "$A"
	mkdir -p "$CG/$a/pod$B" "$CG/$a/x/kubepods-pod${B//-/_}.slice"
	passes "$b" two
	for child in "pod$B" "x/kubepods-pod${B//-/_}.slice"; do
		enrolled "$a/$child" one
		enrolled "$a/$child" three
		rmdir "$CG/$a/$child"
		owns "$A" one
		owns "$B" two
	done
	onramp forget "$A"
	onramp enroll "$B"
	mkdir "$CG/$a/pod$B"
	passes "$a/pod$B" one
	passes "$a/pod$B" three
	enrolled "$b" two
	is "$(whose three)" ""
}

@test "a second netns of a pod is enrolled like it, whoever made it; the first stays its own" {
	onramp enroll "$A"
	mkdir "$CG/$a/nested"
	enrolled "$a" one
	enrolled "$a" two
	enrolled "$a/nested" three # as a container in the pod's container
	for how in "" "setpriv --reuid=65534 --regid=65534 --clear-groups"; do
		for netns in one two; do
			# shellcheck disable=SC2086 # words
			run -1 run_in "$a" $netns $how unshare -Urn "$WORK/in-its-own"
			is "$output" ECONNREFUSED
		done
	done
	owns "$A" one
	is "$(whose two)$(whose three)" ""
	passes none two # nobody's
	# Without a rule all these pass.
	passes "$b" two
	passes "$b" three
	run -1 run_in "$b" two unshare -Urn "$WORK/in-its-own"
	is "$output" EACCES # so says its own route
	owns "$B" two
}

@test "in another pod's netns that pod's rule holds, whoever is there, and whence" {
	onramp enroll "$A"
	enrolled "$a" one
	passes "$b" two
	for netns in two three node; do
		enrolled_in one "$b" $netns
		enrolled_in one none $netns
	done
	passes_in two "$a" one
	run -0 run_in "$a" one $(enter two) $(enter one) $(enter two) "$TCP" dial 10.77.2.2 80
	run -1 run_in "$a" one $(enter two) $(enter one) "$TCP" dial 10.77.2.2 80
	is "$output" ECONNREFUSED
	# A netns that a program makes there is its own pod's.
	run -1 run_in "$a" one $(enter two) unshare -Urn "$WORK/in-its-own"
	is "$output" ECONNREFUSED
	run -1 run_in "$b" two $(enter one) unshare -Urn "$WORK/in-its-own"
	is "$output" EACCES
	enrolled "$a" one
	passes "$b" two
	owns "$A" one
	owns "$B" two
	is "$(whose three)" ""
}

@test "a pod of the node's netns passes, whatever its rule, and has no netns" {
	onramp enroll "$A" "$D"
	passes "$d" node
	is "$(netns_of "$D")" ""
	# As a monitor that CRI-O has beside a pod's containers.
	mkdir "$CG/$a/crio-conmon-0123.scope"
	passes "$a/crio-conmon-0123.scope" node
	is "$(netns_of "$A")" ""
	enrolled "$a" one
	passes "$a/crio-conmon-0123.scope" node
	owns "$A" one
}

# The pods of UIDs A, B and D as netns a, b and d: one that has run nothing, its first
# programs, and what `kubectl exec` brings. By runc where the suite is run with its pods.
made() { # POD IP
	if [ "${ONRAMP_TEST_RUNTIME-}" != runc ]; then light_pod_up "$@" none; else netns_with_cni "$@"; fi
}

begins() { # POD
	local below=${!1}
	if [ "${ONRAMP_TEST_RUNTIME-}" != runc ]; then
		mkdir -p "$CG/$below"
		of_pod "$1" true
		return
	fi
	eval "pod_cgroup() { echo '$CG/${below%/c}'; }"
	rmdir "$CG/$below" 2>/dev/null || : # a kubelet makes the pod's alone
	container_up "$1" pause sleep infinity
	container_up "$1" app sleep infinity
}

of_pod() { # POD COMMAND...
	if [ "${ONRAMP_TEST_RUNTIME-}" != runc ]; then run_in "${!1}" "$@"; else run_in "$1" "$@"; fi
}

ends() { # POD
	if [ "${ONRAMP_TEST_RUNTIME-}" != runc ]; then
		ip -n "$RUN-node" link del "v$1"
	else
		container_down "$1" app
		container_down "$1" pause
		cni DEL "$1"
	fi
	cgroup_end "$CG/${!1%/c}"
	ip netns del "$RUN-$1"
}

of_pod_enrolled() { # POD COMMAND...
	run -1 of_pod "$@" "$TCP" dial 10.77.2.2 80
	is "$output" ECONNREFUSED
}

of_pod_passes() { # POD COMMAND...
	run -0 of_pod "$@" "$TCP" dial 10.77.2.2 80
	has " local="
}

# A daemon, whose own netns is the node's, looks into pods'.
daemon_visits() { # NETNS...
	local netns
	run_in "$d" node true
	for netns; do
		run_in "$d" node $(enter "$netns") true
		run_in "$d" node $(enter "$netns") sh -c "/bin/true; /bin/true"
	done
}

# bats test_tags=runc
@test "as a runtime makes pods: each has its netns, where its rule holds, whoever was there or is" {
	onramp enroll "$A"
	for _ in {1..4}; do # runc's init is in its cgroup sooner, or later
		made a 10.77.1.31
		made b 10.77.1.32
		daemon_visits a b
		begins a
		begins b
		of_pod_enrolled b $(enter a)
		of_pod_passes a $(enter b)
		of_pod_enrolled a
		of_pod_passes b
		owns "$A" a
		owns "$B" b
		ends a
		ends b
	done
}

# A command that a program of the first cgroup begins, in the node's netns, and for each
# further cgroup one there; with all namespaces of the first.
begun_by() { # CGROUP CGROUP... -- COMMAND...
	export steps='[ "$1" = -- ] && shift && exec "$@"
		(echo 0 >"$1/cgroup.procs" && shift && exec sh -c "$steps" sh "$@")'
	run_in "$1" node sh -c "$steps" sh "${@:2}"
}

@test "a runtime in a pod's cgroup, and in the node's netns still, is no program of the pod's" {
	local pod=$CG/${a%/c}
	onramp enroll "$A"
	for cgroups in "$pod/c" "$pod/crio-conmon $pod/c"; do # as CRI-O has it: in the pod, too
		mkdir "$pod/crio-conmon"
		daemon_visits one
		# shellcheck disable=SC2086 # words
		begun_by node $cgroups -- $(enter one) true
		owns "$A" one
		enrolled_in one "$b" two
		# It comes again, as for `kubectl exec`: the pod is known meanwhile.
		run begun_by node "$pod/c" -- cat "$PIN/pods"
		has " 10.77.1.1"
		cgroup_end "$CG/kubepods"
		uids_here
	done
	# A daemon's child, whatever cgroup below the pod's it is in, has the daemon's namespaces.
	mkdir "$CG/${d%/c}/child"
	begun_by "$d" "$CG/${d%/c}/child" -- $(enter one) true
	is "$(whose one)" "$D"
	enrolled "$a" one
	owns "$A" one
}

@test "a daemon in transit: visits pods before they have run anything, and after" {
	onramp enroll "$A"
	for rule in exclude enroll forget; do
		onramp $rule "$D"
		daemon_visits one two
		enrolled "$a" one
		passes "$b" two
		owns "$A" one
		owns "$B" two
		daemon_visits one two
		enrolled_in one "$d" node
		passes_in two "$d" node
		enrolled "$a" one
		passes "$b" two
		owns "$A" one
		owns "$B" two
		is "$(netns_of "$D")" ""
		cgroup_end "$CG/kubepods"
		uids_here
	done
}

@test "a daemon in transit visits a second netns of a pod: the pod is enrolled there still" {
	onramp enroll "$A"
	enrolled "$a" one
	for rule in exclude enroll forget; do
		onramp $rule "$D"
		daemon_visits two three
		enrolled "$a" two
		enrolled "$a" three
		owns "$A" one
	done
}

@test "a daemon in transit visits a pod whose cgroup has begun in the node's netns, as some runtimes' do" {
	onramp enroll "$A"
	onramp exclude "$D"
	passes "$a" node
	enrolled "$a" one
	daemon_visits one
	enrolled "$a" one
	enrolled_in one none node
	owns "$A" one
}

program_and_owns() { # CGROUP UID NETNS
	run_in "$1" "$3" true
	[ "$(whose "$3")" = "$2" ]
}

@test "another netns is a pod's own when the first has gone: deleted, or held open without devices" {
	onramp enroll "$A"
	pod_up first 10.77.1.9 none
	enrolled "$a" first
	enrolled "$a" one
	owns "$A" first
	ip netns del "$RUN-first"
	retry 100 program_and_owns "$a" "$A" one # the cgroup is the same
	owns "$A" one
	enrolled "$a" one
	# A sandbox made anew, while somebody has the old one's netns open.
	pod_up first 10.77.1.9 "$a/anew"
	enrolled "$a/anew" first
	owns "$A" one
	ip -n "$RUN-node" link del vone
	enrolled "$a/anew" first
	owns "$A" first
	is "$(whose one)" ""
	run -1 dial "$a" one
	is "$output" ENETUNREACH # enrolled, and it has no address
	ip netns del "$RUN-first"
	ip netns del "$RUN-one"
	pod_up one 10.77.1.1 none
	ip -n "$RUN-one" addr add fd00:77::11/64 dev eth0 nodad
}

@test "a pod is forgotten when its cgroup goes, not when it has no process or container" {
	onramp enroll "$A"
	enrolled "$a" one
	rmdir "$CG/$a"
	owns "$A" one
	enrolled none one # a node's program in it
	mkdir "$CG/$a"
	enrolled "$a" two # not its own even now
	owns "$A" one
	rmdir "$CG/$a" "$CG/${a%/c}"
	is "$(whose one)$(netns_of "$A")" ""
	passes none one
	mkdir -p "$CG/$a"
	enrolled "$a" two
	owns "$A" two
}

@test "a cgroup elsewhere that is named as a pod's is not the pod, and one above -c is none" {
	onramp enroll "$A" "$B"
	enrolled "$a" one
	mkdir -p "$CG/user/pod$A"
	rmdir "$CG/user/pod$A"
	owns "$A" one
	# Beside -c.
	mkdir "$OUTSIDE/pod$A" "$OUTSIDE/pod$B"
	"$TCP" in "$OUTSIDE/pod$B/cgroup.procs" "/run/netns/$RUN-two" true
	is "$(whose two)$(netns_of "$B")" ""
	rmdir "$OUTSIDE"/pod*
	owns "$A" one
	onramp unload
	mkdir -p "$CG/$a/pod$B/c"
	load_from node -c "$CG/$a" -e "$A"
	passes "$a" one
	passes "$a/pod$B/c" two
	onramp enroll "$B"
	passes "$a" one
	enrolled "$a/pod$B/c" two
	is "$(whose one)" ""
	owns "$B" two
	onramp unload
	in_pod_mode
}

# A program that is there before the load, and dials when it is told to.
older() { # NAME CGROUP NETNS [COMMAND]...
	mkfifo "$WORK/$1-steps"
	"$TCP" in "$CG/$2/cgroup.procs" "/run/netns/$RUN-$3" "${@:4}" "$TCP" steps 10.77.2.2 80 \
		<>"$WORK/$1-steps" >"$WORK/$1-dialled" 3>&- &
	disown
	retry 100 runs_tcp "$!"
}

runs_tcp() { # PID
	local name words
	mapfile -d "" -t words <"/proc/$1/cmdline"
	[ "${words[1]-}" = steps ]
}

dialled() { # NAME WANTED
	echo >"$WORK/$1-steps"
	retry 100 grep -q . "$WORK/$1-dialled"
	output="$1 $(cat "$WORK/$1-dialled")"
	has "$2"
	rm "$WORK/$1-steps" "$WORK/$1-dialled"
}

@test "pods older than the load: their netns is that of the oldest process" {
	onramp unload
	mkdir "$CG/$a/child"
	older oldest "$a" one
	older newer "$a" two
	older child "$a/child" three $(enter one) unshare -n $(enter three)
	older daemon "$d" node
	older visitor "$d" two
	older other "$b" two
	in_pod_mode -e "$A" -x "$D"
	owns "$A" one
	owns "$B" two
	is "$(whose three)$(netns_of "$D")" ""
	dialled oldest ECONNREFUSED
	dialled newer " local=" # it is in another pod's
	dialled child ECONNREFUSED
	dialled daemon " local="
	dialled visitor " local="
	dialled other " local="
}
