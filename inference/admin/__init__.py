"""What operators see of requests, of the catalogue, and of who serves what the marketplace keeps."""

from inference.admin import models, requests

__all__ = ["models", "requests"]
