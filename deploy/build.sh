#!/bin/sh
# Builds the image without a Docker engine. Needs buildah and root.
#   deploy/build.sh [IMAGE]               the worker; IMAGE is inpainting-worker if left out
#   deploy/build.sh debian-base [IMAGE]   a base image made of Debian's packages, with python3 and
#                                         pip: IMAGE is localhost/debian-python if left out. Needs
#                                         debootstrap, but no image registry
# Environment:
#   BASE_IMAGE, TORCH_INDEX_URL   as in the Dockerfile; buildah may need the registry in the name
#   BUILD_VOLUMES     mounted during the build only, HOST:CONTAINER[:ro] separated by spaces: a
#                     company's certificates (/etc/ssl/certs), a folder with a pip.conf
#                     (/etc/xdg/pip), wheels. A folder that the base lacks stays in the image, empty
#   STORE             the folder for images; buildah's default if left out
#   STORAGE_DRIVER    overlay, or vfs where overlay doesn't work. vfs copies the whole tree for each
#                     cached step, so that only the last step is cached: builds are not resumed
#   DEBIAN_SUITE, DEBIAN_MIRROR   for debian-base; default bookworm and debootstrap's mirror
# Without any registry:
#   deploy/build.sh debian-base && BASE_IMAGE=localhost/debian-python deploy/build.sh
# To run the result, with the host's shared memory and network:
#   worker=$(buildah from inpainting-worker)
#   buildah run --isolation chroot -v /dev/shm:/dev/shm "$worker" -- python worker.py
set -eu
cd "$(dirname "$0")/.."

# The variable alone has no effect where buildah's configuration or its build names another driver.
store() {
    [ -z "${STORE:-}" ] || set -- --root "$STORE" --runroot "$STORE/run" "$@"
    [ -z "${STORAGE_DRIVER:-}" ] || set -- --storage-driver "$STORAGE_DRIVER" "$@"
    buildah "$@"
}

build_worker() {
    layers=true
    [ "${STORAGE_DRIVER:-}" != vfs ] || layers=false
    set -- --tag "$1" "--layers=$layers"
    [ -z "${BASE_IMAGE:-}" ] || set -- "$@" --build-arg "BASE_IMAGE=$BASE_IMAGE"
    [ -z "${TORCH_INDEX_URL:-}" ] || set -- "$@" --build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL"
    for volume in ${BUILD_VOLUMES:-}; do
        set -- "$@" --volume "$volume"
    done
    # chroot: without an engine the steps have no namespaces, so that they share the host's network.
    store bud --isolation chroot --format docker "$@" .
}

build_debian_base() {
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    chmod 755 "$tree"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip \
        "${DEBIAN_SUITE:-bookworm}" "$tree" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
    container=$(store from scratch)
    store add -q "$container" "$tree" / > /dev/null
    store config --cmd /bin/sh --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "$container"
    store commit -q --rm "$container" "$1"
}

case ${1:-} in
    -*) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p}' "$0" ;;
    debian-base) build_debian_base "${2:-localhost/debian-python}" ;;
    *) build_worker "${1:-inpainting-worker}" ;;
esac
