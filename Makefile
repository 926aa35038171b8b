# Creates .venv where needed; `PYTHON=python3.12 make ...` picks another interpreter, ARGS reach Snakemake or pytest.
PYTHON ?= python3
CORES ?= all
ARGS ?=
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help reproduce rehearsal-hub test lint docs format figures pretrain install-backbones gallery image clean

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'tgems needs Python 3.11 or newer: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

reproduce: .venv/.ready ## Run the embedded demo: tables, figures and results/report.html
	snakemake --cores $(CORES) --report results/report.html --report-after-run $(ARGS)

test: .venv/.ready ## Run the tests
	pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/.ready ## Check style and types
	ruff check .
	ruff format --check .
	pyright
	snakefmt --check Snakefile workflow
	python .ci/lint_workflow.py

docs: .venv/.ready ## Build the documentation as a site, in site/
	mkdocs build --quiet

format: .venv/.ready ## Rewrite files in the project's style
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

rehearsal-hub: .venv/.ready ## Run configs/laptop.yaml on random weights and generated images, from a hub on this machine
	python -m tgems.demo.hub_rehearsal --cores $(CORES) $(ARGS)

gallery: figures ## Redraw the figures of the demo, and copy them into the documentation
	for drawn in docs/tradeoff.png docs/figures/*.png; do own="results/figures/$${drawn##*/}"; [ ! -e "$$own" ] || cp "$$own" "$$drawn"; done

figures: .venv/.ready ## Redraw the figures
	snakemake --cores $(CORES) figures $(ARGS)

pretrain: .venv/.ready ## Pretrain the demo backbones anew (about two hours on 2 cores), under results/
	snakemake --cores $(CORES) pretrain $(ARGS)

install-backbones: .venv/.ready ## Ship the backbones that `make pretrain` made, with model cards, in assets/
	python -m tgems.demo.installing

image: ## Build the container image tgems (docs/containers.md)
	docker build --build-arg COMMIT="$$(git rev-parse HEAD)$$(git diff --quiet HEAD || echo +dirty)" --tag tgems $(ARGS) .

clean: ## Delete everything that a run makes
	rm -rf results/[!R]* .snakemake
