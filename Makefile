# HyperionDB Vault. `make help` lists the targets.
#
# PG=15 .. PG=18 chooses the PostgreSQL that tests run on; without it, the newest installed (18 is installed if none is).

SHELL := /bin/bash
GO ?= go
PG ?=
TIMEOUT ?= 25m

# Tests wait for servers about half of their time, so more of them run at once than there are processors. The longest packages come
# first, so that at the end no processor waits for the last one. WORKERS is how many packages run at once.
PROCESSORS := $(shell getconf _NPROCESSORS_ONLN)
WORKERS ?= $(shell expr $(PROCESSORS) + 1)
PACKAGES ?= . ./internal/db ./internal/audit/auditdb ./test/bench ./test/chaos/... ./internal/localpg ./...
GO_TEST = tools/shared $(GO) test -count=1 -timeout $(TIMEOUT) -p $(WORKERS) -parallel $$((2 * $(PROCESSORS)))

export VAULT_TEST_PG := $(PG)

.DEFAULT_GOAL := help
.PHONY: help build compat compile dev test packages times test-pg check static fmt vet staticcheck style race bench cover fuzz chaos postgres pages
.PHONY: .FORCE promtool package package-test client dotenv-table bench-go bench-scale bench-reads extension install-extension test-cron bench-audit captures

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What the binaries say of themselves. Outside of a repository the linker sets nothing.
RELEASE := github.com/hyperiondb/vault/internal/release
VERSION ?= $(shell git describe --tags --match 'v[0-9]*' --dirty=-modified 2>/dev/null)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS = $(if $(VERSION),-X $(RELEASE).version=$(VERSION)) $(if $(COMMIT),-X $(RELEASE).commit=$(COMMIT))

build: ## Build vaultctl and vaultd into bin/
	@mkdir -p bin
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

EXTENSION ?= bin/extension
extension: ## Write the schema as a PostgreSQL extension, hyperion_vault, into bin/extension/
	$(GO) run ./tools/extension $(EXTENSION)

PG_CONFIG ?= pg_config
install-extension: extension ## Copy the extension into a server's share folder (PG_CONFIG=/path/to/pg_config)
	@dir="$$($(PG_CONFIG) --sharedir)"; test -d "$$dir" || { \
	  echo "install-extension: no share folder from $(PG_CONFIG); hint: make install-extension PG_CONFIG=/path/to/pg_config" >&2; exit 1; }; \
	install -d "$$dir/extension" && install -m 644 $(EXTENSION)/hyperion_vault* "$$dir/extension/"

dev: postgres build ## Start a local primary, a standby, a key and a daemon per node (Ctrl-C stops, .dev keeps)
	@bin/vaultctl dev --dir .dev

# Without the race detector tests wait for servers more of their time. make test WORKERS=N chooses another number.
test: WORKERS = $(shell expr 2 '*' $(PROCESSORS) + 1)
test: postgres pages promtool client ## Run every test and every script, on the newest PostgreSQL found (or PG=N)
	$(GO_TEST) $(PACKAGES)

times: postgres pages promtool ## The same, and a table: package, seconds of processor, seconds on the clock (RACE=-race: as make check)
	@file="$$(mktemp)"; trap 'rm -f "$$file"' EXIT; \
	  GORACE=atexit_sleep_ms=0 TIMES="$$file" $(GO_TEST) $(RACE) -exec "$(CURDIR)/tools/timed" $(PACKAGES); code=$$?; \
	  printf '%-28s %8s %8s\n' package CPU clock; LC_ALL=C sort -k2,2 -rn "$$file" | awk \
	    '{printf "%-28s %8.1f %8.1f\n", $$1, $$2, $$3; cpu += $$2} END {printf "%-28s %8.1f\n", "all", cpu}'; exit $$code

packages: postgres pages promtool ## PACKAGES="./internal/db ..." only (RACE=-race): not vetted, and without the client's module
	$(GO_TEST) $(RACE) -vet=off $(PACKAGES)

