# `make` lists the targets. Everything runs from .venv, which `make setup` installs from the hash-locked requirements.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# compiled modules are kept, whatever the shell says: without them each process takes seconds more to start
export PYTHONDONTWRITEBYTECODE :=
# what the labels of images say: the commit, not the moment of the build
export REMPART_VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
export REMPART_REVISION := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
ifneq ($(REMPART_REVISION),unknown)
export REMPART_CREATED := $(shell git log -1 --format=%cI)
export REMPART_EPOCH := $(shell git log -1 --format=%ct)
endif

PYTHON ?= python3
BENCH ?=
SERVICE ?=
ARGS ?=
BIN := .venv/bin
UV := .venv/tools/bin/uv

# The proofs that this machine may be able to run: every bench/prove_*.py.
PROOFS := $(sort $(patsubst bench/prove_%.py,prove-%,$(wildcard bench/prove_*.py)))

.PHONY: help preflight setup setup-trainer setup-docs setup-spark demo up down status logs base-image images bundle test test-full test-unit test-gpu test-k8s test-spark lint docs docs-site lock sbom audit bench prove clean lint-others

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo
	@echo "  PYTHON=python3.12       the interpreter for .venv (3.11 to 3.13)"
	@echo "  REMPART_PORT_OFFSET=100 moves every port;  REMPART_VAR=/path  keeps the state elsewhere"

preflight: ## check this machine: disk, memory, ports, proxy, package index ... with remedies (seconds)
	@command -v $(PYTHON) >/dev/null || { echo "FAIL  there is no $(PYTHON): install Python 3.11 or later, or name one with PYTHON="; exit 1; }
	@if [ -f .venv/rempart-installed ]; then $(BIN)/rempart stack preflight; else $(PYTHON) include/rempart/deployment/setup/preflight.py; fi

setup: ## install the hash-locked environment into .venv (does nothing when it is there)
	@command -v $(PYTHON) >/dev/null || { echo "setup: there is no $(PYTHON)"; echo "  What to do: install Python 3.11 to 3.13, or name one: make PYTHON=python3.12 setup"; exit 1; }
	@$(PYTHON) include/rempart/deployment/setup/bootstrap.py

setup-trainer: ## install .venv-trainer, where jobs that need PyTorch run (the build is pip's choice)
	@$(PYTHON) include/rempart/deployment/setup/bootstrap.py trainer

setup-docs: ## install .venv-docs, which builds the documentation's site
	@$(PYTHON) include/rempart/deployment/setup/bootstrap.py docs

setup-spark: ## install .venv-spark with its Java, where pipelines with `engine: spark` run
	@$(PYTHON) include/rempart/deployment/setup/bootstrap.py spark

demo: ## from nothing to a promoted, replicated, restorable model; leaves the stack up
	@began=$$(date +%s); $(MAKE) preflight setup; REMPART_DEMO_BEGAN=$$began $(BIN)/rempart demo $(ARGS)

up: setup ## start the embedded stack: PostgreSQL, two S3 sites, MLflow, Airflow, the scorer
	@$(BIN)/rempart up

down: ## stop the embedded stack; no process is left
	@if [ -x $(BIN)/rempart ]; then $(BIN)/rempart down; else echo "nothing is installed, so nothing runs"; fi

status: setup ## show every service, its port and memory
	@$(BIN)/rempart status

logs: setup ## show the services' logs (SERVICE=mlflow for one, ARGS=-f to follow)
	@$(BIN)/rempart stack logs $(ARGS) $(SERVICE)

base-image: ## make the images' base out of Debian packages (root), where debian:trixie-slim cannot be pulled
	@deploy/images/base.sh

images: setup ## build every image, and tell their sizes (docs/how-to/compose.md; CLUSTER=yes: for a cluster; SPARK=yes: that of Spark, too)
	@$(BIN)/rempart stack init $(if $(CLUSTER),--images)
	@docker compose $(if $(SPARK),--file docker-compose.yml --file deploy/images/spark.yaml) --profile '*' build
	@docker images --filter reference='rempart/*' --format 'table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.Size}}'

bundle: setup ## write one signed folder that installs without a network (ARGS=--no-images: without Docker)
	@case " $(ARGS) " in *" --no-images "*) ;; *) $(MAKE) images ;; esac
	@$(BIN)/rempart bundle write $(ARGS)

