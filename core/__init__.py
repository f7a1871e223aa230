"""The worker: queues, shared memory, batches and their stages.

`core.network` is the only module that imports the network.
"""

#: By this, `worker.py` recognises the package: another `core` may be mounted over it.
PROJECT = "inpainting-worker"

__version__ = "0.1.0"
