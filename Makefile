# bk is built with Go alone. Everything else here is for those who change it.

export CGO_ENABLED = 0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
PKGS    ?= ./...
TIMEOUT ?= 30m

.NOTPARALLEL:
.PHONY: help build test lint cross bench bases demo conformance runtimesuite deps clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

build: ## bin/bk, static, for this machine
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/bk ./cmd/bk

test: deps bases ## vet and all tests; as root it first installs what they need; RACE=1, PKGS=./x/...
	@hack/tool registry crane oras conformance
	go vet $(PKGS)
	@BK_TEST_BUSYBOX_ARM64=$(CURDIR)/.cache/bases/busybox/busybox-arm64 \
	$(if $(RACE),CGO_ENABLED=1) go test -json $(if $(RACE),-race) -timeout $(TIMEOUT) $(PKGS) | go run ./hack/testreport

lint: ## gofmt, golangci-lint with the rules of .golangci.yml
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'lint: run gofmt -w on these files' >&2; exit 1; }
	@hack/tool golangci-lint
	.cache/tools/bin/golangci-lint run ./...

cross: ## compile and vet for the other systems
	GOOS=linux GOARCH=arm64 go vet ./...
	GOOS=darwin GOARCH=arm64 go vet ./...
	GOOS=windows GOARCH=amd64 go vet ./...

bases: ## the base images of tests, from Debian packages, in .cache/bases
	@go run ./hack/bases || echo 'bases: tests that need the missing ones are skipped' >&2

conformance: build bases ## build testdata/corpus with bk and with buildkitd and compare; RUN=regexp
	@hack/tool registry crane buildkitd buildctl
	go run ./hack/conformance -bk bin/bk $(if $(RUN),-run '$(RUN)')

runtimesuite: build ## the runtime-spec's validation suite over bk, runc and crun; RUN=regexp
	@hack/deps runc crun
	go run ./hack/runtimesuite -bk bin/bk $(if $(RUN),-run '$(RUN)')

bench: build bases ## measure bk beside other builders; ARGS="-n 5 -only hello"
	@hack/tool registry crane buildkitd buildctl
	go run ./hack/bench $(ARGS)

demo: build ## build a program for two platforms and run both from the image
	@hack/deps qemu-user-static busybox-static
	@go run ./hack/bases busybox
	go run ./hack/demo bin/bk .cache/bases .cache/demo

deps: ## install what the tests use (root), or say what is missing
	@hack/deps

clean: ## remove what make made
	rm -rf bin .cache
