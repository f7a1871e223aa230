"""Decides which names a checkpoint's pickle may have.

No name is ever imported, so a foreign class costs nothing and is passed over. A name that could run
something has no place beside weights: such a file is refused as a whole.
"""

from __future__ import annotations

import re
import sys

#: What Python 2 called its modules, as far as data in a checkpoint names them.
_PYTHON_2 = {"__builtin__": "builtins", "exceptions": "builtins", "copy_reg": "copyreg"}

#: Types of `builtins` that hold data.
_BUILTINS = {
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list",
    "long", "object", "range", "set", "slice", "str", "tuple", "type", "unicode", "xrange",
    "Ellipsis", "NotImplemented",
}  # fmt: skip

#: Modules of Python that have only data in checkpoints.
_DATA_MODULES = {
    "abc", "collections", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "ipaddress", "logging", "ntpath", "numbers", "pathlib", "random", "time", "typing", "uuid",
    "zoneinfo",
}  # fmt: skip

#: Names of other modules of Python that checkpoints have.
_DATA_NAMES = {
    "_codecs.encode",
    "argparse.Namespace",
    "array.array",
    "copyreg._reconstructor",
    "functools.partial",
    "re._compile",
    "types.MappingProxyType",
    "types.SimpleNamespace",
}

#: Modules that are not in every Python, and packages whose purpose is to load or run code.
_RUNNING_MODULES = {
    "IPython", "asyncore", "cgi", "cloudpickle", "code", "commands", "dill", "distutils", "imp",
    "nt", "os", "os2", "paramiko", "pexpect", "pip", "pipes", "pkg_resources", "popen2",
    "posix", "setuptools", "sh", "thread", "urllib2",
}  # fmt: skip

#: Functions that run, load or open something, in any module.
_RUNNING_NAMES = {
    "__getattribute__", "__import__", "call", "check_call", "check_output", "compile",
    "delattr", "eval", "exec", "exec_module", "execfile", "execl", "execv", "execve",
    "fromfile", "getattr", "getoutput", "getstatusoutput", "globals", "import_module",
    "import_string", "input", "load", "load_library", "load_module", "loads", "locals",
    "memmap", "open", "popen", "Popen", "read_pickle", "reload", "remove", "rmtree", "run",
    "run_module", "run_path", "runcode", "runsource", "runstring", "setattr", "spawn", "spawnl",
    "spawnv", "startfile", "system", "unlink", "urlopen", "vars",
}  # fmt: skip

#: What torch's own files and modules with weights name.
_TORCH = re.compile(
    r"torch\.(?:Size|Tensor|Generator|device|layout|dtype|memory_format|strided|contiguous_format"
    r"|channels_last|preserve_format|per_\w+|(?:cuda\.)?\w+Storage|(?:cuda\.)?\w+Tensor"
    r"|q?u?int\w+|b?float\w+|bool|half|double|complex\w+|short|long"
    r"|_utils\._rebuild_\w+|_tensor\._rebuild_from_type_v2|serialization\._get_layout"
    r"|jit\._pickle\.(?:build_\w+|restore_type_tag)"
    r"|(?:nn|optim|storage|amp|cuda\.amp|distributions|random|ao|quantization)\..+)"
)


def dotted(module: str, name: str) -> str:
    """A pickle's name as Python 3 spells it: `builtins.eval`."""
    return f"{_PYTHON_2.get(module, module)}.{name}"


def could_run(name: str) -> bool:
    """Whether a dotted name is, or may be, something that runs, loads or opens."""
    if name.startswith("__torch__."):
        # TorchScript's classes. Their code is in entries of their own, which nobody reads.
        return False
    parts = name.split(".")
    if name in _DATA_NAMES:
        return False
    if parts[-1] in _RUNNING_NAMES or parts[0] in _RUNNING_MODULES:
        return True
    if parts[0] == "builtins":
        return parts[-1] not in _BUILTINS and not parts[-1].endswith(("Error", "Exception"))
    if parts[0] == "torch":
        return not _TORCH.fullmatch(name)
    if parts[0] == "numpy":
        return bool({"f2py", "testing", "distutils", "ctypeslib"} & set(parts))
    # `__main__` is the script that saved the file.
    in_python = parts[0] in sys.stdlib_module_names and parts[0] != "__main__"
    return in_python and parts[0] not in _DATA_MODULES
