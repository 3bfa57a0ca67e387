#!/bin/sh
# Pin requirements/*.txt anew from pyproject.toml: hashes, and no address of any package index.
set -eu
cd "$(dirname "$0")/.."
compile() { .venv/bin/uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-emit-index-url --no-header "$@"; }
compile pyproject.toml --extra cpu --extra mooncake --extra dev --override requirements/overrides-cpu.txt -o requirements/cpu.txt
compile pyproject.toml --extra gpu --extra mooncake -o requirements/gpu.txt
