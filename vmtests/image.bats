#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# bats file_tags=native
# The image as `make image` leaves it: what is in it, who takes it, and that it
# comes out the same a second time, elsewhere.

load helpers.bash

ARCHIVE=$ROOT/build/onramp.oci.tar
NODE=$ROOT/build/onramp-node.oci.tar

setup_file() {
	for archive in "$ARCHIVE" "$NODE"; do
		[ -s "$archive" ] || { echo "no image: make image" >&2; return 1; }
	done
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
	python3 -c 'import sys
object, *loaders = (open(name, "rb").read() for name in sys.argv[1:])
sys.exit(not all(object in loader for loader in loaders))' \
		"$ROOT/build/loader/onramp.bpf.o" "$(loader_for amd64)" "$(loader_for arm64)"
}

@test "built again, in another directory, each is the same archive" {
	local other=$BATS_FILE_TMPDIR/elsewhere/onramp
	mkdir -p "$other/build"
	cp -r "$ROOT"/{bpf,loader,scripts,vmtests,Makefile} "$other"
	cp "$ROOT/build/node-base.tar" "$other/build" # Debian's part takes a minute
	# Where there is no git it cannot be known which version this is.
	VERSION=$(cat "$ROOT/build/version") ONRAMP_LIBS=$ROOT/build TZ=Asia/Tokyo \
		run -0 make -C "$other" image
	cmp "$ARCHIVE" "$other/build/onramp.oci.tar"
	cmp "$NODE" "$other/build/onramp-node.oci.tar"
}

@test "made once more by another name it has that name, and then its first one" {
	local other=$BATS_FILE_TMPDIR/elsewhere/onramp make
	make=(env "VERSION=$(cat "$ROOT/build/version")" "ONRAMP_LIBS=$ROOT/build" make -C "$other" image)
	name() { tar -xOf "$other/build/onramp-node.oci.tar" index.json | jq -r '.manifests[].annotations[]'; }
	run -0 "${make[@]}" NODE_IMAGE=localhost/onramp-node:2
	is "$(name)" localhost/onramp-node:2
	run -0 "${make[@]}"
	is "$(name)" localhost/onramp-node:latest
	run -0 "${make[@]}"
	[[ $output != *IMAGE* ]] # nothing is made for nothing
}

@test "a release: all of it, by the version that git says, and its checksums; what is not committed is none" {
	local clone=$BATS_TEST_TMPDIR/clone
	git clone -q "$ROOT" "$clone"
	mkdir "$clone/build"
	cp "$ROOT/build/node-base.tar" "$clone/build"
	echo >>"$clone/README.md"
	ONRAMP_LIBS=$ROOT/build run -2 make -C "$clone" dist VERSION="$(git -C "$clone" describe --always --dirty)"
	has "-dirty is no version: commit first"
	is "$(ls "$clone/build")" node-base.tar # it took no time
	git -C "$clone" checkout -q README.md
	version=$(git -C "$clone" describe --always)
	ONRAMP_LIBS=$ROOT/build run -0 make -C "$clone" dist VERSION="$version"
	cd "$clone/build/dist"
	is "$(printf '%s\n' * | sed "s/$version/V/" | xargs)" "SHA256SUMS onramp-V-amd64 onramp-V-arm64 \
onramp-V-node-$(dpkg --print-architecture).oci.tar onramp-V.bpf.o onramp-V.oci.tar onramp-V.tar"
	sha256sum --quiet -c SHA256SUMS
	is "$("./onramp-$version-$(dpkg --print-architecture)" --version)" "onramp $version"
	is "$(tar -tf "onramp-$version.tar" | grep -v '/$' | sed 's|^[^/]*/||' | sort)" \
		"$(git -C "$clone" ls-files | sort)"
	before=$(cat SHA256SUMS)
	touch "$clone"/bpf/* "$clone"/loader/*
	cd "$clone"
	ONRAMP_LIBS=$ROOT/build TZ=Asia/Tokyo run -0 make dist VERSION="$version"
	is "$(cat build/dist/SHA256SUMS)" "$before"
}

# What a container of the node's image would see, in $BATS_FILE_TMPDIR/node/rootfs.
node_unpacked() {
	local dir=$BATS_FILE_TMPDIR/node
	[ ! -e "$dir/rootfs" ] || return 0
	mkdir -p "$dir"
	skopeo copy --quiet "oci-archive:$NODE" "oci:$dir/layout:x"
	umoci raw unpack --image "$dir/layout:x" "$dir/rootfs" >/dev/null
	mkdir -p "$dir/rootfs/dev" # which a runtime fills
	: >"$dir/rootfs/dev/null"
}

inside() { # COMMAND...: with nothing of this machine
	chroot "$BATS_FILE_TMPDIR/node/rootfs" env -i \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

@test "the node's image: this machine's kind, small enough" {
	run -0 skopeo inspect --config "oci-archive:$NODE"
	is "$(jq -c '[.architecture, .config.Entrypoint]' <<<"$output")" \
		"[\"$(dpkg --print-architecture)\",null]"
	[ "$(stat -c %s "$NODE")" -lt 100000000 ]
}

@test "the node's image: each program of ours is there, and starts" {
	node_unpacked
	cmp "$BATS_FILE_TMPDIR/node/rootfs/usr/local/bin/onramp" "$ONRAMP"
	for program in "$ROOT"/scripts/{onramp-*,enroll-by-label}; do
		[[ $program != *.in ]] || continue
		cmp "$program" "$BATS_FILE_TMPDIR/node/rootfs/usr/local/bin/${program##*/}"
	done
	run -0 inside onramp --version
	run -0 inside onramp-zds --version # with all its libraries
	is "$output" "onramp-zds $(cat "$ROOT/build/version")"
}

@test "the node's image: what the scripts call is there" {
	node_unpacked
	run -0 inside sh -c 'for tool; do command -v $tool >/dev/null || echo "no $tool"; done' sh \
		bash curl jq ip ss iptables-legacy iptables-nft nft bpftool nsenter pgrep find timeout
	is "$output" ""
	is "$(inside jq -nc '{ a: 1 }')" '{"a":1}'
	run -0 inside curl --version
	has https
	[ -s "$BATS_FILE_TMPDIR/node/rootfs/etc/ssl/certs/ca-certificates.crt" ]
}

@test "the node's image: where onramp-zds is to look, only root may write" {
	node_unpacked
	for dir in / /var /var/lib /usr/local/bin; do
		is "$dir $(stat -c '%U %a' "$BATS_FILE_TMPDIR/node/rootfs$dir")" "$dir root 755"
	done
}

@test "the Dockerfile of the node's image has the same packages" {
	packages() { grep -oE '[a-z0-9-]+' | sed 's/t64$//' | sort; }
	is "$(sed -n '/--no-install-recommends/,/&&/p' "$ROOT/scripts/kubernetes/Dockerfile.node" |
		sed 's/.*recommends//; s/&&.*//' | packages)" \
		"$(sed -n '/^PACKAGES=/,/)$/p' "$ROOT/scripts/node-base" | sed 's/^PACKAGES=//' | packages)"
}
