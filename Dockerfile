# The worker's image. Build it in the project's folder: docker build -t inpainting-worker .
#
# The base image has Python (3.11 or later) and usually torch (2.9 or later), which is kept. A base
# without torch gets the version in base_requirements.txt. The default needs an NVIDIA driver 580 or
# later and a GTX 16, RTX 20 or newer. Other choices, as --build-arg:
#   BASE_IMAGE=pytorch/pytorch:2.14.1-cuda12.6-cudnn9-runtime
#       drivers from 525 on, also GTX 10, but not the RTX 50 series
#   BASE_IMAGE=python:3.13-slim TORCH_INDEX_URL=(PyTorch's index of CPU wheels)
#       no GPU and no CUDA: 1.2 GB
ARG BASE_IMAGE=pytorch/pytorch:2.14.1-cuda13.0-cudnn9-runtime
FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="inpainting-worker" \
    org.opencontainers.image.description="Erases text from pictures with LaMa" \
    org.opencontainers.image.licenses="MIT"

# Bytecode is compiled below. Nothing is written at run time, neither here nor in a mounted core/, so
# that the image works under any uid and with a read-only root file system.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app

ARG TORCH_INDEX_URL=
COPY base_requirements.txt deploy/install-dependencies.sh /opt/inpainting-worker/
RUN sh /opt/inpainting-worker/install-dependencies.sh /opt/inpainting-worker/base_requirements.txt

# To use your own weights, mount a folder over /model. Deployments use either of the two paths of the
# checkpoint.
ENV LAMA_CHECKPOINT_PATH=/model/best.ckpt
COPY lama-fourier/config.yaml lama-fourier/models/best.ckpt /model/
RUN mkdir /model/models && ln -s ../best.ckpt /model/models/best.ckpt

# The pipeline's compose file runs the second worker.py, or mounts its own there.
ENV PYTHONPATH=/app
COPY lama lama/
COPY core core/
COPY bulk bulk/
COPY worker.py ./
COPY worker.py workers/inpainting_worker/
# A checkout made under a strict umask has files that only root can read. If the base lacks a library, or
# a COPY is missing above, the import fails at build time and not at the first start.
RUN find /app /model \( -type d ! -perm -555 -o -type f ! -perm -444 \) -exec chmod a+rX {} + \
    && python -m compileall -q /app \
    && python -c 'import bulk.run, core.admin.metrics, core.client, core.flow.service, lama.bin.inference, worker'

# There is no USER: segments have mode 0600, so that only the uid that created them can open them, and
# the programs of the pipeline run as root. If yours run under another uid, start the worker under the
# same uid (--user 1234).
STOPSIGNAL SIGTERM
# Metrics, health and the status page. The start period covers loading a model from a cold disk.
# 0.0.0.0, so that `docker run -p` and the probes of Kubernetes reach it.
ENV ADMIN_HOST=0.0.0.0
EXPOSE 5262
HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=3 \
    CMD ["python", "/app/worker.py", "health"]
ENTRYPOINT []
CMD ["python", "worker.py"]
