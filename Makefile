# `make demo` trains with and without auxiliary heads and says whether they helped; `make test` runs the tests,
# `make study` those that take minutes each, and `make torture` kills runs and damages checkpoints for hours.
# Each first makes .venv, where it is missing or older than the files that say what is in it. PYTHON=python3.13 chooses
# the Python. The stamp is written last: an environment without one was interrupted, and is made anew.

AUXJAX_VENV ?= .venv
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif
VERSION := $(shell $(PYTHON) -c 'import sys; v = sys.version_info; print(f"{v[0]}.{v[1]}" * (v >= (3, 11)))' 2>/dev/null)
ifeq ($(VERSION),)
$(error PYTHON='$(PYTHON)': Python 3.11 or newer is needed, as in: make test PYTHON=/path/to/python3.11)
endif
# The interpreter itself: no shim, and not that of an activated environment, which may be the one to be made anew.
INTERPRETER := $(shell $(PYTHON) -c 'import sys; print(sys._base_executable)')
# JAX 0.11 dropped Python 3.11; every newer Python takes the same versions.
CONSTRAINTS := constraints-$(if $(filter 3.11,$(VERSION)),3.11,3.13).txt
STAMP := $(AUXJAX_VENV)/installed-$(VERSION)

.PHONY: demo test study torture install

demo: $(STAMP)
	$(AUXJAX_VENV)/bin/python experiments/demo.py --workdir=runs/demo

test: $(STAMP)
	$(AUXJAX_VENV)/bin/python -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)

study: $(STAMP)
	$(AUXJAX_VENV)/bin/python -m pytest -m slow_study $(PYTEST_FLAGS)

# About an hour each on two cores: kills, terminations and damages at random moments.
torture: $(STAMP)
	$(AUXJAX_VENV)/bin/python experiments/torture.py --workdir=runs/torture
	$(AUXJAX_VENV)/bin/python experiments/torture.py --workdir=runs/torture_two --processes=2 --damages=0

install: $(STAMP)

# uv does not read pip's settings: where pip has been given an index of its own, pip installs.
$(STAMP): setup.cfg pyproject.toml $(CONSTRAINTS)
	@echo "Installing into $(AUXJAX_VENV) for Python $(VERSION): about 1 GB, some minutes the first time"
	@rm -rf $(AUXJAX_VENV)
	@if command -v uv >/dev/null && ! { env; $(INTERPRETER) -m pip config list 2>/dev/null; } \
			| grep -qiE '^(pip_|global\.|install\.).*(index|find.links)'; then \
		uv venv -q --python $(INTERPRETER) $(AUXJAX_VENV) && \
		uv pip install -q --python $(AUXJAX_VENV) -c $(CONSTRAINTS) -e '.[dev]'; \
	else \
		$(INTERPRETER) -m venv $(AUXJAX_VENV) && \
		$(AUXJAX_VENV)/bin/python -m pip install -qq -c $(CONSTRAINTS) -e '.[dev]'; \
	fi
	@touch $@
