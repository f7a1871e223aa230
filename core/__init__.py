"""The worker: queues, shared memory, batches and their stages.

`core.network` is the only module that imports the network.
"""

#: Lets `worker.py` tell this package from another one of the same name mounted over it.
PROJECT = "inpainting-worker"

__version__ = "0.1.0"
