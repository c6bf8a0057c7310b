#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# The image as `make image` leaves it: what is in it, who takes it, and that it
# comes out the same a second time, elsewhere.

load helpers.bash

ARCHIVE=$ROOT/build/onramp.oci.tar

setup_file() {
	[ -s "$ARCHIVE" ] || { echo "no image: make image" >&2; return 1; }
}

@test "skopeo finds the loader's image for both architectures" {
	for arch in amd64 arm64; do
		run -0 skopeo --override-arch $arch inspect "oci-archive:$ARCHIVE"
		is "$(jq -r '.Architecture + " " + .Os' <<<"$output")" "$arch linux"
		is "$(jq '.Layers | length' <<<"$output")" 1
		run -0 skopeo --override-arch $arch inspect --config "oci-archive:$ARCHIVE"
		is "$(jq -c '[.architecture, .config.Entrypoint]' <<<"$output")" "[\"$arch\",[\"/onramp\"]]"
	done
}

@test "umoci unpacks it: one file, the loader of that architecture, static" {
	for arch in amd64 arm64; do
		local dir=$BATS_TEST_TMPDIR/$arch
		mkdir "$dir"
		skopeo --override-arch $arch copy --quiet "oci-archive:$ARCHIVE" "oci:$dir/layout:x"
		umoci unpack --image "$dir/layout:x" "$dir/bundle"
		is "$(cd "$dir/bundle/rootfs" && find . -mindepth 1 -printf '%P %y %m %U:%G\n')" "onramp f 755 0:0"
		cmp "$dir/bundle/rootfs/onramp" "$(loader_for $arch)"
		run -1 grep INTERP <(readelf -lW "$dir/bundle/rootfs/onramp")
	done
}

loader_for() { # ARCHITECTURE
	[ "$1" = "$(dpkg --print-architecture)" ] && echo "$ONRAMP" || echo "$ROOT/build/$1/onramp"
}

@test "each is a program of its own machine's kind, with the very same BPF object" {
	machine() { od -An -t u2 -j 18 -N 2 "$(loader_for "$1")" | tr -d ' '; }
	is "$(machine amd64) $(machine arm64)" "62 183" # EM_X86_64, EM_AARCH64
	cmp "$OBJECT" "$ROOT/build/arm64/onramp.bpf.o"
}

@test "built again, in another directory, it is the same archive" {
	local other=$BATS_TEST_TMPDIR/elsewhere/onramp
	mkdir -p "$other"
	cp -r "$ROOT"/{bpf,loader,scripts,vmtests,Makefile} "$other"
	ONRAMP_LIBS=$ROOT/build TZ=Asia/Tokyo run -0 make -C "$other" image
	run -0 sha256sum "$ARCHIVE" "$other/build/onramp.oci.tar"
	is "$(cut -d ' ' -f 1 <<<"$output" | uniq | wc -l)" 1
}
