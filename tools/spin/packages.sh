#!/bin/sh
# Install what the model of the switch protocol is checked with: spin and a C compiler. Not as root: it names what to install.
set -eu

packages=""
command -v spin >/dev/null || packages="$packages spin"
command -v cc >/dev/null || command -v gcc >/dev/null || packages="$packages gcc libc6-dev"
if [ -n "$packages" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing OS packages:$packages"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
  else
    echo "missing OS packages: run 'sudo apt-get install$packages', or do without the tests marked spin" >&2
    exit 1
  fi
fi
