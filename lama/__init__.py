"""The inpainting network: reading its weights and running it. Knows nothing of queues."""
