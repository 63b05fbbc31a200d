"""Every address of the API. A route parses, calls one service, and renders; a branch belongs below."""

from bitsmith_api.routes import events, files, health, jobs, models

public = [health.router]
behind_key = [files.router, jobs.router, events.router, models.router]

__all__ = ["behind_key", "public"]
