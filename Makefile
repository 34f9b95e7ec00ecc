# Every target sets up the environment first if it is not there or out of date.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
OUT ?= runs/gpu
FASTMRI ?=
PEERS ?= $(HOME)/.cache/spinwarp/peers
ROWS ?=

.PHONY: help setup demo gpu benchmarks test test-ddp test-slurm lint types notebooks clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/ready ## make .venv with the pinned packages

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "spinwarp needs Python 3.11 to 3.13: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

demo: setup ## train, compare and draw on embedded data: offline, two CPU cores, ten minutes
	$(BIN)/python train.py experiment=demo_unet ckpt_path=last hydra.run.dir=$(DEMO)/train_unet
	$(BIN)/python train.py experiment=demo_varnet ckpt_path=last hydra.run.dir=$(DEMO)/train_varnet
	$(BIN)/python evaluate.py recon=zero_filled out=$(DEMO)/zero_filled
	$(BIN)/python evaluate.py recon=tv recon.weight=0.003 out=$(DEMO)/tv
	$(BIN)/python evaluate.py recon=checkpoint recon.path=$(DEMO)/train_unet/checkpoints/best.ckpt out=$(DEMO)/unet
	$(BIN)/python evaluate.py recon=checkpoint recon.path=$(DEMO)/train_varnet/checkpoints/best.ckpt out=$(DEMO)/varnet
	$(BIN)/python evaluate.py recon=pretrained out=$(DEMO)/pretrained
	$(BIN)/python -m spinwarp.figures $(DEMO)/zero_filled $(DEMO)/tv $(DEMO)/unet $(DEMO)/varnet $(DEMO)/pretrained \
	  --out $(DEMO)/comparison
	@echo "The network that comes with spinwarp (pretrained) has the highest PSNR; it was trained on simulated heads for an hour."
	@echo "Total variation learns nothing and beats the two networks that trained for minutes: it assumes piecewise constant"
	@echo "images, which the phantoms nearly are. See docs/weights.md and docs/results.md."
	@echo "The comparison of the five methods: $$(ls $(DEMO)/comparison/phantom_*.png | head -1)"

test: setup ## run the tests but those of several processes; a worker a core
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not ddp"

test-ddp: setup ## run the tests of several processes on the CPU
	$(BIN)/python -m pytest -m ddp

test-slurm: setup ## run jobs through a SLURM of one node; as root, after apt-get install slurm-wlm munge
	$(BIN)/python -m pytest -m slurm tests/slurm

lint: setup ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## check types
	$(BIN)/mypy

gpu: ## check and time everything on a CUDA device in eight minutes, with the Python at hand: PYTHON=, OUT=, FASTMRI=
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "make gpu needs Python 3.11 or newer: make gpu PYTHON=python3.12")'
	@PYTHONPATH="src$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) benchmarks/gpu --out "$(OUT)" --fastmri "$(FASTMRI)"

benchmarks: setup ## measure the speed beside the peers, into docs/benchmarks.md, in a quarter of an hour: ROWS=words, PEERS=folder
	-@PYTHON="$(PYTHON)" sh benchmarks/peers.sh "$(PEERS)" fastmri deepinv sigpy
	@$(BIN)/python benchmarks/speed.py --peers "$(PEERS)" $(ROWS)

notebooks: setup ## write the .ipynb twins of notebooks/*.py
	$(BIN)/jupytext --to ipynb --update notebooks/*.py

clean: ## remove the environment and caches, not the data and not the runs
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
