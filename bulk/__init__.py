"""Inpaints whole folders of pictures, without a queue and without shared memory.

The same stages (`stages`) run in threads of this process (`local`) or in tasks and actors of a Ray
cluster (`on_ray`).
"""
