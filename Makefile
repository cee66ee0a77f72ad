# Everything is built from source into bin/ and .tools/; nothing is installed. It takes Go, make, git
# and apt. HAPROXY=/path/to/haproxy uses that one instead of the one that `make tools` fetches; so do
# KUBE_APISERVER, ETCD, KUBECTL and GRPCURL for those that it builds.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BENCH   ?= .
FUZZTIME ?= 1h
# What `make bench-fleet` runs with; docs/scale.md tells what they mean.
ROUTERS  ?= 1000
ROUTES   ?= 10000
CHANGES  ?= 30
RATE     ?= 100
DURATION ?= 60s
SEED     ?= 1
OPPONENT ?= true
PROFILE  ?=
# The race detector needs a C compiler; Go turns cgo on where it finds one.
RACE    := $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

TOOLS   := $(CURDIR)/.tools/bin
HAPROXY ?= $(TOOLS)/haproxy
export HAPROXY
# The API server that tests run, and what goes with it.
KUBE_APISERVER ?= $(TOOLS)/kube-apiserver
ETCD           ?= $(TOOLS)/etcd
KUBECTL        ?= $(TOOLS)/kubectl
GRPCURL        ?= $(TOOLS)/grpcurl
export KUBE_APISERVER ETCD KUBECTL GRPCURL

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build haproxy ## run a control plane, two routers and two backends here; Ctrl-C ends them
	@PATH="$(CURDIR)/bin:$$PATH" TSUJI_HAPROXY="$(HAPROXY)" exec bin/tsuji demo

.PHONY: build
build: ## build bin/controlplane, bin/routerd and bin/tsuji
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/ ./cmd/controlplane ./cmd/routerd ./cmd/tsuji

# In these nothing is shared: they start no goroutine, which arch_test.go checks, and have no variable that changes. A
# race detector has nothing to find there, and would make their laws take several times as long. It looks at them where
# they are used: in controlplane, routerd/apply and test/certificates.
PURE := controlplane/compile routerd/render

.PHONY: test
# What takes longest begins first, so that nothing runs alone in the end.
test: haproxy kubeapi grpcurl govulncheck ## run every test, with the race detector, real HAProxy, a real API server
	@$(if $(RACE),,echo 'test: no C compiler here, so the race detector is off' >&2)
	module=$$(go list -m); all=$$(go list ./... | grep -vxF "$$(printf "$$module/%s\n" $(PURE))"); \
	failed=; go test -timeout 30m $(PURE:%=./%) || failed=1; \
	go test $(RACE) -timeout 30m ./test ./routerd/apply $$all || failed=1; [[ -z "$$failed" ]]

.PHONY: churn
churn: haproxy kubeapi ## change routes ten times a second for a minute among 1,000 and 10,000 of them: no reload, no failed request
	TSUJI_LONG=1 go test -run TestChurn -timeout 20m -v ./test

.PHONY: kills
kills: haproxy kubeapi ## kill control plane, routerd, worker and master, alone and in pairs, for fifty rounds; takes half an hour
	TSUJI_LONG=1 go test -run TestKills -timeout 3h -v ./test

.PHONY: fuzz
fuzz: haproxy ## give HAProxy whatever may stand in a Route; FUZZTIME=1h
	go test -run '^$$' -fuzz FuzzRoutes -fuzztime $(FUZZTIME) -parallel 1 ./test/fuzzroutes

.PHONY: fuzz-tenant
fuzz-tenant: haproxy ## have a hostile tenant write odd objects beside a victim and a neighbour; FUZZTIME=1h
	TSUJI_FUZZ_TENANT=$(FUZZTIME) go test -run TestTenantFuzz -timeout 0 -v ./test

.PHONY: bench
bench: haproxy kubeapi ## run the benchmarks, for some five minutes; BENCH=regexp chooses
	go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 30m ./...

.PHONY: bench-cluster
bench-cluster: haproxy kubeapi ## measure writes to an API server until HAProxy answers by them; takes ten minutes
	TSUJI_BENCH_CLUSTER=1 go test -run '^$$' -bench 'Cluster' -benchtime 50x -timeout 40m ./test

