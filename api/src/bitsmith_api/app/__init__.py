"""The FastAPI application and its process."""

from bitsmith_api.app.factory import create_app
from bitsmith_api.app.server import main

__all__ = ["create_app", "main"]
