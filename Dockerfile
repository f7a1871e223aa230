# The worker's image; built in the project's folder: docker build -t inpainting-worker .
#
# The base brings Python (3.11 or later) and, usually, torch (2.9 or later), which is kept. A base
# without torch gets the one that base_requirements.txt names. The default needs an NVIDIA driver
# from 580 on and a GTX 16 or RTX 20 or newer. Other choices, as --build-arg:
#   BASE_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime
#       drivers from 525 on, GTX 10 too, but not the RTX 50 series
#   BASE_IMAGE=python:3.13-slim TORCH_INDEX_URL=(PyTorch's index of wheels for CPUs)
#       no GPU; about a tenth of the size
ARG BASE_IMAGE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime
FROM ${BASE_IMAGE}

# Bytecode is compiled below. Nothing is written at run time, neither here nor in a mounted core/,
# so that any uid will do, and a read-only root file system.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app

ARG TORCH_INDEX_URL=
COPY base_requirements.txt deploy/install-dependencies.sh /opt/inpainting-worker/
RUN sh /opt/inpainting-worker/install-dependencies.sh /opt/inpainting-worker/base_requirements.txt

# Weights of your own go here too: mount a folder over /model. Deployments know the checkpoint under
# either of the two paths.
ENV LAMA_CONFIG_PATH=/model/config.yaml \
    LAMA_CHECKPOINT_PATH=/model/best.ckpt
COPY lama-fourier/config.yaml lama-fourier/models/best.ckpt /model/
RUN mkdir /model/models && ln -s ../best.ckpt /model/models/best.ckpt

# The second worker.py is where the pipeline's compose file runs it, or mounts its own.
ENV PYTHONPATH=/app
COPY lama lama/
COPY core core/
COPY bulk bulk/
COPY worker.py ./
COPY worker.py workers/inpainting_worker/
# A checkout made under a strict umask has files that only root can read. The import fails the build,
# and not the first start, where the base lacks a library or this file a COPY.
RUN find /app /model \( -type d ! -perm -555 -o -type f ! -perm -444 \) -exec chmod a+rX {} + \
    && python -m compileall -q /app \
    && python -c 'import bulk.run, core.admin.metrics, core.client, core.flow.service, lama.bin.inference, worker'

# There is no USER: segments have mode 0600 and open only for the uid that made them, and the
# programs of the pipeline run as root. Where yours run under another uid, start the worker under
# the same one (--user 1234).
STOPSIGNAL SIGTERM
# Metrics, health and the status page; loading a model from a cold disk takes a while.
EXPOSE 9090
HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=3 \
    CMD ["python", "/app/worker.py", "health"]
ENTRYPOINT []
CMD ["python", "worker.py"]