# seconds of a test with its fixtures: one that waits for what never comes fails, with its name and the place where it
# waits. The longest, which starts a stack and walks the tutorial while three others do the like, took 476 on two cores
TEST_LIMIT := --timeout=1200
test: preflight setup ## the tests of each change, in three processes, beside a running stack (ARGS= for pytest)
	@$(BIN)/python -m pytest -n 3 $(TEST_LIMIT) -m "not full" $(ARGS)

test-full: preflight setup ## every test: those of `make test`, and the long ones
	@$(BIN)/python -m pytest -n 4 $(TEST_LIMIT) $(ARGS)

test-unit: setup ## those of `make test` that need no server
	@$(BIN)/python -m pytest tests/unit -m "not full" $(ARGS)

test-spark: setup-spark ## the tests of Spark, in the environment in which its jobs run
	@.venv-spark/bin/python -m pytest -p no:cacheprovider --confcutdir=tests/spark tests/spark $(ARGS)

test-gpu: ## check training on this machine's GPUs and say what was seen (docs/how-to/test-on-a-gpu.md)
	@$(PYTHON) -m tests.real_gpu --look
	@$(PYTHON) include/rempart/deployment/setup/bootstrap.py cuda
	@.venv-trainer/bin/python -m tests.real_gpu $(ARGS)

test-k8s: setup ## the tests of jobs in pods on the cluster of KUBECONFIG (docs/how-to/test-on-a-cluster.md)
	@$(BIN)/python -m tests.real_cluster $(ARGS)

lint: setup ## ruff, mypy, import contracts, generated documentation
	$(BIN)/ruff check .
	@$(BIN)/mypy & types=$$!; others=0; $(MAKE) lint-others || others=$$?; wait $$types && exit $$others

lint-others:
	$(BIN)/lint-imports
	$(BIN)/python -m rempart.docsgen.reference --check
	@$(BIN)/rempart audit run --only licences

docs: setup ## write the generated parts of docs/reference
	$(BIN)/python -m rempart.docsgen.reference
	$(BIN)/python -m tests.unit.cli.wrong_inputs

docs-site: setup setup-docs ## build the documentation's site into var/docs-site: open index.html, no server is needed
	@$(BIN)/python -m rempart.docsgen.site

lock: setup ## resolve requirements*.in anew into the hash-locked requirements*.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade requirements-bootstrap.in -o requirements-bootstrap.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade requirements.in -o requirements.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade requirements-dev.in -o requirements-dev.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade requirements-trainer.in -o requirements-trainer.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade requirements-docs.in -o requirements-docs.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade requirements-spark.in -o requirements-spark.txt

sbom: setup ## write the bill of materials of the lock (CycloneDX) to var/audit
	@$(BIN)/rempart audit run --only sbom

audit: setup ## licences, vulnerabilities, telemetry, secrets, ports, policy gaps (ARGS=--json)
	@$(BIN)/rempart audit run $(ARGS)

bench: setup ## measure beside a peer: BENCH=dag_parse (any module of bench/); results in var/bench
	@if [ -z "$(BENCH)" ]; then echo "Choose one: make bench BENCH=..."; ls bench/*.py | sed -n 's|bench/\([a-z0-9_]*\)\.py|  \1|p' | grep -v -e __init__ -e report -e prove_ -e lone_network -e packets -e pages -e seen -e senders -e sink -e outside -e database_tls -e quiet -e telemetry_containers -e door -e intruder -e listening -e lies_ -e moving_world -e slow_training -e searching; exit 1; fi
	@$(BIN)/python -m bench.$(BENCH) $(ARGS)

prove: setup ## run every proof that this machine can run; results in var/proof
	@failed=; for proof in $(PROOFS); do $(MAKE) $$proof || failed="$$failed $$proof"; done; \
	if [ -n "$$failed" ]; then echo "not true, or not run on this machine:$$failed (var/proof says why)"; exit 1; fi

prove-%: setup
	@$(BIN)/python -m bench.prove_$(subst -,_,$*) $(ARGS)

clean: down ## stop the stack and remove its state (var/) and every environment (.venv, .venv-*)
	rm -rf var .venv .venv-trainer .venv-docs .venv-spark