.PHONY: bench-fleet
bench-fleet: ## measure the control plane with ROUTERS=1000 light routers and ROUTES=10000, beside LinearCache; takes ten minutes
	go test -run 'TestFleetAtScale' -v -count=1 -timeout 1h ./test/fleet -args -routers=$(ROUTERS) -routes=$(ROUTES) \
		-changes=$(CHANGES) -rate=$(RATE) -duration=$(DURATION) -seed=$(SEED) -opponent=$(OPPONENT) -profile=$(PROFILE)

.PHONY: lint
lint: golangci-lint buf ## lint the Go and the protos, formatting included
	$(TOOLS)/golangci-lint run ./...
	$(TOOLS)/buf lint

.PHONY: generate
generate: buf protoc-gen-go protoc-gen-go-grpc ## generate the Go beside the protos
	$(TOOLS)/buf generate

.PHONY: verify
verify: lint verify-protos verify-modules verify-deploy verify-images verify-names verify-vulnerabilities ## check all that a test cannot: lint, protos, modules, manifests

.PHONY: release-check
release-check: ## what a release must pass beside the tests: a tag, nothing uncommitted, verify with nothing left out
	git describe --exact-match --match 'v*'
	@[[ -z "$$(git status --porcelain)" ]] || { git status --short; echo 'release-check: commit or remove these' >&2; exit 1; }
	TSUJI_RELEASE=1 $(MAKE) verify

.PHONY: clean
clean: ## remove what was built, the tools included
	rm -rf bin .tools

# What verify is made of. Each part can be run by itself.

.PHONY: verify-protos
verify-protos: buf protoc-gen-go protoc-gen-go-grpc
	tools/breaking.sh
	@rm -rf .tools/generated && $(TOOLS)/buf generate -o .tools/generated
	@sums() { find proto -name '*.pb.go' -exec cksum {} + | sort -k3; }; \
	diff <(sums) <(cd .tools/generated && sums) || { echo 'generated code is stale: run make generate' >&2; exit 1; }

.PHONY: verify-modules
verify-modules:
	go mod tidy -diff
	cd tools && go mod tidy -diff
	cd test/kubeapi && go mod tidy -diff

.PHONY: verify-deploy
verify-deploy: kustomize
	@for file in $$(grep -rLsx 'kind: Component' --include=kustomization.yaml deploy/kustomize); do \
		echo "kustomize build $${file%/*}"; $(TOOLS)/kustomize build "$${file%/*}" >/dev/null; \
	done

.PHONY: verify-images
verify-images: haproxy
	deploy/images/check.sh

.PHONY: verify-names
verify-names:
	tools/names.sh

.PHONY: verify-vulnerabilities
verify-vulnerabilities: govulncheck
	tools/vulnerabilities.sh

# The tools. Those in Go are the `tool` lines of tools/go.mod; one is built when a target needs it, and
# again when the pins or the Go release have changed.

GO_TOOLS  := buf golangci-lint govulncheck grpcurl kustomize protoc-gen-go protoc-gen-go-grpc
TOOLS_KEY := $(firstword $(shell { go env GOVERSION; cat tools/go.mod tools/go.sum; } | cksum))

.PHONY: tools haproxy kubeapi $(GO_TOOLS)
tools: haproxy kubeapi $(GO_TOOLS) ## put HAProxy, the API server and the Go tools into .tools/bin

haproxy:
	@tools/haproxy.sh

kubeapi: # takes minutes the first time, so only what runs an API server asks for it
	@tools/kubeapi.sh

$(GO_TOOLS): %: .tools/built/%-$(TOOLS_KEY)

.tools/built/%-$(TOOLS_KEY):
	@echo 'building $*'
	@cd tools && GOBIN='$(TOOLS)' go install "$$(go list tool | grep -E '/$*(/v[0-9]+)?$$')"
	@mkdir -p $(@D) && rm -f $(@D)/$*-[0-9]* && touch $@
