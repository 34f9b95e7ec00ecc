# Every target sets up the environment first if it is not there or out of date.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
OUT ?= runs/gpu
FASTMRI ?=
PEERS ?= $(HOME)/.cache/spinwarp/peers
ROWS ?=

.PHONY: help setup demo gpu benchmarks test test-ddp test-slurm test-notebooks lint types notebooks figures docs clean

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
	$(BIN)/python evaluate.py recon=posterior recon.n_samples=8 n_volumes=1 slices=3:4 out=$(DEMO)/posterior
	$(BIN)/python -m spinwarp.figures $(DEMO)/zero_filled $(DEMO)/tv $(DEMO)/unet $(DEMO)/varnet $(DEMO)/pretrained \
	  $(DEMO)/posterior --out $(DEMO)/comparison
	@echo "The network that comes with spinwarp (pretrained) has the highest PSNR; it was trained on simulated heads for hours."
	@echo "Total variation learns nothing and beats the two networks that trained for minutes: it assumes piecewise constant"
	@echo "images, which the phantoms nearly are. See docs/weights.md and docs/results.md."
	@echo "On one slice, images were drawn from the posterior of the prior that comes with spinwarp (posterior): slower than the"
	@echo "network, closer to the truth, and with a standard deviation for each pixel."
	@echo "The comparison of the five methods: $$(ls $(DEMO)/comparison/phantom_test_equispaced*.png | head -1)"

test: setup ## run the tests but those of several processes and of all chapters; a worker a core
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not ddp and not notebooks"

test-ddp: setup ## run the tests of several processes on the CPU
	$(BIN)/python -m pytest -m ddp

test-slurm: setup ## run jobs through a SLURM of one node; as root, after apt-get install slurm-wlm munge
	$(BIN)/python -m pytest -m slurm tests/slurm

test-notebooks: setup ## execute every chapter and check its claims; ten minutes
	$(BIN)/python -m pytest -m notebooks tests/notebooks

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

notebooks: setup ## execute every chapter and store its pictures in the .ipynb; ten minutes
	$(BIN)/python notebooks/execute.py

figures: setup ## draw the figures of docs/ in runs/figures, for two of which networks train for minutes; after make demo, all
	$(BIN)/python train.py model=naive_cnn model.net.channels=16 model.net.n_layers=4 data.batch_size=2 trainer.max_epochs=3 \
	  ckpt_path=last hydra.run.dir=$(DEMO)/train_naive_cnn
	$(BIN)/python train.py model=vae model.net.channels=8 model.net.max_channels=64 data.batch_size=4 trainer.max_epochs=25 \
	  trainer.check_val_every_n_epoch=25 ckpt_path=last hydra.run.dir=$(DEMO)/train_vae
	$(BIN)/python benchmarks/article_figures.py runs/figures --demo $(DEMO)

docs: .venv/docs ## build the site from docs/, notebooks/ and docstrings: docs/_build/html/index.html
	rm -rf docs/_build
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@

clean: ## remove the environment and caches, not the data and not the runs
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache docs/_build docs/generated
