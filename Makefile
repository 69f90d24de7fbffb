# nx: NixOS deployments as a pipeline of small programs. "make" lists what can be made.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help build install setup test check-quick lint demo faults chaos bench bench-eval bench-copy fuzz clean

GO ?= go
PREFIX ?= /usr/local
VERSION ?= $(shell git describe --always --dirty 2>/dev/null)
LDFLAGS := -s -w $(if $(VERSION),-X nx/pkg/cli.version=$(VERSION))
TOOLS := nx-provision nx-eval nx-build nx-copy nx-activate
SCRIPTS := nx-deploy nx-info nx-ssh nx-scp nx-foreach

# Where tests have the newer Nix.
NIX_NEW = $(or $(NXTEST_NIX_NEW),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nx/nix-new)

# Packages that need nothing but Go.
PURE := ./pkg/store ./pkg/target ./pkg/record ./pkg/stream ./pkg/cli ./pkg/closure ./pkg/state

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the five tools into bin/, statically
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(TOOLS))

install: build ## Install the tools and scripts (PREFIX, DESTDIR)
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install -m 755 $(addprefix bin/,$(TOOLS)) $(addprefix scripts/,$(SCRIPTS)) '$(DESTDIR)$(PREFIX)/bin'
	install -d '$(DESTDIR)$(PREFIX)/share/nx'
	install -m 644 scripts/nx.mk '$(DESTDIR)$(PREFIX)/share/nx'
	install -m 755 scripts/nx-stage '$(DESTDIR)$(PREFIX)/share/nx'

setup: ## Install what tests and demo need: says what, then installs
	scripts/setup test

test: ## Set up what is missing and run all tests
	scripts/setup test
	@GO='$(GO)' scripts/test

check-quick: ## Test the packages that need nothing but Go
	$(GO) test $(PURE)

lint: ## Check format, Go, shell and Nix files
	scripts/setup lint
	GO='$(GO)' scripts/lint

demo: ## Show the main job on hosts of this machine
	scripts/setup demo
	@$(MAKE) --no-print-directory build
	scripts/demo

faults: ## Suffer each fault at each step: activations, with both Nix versions, and all providers; "make test" has a part
	scripts/setup test
	scripts/nix-new '$(NIX_NEW)'
	for nix in old new; do \
		NXTEST_FAULTS=all NXTEST_STAND_NIX=$$nix NXTEST_NIX_NEW='$(NIX_NEW)' $(GO) test -count=1 -timeout 1h -run TestFaults ./pkg/activate || exit; \
	done
	NXTEST_FAULTS=all NXTEST_NIX_NEW='$(NIX_NEW)' $(GO) test -count=1 -timeout 1h -run TestSystemdProtocol ./cmd
	NXTEST_FAULTS=all $(GO) test -count=1 -timeout 1h ./pkg/provision/...

chaos: ## Activate for ROUNDS (default 200) with random faults, from SEED
	scripts/setup test
	NXTEST_CHAOS=$(or $(ROUNDS),200) NXTEST_SEED=$(SEED) $(GO) test -count=1 -timeout 2h -v -run TestChaos ./pkg/activate

bench: ## Run the benchmarks, each BENCHTIME (default 10x)
	scripts/setup test
	$(GO) test -run '^$$' -bench . -benchtime $(or $(BENCHTIME),10x) ./...

bench-eval: ## Compare nx-eval with plain nix-instantiate on HOSTS (default 10) of NXTEST_NIXPKGS
	$(GO) run ./pkg/eval/bench -hosts $(or $(HOSTS),10) $(if $(MAX_MEMORY),-max-memory $(MAX_MEMORY))

bench-copy: ## Compare nx-copy with Nix' own tools, each row BENCHTIME (default 3x); ROW chooses, as in ROW=WAN
	$(GO) test -run '^$$' -bench 'Copy/$(ROW)' -benchtime $(or $(BENCHTIME),3x) -timeout 60m ./pkg/deliver

fuzz: ## Run each fuzz target for FUZZTIME (default 20s)
	GO='$(GO)' scripts/fuzz

clean: ## Remove what was built
	rm -rf bin
