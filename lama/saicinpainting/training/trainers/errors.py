"""Errors of the two files that a network is loaded from; each text is one line."""


class CheckpointError(Exception):
    """The network cannot be loaded; the message says which file is wrong, why, and what to do."""


class UnsafeCheckpointError(CheckpointError):
    """The file names something that could run. Nothing in it was run."""


class MismatchError(CheckpointError):
    """The file holds a generator, but none that is supported, or not the one of the config."""


class ConfigError(CheckpointError):
    """The training config cannot be read, or needs something that this generator does not have."""


def one_line(error: BaseException) -> str:
    """An error's text without line breaks, which names in a file may have."""
    return " ".join(str(error).split()) or type(error).__name__
