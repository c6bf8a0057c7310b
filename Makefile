# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

V ?= 0
ifeq ($(V),0)
Q := @
say = @printf '  %-8s %s\n' "$(1)" "$(2)"
else
Q :=
say =
endif

B := build
# Where BPF's objects are, which are of no machine's kind.
O := $(B)
comma := ,
CC ?= gcc
CLANG ?= clang
BPFTOOL ?= $(shell scripts/find-bpftool)
ARCH := $(shell uname -m)
LIBS := # where another architecture's headers and libraries are: see get-libs

# What is built does not tell where: in another directory it is the same.
NOWHERE := -ffile-prefix-map=$(CURDIR)=.

# v2: the oldest kernel of the matrix, 5.10, has no atomics with a result.
BPF_CFLAGS := -g -O2 -target bpf -mcpu=v2 -Wall -Werror -ffreestanding \
	-I$(LIBS)/usr/include/$(ARCH)-linux-gnu $(NOWHERE)
CFLAGS ?= -O2 -g
CFLAGS += -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -I$(B) -I$(O) -Ibpf $(NOWHERE)

# What onramp --version says. The same in what make calls make for.
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
VERSION := $(VERSION)
export VERSION

# They are loaded in this order. First a tracepoint's: where CAP_PERFMON is missing, the
# kernel says so of it, and of others that it knows no such helper.
HOOKS := $(patsubst bpf/%.bpf.c,$(O)/bpf/%.o,$(wildcard bpf/*.bpf.c))
FIRST := %/cgroup_rmdir.o
HOOKS := $(filter $(FIRST),$(HOOKS)) $(filter-out $(FIRST),$(HOOKS))
LOADERS := $(O)/bpf/iter_pods.o # of which it takes what the kernel can do
HOSTILE := $(wildcard vmtests/hostile_*.c)
TOOL_FILES := $(filter-out %.bpf.c %/fuzz.c $(HOSTILE),$(wildcard vmtests/*.c))
TOOLS := $(TOOL_FILES:vmtests/%.c=$(B)/%) $(B)/other.bpf.o $(B)/other/onramp
MANIFESTS := $(patsubst scripts/kubernetes/%/kustomization.yaml,$(B)/kubernetes-%.json,\
	$(wildcard scripts/kubernetes/*/kustomization.yaml))
