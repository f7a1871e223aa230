"""The inpainting network: weights, inference and training. No Redis, no shared memory."""
