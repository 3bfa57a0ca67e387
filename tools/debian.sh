#!/bin/sh
# debian.sh OTHERWISE [PACKAGE ...]: install Debian's packages. Not as root: name them, and what to do otherwise.
set -eu

otherwise=$1
shift
[ $# -gt 0 ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing OS packages: $*"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
else
  echo "missing OS packages: run 'sudo apt-get install $*', $otherwise" >&2
  exit 1
fi
