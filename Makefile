# Sluice. `make help` lists what can be made.

SHELL  := /bin/bash
CACHE  := $(CURDIR)/.cache
OUT    := $(CURDIR)/out
PREFIX ?= /usr/local
VCS    := $(if $(shell git rev-parse HEAD 2>/dev/null),true,false)
LINT   := $(CACHE)/bin/golangci-lint
# Debian packages to build with: runc, the race detector and libdeflate need C.
DEV    := gcc libc6-dev libdeflate-dev
# What `go test` is given; `make test TESTFLAGS='-run TestX -v' PKG=./fs` narrows it.
PKG       ?= ./...
TESTFLAGS ?=
FUZZTIME  ?= 20s

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## out/containerd-sluice-grpc and out/ctr-remote, with libdeflate if its -dev package is there
	@.ci/build -buildvcs=$(VCS) -o $(OUT)/ ./cmd/containerd-sluice-grpc ./cmd/ctr-remote

.PHONY: demo
demo: ## pull and run a real image lazily and with overlayfs, and print the table (IMAGE= LATENCY= BANDWIDTH= RUNS=)
	.ci/install $(DEV)
	go run ./integration/demo

.PHONY: test
test: ## every test, on real containerd, registry, FUSE and EROFS; as root; with the race detector; decoders also without libdeflate
	.ci/install $(DEV) erofs-utils e2fsprogs xfsprogs umoci debootstrap
	CGO_ENABLED=1 go test -race -timeout 40m -tags "$$(.ci/tags)" $(TESTFLAGS) $(PKG)
	$(if $(filter ./...,$(PKG)),CGO_ENABLED=0 go build ./... && CGO_ENABLED=0 go test $(TESTFLAGS) ./fs/libdeflate ./fs/toc)

.PHONY: test-all
test-all: ## `make test` with the larger Debian images and the daemon under the race detector, most packages once more on one CPU, and `make fuzz`
	.ci/install $(DEV) erofs-utils e2fsprogs xfsprogs umoci debootstrap
	CGO_ENABLED=1 SLUICE_TEST_ALL=1 SLUICE_RACE=1 go test -race -timeout 60m -count=1 -tags "$$(.ci/tags)" ./...
	CGO_ENABLED=0 go test -count=1 ./fs/libdeflate ./fs/toc
	CGO_ENABLED=1 go test -race -timeout 60m -count=1 -cpu 1 -tags "$$(.ci/tags)" ./cache ./converter ./fs/... ./snapshotter
	CGO_ENABLED=1 SLUICE_TEST_ALL=1 go test -timeout 20m -count=1 -tags "$$(.ci/tags)" -run '^(TestManyFiles|TestStreamedLayer)$$' ./integration
	$(MAKE) fuzz

# What the benchmark suite is told, as flags (integration/bench): regular expressions, a file of peers, a number.
BENCH := go run ./integration/bench $(if $(ONLY),-only '$(ONLY)') $(if $(SYSTEMS),-systems '$(SYSTEMS)') $(if $(PEERS),-peers '$(PEERS)') \
	$(if $(REPEAT),-repeat '$(REPEAT)') $(BENCHFLAGS)

.PHONY: bench
bench: ## the benchmark suite, an hour; out/bench has the report (ONLY= SYSTEMS= PEERS= REPEAT= BENCHFLAGS=)
	.ci/install $(DEV) debootstrap
	$(BENCH)

.PHONY: bench-quick
bench-quick: ## three workloads on one link, in ten minutes
	.ci/install $(DEV) debootstrap
	$(BENCH) -quick

.PHONY: bench-steady
bench-steady: ## reading what is there, from complete and from incomplete layers, in half an hour (SYSTEMS= PEERS= REPEAT= BENCHFLAGS=)
	$(MAKE) bench ONLY='^steady/.*complete, '

.PHONY: bench-compare
bench-compare: ## compare the ratios of out/bench/report.json with those of OLD=report.json
	$(if $(OLD),,$(error say which report to compare with: make bench-compare OLD=report.json))
	$(BENCH) -compare '$(OLD)'

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (20s)
	@set -e; tags=$$(.ci/tags); for f in $$(git grep -lE '^func Fuzz' -- '*_test.go'); do \
		for name in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$$f"); do \
			echo "== $$f $$name"; go test -tags "$$tags" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "./$$(dirname "$$f")"; \
		done; \
	done

.PHONY: lint
lint: $(LINT) ## gofmt, go vet and golangci-lint with the list in .golangci.yml
	.ci/install $(DEV)
	@test -z "$$(gofmt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	go mod tidy -diff
	go vet ./...
	$(LINT) run ./...
	@tags=$$(.ci/tags); test -z "$$tags" || { set -ex; go vet -tags "$$tags" ./fs/libdeflate ./fs/toc; $(LINT) run --build-tags "$$tags" ./fs/libdeflate ./fs/toc; }

$(LINT): .ci/lint/go.mod .ci/lint/go.sum
	cd .ci/lint && CGO_ENABLED=0 go build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: install
install: build ## both programs below PREFIX (/usr/local), and the systemd unit; DESTDIR goes before both
	install -D -t $(DESTDIR)$(PREFIX)/bin $(OUT)/containerd-sluice-grpc $(OUT)/ctr-remote
	install -D -m 644 -t $(DESTDIR)/etc/systemd/system contrib/systemd/containerd-sluice-grpc.service

.PHONY: clean
clean: ## remove what was built; .cache, which holds downloads and test images, too
	rm -rf $(OUT) $(CACHE)
