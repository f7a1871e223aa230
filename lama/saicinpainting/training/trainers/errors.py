"""Errors of the two files that a network is loaded from; each text is one line."""


class CheckpointError(Exception):
    """The network cannot be loaded; the message says which file is wrong, why, and what to do."""


class UnsafeCheckpointError(CheckpointError):
    """The file asks for more than tensors. Nothing in it was run."""


class MismatchError(CheckpointError):
    """The file holds a generator, but not the one that the config describes."""


class ConfigError(CheckpointError):
    """The training config cannot be read, or needs something that this generator does not have."""
