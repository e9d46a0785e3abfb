# One word per chore. `make demo` and `make test` need only git, make and Python 3.10 to 3.13.

PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python3.10,$(shell \
	$(p) -c 'import sys, venv; print("$(p)") if (3, 10) <= sys.version_info[:2] <= (3, 13) else None' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := jepa datasets probes planning recipes tests benchmarks

.PHONY: demo test test-slow check format results setup clean

demo: $(READY)
	$(BIN)/jepa demo --config recipes/configs/demo.yaml --resume

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses=4 \
		--dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/basedpyright

format: $(READY)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

results: $(READY)
	$(BIN)/jepa results

setup: $(READY)

$(READY): requirements.txt setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "jepa-toolkit needs Python 3.10 to 3.13 with venv; python3 here is:" \
			"$$(python3 --version 2>&1). Install one, or say which: make PYTHON=/path/to/python3.12" >&2; \
		exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1048576) }'); \
	 if [ ! -x $(BIN)/python ] && [ "$$free" -lt 8 ]; then \
		echo "the set-up needs about 8 GiB of disk here; $$free GiB are free" >&2; exit 1; fi
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
