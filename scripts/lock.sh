#!/bin/sh
# Writes requirements.lock (run time), requirements-build.lock and requirements-dev.lock (all) from pyproject.toml.
# Universal: one file for every Python from 3.11 on and every architecture, hashes of all files.
# Needs uv (a package of that name). No index host may enter the files.
set -eu
cd "$(dirname "$0")/.."
compile() {
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --no-annotate "$@"
}
compile pyproject.toml --output-file requirements.lock
compile --group build --output-file requirements-build.lock
compile pyproject.toml --group dev --constraints requirements-build.lock --constraints requirements.lock --output-file requirements-dev.lock
