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
CFLAGS += -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -I$(B) -Ibpf $(NOWHERE)

# The loader attaches in this order: connect comes last, for what it redirects needs
# all the others. After it inet_sock_set_state, which counts what connect had no
# verdict for.
HOOKS := $(patsubst bpf/%.bpf.c,$(B)/bpf/%.o,$(wildcard bpf/*.bpf.c))
LAST := %/connect4.o %/connect6.o %/inet_sock_set_state.o
HOOKS := $(filter-out $(LAST),$(HOOKS)) $(filter $(LAST),$(HOOKS))
TOOL_FILES := $(filter-out %.bpf.c,$(wildcard vmtests/*.c))
TOOLS := $(TOOL_FILES:vmtests/%.c=$(B)/%) $(B)/other.bpf.o $(B)/other/onramp
MANIFESTS := $(patsubst scripts/kubernetes/%/kustomization.yaml,$(B)/kubernetes-%.json,\
	$(wildcard scripts/kubernetes/*/kustomization.yaml)) $(B)/kubernetes-unload.json
C_FILES := $(wildcard bpf/*.[ch] loader/*.[ch] scripts/*.c vmtests/*.[ch])
SHELL_FILES := $(shell grep -lE '^.!/bin/(ba)?sh' scripts/* vmtests/* .ci/* 2>/dev/null) \
	$(wildcard vmtests/*.bash)

.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help all install uninstall tools image manifests demo test vmtest kernels suites \
	vmtest-arm64 soak churn bench bench-scale lint fmt clean compile_commands.json setup-%

all: $(B)/onramp.bpf.o $(B)/onramp ## build the object and the loader

PREFIX ?= /usr/local
COMMANDS := $(wildcard scripts/onramp-* scripts/enroll-by-label)
to := $(DESTDIR)$(PREFIX)

install: all ## the loader, its man page, the object, scripts; PREFIX, DESTDIR
	$(Q)install -d $(to)/sbin $(to)/lib/onramp $(to)/share/man/man8
	$(Q)install $(B)/onramp $(COMMANDS) $(to)/sbin
	$(Q)install -m 644 $(B)/onramp.bpf.o $(to)/lib/onramp
	$(Q)install scripts/load-with-bpftool scripts/find-bpftool $(to)/lib/onramp
	$(Q)scripts/usage-to-man loader/usage.txt scripts/onramp.8.in | \
		sed 's|@PREFIX@|$(PREFIX)|' >$(to)/share/man/man8/onramp.8

uninstall: ## what install put there
	$(Q)rm -rf $(to)/lib/onramp $(to)/share/man/man8/onramp.8 \
		$(addprefix $(to)/sbin/,onramp $(notdir $(COMMANDS)))

tools: $(TOOLS) ## what the suites need besides

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9_.-]+:.*## / { printf "  make %-24s%s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)
	@echo '  V=1 shows every command'

setup-%:
	$(Q)scripts/setup $(subst -, ,$*)

$(B)/bpf/%.o: bpf/%.bpf.c $(wildcard bpf/*.h) Makefile | setup-build
	$(call say,BPF,$*)
	$(Q)mkdir -p $(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -c $< -o $@

$(B)/onramp.bpf.o: $(HOOKS)
	$(call say,LINK,$@)
	$(Q)$(BPFTOOL) gen object $@ $(HOOKS)

$(B)/onramp.skel.h: $(B)/onramp.bpf.o
	$(call say,SKEL,$@)
	$(Q)$(BPFTOOL) gen skeleton $< name onramp >$@

$(B)/usage.h: loader/usage.txt scripts/usage-to-c
	$(call say,GEN,$@)
	$(Q)mkdir -p $(@D)
	$(Q)scripts/usage-to-c $< >$@

$(B)/onramp: $(wildcard loader/*.[ch]) bpf/onramp.h $(B)/onramp.skel.h $(B)/usage.h
	$(call say,CC,$@)
	$(Q)$(CC) $(CFLAGS) -static -s loader/*.c -o $@ \
		$$(scripts/static-libs '$(CC)')

$(B)/other.bpf.o: vmtests/other.bpf.c Makefile | setup-build
	$(call say,BPF,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -c $< -o $@

# The same with another object, for upgrades from one to the other and back.
$(B)/other/onramp: $(B)/onramp
	$(Q)$(MAKE) --no-print-directory B=$(B)/other BPF_CFLAGS='$(BPF_CFLAGS) -mcpu=v3' $@

$(B)/%: vmtests/%.c $(wildcard vmtests/*.h) Makefile | setup-build
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -static $< -o $@

# The image is of this machine's own loader and a cross-built one, whose object
# comes out the same.
IMAGE := localhost/onramp:latest
IMAGE_ARCHS := amd64 arm64
cpu_amd64 := x86_64
cpu_arm64 := aarch64
loader_for = $(B)/$(if $(filter-out $(ARCH),$(cpu_$(1))),$(1)/)onramp

image: $(B)/onramp.oci.tar ## OCI archive of the loader: build/onramp.oci.tar

$(B)/onramp.oci.tar: scripts/image $(foreach arch,$(IMAGE_ARCHS),$(call loader_for,$(arch)))
	$(call say,IMAGE,$@)
	$(Q)scripts/image $(IMAGE) \
		$(foreach arch,$(IMAGE_ARCHS),$(arch)=$(call loader_for,$(arch))) >$@

cross_make = libs=$$(scripts/get-libs $(1)) && $(MAKE) --no-print-directory \
	B=$(B)/$(1) ARCH=$(cpu_$(1)) LIBS="$$libs" CC="$(cpu_$(1))-linux-gnu-gcc \
	-B$$libs/usr/lib/$(cpu_$(1))-linux-gnu -I$$libs/usr/include"
$(B)/amd64/onramp $(B)/arm64/onramp: $(B)/%/onramp: $(B)/onramp | setup-image
	$(Q)$(call cross_make,$*) $@

manifests: $(MANIFESTS) ## scripts/kubernetes as JSON: build/kubernetes-*.json

# Patched with nothing: kubectl's own types turn it into JSON.
to_json := kubectl patch --local -f - --patch '{}' -o json

$(B)/kubernetes-unload.json: scripts/kubernetes/unload.yaml | setup-kubernetes
	$(Q)mkdir -p $(@D)
	$(Q)$(to_json) <$< >$@

$(B)/kubernetes-%.json: $(wildcard scripts/kubernetes/*/*) | setup-kubernetes
	$(Q)mkdir -p $(@D)
	$(Q)kubectl kustomize scripts/kubernetes/$* | $(to_json) >$@

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