C_FILES := $(wildcard bpf/*.[ch] loader/*.[ch] scripts/*.c vmtests/*.[ch])
SHELL_FILES := $(shell grep -lE '^.!/bin/(ba)?sh' scripts/* vmtests/* .ci/* 2>/dev/null) \
	$(wildcard vmtests/*.bash)

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help all install uninstall tools image dist dist-version manifests demo test vmtest kernels suites \
	vmtest-arm64 soak chaos steady power-cut guards churn fuzz bench bench-scale lint fmt clean compile_commands.json \
	setup-% FORCE

all: $(B)/onramp.bpf.o $(B)/onramp $(B)/onramp-zds ## build the object, the loader and the server

PREFIX ?= /usr/local
COMMANDS := $(wildcard scripts/onramp-* scripts/enroll-by-label)
UNIT := lib/systemd/system/onramp.service
to := $(DESTDIR)$(PREFIX)

install: all ## all of it, with the boot's unit; PREFIX, DESTDIR
	$(Q)install -d $(to)/sbin $(to)/lib/onramp $(to)/share/man/man8 $(dir $(to)/$(UNIT))
	$(Q)install $(B)/onramp $(B)/onramp-zds $(COMMANDS) $(to)/sbin
	$(Q)install -m 644 $(B)/onramp.bpf.o $(to)/lib/onramp
	$(Q)install scripts/load-with-bpftool scripts/find-bpftool $(to)/lib/onramp
	$(Q)scripts/usage-to-man loader/usage.txt scripts/onramp.8.in | \
		sed 's|@PREFIX@|$(PREFIX)|' >$(to)/share/man/man8/onramp.8
	$(Q)scripts/usage-to-man loader/usage-zds.txt scripts/zds.8.in >$(to)/share/man/man8/onramp-zds.8
	$(Q)sed 's|/usr/local/|$(PREFIX)/|' scripts/systemd/onramp.service >$(to)/$(UNIT)

uninstall: ## what install put there
	$(Q)rm -rf $(to)/lib/onramp $(to)/$(UNIT) $(addprefix $(to)/share/man/man8/,onramp.8 onramp-zds.8) \
		$(addprefix $(to)/sbin/,onramp onramp-zds $(notdir $(COMMANDS)))

tools: $(TOOLS) ## what the suites need besides

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9_.-]+:.*## / { printf "  make %-24s%s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)
	@echo '  V=1 shows every command'

setup-%:
	$(Q)scripts/setup $(subst -, ,$*)

$(O)/bpf/%.o: bpf/%.bpf.c $(wildcard bpf/*.h) Makefile | setup-build
	$(call say,BPF,$*)
	$(Q)mkdir -p $(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -c $< -o $@

$(O)/onramp.bpf.o: $(filter-out $(LOADERS),$(HOOKS))
	$(call say,LINK,$@)
	$(Q)$(BPFTOOL) gen object $@ $^

# As the loader has it.
$(O)/loader/onramp.bpf.o: $(O)/onramp.bpf.o $(LOADERS)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(BPFTOOL) gen object $@ $^

# All that onramp-zds loads; the rest is pinned by then.
$(O)/inbound_netns.bpf.o: $(O)/bpf/inbound_netns.o $(O)/bpf/license.o
	$(call say,LINK,$@)
	$(Q)$(BPFTOOL) gen object $@ $^

$(O)/onramp.skel.h: $(O)/loader/onramp.bpf.o
$(O)/inbound_netns.skel.h: $(O)/inbound_netns.bpf.o
$(O)/%.skel.h:
	$(call say,SKEL,$@)
	$(Q)$(BPFTOOL) gen skeleton $< name $* >$@

$(B)/%.h: loader/%.txt scripts/usage-to-c
	$(call say,GEN,$@)
	$(Q)mkdir -p $(@D)
	$(Q)scripts/usage-to-c $< >$@

# Written only where it says another, so that nothing is built anew for nothing.
$(B)/version: FORCE
	$(Q)mkdir -p $(@D)
	$(Q)echo '$(VERSION)' | cmp -s - $@ || echo '$(VERSION)' >$@

# What onramp-zds is made of, and what both are. (The rest is the loader's alone.)
ZDS := $(wildcard loader/zds*.c)
BOTH := loader/addr.c loader/cgroups.c loader/inbound.c loader/kubelets.c loader/netns.c loader/uid.c
LOADER := $(filter-out $(ZDS),$(wildcard loader/*.c))
MADE := bpf/onramp.h $(wildcard loader/*.h) $(B)/version

$(B)/onramp: $(LOADER) $(B)/usage.h $(O)/onramp.skel.h $(MADE)
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS) -DVERSION='"$(VERSION)"' -static -s $(LOADER) -o $@ \
		$$(scripts/static-libs '$(CC)')

$(B)/zds.pb-c.c $(B)/zds.pb-c.h &: loader/zds.proto | setup-build
	$(call say,PROTO,$@)
	$(Q)mkdir -p $(@D)
	$(Q)protoc-c --proto_path=loader --c_out=$(B) $<

# With shared libraries: Debian's libmicrohttpd has no static form without GnuTLS.
$(B)/onramp-zds: $(ZDS) $(BOTH) $(B)/zds.pb-c.c $(B)/zds.pb-c.h $(B)/usage-zds.h $(O)/inbound_netns.skel.h $(MADE)
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS) -DVERSION='"$(VERSION)"' $(ZDS) $(BOTH) $(B)/zds.pb-c.c -o $@ \
		-lbpf -lprotobuf-c -lmicrohttpd

# The same with ASan and UBSan, which end it where they find something: for the suites,
# ZDS=build/asan/onramp-zds.
$(B)/asan/onramp-zds: $(B)/onramp-zds
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -fsanitize=address,undefined -fno-sanitize-recover=all \
		-fno-omit-frame-pointer -DVERSION='"$(VERSION)"' $(ZDS) $(BOTH) $(B)/zds.pb-c.c \
		-o $@ -lbpf -lprotobuf-c -lmicrohttpd

# Those of zds_status.c that keep files have others in their place.
FUZZED := $(patsubst %,loader/%.c,zds_files zds_workload zds_trust zds_lists zds_status zds_pods \
	zds_join zds_recall zds_peers addr uid) $(B)/zds.pb-c.c
FUZZ_WRAPS := status_write status_is_enabled told_write told_read
$(B)/fuzz: vmtests/fuzz.c loader/zds_messages.c loader/zds_socket.c $(FUZZED) $(MADE) Makefile | setup-build-fuzz
	$(call say,CC,$@)
	$(Q)$(CLANG) $(CFLAGS) -DVERSION='"$(VERSION)"' -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=all $(addprefix -Wl$(comma)--wrap=,$(FUZZ_WRAPS)) \
		$< $(FUZZED) -o $@ -lprotobuf-c

$(B)/other.bpf.o: vmtests/other.bpf.c Makefile | setup-build
	$(call say,BPF,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -c $< -o $@

# The same with another object, for upgrades from one to the other and back.
$(B)/other/onramp: $(B)/onramp
	$(Q)$(MAKE) --no-print-directory B=$(B)/other O=$(B)/other BPF_CFLAGS='$(BPF_CFLAGS) -mcpu=v3' $@

# What onramp-zds will do with loader/inbound.c.
$(B)/inbound: vmtests/inbound.c $(BOTH) $(wildcard loader/*.h) bpf/onramp.h Makefile | setup-build
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -static $< $(BOTH) -o $@ $$(scripts/static-libs '$(CC)')

$(B)/hostile: $(HOSTILE)
$(B)/%: vmtests/%.c $(wildcard vmtests/*.h) Makefile | setup-build
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -static $(filter %.c,$^) -o $@

# The loader's image is of this machine's own and a cross-built one, whose object
# comes out the same. The node's is of this machine's kind alone.
IMAGE := localhost/onramp:latest
NODE_IMAGE := localhost/onramp-node:latest
IMAGE_ARCHS := amd64 arm64
cpu_amd64 := x86_64
cpu_arm64 := aarch64
loader_for = $(B)/$(if $(filter-out $(ARCH),$(cpu_$(1))),$(1)/)onramp

# What the archives are called in them: others are made when that is to be another.
$(B)/image-names: FORCE
	$(Q)mkdir -p $(@D)
	$(Q)echo '$(IMAGE) $(NODE_IMAGE)' | cmp -s - $@ || echo '$(IMAGE) $(NODE_IMAGE)' >$@

image: $(B)/onramp.oci.tar $(B)/onramp-node.oci.tar ## build/onramp-node.oci.tar, and the loader's image

$(B)/onramp.oci.tar: scripts/image $(B)/image-names $(foreach arch,$(IMAGE_ARCHS),$(call loader_for,$(arch)))
	$(call say,IMAGE,$@)
	$(Q)scripts/image $(IMAGE) \
		$(foreach arch,$(IMAGE_ARCHS),$(arch)=$(call loader_for,$(arch))) >$@

$(B)/node-base.tar: scripts/node-base | setup-image
	$(call say,BASE,$@)
	$(Q)mkdir -p $(@D)
	$(Q)scripts/node-base >$@

NODE_PROGRAMS := $(B)/onramp $(B)/onramp-zds $(COMMANDS)
$(B)/onramp-node.oci.tar: scripts/image $(B)/image-names $(B)/node-base.tar $(NODE_PROGRAMS)
	$(call say,IMAGE,$@)
	$(Q)scripts/image $(NODE_IMAGE) $$(dpkg --print-architecture)=$(B)/node-base.tar \
		$(NODE_PROGRAMS) >$@

cross_make = libs=$$(scripts/get-libs $(1)) && $(MAKE) --no-print-directory \
	B=$(B)/$(1) O=$(O) ARCH=$(cpu_$(1)) LIBS="$$libs" CC="$(cpu_$(1))-linux-gnu-gcc \
	-B$$libs/usr/lib/$(cpu_$(1))-linux-gnu -I$$libs/usr/include"
$(B)/amd64/onramp $(B)/arm64/onramp: $(B)/%/onramp: $(B)/onramp | setup-image
	$(Q)$(call cross_make,$*) $@

# The same commit makes the same files, whoever makes them, wherever and whenever.
DIST := $(B)/dist
RELEASE := $(DIST)/onramp-$(VERSION)
dist: dist-version all image ## a release, with checksums, in build/dist
	$(call say,DIST,$(RELEASE))
	$(Q)rm -rf $(DIST)
	$(Q)mkdir -p $(DIST)
	$(Q)git archive --format=tar --prefix=onramp-$(VERSION)/ HEAD >$(RELEASE).tar
	$(Q)$(foreach arch,$(IMAGE_ARCHS),cp $(call loader_for,$(arch)) $(RELEASE)-$(arch) &&) true
	$(Q)cp $(B)/onramp.bpf.o $(RELEASE).bpf.o
	$(Q)cp $(B)/onramp.oci.tar $(RELEASE).oci.tar
	$(Q)cp $(B)/onramp-node.oci.tar $(RELEASE)-node-$(shell dpkg --print-architecture).oci.tar
	$(Q)cd $(DIST) && sha256sum * >SHA256SUMS

# First, before anything is built.
dist-version:
	$(Q)case '$(VERSION)' in *-dirty | unknown) \
		echo 'dist: $(VERSION) is no version: commit first' >&2; exit 1 ;; esac

manifests: $(MANIFESTS) ## scripts/kubernetes in JSON, in build/

# Patched with nothing, each object comes out as JSON, one after the other.
$(B)/kubernetes-%.json: $(wildcard scripts/kubernetes/*/*) | setup-kubernetes
	$(Q)mkdir -p $(@D)
	$(Q)kubectl kustomize scripts/kubernetes/$* | \
		kubectl patch --local -f - --type merge --patch '{}' -o json >$@

