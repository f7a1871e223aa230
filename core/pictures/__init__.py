"""Picture files: decoded to pixels, encoded again, and their masks. No shared memory, no Redis."""
