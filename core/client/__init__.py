"""The client side of the contract: pictures and files are submitted, and results fetched."""

from core.client.client import Client, Prepared, Submission, SubmitError, prepare, suitable_kind

__all__ = ["Client", "Prepared", "Submission", "SubmitError", "prepare", "suitable_kind"]
