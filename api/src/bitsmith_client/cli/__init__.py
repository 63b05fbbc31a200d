"""The `bitsmith` command line."""

from bitsmith_client.cli.app import app

__all__ = ["app"]
