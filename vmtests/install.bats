#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# make install, what it puts where, whether it works there; make uninstall.

load helpers.bash

setup_file() {
	export TO=$BATS_FILE_TMPDIR/to
	make -C "$ROOT" install DESTDIR="$TO" PREFIX=/opt/x >&2 3>&-
	PAGE=$TO/opt/x/share/man/man8/onramp.8
	export PAGE
}

@test "the loader, the object, scripts and the page, for all to read" {
	is "$(cd "$TO" && find . -type f -printf '%m %P\n' | grep -v sbin/. | sort -k 2)" \
		"755 opt/x/lib/onramp/find-bpftool
755 opt/x/lib/onramp/load-with-bpftool
644 opt/x/lib/onramp/onramp.bpf.o
644 opt/x/lib/systemd/system/onramp.service
644 opt/x/share/man/man8/onramp-zds.8
644 opt/x/share/man/man8/onramp.8"
	cmp "$OBJECT" "$TO/opt/x/lib/onramp/onramp.bpf.o"
	cmp "$ONRAMP" "$TO/opt/x/sbin/onramp"
	for command in "$ROOT"/scripts/{onramp-*,enroll-by-label}; do
		[ ! -x "$command" ] || cmp "$command" "$TO/opt/x/sbin/${command##*/}"
	done
	run -0 env -i "$TO/opt/x/sbin/onramp" --help
	has "usage: onramp load"
	run -0 env -i "$TO/opt/x/sbin/onramp" --version
	is "$output" "onramp $(cat "$ROOT/build/version")"
}

@test "the boot's unit, by scripts/README.md's commands: enabled, and it calls what was installed" {
	command -v systemctl >/dev/null || skip "no systemctl"
	grep -q '^ExecStart=/opt/x/sbin/onramp load ' "$TO/opt/x/lib/systemd/system/onramp.service"
	local fresh=$BATS_TEST_TMPDIR/fresh
	section scripts/README.md "What protects whom" | sed -n 's/^# //p' >"$BATS_TEST_TMPDIR/commands"
	is "$(wc -l <"$BATS_TEST_TMPDIR/commands")" 2
	make() { command make -C "$ROOT" "$@" DESTDIR="$fresh"; }
	systemctl() { command systemctl --root="$fresh" "$@"; }
	# shellcheck source=/dev/null
	. "$BATS_TEST_TMPDIR/commands"
	is "$(readlink "$fresh"/etc/systemd/system/*/onramp.service)" /usr/local/lib/systemd/system/onramp.service
	grep -q '^ExecStart=/usr/local/sbin/onramp load ' "$fresh/usr/local/lib/systemd/system/onramp.service"
}

@test "load-with-bpftool finds the object where it was installed" {
	node_up install
	NODE_NETNS=/run/netns/$RUN-node run -0 "$TO/opt/x/lib/onramp/load-with-bpftool" "$CG" \
		"$PIN" 10.77.0.9 10.77.1.0/24
	rm -r "$PIN"
	node_down
}

@test "the man pages render without a warning" {
	for page in "$PAGE" "${PAGE%.8}-zds.8"; do
		run -0 groff -ww -man -Tutf8 -z "$page"
		is "$output" ""
		run -0 man --warnings -l "$page"
		run -0 lexgrog "$page"
		has "\"$(basename "$page" .8) - "
	done
}

@test "the man pages have each option and each line of use, no placeholder, no line that is too long" {
	for usage in usage usage-zds; do
		text=$ROOT/loader/$usage.txt
		page=$(MANWIDTH=80 man -P cat -l "${PAGE%.8}${usage#usage}.8" | col -b)
		options=$(sed -nE 's/^  (-[a-zA-Z], --[a-z-]+( [][A-Z:]+6?)?)  .*/\1/p' "$text")
		[ "$(wc -l <<<"$options")" -ge 5 ]
		while read -r option; do
			grep -qxF "       $option" <<<"$page"
		done <<<"$options"
		while read -r line; do
			grep -qF "$line" <<<"$page"
		done < <(sed -nE 's/^(usage:)? +(onramp.*)/\2/p' "$text")
		run -1 grep -E '@|.{81}' <<<"$page"
		[ $usage = usage-zds ] || grep -qF "/opt/x/lib/onramp/load-with-bpftool" <<<"$page"
	done
}

@test "uninstall leaves nothing" {
	make -C "$ROOT" uninstall DESTDIR="$TO" PREFIX=/opt/x
	is "$(find "$TO" ! -type d)" ""
}
