# Everything starts here: `make reproduce`, `make test`, `make study`, `make lab`. Each sets up .venv first if that has not been done.
BIN := .venv/bin
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(SUITABLE)' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: setup reproduce study test test-slow lab pictures bench lock clean

reproduce: setup  ## the main job on the built-in phantom; ends with outputs/report/index.html
	$(BIN)/python -m pneumo_nb reproduce

study: setup  ## the paper's numbers of patients, both mixes of disease: outputs/reference/study; goes on where it was stopped
	$(BIN)/python -m pneumo_nb reproduce --params notebooks/params/study.yaml --reference study
	$(BIN)/python -m pneumo_nb reproduce --params notebooks/params/study.yaml --reference study \
		-p DATASET phantom-study-screening -p MIX screening
	$(BIN)/python -m pneumo_nb reproduce --params notebooks/params/study.yaml --reference study \
		-p NORM_STATISTICS training_set --only 02,03,04,05,06
	$(BIN)/python -m pneumo_nb reproduce --params notebooks/params/study.yaml --reference study \
		-p DATASET phantom-study-screening -p MIX screening -p NORM_STATISTICS training_set --only 03,04,05,06

test: setup  ## every check of a change: style, the notebooks against their stored outputs, the tests of the module
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -p tests.private_kernels --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=1200 notebooks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=10

test-slow: setup  ## the rest: more kills, more faults, more shapes of what `make test` tries
	$(BIN)/python -m pytest -m slow

lab: setup  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

pictures: setup  ## the README's pictures, from the committed notebooks
	$(BIN)/python notebooks/pictures/make.py

bench: setup  ## training beside the reference recipe; with DEVICE=cuda at the paper's size on a GPU
	$(BIN)/python -m tests.benchmarks.bench_training \
		$(if $(filter cuda,$(DEVICE)),--at paper --device cuda --set precision=tf32,--at smoke)

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.14 found: install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c "import venv, ensurepip" 2>/dev/null || { echo "$(PYTHON) comes without venv here: on Debian and Ubuntu," \
		"apt install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

lock:  ## pin again after a change of dependencies; needs uv
	uv pip compile pyproject.toml --extra test --universal --python-version 3.11 --no-header --no-annotate \
		--generate-hashes --quiet --output-file requirements.lock

clean:  ## remove what the project made, but not the environment; data/raw holds only phantoms
	rm -rf data/raw data/prepared data/suspected_text outputs/runs outputs/executed outputs/report
