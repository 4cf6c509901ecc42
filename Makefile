# The verbs of the project. CI (.ci/run) calls the same.
.PHONY: setup check test bench mutants build demo demo-live demo-metrics lock clean
PY = .venv/bin/python

setup:
	@scripts/setup.sh

check: setup
	@scripts/check.sh

test: setup
	@$(PY) -m scripts.run_tests

bench: setup
	@$(PY) -m scripts.run_bench

mutants: setup
	@$(PY) -m scripts.mutants

build: setup
	@rm -rf dist && $(PY) -m build --no-isolation --outdir dist . && ls -l dist

demo: setup
	@scripts/demo.sh

demo-live: setup
	@scripts/demo.sh live

demo-metrics: setup
	@$(PY) -m examples.demo_metrics

lock:
	@scripts/lock.sh

clean:
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
