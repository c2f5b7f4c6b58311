# make up: a cluster with the operator and a running session.   make test: all tests.   make help: all targets.
.DEFAULT_GOAL := help
.PHONY: chart-readme handlers test-kind upgrade faults bugs dashboards prometheus help up down kubeconfig test lint prose unit cluster e2e crds reference scenarios kit bench bench-peers bench-scale bench-queue bench-serving bench-traffic bench-provisioner image

help: ## print this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

up: ## start a cluster with the operator and a session; CLUSTER=auto, kit, kind or current; NODES=100 adds simulated nodes
	@NODES="$(NODES)" CLUSTER="$(CLUSTER)" IMAGE="$(IMAGE)" kit/up

down: ## stop the kit's clusters and remove their files
	@kit/cluster down
	@kit/kind down

kubeconfig: ## print the path of the kit's kubeconfig
	@kit/cluster kubeconfig

test: ## run all tests: lint, unit, cluster, end to end
	@kit/test

lint: ## check formatting, clippy, generated files, prose and the chart
	@kit/test lint

prose: ## check only the prose of the docs and of the CRDs' descriptions
	@kit/test prose

unit: ## run only the unit tests
	@kit/test unit

cluster: ## run only the tests on a real API server with simulated nodes; KUBERNETES=1.34 for an older one
	@KUBERNETES="$(KUBERNETES)" kit/test cluster

e2e: ## run only the tests on a real node; needs root
	@kit/test e2e

test-kind: ## run the cluster tests and the end-to-end tests on kind; needs root
	@kit/test kind

upgrade: ## upgrade from the version before and roll back, with sessions running; needs root
	@kit/upgrade

faults: ## crash the operator at every write (an hour); PLANS=50 for some, PLAN=gang/kill-after/7 for one, ONLY=pause
	@kit/faults

bugs: ## plant bugs and check that the fault tests catch each; BUG=05 for one
	@kit/bugs

prometheus: ## let a real Prometheus find and scrape the replicas of a deployment; needs root
	@kit/prometheus

dashboards: ## let a real Prometheus scrape the operator under load, try every query of the dashboards, and draw docs/images
	@kit/dashboards

bench: ## compare sessions with bare pods on simulated nodes; N="500 2000"
	@kit/bench sessions $(N)

bench-peers: ## compare sessions and gangs with Jobs through Kueue; N=500
	@kit/bench peers $(N)

bench-scale: ## measure 10,000 sessions, 500 gangs of 20 and a queue of 10,000 on 1,000 simulated nodes
	@kit/bench scale

bench-queue: ## measure Kueue's load shape: 15,000 batch sessions under quota
	@kit/bench queue

bench-serving: ## compare deployments with those of apps/v1 on simulated nodes; N=300
	@kit/bench serving $(N)

bench-traffic: ## count the requests that a rolling update loses on a real node, beside apps/v1; needs root
	@kit/bench traffic

bench-provisioner: ## measure the provisioner without a cluster: 100,000 sessions, 10,000 nodes
	@kit/bench-provisioner

crds: ## write crds/ and the chart's copy from src/api
	@cargo run --quiet -- crds --dir crds && cp crds/*.yaml charts/sokovan/crds/

reference: ## write docs/reference.md from crds/
	@kit/test reference

chart-readme: ## write charts/sokovan/README.md from its values.yaml
	@kit/test chart_readme

handlers: ## write the table of handlers in docs/lifecycle.md from their rows
	@WRITE_HANDLERS=1 cargo test --quiet --test handlers >/dev/null

scenarios: ## write docs/scenarios.md from the tests' names
	@WRITE_SCENARIOS=1 cargo test --quiet --test scenarios >/dev/null

image: ## build the operator's image with Docker
	docker build -t sokovan/sokovan:dev .
