# Mayfly: what developers and CI run. `make` alone lists the targets.

SHELL := /bin/bash
GO ?= go


.PHONY: help test check lint story build bench fuzz soak chaos run setup

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## find or install what the tests need: PostgreSQL, Node, Chromium, OpenSSH, the packages in npm and Go
	@test/setup.sh

test: setup ## every test, both engines, with the race detector
	$(GO) test -race -timeout 25m ./...
	$(GO) test -timeout 10m -tags failpoint -run 'TestKillAt' ./internal/mayflytest/...

lint: ## formatting, vet and staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags failpoint ./internal/...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...

story: ## the sandbox's story, each step checked
	CGO_ENABLED=0 $(GO) run ./cmd/mayfly sandbox --headless

check: lint test story ## exactly what CI runs

build: ## the stripped static binary, in dist/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o dist/mayfly ./cmd/mayfly

run: ## a server with the demo world beside it
	$(GO) run ./cmd/mayfly sandbox

bench: ## the figures of docs/performance.md, each beside its floor
	$(GO) run ./internal/bench $${POSTGRES:+-postgres "$$POSTGRES"}
	$(GO) test -run '^$$' -bench 'VerifySeen|Decide' ./internal/token ./internal/policy
	$(GO) test -run '^$$' -bench 'Exchange|Gateway|AuthZEN' -benchtime 5000x ./internal/mayflytest
	$(GO) test -run '^$$' -bench 'ToolsList1000|Replay' -benchtime 20x ./internal/mayflytest
	$(GO) test -run '^$$' -bench 'Sustained|Prove|Verify/sqlite|Export|Search' -benchtime 1x ./internal/eventlog ./internal/signals ./internal/search

fuzz: ## every fuzz target for FUZZTIME (default 30s) each
	@test/fuzz.sh $${FUZZTIME:-30s}

soak: ## long property and race runs
	MAYFLY_SOAK=1 MAYFLY_MUTATIONS=10000 $(GO) test -race -timeout 2h ./...

chaos: ## repeated kill -9 at random and at each failpoint
	MAYFLY_CHAOS=$${MAYFLY_CHAOS:-200} $(GO) test -timeout 2h -tags failpoint -run 'TestKill' ./internal/mayflytest/...