demo: setup-build-demo all tools ## the main job on real traffic, explained
	$(Q)scripts/demo

test: setup-vm ## every suite, here and on the matrix
	$(Q)$(MAKE) --no-print-directory -j 2 kernels suites
	$(Q)scripts/vm-matrix --here

vmtest: setup-vm ## every suite, in VMs; KERNEL=6.1: one
	$(Q)$(MAKE) --no-print-directory -j 2 kernels suites
	$(Q)scripts/vm-matrix $(KERNEL)

# The kernels are fetched beside what is installed and built.
kernels:
	$(Q)scripts/get-kernels $(KERNEL) >/dev/null

suites:
	$(Q)scripts/setup build demo test image kubernetes
	$(Q)$(MAKE) --no-print-directory all tools image manifests

soak: setup-build-demo-test all tools ## 20 minutes of everything at random: SEED=N
	$(Q)SOAK_MINUTES=$${SOAK_MINUTES:-20} vmtests/run soak

chaos: setup-build-demo-test all tools ## 10 minutes of all that may happen: SEED=N
	$(Q)CHAOS_MINUTES=$${CHAOS_MINUTES:-10} CHAOS_PODS=$${CHAOS_PODS:-30} vmtests/run chaos

steady: setup-build-demo-test all tools ## 10 minutes of 2,000 connections a second: memory
	$(Q)STEADY_MINUTES=$${STEADY_MINUTES:-10} vmtests/run steady

