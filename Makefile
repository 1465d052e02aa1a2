# Everything runs in .venv, which is made on first use. See README.md for the same in single commands.
PYTHON ?= python3
# Which torch build: empty takes pip's default for this platform; for a CPU build on Linux say
# make demo TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
DATASET_DIR ?= data/Task04_Hippocampus
DATALIST ?= bundles/hippocampus_sdseg/configs/datalist.json

BIN = .venv/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN = $(BIN)/python -m monai.bundle run training --config_file
HIPPOCAMPUS = bundles/hippocampus_sdseg/configs
SDSEG = bundles/sdseg/configs

.PHONY: demo test test-all check fix hippocampus clean

demo: .venv/installed
	$(BIN)/sdseg demo

test: check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "slow or not slow"

check: .venv/installed-dev
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/installed-dev
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

# The embedded model from scratch: autoencoder on procedural masks, then the segmenter, then its numbers.
hippocampus: .venv/installed
	$(RUN) "['$(SDSEG)/train_autoencoder.json','$(HIPPOCAMPUS)/train_autoencoder.json']"
	$(RUN) $(HIPPOCAMPUS)/train.json --dataset_dir $(DATASET_DIR) --datalist $(DATALIST)
	$(BIN)/python benchmarks/hippocampus.py --dataset_dir $(DATASET_DIR) --datalist $(DATALIST)

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0 $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))
	$(PIP) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e .[dev]
	touch $@

clean:
	rm -rf .venv build dist *.egg-info demo_output