test-pg: ## The same on one version: make test-pg PG=15
	@test -n "$(PG)" || { echo "test-pg: name a version: make test-pg PG=15" >&2; exit 2; }
	@$(MAKE) --no-print-directory test PG=$(PG)

compat: postgres ## Clients of Vault (Go, Python, Node, consul-template) against vaultd on a primary and a lone standby; installs them
	@tools/install-compat
	cd compat && GOGC=400 $(GO) vet ./... && $(GO) test -count=1 -timeout 10m ./...

package: ## deb, rpm, OCI image, SBOM and SHA256SUMS for amd64 and arm64 into bin/packages/, the same bytes for one commit
	packaging/build

package-test: ## Build them twice and compare; install by docs/INSTALL.md on a machine of its own, restart under load, remove (root)
	packaging/test

test-cron: ## The supervisor run by pg_cron, on Debian's PostgreSQL 15 (installs postgresql-15-cron)
	@tools/install-pg-cron
	VAULT_TEST_PG=15 $(GO) test -count=1 -tags pgcron -timeout $(TIMEOUT) -run Cron ./internal/rotation

check: static race ## All gates: formatting, vet, staticcheck, every test under the race detector

static: fmt vet staticcheck style ## The gates that run nothing

fmt: ## Fail if gofmt would change a file
	@files="$$(gofmt -l cmd internal sql test tools *.go)"; test -z "$$files" || { echo "gofmt would change:"; echo "$$files"; exit 1; }

# The checkers and the compiler hold what they read; with fewer collections they take a fifth less processor time.
vet staticcheck compile package package-test: export GOGC = 400

# The race detector needs C.
compile race: export CGO_ENABLED = 1
ifeq ($(RACE),-race)
times packages: export CGO_ENABLED = 1
endif

compile: ## Compile what `make race` runs, without linking and running it
	$(GO) list -race -export -deps -test ./... >/dev/null

vet: ## go vet
	$(GO) vet ./...
	$(GO) vet -tags pgcron ./internal/rotation

# Not by `go tool`: it compiles without GOFLAGS, and so the standard library again.
bin/tools/staticcheck: .FORCE
	@$(GO) build -o $@ honnef.co/go/tools/cmd/staticcheck

staticcheck: bin/tools/staticcheck ## staticcheck, at the version go.mod pins
	bin/tools/staticcheck ./...

client: bin/tools/staticcheck ## Vet, staticcheck and test the Go client, a module of its own, under the race detector
	@test -z "$$(gofmt -l client)" || { echo "gofmt would change files of client/" >&2; exit 1; }
	@cd client && test "$$($(GO) list -m all)" = github.com/hyperiondb/vault/client || { \
	  echo "client: its go.mod has a requirement; it uses the standard library only" >&2; exit 1; }
	cd client && $(GO) vet ./... && CGO_ENABLED=1 $(GO) test -race -count=1 ./...
	cd client && ../bin/tools/staticcheck ./...

style: ## Fail if a line or the wording breaks the rules of CONTRIBUTING.md
	$(GO) run ./tools/style -check

# Without GORACE a program under the race detector waits a second at its end, and scripts run two thousand of them. The target
# vet does go test's vetting.
race packages: export GORACE = atexit_sleep_ms=0
race: postgres pages promtool client ## Every test and every script under the race detector, the binaries too
	$(GO_TEST) -race -vet=off $(PACKAGES)

ROUNDS ?= 5
DUE ?= 10000
bench: postgres bench-go ## vaultd against bare HTTP and one query a request, puts and rotations against pgbench: a table, and bin/bench.json
	$(GO) run ./test/bench -rounds $(ROUNDS) -due $(DUE)

SECRETS ?= 1000000
bench-scale: postgres ## SECRETS (a million) of three versions against a thousand: reads, operations and their plans, sizes; bin/scale.json
	$(GO) run ./test/bench scale -secrets $(SECRETS)

