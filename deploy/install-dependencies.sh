#!/bin/sh
# Installs the worker's dependencies into the base image's Python while the image is built.
#   install-dependencies.sh base_requirements.txt
# If the base image has torch, it is kept, since it matches the CUDA of the base. Otherwise the pinned
# torch is installed, from the package index TORCH_INDEX_URL if that is set.
set -eu
requirements=$1
oldest_python="3, 11"
oldest_torch="2, 9"

fail() {
    echo "install-dependencies.sh: $*" >&2
    exit 1
}

# Containers are started with `python`; Debian has only python3.
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
# pip refuses otherwise on Debian and Ubuntu (PEP 668); in an image nothing else uses this Python.
export PIP_BREAK_SYSTEM_PACKAGES=1

if python -c 'import torch' 2> /dev/null; then
    origin="the base image's"
else
    origin="installed"
    python -m pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
        "$(grep '^torch==' "$requirements")"
    # What only C++ programs need, and torch's own tests: 0.2 GB.
    folder=$(python -W ignore -c 'import torch; print(*torch.__path__)')
    rm -rf "$folder/include" "$folder/test" "$folder"/bin/*[Tt]est* "$folder"/bin/protoc*
fi
torch=$(python -W ignore -c 'import torch; print(torch.__version__)')
python -W ignore -c "import sys, torch; sys.exit(
    tuple(int(part) for part in torch.__version__.split('.')[:2]) < ($oldest_torch))" ||
    fail "the base image has torch $torch; 2.9 or later is needed: choose another BASE_IMAGE"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
grep -v '^torch==' "$requirements" > "$scratch/requirements.txt"
# The metadata of PyPI's torch says 2.14.1, the module 2.14.1+cu130. pip needs the former.
python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
    > "$scratch/constraints.txt"
python -m pip install -c "$scratch/constraints.txt" -r "$scratch/requirements.txt"
echo "install-dependencies.sh: Python $found, torch $torch ($origin)"
