"""The worker's errors, as a tree.

Errors at start-up end the process with one line. A `JobError` concerns one job only: its `reason`
is a short code for programs, its text a sentence for people.
"""

INSTALL = (
    "./run python worker.py … installs it into .venv and uses it; without ./run: "
    "pip install -r base_requirements.txt"
)


def import_problem(error: ImportError) -> str:
    """Why an import failed: a package is not installed, or modules do not go together."""
    package = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package not in ("", "core", "lama", "bulk"):
        return f"the package {package} is not installed. {INSTALL}"
    return f"core/, lama/ and what is installed do not go together: {error}"


class WorkerError(Exception):
    """The root of every error that the worker raises on purpose."""


class SettingsError(WorkerError):
    """An environment variable has a value that is not allowed."""


class ModelUnavailable(WorkerError):
    """The network cannot be loaded from the configured files."""


class NoGpu(WorkerError):
    """USE_CUDA=require, and there is no GPU that can be used."""

    FIX = (
        "install the driver (in Docker also --gpus all and the NVIDIA container toolkit), or set "
        "USE_CUDA=0"
    )


class NoFreePort(WorkerError):
    """The admin port cannot be where ADMIN_PORT says."""


class RedisUnsuitable(WorkerError):
    """The Redis server answers, but cannot serve the configured delivery mode."""


class RedisRefusal(WorkerError):
    """The Redis server refuses a call for a permanent reason."""


class NoSharedMemory(WorkerError):
    """There is no /dev/shm, through which all pictures are passed."""


class HungInference(WorkerError):
    """The network did not return within INFERENCE_TIMEOUT_S; only a new process can help."""


class DeviceFault(WorkerError):
    """The device fails at every input; only a new process can help."""


class OutOfSharedMemory(WorkerError):
    """There is no room in /dev/shm for a result at present."""


class SharedMemoryRefusal(WorkerError):
    """Shared memory takes no result of this process, whatever the job is."""


class JobError(WorkerError):
    """A job cannot be done."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Expired(JobError):
    """The job was not begun before its `expires_at`."""


class BadMessage(JobError):
    """The message or its segments are invalid: no attempt can succeed."""


class TransientFailure(JobError):
    """The job failed but may succeed when it is retried."""