bench-go: postgres bench-reads ## Go benchmarks: sealing and opening, sharing a query, the allowlist, audit seals, shipping reads
	$(GO) test -run '^$$' -bench . -benchmem ./internal/envelope ./internal/audit ./internal/audit/seal ./internal/httpapi
	$(GO) test -run '^$$' -bench 'Coalescer' -benchmem ./internal/db
	$(GO) test -run '^$$' -bench 'ShipReads' -benchmem ./internal/audit/auditdb
	$(GO) test -run '^$$' -bench 'Sealing|VerifyAudit' -benchtime 1x ./internal/audit/auditdb

bench-reads: postgres ## Reads a second with the audit off, interval and always, at 1, 16 and 64 connections
	$(GO) test -run '^$$' -bench 'Reads|Handler|Append' -benchmem -benchtime 3s ./internal/audit/spool

AUDIT_ROWS ?= 10000000
bench-audit: postgres build ## The audit log's queries on AUDIT_ROWS rows (ten million) against 10,000, and the browser's memory
	@tools/install-tmux
	$(GO) run ./tools/audit bench -rows $(AUDIT_ROWS)

captures: postgres build ## Renew the browser's screens in docs/AUDIT.md, in a terminal with a vault of its own
	@tools/install-tmux
	$(GO) run ./tools/audit captures docs/AUDIT.md

cover: postgres ## Statement coverage of the packages that hold keys and values
	@$(GO) test -cover ./internal/envelope ./internal/kms ./internal/vault

FUZZTIME ?= 20s
fuzz: ## Every fuzz target for FUZZTIME (20s)
	@for p in internal/{envelope,kms,rotation,target,vault,access,httpapi,strictjson,audit,audit/filter,audit/seal,audit/spool,db} cmd/vaultctl; do \
	  for f in $$($(GO) test -list '^Fuzz' ./$$p | grep ^Fuzz); do \
	    echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) ./$$p || exit 1; \
	  done; done

DOTENV_NPM ?= 17.4.2
dotenv-table: ## Record again what node, npm's and Python's dotenv, dash, bash and docker compose read from .env files
	@dir="$$(mktemp -d)"; trap 'rm -rf "$$dir"' EXIT; \
	  npm install --silent --prefix "$$dir" dotenv@$(DOTENV_NPM) && \
	  { /usr/bin/python3 -c 'import dotenv' 2>/dev/null || apt-get install -y -qq --no-install-recommends python3-dotenv; } && \
	  NODE_PATH="$$dir/node_modules" $(GO) run ./tools/dotenv cmd/vaultctl/testdata/dotenv.jsonl

CHAOS_TIME ?= 10m
CHAOS_MODE ?= sync
chaos: postgres ## Break a cluster for CHAOS_TIME (10m), CHAOS_MODE=sync|async, CHAOS_SEED=N (repeats), CHAOS_FAULTS=REGEXP (some only)
	CHAOS_TIME=$(CHAOS_TIME) CHAOS_MODE=$(CHAOS_MODE) CHAOS_SEED=$(CHAOS_SEED) CHAOS_FAULTS='$(CHAOS_FAULTS)' \
	  $(GO) test ./test/chaos -run '^TestChaos$$' -count=1 -v -timeout 0
	VAULT_FEED_TIME=$(CHAOS_TIME) VAULT_FEED_SEED=$(CHAOS_SEED) \
	  $(GO) test ./internal/db -run '^TestFollowersAreNeverBehindTheirPolls$$' -count=1 -v -timeout 0

postgres: ## Install PostgreSQL's server binaries if they are missing (18, else Debian's 15; or PG=N)
	@if [ -n "$(PG)" ]; then tools/install-postgres $(PG); else tools/install-postgres 18 || tools/install-postgres 15; fi

promtool: ## Install Debian's promtool if it is missing: a test checks the rules and queries for Prometheus with it
	@tools/install-promtool

pages: ## Install what the test of the documents takes: Debian's PostgreSQL 15, curl, jq, zstd, python3-nacl
	@tools/install-pages
