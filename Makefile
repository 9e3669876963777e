# make demo   deploy to a fleet on this machine, under load (about a minute)
# make test   everything that CI runs
# make build  the three programs, into build/
# The other targets are described in CONTRIBUTING.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

BUILD := $(CURDIR)/build
TOOLS := $(BUILD)/tools
GOLANGCI_VERSION := v2.15.0
STATICCHECK_VERSION := v0.8.2
CADDY_VERSION := v2.11.9

SEEDS ?= 100000
FUZZTIME ?= 10s
VERSION ?=
LDFLAGS := $(if $(VERSION),-X github.com/lockstep-deploy/lockstep/cmd/internal/daemon.version=$(VERSION))

.PHONY: build
build:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BUILD)/ ./cmd/...

.PHONY: packages
packages:
	@deploy/packages

.PHONY: demo
demo: packages build
	go build -o $(BUILD)/demo ./deploy/demo
	$(BUILD)/demo $(if $(KEEP),-keep) $(if $(KILL),-kill $(KILL)) $(if $(BALANCER),-balancer $(BALANCER))

.PHONY: test
test: packages lint race seeds mutate end-to-end

.PHONY: race
race:
	go test -race -timeout 9m ./...

# The simulator, without the race detector that makes it ten times slower.
.PHONY: seeds
seeds:
	go test ./coordinator/rollout/sim -run TestSeeds -v -sim.seeds=2000 | tail -n 5

# A fleet behind every balancer, under load; ONLY=hetzner for some of them.
.PHONY: table
table: packages build
	go build -o $(BUILD)/table ./deploy/table
	$(BUILD)/table $(if $(ONLY),-only $(ONLY))

# The demonstration with a daemon killed in mid-rollout, and every balancer.
.PHONY: end-to-end
end-to-end: build
	go build -o $(BUILD)/demo ./deploy/demo
	$(BUILD)/demo -kill coordinator
	$(BUILD)/demo -kill agent
	go build -o $(BUILD)/table ./deploy/table
	$(BUILD)/table

# Every example's page, followed to the letter; ONLY=node for those of that name.
.PHONY: examples
examples:
	@deploy/packages python3-venv $$(command -v npm >/dev/null || echo nodejs npm)
	go test ./deploy/examples -count=1 -v -timeout 40m -all -run 'TestExamples/$(ONLY)'

.PHONY: lint
lint: $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) $(TOOLS)/staticcheck-$(STATICCHECK_VERSION)
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION) run ./...
	$(TOOLS)/staticcheck-$(STATICCHECK_VERSION) ./...

$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION):
	GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(TOOLS)/golangci-lint $@

$(TOOLS)/staticcheck-$(STATICCHECK_VERSION):
	GOBIN=$(TOOLS) go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)
	mv $(TOOLS)/staticcheck $@

.PHONY: sim
sim:
	go test ./coordinator/rollout/sim -run TestSeeds -timeout 0 -v -sim.seeds=$(SEEDS)

.PHONY: mutate
mutate:
	go test ./coordinator/rollout/sim -run TestMutants -timeout 9m -v -sim.mutate

.PHONY: bench
bench: packages build
	go test ./coordinator/... -run '^$$' -bench . -benchtime 2s
	go test ./coordinator/rollout/sim -run TestSeeds -v -sim.seeds=5000 | grep 'a second'
	go build -o $(BUILD)/bench ./deploy/bench
	$(BUILD)/bench
	go build -o $(BUILD)/bench-source ./agent/internal/source/bench
	$(BUILD)/bench-source -cache $(BUILD)
	go build -o $(BUILD)/bench-archive ./coordinator/internal/depot/bench
	$(BUILD)/bench-archive

.PHONY: fuzz
fuzz:
	@for pkg in $$(git grep -l 'func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho 'func Fuzz[A-Za-z0-9_]*' $$pkg/*_test.go | cut -c6-); do \
	    echo "== $$pkg $$f"; go test ./$$pkg -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x; \
	  done; \
	done

# A current Caddy beside Debian's, for the tests of lbclient/caddy. It takes
# minutes to build, so only those who ask for it have it; then every run of those
# tests that make starts takes it, too.
CADDY_BUILT := $(TOOLS)/caddy-$(CADDY_VERSION)
export CADDY ?= $(wildcard $(CADDY_BUILT))

.PHONY: caddy
caddy: packages $(CADDY_BUILT)
	CADDY=$(CADDY_BUILT) go test -timeout 9m ./lbclient/caddy/...

$(CADDY_BUILT):
	GOBIN=$(TOOLS) go install github.com/caddyserver/caddy/v2/cmd/caddy@$(CADDY_VERSION)
	mv $(TOOLS)/caddy $@

.PHONY: clean
clean:
	rm -rf $(BUILD)
