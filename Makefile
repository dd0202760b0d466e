# What a developer types. Everything works with Go alone; what the tests need beyond it
# is got by "make tools", into a cache outside of the tree.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS   += --no-print-directory

GO       ?= go
FUZZTIME ?= 10s
BENCH    ?=

# Setup keeps this link on the version that the tree wants.
LINT = "$${IMLB_TEST_CACHE:-$$HOME/.cache/imlb-test}/bin/golangci-lint"

# The whole-program tests run by themselves, so that they have the machine.
UNITS = $$($(GO) list ./... | grep -v '^imlb/test$$')

# Ceilings on memory and allocations hold without the race detector only.
CEILINGS = $$(grep -rl --include='*_test.go' raceEnabled . | xargs -n1 dirname | sort -u)

.PHONY: help run build tools test portable unit whole soak lint fmt bench bench-chat microbench fuzz clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: ## a front and three nodes on this machine
	$(GO) run ./cmd/imlb dev

build: ## the static binary, as bin/imlb
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/imlb ./cmd/imlb

tools: ## servers and clients that the tests drive, got once
	$(GO) run ./test/tools/setup

test: ## everything, from unit tests to whole programs with real clients
	$(GO) run ./test/tools/setup go-sendxmpp python3-slixmpp postgresql nodejs npm xmppjs strophe consul mosquitto mosquitto-clients ejabberd erlang-p1-sqlite3 prosody lua-dbi-sqlite3 prosody-modules haproxy nginx-core libnginx-mod-stream
	$(GO) vet ./...
	$(GO) run ./test/tools/suite \
	  -race -timeout=10m $(UNITS) -- \
	  -race -timeout=10m -tags=imlb_portable ./proxy/loop -- \
	  -timeout=10m $(CEILINGS) -- \
	  -timeout=10m -run=^TestHerd ./test -- \
	  -race -timeout=15m ./test

portable: ## the loops as they are where there is no epoll, with the same tests
	$(GO) test -race -timeout 10m -tags imlb_portable ./proxy/loop

unit: ## the tests that need nothing but Go
	$(GO) test -race -timeout 10m $(UNITS)

whole: ## the whole-program tests
	$(GO) test -race -timeout 15m -v ./test

soak: ## 200,000 connections of all kinds through one front, and what is left of them
	IMLB_TEST_SOAK=200000 $(GO) test -timeout 15m -v -run '^TestSoak$$' ./test

lint: ## formatting and linters, as in CI
	$(GO) run ./test/tools/setup golangci-lint
	$(LINT) run

fmt: ## what the linters would format
	$(GO) run ./test/tools/setup golangci-lint
	$(LINT) fmt

bench: ## the data path beside HAProxy and nginx; BENCH=paced,tls-* for some loads
	$(GO) run ./test/tools/setup haproxy nginx-core libnginx-mod-stream
	$(GO) run ./test/bench --workloads '$(BENCH)'

bench-chat: ## the chat node beside ejabberd and Prosody; BENCH=idle,logins-* for some loads
	$(GO) run ./test/tools/setup postgresql ejabberd erlang-p1-sqlite3 prosody lua-dbi-sqlite3
	$(GO) run ./test/bench/chat --workloads '$(BENCH)'

microbench: ## the benchmarks of single functions; BENCH=Relay for some of them
	$(GO) test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem $(UNITS)

fuzz: ## every fuzz target, for FUZZTIME each
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|^(.*)/[^/]*:func |\1 |' | sort -u | \
	while read -r package target; do \
	  $(GO) test "$$package" -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME); \
	done

clean: ## what was built in the tree
	rm -rf bin dist
