#!/bin/sh
# Install the libraries that Mooncake is linked against, RDMA's among them. Not as root: it names what to install.
set -eu

has() { ldconfig -p 2>/dev/null | grep -q "$1"; }
packages=""
has 'libibverbs\.so\.1' || packages="$packages libibverbs1"
has 'librdmacm\.so\.1' || packages="$packages librdmacm1"
has 'libcurl\.so\.4' || packages="$packages libcurl4"
has 'libnuma\.so\.1' || packages="$packages libnuma1"
if [ -n "$packages" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing OS packages:$packages"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
  else
    echo "missing OS packages: run 'sudo apt-get install$packages', or do without Mooncake" >&2
    exit 1
  fi
fi
