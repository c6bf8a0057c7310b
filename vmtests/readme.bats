#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=once
# READMEs' commands, as they stand there, on a node of our own; what they name is there.

load helpers.bash

READMES=(README.md scripts/README.md bpf/README.md vmtests/README.md)

setup_file() {
	node_up readme
	ztunnel_up
	pod_up client 10.77.1.2
	# Every block marked sh, in order. Only where to attach and pin is ours.
	(cd "$ROOT" && awk '/^```sh$/ { on = 1; next } /^```$/ { on = 0 } on' "${READMES[@]}") |
		sed "s#CGROUP BPFFS#$CG $WORK/bpf#; s#/sys/fs/bpf/onramp#$PIN#" >"$WORK/commands"
	cat >"$WORK/prelude" <<-END
		set -ex
		cd '$ROOT'
		bpftool() { '$BPFTOOL' "\$@"; }
		onramp() {
			set -- "\$@" -p '$PIN'
			[ "\$1" != load ] || set -- "\$@" -c '$CG' -n '/run/netns/$RUN-node'
			'$ONRAMP' "\$@"
		}
	END
}

teardown_file() {
	rm -rf "$WORK/bpf/onramp"
	node_down
}

@test "the loader's commands work, in their order" {
	grep '^onramp ' "$WORK/commands" >"$WORK/loader"
	[ "$(wc -l <"$WORK/loader")" -ge 6 ]
	run -0 bash "$WORK/prelude" # sanity: the prelude itself
	cat "$WORK/prelude" "$WORK/loader" >"$WORK/script"
	run -0 bash "$WORK/script"
	[ ! -e "$PIN" ]
}

@test "the commands for when something is wrong work, all of them" {
	reload -e 10.77.1.0/24
	section=$(section scripts/README.md "When something is wrong")
	grep '^|.*`' <<<"$section" | sed -n 's/.*| `\(.*\)` |$/\1/p' |
		sed "s#/sys/fs/bpf/onramp#$PIN#; s#/sys/fs/cgroup#$CG#; s#^scripts/[^ ]*#& -p $PIN#; s#^scripts/onramp-doctor#& -r $WORK/root#" >"$WORK/table"
	is "$(wc -l <"$WORK/table")" "$(grep -c '^|' <<<"$section" | awk '{ print $1 - 2 }')"
	cat "$WORK/prelude" "$WORK/table" >"$WORK/script"
	run -0 bash "$WORK/script"
	has "MESH " "connects redirected outbound" "ok    pods "
	[ ! -e "$PIN" ]
}

@test "bpftool's commands work, and capture" {
	grep -v '^onramp ' "$WORK/commands" | cat "$WORK/prelude" - >"$WORK/script"
	grep -q load-with-bpftool "$WORK/script"
	NODE_NETNS=/run/netns/$RUN-node run -0 bash "$WORK/script"
	run -0 pod client "$TCP" dial 10.9.9.9 80
	has "orig4=10.9.9.9:80 "
}

@test "the make targets and programs that READMEs name are there" {
	cd "$ROOT"
	mapfile -t targets < <(grep -ohE '(^[#$] |`)make [a-z0-9 -]+' "${READMES[@]}" |
		sed 's/.*make //' | tr ' ' '\n' | sort -u)
	[ ${#targets[@]} -ge 8 ]
	for target in "${targets[@]}"; do grep -qE "^([a-z ]* )?$target:" Makefile; done
	while read -r program words; do
		[ -x "$program" ]
		[[ "$program $words" == *vmtests/run\ * ]] || continue
		for suite in ${words##*vmtests/run }; do [ -e "vmtests/$suite.bats" ]; done
	done < <(sed -n 's/^[#$] \(\(scripts\|vmtests\)\/.*\)/\1/p' "${READMES[@]}")
}

@test "README.md has 250 lines at most, and but for tables no README has wide ones" {
	cd "$ROOT"
	[ "$(wc -l <README.md)" -le 250 ]
	run -0 awk 'length > 80 && !/^\|/ { print FILENAME ": " FNR ": " $0 }' "${READMES[@]}"
	is "$output" ""
}

@test "files that READMEs name, and places that they point to, are there" {
	cd "$ROOT"
	# In backquotes; a word with a slash that is not the system's, a host's or a variable.
	# Of this folder or from the root on.
	awk '
		/^```/ { fenced = !fenced }
		fenced || /^    / { next }
		{
			for (n = split($0, part, "`"); n > 1; n--)
				if (n % 2 == 0) print FILENAME, part[n]
		}' "${READMES[@]}" | while read -r readme words; do
		for word in $words; do
			[[ $word =~ ^[a-z][a-z0-9_*.-]*/|^[a-z0-9_*.-]+\.(c|h|bats|bash)$ ]] || continue
			[[ ! $word =~ ^[a-z0-9-]+(\.[a-z0-9-]+)+/ ]] || continue # istio.io/dataplane-mode
			compgen -G "${readme%README.md}$word" >/dev/null || compgen -G "$word" >/dev/null ||
				echo "$readme: $word"
		done
	done >"$BATS_TEST_TMPDIR/missing"
	# What is linked, and headings there.
	grep -oE '\]\([^)]+\)' "${READMES[@]}" | sed -E 's/\]\(|\)//g; s/:/ /' | while read -r readme link; do
		file=${link%%#*}
		file=${file:+${readme%README.md}$file}
		file=${file:-$readme}
		[[ -e $file ]] || echo "$readme: $link"
		[[ $link != *'#'* ]] || sed -n 's/^##* //p' "$file" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9_\n-' |
			grep -qx -- "${link#*#}" || echo "$readme: $link"
	done >>"$BATS_TEST_TMPDIR/missing"
	is "$(cat "$BATS_TEST_TMPDIR/missing")" ""
}

@test "each line of the attacker's table is a test, and one of make guards'" {
	rows=0
	"$ROOT/vmtests/guards" --check
	"$ROOT/vmtests/guards" --list >"$BATS_TEST_TMPDIR/guards"
	while IFS='|' read -r _ _ _ _ test _; do
		suite=${test#*\`} suite=${suite%%\`*} name=${test#*: } name=${name% }
		grep -qF "@test \"$name" "$ROOT/vmtests/$suite.bats" || { echo "no such test: $suite: $name" >&2; return 1; }
		grep -qxF "$suite: $name" "$BATS_TEST_TMPDIR/guards" || { echo "no guard of: $suite: $name" >&2; return 1; }
		rows=$((rows + 1))
	done < <(sed -n "/^## The attacker's chair/,/^## Limits/s/^\(| .*: .*\)/\1/p" "$ROOT/vmtests/README.md" |
		grep -v '^| what')
	[ "$rows" -ge 40 ]
}
