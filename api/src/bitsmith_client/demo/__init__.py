"""One real job on a real model, through the REST API only."""

from bitsmith_client.demo.run import DemoFailed, run

__all__ = ["DemoFailed", "run"]