power-cut: setup-vm setup-build-demo-test all tools ## a node loses its power, and boots: in a VM
	$(Q)vmtests/power-cut

guards: setup-build-demo-test all tools ## attackers' tests fail without what they test
	$(Q)vmtests/guards $(GUARD)

churn: setup-build-demo-test all tools ## 10,000 pods come and go; 2,000 at once
	$(Q)ONRAMP_TEST_CHURN=$${ONRAMP_TEST_CHURN:-10000} \
		ONRAMP_TEST_AT_ONCE=$${ONRAMP_TEST_AT_ONCE:-2000} \
		vmtests/run churn

vmtest-arm64: setup-build-image-arm64 ## core suites on an emulated arm64 machine
	$(Q)$(call cross_make,arm64) $(O)/onramp.bpf.o $(B)/arm64/onramp tools
	$(Q)scripts/vm-run-arm64

FUZZ_SECONDS ?= 60
FUZZ_DIR ?= $(B)/fuzz-corpus
fuzz: $(B)/fuzz ## peers and files at random: FUZZ_SECONDS=600
	$(Q)mkdir -p $(FUZZ_DIR)
	$(Q)printf 'namespace=a\nname=b\nservice_account=c\nip=10.0.0.1\ndns=true\n\000' >$(FUZZ_DIR)/workload
	$(Q)printf 'a-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice\001' >$(FUZZ_DIR)/cgroup
	$(Q)$(B)/fuzz -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -verbosity=0 \
		-artifact_prefix=$(B)/fuzz- $(FUZZ_DIR)

bench: setup-build-bench all tools ## what a connection costs: build/bench.*
	$(Q)scripts/bench

bench-scale: setup-build-bench all tools ## many pods, rules, connections; memory
	$(Q)scripts/bench-scale

lint: setup-lint setup-build $(B)/onramp.skel.h $(B)/inbound_netns.skel.h $(B)/usage.h $(B)/usage-zds.h $(B)/zds.pb-c.h ## clang-format, cppcheck, shellcheck
	$(call say,LINT,C)
	$(Q)clang-format --dry-run -Werror $(C_FILES)
	$(Q)cppcheck --quiet --error-exitcode=1 --inline-suppr \
		--enable=warning,performance,portability --std=c11 \
		--suppress=missingIncludeSystem --suppress=unknownMacro -Ibpf loader/*.c scripts/*.c $(TOOL_FILES)
	$(Q)scripts/plain-c '$(CLANG) $(BPF_CFLAGS)' bpf/*.bpf.c
	$(Q)scripts/plain-c '$(CLANG) $(CFLAGS) -DVERSION=""' loader/*.c
	$(call say,LINT,shell)
	$(Q)shellcheck $(SHELL_FILES)
	$(Q)shellcheck -s bats $(wildcard vmtests/*.bats)

fmt: setup-lint ## format the C files
	$(Q)clang-format -i $(C_FILES)

compile_commands.json: ## for editors: into build/
	$(Q)mkdir -p $(B)
	$(Q)scripts/compile-commands '$(CLANG) $(BPF_CFLAGS)' bpf/*.bpf.c \
		vmtests/*.bpf.c -- '$(CC) $(CFLAGS) -DVERSION=\"\"' loader/*.c $(TOOL_FILES) >$(B)/$@

clean: ## remove what was built
	$(Q)rm -rf $(B)
