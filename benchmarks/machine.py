"""A description of this machine, to be published with every figure."""

from __future__ import annotations

import os
import platform
import resource
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: Packages whose version a figure depends on, where they are installed.
_PACKAGES = ("torch", "numpy", "redis", "onnxruntime", "openvino")

#: Processor flags that decide how fast products of matrices are.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve", "bf16")

#: A program that runs a command of the worker, with its arguments, and prints the most memory that
#: this process held, and what it held once torch was loaded (which is more with CUDA), in bytes.
#: ru_maxrss begins with the memory of the process that has forked it.
MEASURED_WORKER = """
import sys, torch, worker
from benchmarks.machine import peak_bytes
before = peak_bytes()
status = worker.main(sys.argv[1:])
print(peak_bytes(), before)
sys.exit(status)
"""


def describe() -> dict[str, Any]:
    """Processor, memory, GPU, system and versions, for JSON."""
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in _FLAGS if flag in _cpuinfo("flags", "features").split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def now() -> str:
    """The time in UTC, for JSON."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def resident_bytes() -> int:
    """Memory that this process holds at present."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory that this process has held since `reset_peak`."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    """Let `peak_bytes` count from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def _cpuinfo(*names: str) -> str:
    """A field of the first processor in /proc/cpuinfo; '' where the system has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((text.strip() for key, _, text in fields if key.strip().lower() in names), "")


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpu() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(0)
    return f"{about.name}, {about.total_memory / 1e9:.0f} GB"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
