"""Everything that needs a GPU, in one run of at most eight minutes.

    python -m benchmarks.gpu

Each part is a process of its own with a time limit (`program.py`), so that an error, a device that
fails or a compiler that hangs ends that part only. `parts.py` lists them in the order of their
importance. Without a GPU the run is a rehearsal at a small size, whose figures mean nothing.
"""
