# Every verb fills .venv first, and only when pyproject.toml or constraints.txt changed.
# The same steps without make stand in README.md.
PYTHON ?= python3
JOBS ?= 2
# Processes of `make test`; each computes with one thread.
WORKERS ?= 2
BIN := .venv/bin
# The stamp's name holds the content of the pins: a checkout that only touches the files installs nothing.
STAMP := .venv/.pins-$(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')

.PHONY: help demo test test-gpu test-faults test-browser lint lab reference clean
help:
	@echo "make demo   train the teacher and the students, clock them, write results/demo/report.html"
	@echo "make test   run the tests"
	@echo "make test-gpu  run the tests of devices and of the GPU's kernel on a CUDA GPU"
	@echo "make test-faults  kill, fill, damage what the commands work on, then compare (FAULTS='--kills 500 --minutes 30' by default)"
	@echo "make test-browser  run the notebooks, the explorer and the report in Chromium; pictures in .screenshots"
	@echo "make lint   check style and types"
	@echo "make lab    open the notebooks in JupyterLab"
	@echo "make reference  copy the measured demo to results/reference (SUITE=name for another suite, INTO=name there)"
	@echo "make clean  remove .venv, caches and build leftovers (results and built data stay)"

$(STAMP):
	$(PYTHON) -c 'import sys; sys.exit("expected Python 3.11 or newer, but got " + sys.version.split()[0] + "; use make PYTHON=/path/to/python" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,ray,peers,check]'
	rm -f .venv/.pins-*
	touch $@

demo: $(STAMP)
	$(BIN)/dipair run notebooks/suites/demo.yaml --jobs $(JOBS)
	@echo "Open $(CURDIR)/results/demo/report.html"

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Needs no package that the library itself does not: without make, in the project's folder, the same command by any Python that has it.
test-gpu: $(STAMP)
	TRITON_INTERPRET=0 $(BIN)/python -m pytest tests/test_gpu.py tests/test_devices.py

FAULTS ?= --kills 500 --minutes 30
test-faults: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m faults $(FAULTS)

test-browser: $(STAMP)
	$(BIN)/python -m pytest tests/browser

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lab: $(STAMP)
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=notebooks --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

# What is committed of a measured suite: rows, report, the executed comparison, its pictures; numbers only, no texts.
SUITE ?= demo
INTO ?= $(SUITE)
TO = results/reference/$(INTO)
reference: $(STAMP)
	mkdir -p $(TO)
	cp results/$(SUITE)/rows.jsonl results/$(SUITE)/report.html $(wildcard results/$(SUITE)/architectures.json) $(TO)/
	$(BIN)/python -c "import glob, nbformat; \
		done = [p for p in glob.glob('results/$(SUITE)/notebooks/04_tradeoff-*.ipynb') if not p.endswith('.failed.ipynb')]; \
		nb = nbformat.read(done[-1], 4); \
		[part.metadata.pop('papermill', 0) for part in (nb, *nb.cells)]; \
		[c.update(outputs=[o for o in c.outputs if o.get('name') != 'stderr']) for c in nb.cells if c.cell_type == 'code']; \
		nbformat.write(nb, '$(TO)/04_tradeoff.ipynb')"
	$(BIN)/python -c "from dipair_lib.reporting import explorer_picture; \
		from dipair_lib.reporting.studies import ablation_figure, study_figure; \
		[save('results/$(SUITE)', '$(TO)') for save in \
			(explorer_picture.save_picture, ablation_figure.save_pictures, study_figure.save_pictures)]"

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .screenshots
	find dipair_lib tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
