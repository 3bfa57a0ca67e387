#!/bin/sh
# Install the libraries that Mooncake is linked against, RDMA's among them. Not as root: it names what to install.
set -eu

has() { ldconfig -p 2>/dev/null | grep -q "$1"; }
packages=""
has 'libibverbs\.so\.1' || packages="$packages libibverbs1"
has 'librdmacm\.so\.1' || packages="$packages librdmacm1"
has 'libcurl\.so\.4' || packages="$packages libcurl4"
has 'libnuma\.so\.1' || packages="$packages libnuma1"
"$(dirname "$0")/../debian.sh" "or do without Mooncake" $packages
