"""What can be wrong with the two files that a network is made from. One line each."""


class CheckpointError(Exception):
    """The network can't be made from these files; the message says which, why, and what to do."""


class UnsafeCheckpointError(CheckpointError):
    """The file asks for more than tensors. Nothing in it was run."""


class MismatchError(CheckpointError):
    """The file holds a generator, but not the one that the config describes."""


class ConfigError(CheckpointError):
    """The training config can't be read, or asks for what this generator doesn't have."""
