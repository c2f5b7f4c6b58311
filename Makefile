# make up: a cluster, the operator, and a running session.   make test: all tests.   The rest: make help.
.DEFAULT_GOAL := help
.PHONY: handlers faults bugs help up down kubeconfig test lint prose unit cluster e2e crds reference scenarios kit bench bench-scale bench-queue bench-provisioner image

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

up: ## a cluster with the operator and a running session; NODES=100 adds simulated nodes; CLUSTER=kind, CLUSTER=current
	@NODES="$(NODES)" CLUSTER="$(or $(CLUSTER),kit)" IMAGE="$(IMAGE)" kit/up

down: ## ends the kit's cluster and removes all it made
	@kit/cluster down

kubeconfig: ## prints the path of the kit's kubeconfig
	@kit/cluster kubeconfig

test: ## all tests: lint, unit, cluster, end to end
	@kit/test

lint: ## formatting, clippy, drift of CRDs, chart and reference, prose, helm lint
	@kit/test lint

prose: ## the prose of the docs and of the CRDs' descriptions alone
	@kit/test prose

unit: ## unit tests alone
	@kit/test unit

cluster: ## tests on a real API server with simulated nodes
	@kit/test cluster

e2e: ## tests on a real node; needs root
	@kit/test e2e

faults: ## crash at every write: every plan, about an hour; PLANS=50 some, PLAN=gang/kill-after/7 one, ONLY=pause
	@kit/faults

bugs: ## plants bugs and sees that the faults' oracle catches each; BUG=05 one
	@kit/bugs

bench: ## sessions beside bare pods on simulated nodes; N="500 2000"
	@kit/bench sessions $(N)

bench-scale: ## 10,000 sessions, 500 gangs of 20 and a queue of 10,000 on 1,000 simulated nodes
	@kit/bench scale

bench-queue: ## Kueue's load shape: 15,000 batch sessions under quota
	@kit/bench queue

bench-provisioner: ## the provisioner alone: 100,000 sessions, 10,000 agents
	@kit/bench-provisioner

crds: ## writes crds/ and the chart's copy from src/api
	@cargo run --quiet -- crds --dir crds && cp crds/*.yaml charts/sokovan/crds/

reference: ## writes docs/reference.md from crds/
	@kit/test reference

handlers: ## writes the table of handlers in docs/lifecycle.md from their rows
	@WRITE_HANDLERS=1 cargo test --quiet --test handlers >/dev/null

scenarios: ## writes docs/scenarios.md from the tests' names
	@WRITE_SCENARIOS=1 cargo test --quiet --test scenarios >/dev/null

image: ## builds the operator's image with Docker
	docker build -t sokovan/sokovan:dev .
