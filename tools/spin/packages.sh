#!/bin/sh
# Install what the model of the switch protocol is checked with: spin and a C compiler. Not as root: it names what to install.
set -eu

packages=""
command -v spin >/dev/null || packages="$packages spin"
command -v cc >/dev/null || command -v gcc >/dev/null || packages="$packages gcc libc6-dev"
"$(dirname "$0")/../debian.sh" "or do without the tests marked spin" $packages
