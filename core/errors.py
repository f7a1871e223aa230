"""What can go wrong, as a tree.

Errors at start-up end the process with one line. A `JobError` concerns one job and nothing else:
its `reason` is a short code for programs, its text a sentence for people.
"""


class WorkerError(Exception):
    """The root of every error that the worker raises on purpose."""


class SettingsError(WorkerError):
    """An environment variable has a value that is not allowed."""


class ModelUnavailable(WorkerError):
    """The network cannot be loaded from the configured files."""


class RedisUnsuitable(WorkerError):
    """The Redis server answers, but cannot serve the configured delivery mode."""


class RedisRefusal(WorkerError):
    """The Redis server refuses a call that can never succeed as things are."""


class NoSharedMemory(WorkerError):
    """There is no /dev/shm, where all pictures travel."""


class HungInference(WorkerError):
    """The network did not return within INFERENCE_TIMEOUT_S; only a new process can help."""


class DeviceFault(WorkerError):
    """The device fails at whatever it is given; only a new process can help."""


class OutOfSharedMemory(WorkerError):
    """There is no room in /dev/shm for a result at present."""


class JobError(WorkerError):
    """A job cannot be done."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadMessage(JobError):
    """The message or its segments can never lead to a result, however often it is tried."""


class TransientFailure(JobError):
    """The job failed now but may succeed when it is tried again."""
