# minillava. `make install`, then `make reproduce`; `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests see no network and one thread: two threads on a contended core are slower than one.
QUIET := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install reproduce test offline portable bases notebooks lab lint doctor

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with the tested versions (PYTHON=... chooses the interpreter)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e ".[dev,lora]"
	@touch $@

reproduce: $(INSTALLED) ## both stages on the tiny preset, accuracy and figures -> runs/tiny
	$(BIN)/minillava reproduce

test: $(INSTALLED) ## every test and every notebook, offline
	$(QUIET) $(BIN)/pytest --nbval

offline: $(INSTALLED) ## every notebook with the network cut (Linux)
	unshare -rn sh -c 'ip link set lo up && exec env $(QUIET) $(BIN)/pytest --nbval notebooks'

portable: $(INSTALLED) ## every notebook on plain CPU instructions, as on another machine
	ATEN_CPU_CAPABILITY=default $(QUIET) $(BIN)/pytest --nbval notebooks

bases: $(INSTALLED) ## pretrain tiny-Vicuna and tiny-CLIP anew -> runs/bases
	$(BIN)/minillava pretrain lm
	$(BIN)/minillava pretrain clip

notebooks: $(INSTALLED) ## build and execute the notebooks from notebooks/source
	$(QUIET) $(BIN)/python notebooks/build.py

lab: $(INSTALLED) ## open the course in JupyterLab, on lesson 00
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

lint: $(INSTALLED) ## ruff
	$(BIN)/ruff check .

doctor: $(INSTALLED) ## what is installed, what is missing
	$(BIN)/minillava doctor
