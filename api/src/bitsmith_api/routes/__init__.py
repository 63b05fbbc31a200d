"""Every address of the API. A route parses, calls one service, and renders; a branch belongs below."""

from bitsmith_api.routes import (
    aliases,
    api_keys,
    attempts,
    audit,
    chat,
    checkpoints,
    evals,
    events,
    files,
    health,
    jobs,
    logs,
    metrics,
    models,
    projects,
    session,
    ui,
    uploads,
    usage,
    versions,
    webhooks,
    workers,
)

public = [health.router, session.door, ui.router]
behind_key = [
    files.router,
    uploads.router,
    jobs.router,
    events.router,
    metrics.router,
    logs.router,
    checkpoints.router,
    attempts.router,
    models.router,
    evals.router,
    versions.router,
    aliases.router,
    chat.router,
    projects.router,
    api_keys.router,
    audit.router,
    webhooks.router,
    usage.router,
    session.router,
    workers.router,
]

__all__ = ["behind_key", "public"]
