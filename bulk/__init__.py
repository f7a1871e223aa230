"""Whole folders of pictures: read, filled and written without a queue and without shared memory.

The stages (`stages`) are the same functions whether threads of this process run them (`local`) or
the tasks and actors of a cluster (`on_ray`).
"""