churn: setup-build-demo-test all tools ## 10,000 pods come and go; 2,000 at once
	$(Q)ONRAMP_TEST_CHURN=$${ONRAMP_TEST_CHURN:-10000} \
		ONRAMP_TEST_AT_ONCE=$${ONRAMP_TEST_AT_ONCE:-2000} \
		vmtests/run churn

vmtest-arm64: setup-build-image-arm64 ## core suites on an emulated arm64 machine
	$(Q)$(call cross_make,arm64) all tools
	$(Q)scripts/vm-run-arm64

bench: setup-build-bench all tools ## what a connection costs: build/bench.*
	$(Q)scripts/bench

bench-scale: setup-build-bench all tools ## many pods, rules, connections; memory
	$(Q)scripts/bench-scale

lint: setup-lint setup-build ## clang-format, cppcheck, shellcheck
	$(call say,LINT,C)
	$(Q)clang-format --dry-run -Werror $(C_FILES)
	$(Q)cppcheck --quiet --error-exitcode=1 --inline-suppr \
		--enable=warning,performance,portability --std=c11 \
		--suppress=missingIncludeSystem --suppress=unknownMacro -Ibpf loader/*.c scripts/*.c $(TOOL_FILES)
	$(call say,LINT,shell)
	$(Q)shellcheck $(SHELL_FILES)
	$(Q)shellcheck -s bats $(wildcard vmtests/*.bats)

fmt: setup-lint ## format the C files
	$(Q)clang-format -i $(C_FILES)

compile_commands.json: ## for editors: into build/
	$(Q)mkdir -p $(B)
	$(Q)scripts/compile-commands '$(CLANG) $(BPF_CFLAGS)' bpf/*.bpf.c \
		vmtests/*.bpf.c -- '$(CC) $(CFLAGS)' loader/*.c $(TOOL_FILES) >$(B)/$@

clean: ## remove what was built
	$(Q)rm -rf $(B)
