#!/bin/sh
# Runs while the image is built: installs what the worker needs into the base image's Python.
#   install-dependencies.sh base_requirements.txt
# A torch that the base brings is kept: it fits the base's CUDA. A base without one gets the pinned
# torch, from the package index TORCH_INDEX_URL if that is set.
set -eu
requirements=$1
oldest_python="3, 11"
oldest_torch="2, 9"

fail() {
    echo "install-dependencies.sh: $*" >&2
    exit 1
}

# `python` is what containers are started with; Debian's is called python3 only.
if ! command -v python > /dev/null && command -v python3 > /dev/null; then
    ln -s "$(command -v python3)" /usr/local/bin/python
fi
if ! python -m pip --version > /dev/null 2>&1; then
    command -v apt-get > /dev/null || fail "the base image has no pip and no apt-get to install it"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        ca-certificates python3 python3-pip
    rm -rf /var/lib/apt/lists/*
    command -v python > /dev/null || ln -s "$(command -v python3)" /usr/local/bin/python
fi
found=$(python -c 'import platform; print(platform.python_version())')
python -c "import sys; sys.exit(sys.version_info < ($oldest_python))" ||
    fail "the base image has Python $found; 3.11 or later is needed: choose another BASE_IMAGE"

export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Debian's and Ubuntu's Pythons refuse otherwise (PEP 668); in an image they serve nobody else.
export PIP_BREAK_SYSTEM_PACKAGES=1

if python -c 'import torch' 2> /dev/null; then
    origin="the base image's"
else
    origin="installed"
    python -m pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
        "$(grep '^torch==' "$requirements")"
fi
torch=$(python -W ignore -c 'import torch; print(torch.__version__)')
python -W ignore -c "import sys, torch; sys.exit(
    tuple(int(part) for part in torch.__version__.split('.')[:2]) < ($oldest_torch))" ||
    fail "the base image has torch $torch; 2.9 or later is needed: choose another BASE_IMAGE"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
grep -v '^torch==' "$requirements" > "$scratch/requirements.txt"
# PyPI's torch calls itself 2.13.0 where the module says 2.13.0+cu130: pip knows the former.
python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
    > "$scratch/constraints.txt"
python -m pip install -c "$scratch/constraints.txt" -r "$scratch/requirements.txt"
echo "install-dependencies.sh: Python $found, torch $torch ($origin)"
