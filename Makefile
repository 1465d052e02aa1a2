# Everything runs in .venv, which is made on first use. See README.md for the same in single commands.
PYTHON ?= python3
# Which torch build: empty takes pip's default for this platform; for a CPU build on Linux say
# make demo TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=
DATASET_DIR ?= data/Task04_Hippocampus
DATALIST ?= bundles/hippocampus_sdseg/configs/datalist.json

# Where the hashed lock files fit, packages are installed by them; else, and with HASHES=no, by their versions alone.
# See docs/development.md.
HASHES ?= $(shell $(PYTHON) -c "import platform, sys; \
	here = (sys.implementation.name, sys.version_info[:2], platform.system(), platform.machine()); \
	print('yes' if here == ('cpython', (3, 11), 'Linux', 'x86_64') else 'no')")

BIN = .venv/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# sdists are built with the same torch: older pips take the first for that, newer ones the second
LABEL_PIP = PIP_CONSTRAINT=constraints-label.txt PIP_BUILD_CONSTRAINT=constraints-label.txt \
	.venv-label/bin/python -m pip --quiet --disable-pip-version-check
# by hashes all that it needs, setuptools too, is there already: anything else is an error
OURS = $(if $(filter yes,$(HASHES)),--no-index --no-build-isolation) -e .
RUN = $(BIN)/python -m monai.bundle run training --config_file
HIPPOCAMPUS = bundles/hippocampus_sdseg/configs
SDSEG = bundles/sdseg/configs

.PHONY: demo test test-all torture check fix docs hippocampus label-env lock licences clean

demo: .venv/installed
	$(BIN)/sdseg demo

test: check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: check label-env
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "slow or not slow"

# About 20 minutes on two cores; writes docs/reliability.md.
torture: .venv/installed-dev label-env
	$(BIN)/python benchmarks/torture.py

check: .venv/installed-dev
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/installed-dev
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

# A folder to open in a browser, which needs no network.
docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict

# The embedded model from scratch: autoencoder on procedural masks, then the segmenter, then its numbers.
hippocampus: .venv/installed
	$(RUN) "['$(SDSEG)/train_autoencoder.json','$(HIPPOCAMPUS)/train_autoencoder.json']"
	$(RUN) $(HIPPOCAMPUS)/train.json --dataset_dir $(DATASET_DIR) --datalist $(DATALIST)
	$(BIN)/python benchmarks/embedded.py --dataset_dir $(DATASET_DIR) --datalist $(DATALIST) --mirrored

# The MONAI Label server has an environment of its own: MONAI Label 0.8.5 pins numpy, pydicom and jsonschema to versions
# that nothing else here needs. Its torchvision is used by MONAI Label's stock apps alone, and where pip's default torch is
# a CPU build, pip's torchvision does not fit it: it then goes again, since diffusers would stumble over it.
label-env: .venv-label/installed

.venv-label/installed: setup.cfg pyproject.toml constraints-label.txt locks/label-env.txt
	$(PYTHON) -m venv .venv-label
ifeq ($(HASHES),yes)
	$(LABEL_PIP) install --require-hashes --no-deps -r locks/label-env.txt
endif
	$(LABEL_PIP) install torch==2.13.0 torchvision==0.28.0 $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))
	$(LABEL_PIP) install $(OURS)[label]
	.venv-label/bin/python -c "import torchvision" 2> /dev/null || $(LABEL_PIP) uninstall --yes torchvision
	touch $@

.venv/installed: setup.cfg pyproject.toml constraints.txt locks/demo.txt
	$(PYTHON) -m venv .venv
ifeq ($(HASHES),yes)
	$(PIP) --require-hashes --no-deps -r locks/demo.txt
endif
	$(PIP) torch==2.13.0 $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))
	$(PIP) $(OURS)
	touch $@

.venv/installed-dev: .venv/installed locks/test.txt
ifeq ($(HASHES),yes)
	$(PIP) --require-hashes --no-deps -r locks/test.txt
endif
	$(PIP) $(OURS)[dev]
	touch $@

# After a change of setup.cfg or of the constraints, on the platform of the lock files.
lock: .venv/installed
	$(BIN)/python locks/lock.py

# After make lock: the licences of what the lock files name, as installed here.
licences: .venv/installed-dev label-env
	$(BIN)/python locks/licences.py

clean:
	rm -rf .venv .venv-label build dist *.egg-info demo_output site
