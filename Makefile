# Refurb. `make help` lists what can be asked of it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BUILD := build
DEMO  := $(BUILD)/demo
GO    ?= go
SUDO  := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export GOFLAGS ?= -buildvcs=false
# An older Go of the distribution fetches the one that go.mod names.
export GOTOOLCHAIN ?= auto

VERSION   := $(shell git describe --always --dirty 2>/dev/null || echo dev)
SOURCES   := $(shell find agent appliance images dashboard scripts -name '*.go' -o -path '*/static/*' -o -path '*/templates/*' -o -path '*/locales/*' -o -path 'images/recipes/*' -type f 2>/dev/null | grep -v /node_modules/)
ROOTCMDS  := init gosh dmesg ip ls lsmod pci cat ps mount shutdown
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

PCS   ?= 3
IMAGE ?= tiny
DHCP  ?= auto

help: ## list these
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install what is needed from the system's packages
	@scripts/setup.sh

build: $(BUILD)/refurb $(BUILD)/refurb-agent $(BUILD)/tinyos $(BUILD)/base.cpio ## compile everything

WEB := dashboard/static/vendor/htmx.min.js
$(WEB): dashboard/package.json dashboard/package-lock.json scripts/web-assets.sh
	scripts/web-assets.sh
	@touch $(WEB)

$(BUILD)/refurb: $(SOURCES) go.mod $(WEB)
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o $@ ./appliance/cmd/refurb

# The agent's version stays out of it, so that it changes only when its code does.
$(BUILD)/refurb-agent: $(SOURCES) go.mod
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $@ ./agent/cmd/refurb-agent

$(BUILD)/tinyos: $(SOURCES) go.mod
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $@ ./images/recipes/tinyos

$(BUILD)/base.cpio: go.mod
	@mkdir -p $(BUILD)
	@echo 'building the base of the initramfs (once, about half a minute)'
	@$(GO) tool u-root -o $@.part -defaultsh=gosh $(ROOTCMDS:%=github.com/u-root/u-root/cmds/core/%) >$(BUILD)/base.log 2>&1 || { cat $(BUILD)/base.log; exit 1; }
	mv $@.part $@

demo: setup build ## a virtual batch: PCS=3 IMAGE=tiny, ONCE=1 to end with a verdict
	$(SUDO) $(BUILD)/refurb lab demo --dir $(DEMO) --pcs $(PCS) --image $(IMAGE) $(if $(ONCE),--once)

# Asked before anything is fetched and built, which takes minutes.
card:
	@[ -n "$(IFACE)" ] && ip link show dev "$(IFACE)" >/dev/null 2>&1 || { echo 'Say which network card leads to the workshop: sudo make $(or $(filter run install,$(MAKECMDGOALS)),run) IFACE=<card>. There are:'; ip -br link | grep -v '^lo '; exit 2; }

run: card setup build ## the real workshop: sudo make run IFACE=enp3s0 [DHCP=full|proxy]
	$(SUDO) $(BUILD)/refurb payload build
	$(SUDO) $(BUILD)/refurb serve --interface $(IFACE) --dhcp $(DHCP)

install: card setup build ## as a service that starts with the machine: make install IFACE=enp3s0 [DHCP=full|proxy]
	$(SUDO) scripts/service/install.sh $(IFACE) $(DHCP)

check: $(WEB) ## gofmt, vet, staticcheck, import rules
	@out=$$(gofmt -l agent appliance images dashboard scripts); [ -z "$$out" ] || { echo "gofmt these:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags e2e ./...
	$(GO) run $(STATICCHECK) -tags e2e ./...
	CGO_ENABLED=0 $(GO) vet ./agent/... ./images/recipes/tinyos
	$(GO) test ./scripts/arch

test: setup build check ## everything that must hold, end to end included
	$(GO) test -race -timeout 25m ./...
	$(GO) test ./scripts/campaign
	$(SUDO) env "PATH=$$PATH" $(GO) test -tags e2e -parallel 3 -timeout 45m -count=1 -v ./scripts/e2e -dir $(abspath $(BUILD))

e2e-full: setup build ## the whole boot matrix and more, under two hours; and 2,400 runs in which something goes wrong
	cd scripts/campaign && $(GO) test -count=1 -timeout 60m -run '^TestCampaign$$' -args -runs 2400
	$(SUDO) env "PATH=$$PATH" $(GO) test -tags e2e -count=1 -run '^$$' ./scripts/e2e -dir $(abspath $(BUILD)) # what the others start from
	$(SUDO) env "PATH=$$PATH" $(GO) test -tags e2e -p 1 -parallel 3 -timeout 5h -count=1 -v ./images/recipes ./appliance/netboot ./scripts/e2e -dir $(abspath $(BUILD)) -full

bench: setup build ## figures as "name value unit" lines, 35 minutes: RUNS=3 without how PCs start, under half an hour; RUNS=1 for a quick look
	@GO=$(GO) scripts/bench/bench.sh

bench-boot: setup build ## how PCs start: from the first packet to the agent's hello, and 64 at once
	@mkdir -p $(BUILD)/bench && $(GO) build -o $(BUILD)/bench/boot ./scripts/bench/cmd/boot
	@$(SUDO) env "PATH=$$PATH:/usr/sbin:/sbin" $(BUILD)/bench/boot -dir $(BUILD) -runs $(or $(RUNS),5) $(BOOT)

clean: ## remove what was built; downloads stay in build/cache
	rm -rf $(BUILD)/refurb $(BUILD)/refurb-agent $(BUILD)/tinyos $(BUILD)/base.cpio $(DEMO)

.PHONY: help setup build demo card run install check test e2e-full bench bench-boot clean
