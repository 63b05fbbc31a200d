"""What is asked all the time costs what it answers with, not what the installation has ever done.

Tables are filled by INSERT ... SELECT generate_series in a transaction that is rolled back. Each question is asked by
the very function that routes, workers and schedulers call; the statements it sends are explained with the values that
it sent.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from bitsmith_core import files, identity, jobs, registry, uploads
from bitsmith_core.db import Database, Tx
from bitsmith_core.delivery import audit, deliveries
from bitsmith_core.identity import answers, keys, limits, projects
from bitsmith_core.ids import DEFAULT_PROJECT, ApiKeyId, CheckpointId, DeliveryId, FileId, JobId, WebhookId
from bitsmith_core.jobs import JobStatus, outbox, queries, shares
from bitsmith_core.jobs.queries import JobFilter
from bitsmith_core.registry import search
from bitsmith_core.wire import Note
from sqlalchemy import event, text

from tests.api import registry_questions

JOBS = 40_000
MOST_PAGES = 600  # of 8 KiB, for one statement; the jobs alone have three times as many
LONG = 2_000  # events of the job with the longest history
MODELS, VERSIONS_OF_EACH = 5_000, 2
WAITING = 100
MINUTE = timedelta(minutes=1)

BIG = {
    "api_keys", "attempts", "audit_events", "checkpoints", "eval_results", "evals", "files", "idempotency_keys",
    "job_events", "jobs", "log_chunks", "metric_chunks", "models", "outbox", "upload_parts", "uploads", "version_files",
    "versions", "webhook_deliveries",
}  # fmt: skip


def numbered(prefix: str, number: str = "n") -> str:
    """SQL: ids that sort as they are numbered."""
    return f"'{prefix}-' || lpad(({number})::text, 26, '0')"


def row(prefix: str, number: int) -> str:
    return f"{prefix}-{number:026d}"


FILL = f"""
SET LOCAL session_replication_role = replica;  -- no foreign keys are checked

INSERT INTO projects (id, name) SELECT {numbered("proj")}, 'project ' || n FROM generate_series(1, 9) n;

INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, examples, object_key, created_at)
SELECT {numbered("file")}, 'proj-default', 'training.jsonl', 'fine-tune', 1, repeat('0', 64), 1, 'files/sha256/' || n,
       timestamptz '2026-01-01' + n * interval '1 minute'
FROM generate_series(1, {JOBS}) n;

INSERT INTO jobs (id, project_id, spec, spec_sha256, base_model, training_file, validation_file, status, lease_token,
                  lease_worker, lease_expires_at, metadata, priority, attempt_no, last_seq, created_at, not_before,
                  finished_at)
SELECT {numbered("ftjob")},
       CASE WHEN n % 10 = 0 THEN {numbered("proj", "1 + n / 10 % 9")} ELSE 'proj-default' END,
       '{{"model": "hf:org/tiny"}}', repeat('0', 64),
       CASE n WHEN 8 THEN 'hf:org/rare' ELSE 'hf:org/' || n % 50 END, {numbered("file")}, {numbered("file")},
       s, CASE WHEN s = 'running' THEN gen_random_uuid() END, CASE WHEN s = 'running' THEN 'gpu-' || n END,
       CASE WHEN s = 'running' THEN now() + (n % 3 - 1) * interval '1 hour' END,
       CASE n WHEN 5 THEN '{{}}' WHEN 6 THEN '{{"team": "rare"}}'
              ELSE jsonb_build_object('team', 'team ' || n % 20) END,
       CASE n WHEN 7 THEN 10 ELSE 0 END, 1, CASE WHEN n = 1 THEN {LONG} ELSE 3 END, at, at,
       CASE WHEN s IN ('succeeded', 'failed', 'cancelled') THEN at END
FROM (
    SELECT n, timestamptz '2026-01-01' + n * interval '1 minute' AS at,
           CASE WHEN n > {JOBS} - {WAITING} THEN 'queued' WHEN n % 1000 = 1 THEN 'running'
                WHEN n % 1000 = 2 THEN 'paused' WHEN n % 10 = 3 THEN 'failed' WHEN n = 4 THEN 'cancelled'
                ELSE 'succeeded' END AS s
    FROM generate_series(1, {JOBS}) n
) numbered;

INSERT INTO attempts (job_id, number, worker, started_at, ended_at, outcome, gpu_seconds)
SELECT id, 1, 'gpu-0', created_at, CASE WHEN status <> 'running' THEN created_at + interval '30 s' END,
       CASE WHEN status <> 'running' THEN status END, 30
FROM jobs WHERE status <> 'queued';

INSERT INTO job_events (job_id, seq, type, level, message, data)
SELECT id, seq, 'message', 'info', 'Something happened.', '{{"event": "note"}}' FROM jobs, generate_series(1, 3) seq;
INSERT INTO job_events (job_id, seq, type, level, message, data)
SELECT {numbered("ftjob", "1")}, seq, 'message', 'info', 'Something happened.', '{{"event": "note"}}'
FROM generate_series(4, {LONG}) seq;

INSERT INTO checkpoints (id, job_id, stage, attempt, prefix, files)
SELECT {numbered("ftckpt")}, {numbered("ftjob")}, 'training', 1, 'jobs/' || n, '[]' FROM generate_series(1, {JOBS}) n;
INSERT INTO metric_chunks (job_id, attempt, stage, first_step, last_step, steps, columns)
SELECT {numbered("ftjob")}, 1, 'training', 1, 2, '[1, 2]', '{{"loss": [2, 1]}}' FROM generate_series(1, {JOBS}) n;
INSERT INTO log_chunks (job_id, attempt, number, object_key, bytes, lines)
SELECT {numbered("ftjob")}, 1, 0, 'jobs/' || n, 1, 1 FROM generate_series(1, {JOBS}) n;
INSERT INTO workers (name, device, local_models) SELECT 'gpu-' || n, 'cuda', '[]' FROM generate_series(0, 20) n;
INSERT INTO outbox (topic, payload, sent_at, created_at)
SELECT 'job.offered', jsonb_build_object('job_id', {numbered("ftjob")}), now(), now() FROM generate_series(1, {JOBS}) n;

INSERT INTO models (id, project_id, name, base_model)
SELECT {numbered("model")}, 'proj-default', 'model-' || lpad(n::text, 6, '0'), 'hf:org/' || n % 50
FROM generate_series(1, {MODELS}) n;
INSERT INTO versions (model_id, number, is_newest, job_id, manifest_sha256, manifest, bytes, weights_bytes, subject,
                      bpw_codes, bpw_effective)
SELECT {numbered("model")}, number, number = {VERSIONS_OF_EACH},
       {numbered("ftjob", f"n + {MODELS} * (number - 1)")}, repeat('0', 64), '{{}}', 1, n, 'qsft', 2.5, 2.7
FROM generate_series(1, {MODELS}) n, generate_series(1, {VERSIONS_OF_EACH}) number;
INSERT INTO version_files (version_id, path, bytes, sha256, object_key)
SELECT id, path, 1, repeat('0', 64), 'blobs/' || id || path FROM versions, unnest(ARRAY['a', 'b']) path;
INSERT INTO evals (id, version_id, job_id, engine, environment)
SELECT 'eval-' || id, id, job_id, 'bitsmith', '{{}}' FROM versions;
INSERT INTO eval_results (eval_id, version_id, subject, task, metric, value, n, n_unit, higher_is_better,
                          comparable_key, is_headline)
SELECT 'eval-' || id, id, 'qsft', task, 'accuracy', 0.5, 100, 'questions', true, 'key', true
FROM versions, unnest(ARRAY['a', 'b']) task;

INSERT INTO api_keys (id, project_id, name, role, secret_sha256)
SELECT {numbered("key")}, 'proj-default', 'a key', 'member', repeat('0', 64) FROM generate_series(1, 5000) n;
INSERT INTO idempotency_keys (project_id, key, request_sha256, status, answer, created_at)
SELECT 'proj-default', 'key ' || n, repeat('0', 64), 200, '{{}}', now() - n * interval '2 s'
FROM generate_series(1, {JOBS}) n;
INSERT INTO audit_events (project_id, actor, action, target, created_at)
SELECT 'proj-default', 'bootstrap', 'job.created', {numbered("ftjob")}, now() FROM generate_series(1, {JOBS}) n;
INSERT INTO webhooks (id, project_id, url, events, secret)
SELECT {numbered("wh")}, 'proj-default', 'https://example.org', '[]', 'whsec' FROM generate_series(1, 3) n;
INSERT INTO webhook_deliveries (id, webhook_id, type, payload, status, next_attempt_at, created_at)
SELECT {numbered("whd")}, {numbered("wh", "1 + n % 3")}, 'webhook.ping', '{{}}',
       CASE WHEN n % 1000 = 0 THEN 'pending' ELSE 'delivered' END, now(), now() - n * interval '1 minute'
FROM generate_series(1, {JOBS}) n;
INSERT INTO uploads (id, project_id, filename, purpose, mime_type, bytes, status, expires_at)
SELECT {numbered("upload")}, 'proj-default', 'a.jsonl', 'fine-tune', 'text/jsonl', 1,
       CASE WHEN n % 1000 = 0 THEN 'pending' ELSE 'completed' END, now() - interval '1 hour'
FROM generate_series(1, 10000) n;
INSERT INTO upload_parts (id, upload_id, bytes, object_key)
SELECT {numbered("part")}, {numbered("upload")}, 1, 'uploads/' || n FROM generate_series(1, 10000) n;

SET LOCAL session_replication_role = origin;
ANALYZE;
"""


@pytest.fixture(scope="module")
def full(_database: Database) -> Iterator[Tx]:
    """A transaction that sees tables as they are after years; nobody else ever does."""

    class RollBack(Exception):
        pass

    try:
        with _database.transaction() as tx:
            for statement in FILL.split(";\n"):
                tx.execute(text(statement.replace(":", "\\:")))
            jobs.figures.tally(tx)
            yield tx
            raise RollBack
    except RollBack:
        pass
    with _database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # the rows that never were still take their room


@dataclass(frozen=True, slots=True)
class Explained:
    statement: str
    plan: dict[str, Any]

    def nodes(self) -> Iterator[dict[str, Any]]:
        waiting = [self.plan]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.get("Plans", []))

    def told(self) -> str:
        return f"{self.pages} pages for {self.statement}\n{json.dumps(self.plan, indent=1)}"

    @property
    def pages(self) -> int:
        """Of tables and indexes that were looked at."""
        found: int = self.plan["Shared Hit Blocks"] + self.plan["Shared Read Blocks"]
        return found


def explain(tx: Tx, ask: Callable[[Tx], object]) -> list[Explained]:
    """How Postgres answers every statement of ask; what it wrote is taken back."""
    sent: list[tuple[str, Any]] = []

    def remember(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        sent.append((statement, parameters))

    connection = tx.connection()
    with undone(tx), listening(connection, remember):
        ask(tx)
    explained = []
    with undone(tx):  # explaining does it, too: the next statement finds what this one left
        for statement, parameters in sent:
            verb = statement.split(None, 1)[0].upper()
            if verb in {"SELECT", "UPDATE", "DELETE"} and "pg_advisory" not in statement:
                said = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
                explained.append(Explained(statement, said.scalar_one()[0]["Plan"]))
            elif verb == "INSERT":
                connection.exec_driver_sql(statement, parameters)
    assert explained, "nothing was asked"
    return explained


@contextmanager
def undone(tx: Tx) -> Iterator[None]:
    tx.expunge_all()
    savepoint = tx.begin_nested()
    tx.connection()  # only now the savepoint is made
    try:
        yield
    finally:
        savepoint.rollback()
        tx.expunge_all()


@contextmanager
def listening(connection: Any, remember: Callable[..., None]) -> Iterator[None]:
    event.listen(connection, "before_cursor_execute", remember)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", remember)


JOB, FIRST_JOB, LAST_JOB, WAITING_JOB = (JobId(row("ftjob", number)) for number in (JOBS // 2, 1, JOBS - WAITING, JOBS))
PAGE_IDS = [JobId(row("ftjob", number)) for number in range(JOBS - WAITING - 20, JOBS - WAITING)]


def job_page(tx: Tx, **how: Any) -> list[jobs.Job]:
    wanted = how.pop("wanted", JobFilter())
    return queries.page(tx, project=DEFAULT_PROJECT, limit=20, wanted=wanted, **how).jobs


def file_page(tx: Tx, **how: Any) -> object:
    return files.page(tx, project=DEFAULT_PROJECT, limit=20, **how)


def model_page(tx: Tx, **how: Any) -> object:
    return search.page(tx, project=DEFAULT_PROJECT, limit=20, **how)


def key_page(tx: Tx, **how: Any) -> object:
    return keys.page(tx, project=DEFAULT_PROJECT, limit=20, **how)


def delivery_page(tx: Tx, **how: Any) -> object:
    return deliveries.page(tx, WebhookId(row("wh", 1)), limit=20, **how)


def audit_page(tx: Tx, **how: Any) -> object:
    return audit.page(tx, project=DEFAULT_PROJECT, limit=20, **how)


def with_lease(act: Callable[[Tx, jobs.Lease], object]) -> Callable[[Tx], object]:
    def ask(tx: Tx) -> None:
        lease = jobs.claim(tx, WAITING_JOB, worker="gpu-1", ttl=MINUTE)
        assert lease is not None
        act(tx, lease)

    return ask


QUESTIONS: dict[str, Callable[[Tx], object]] = {
    "the oldest jobs": lambda tx: job_page(tx, is_newest_first=False),
    "a page before a job": lambda tx: job_page(tx, before=JOB),
    "jobs by a common status": lambda tx: job_page(tx, wanted=JobFilter(statuses=[JobStatus.SUCCEEDED])),
    "jobs that wait": lambda tx: job_page(tx, wanted=JobFilter(statuses=[JobStatus.QUEUED])),
    "jobs by their base": lambda tx: job_page(tx, wanted=JobFilter(models=["hf:org/7"])),
    "jobs by a rare status": lambda tx: job_page(tx, wanted=JobFilter(statuses=[JobStatus.CANCELLED])),
    "jobs by rare statuses": lambda tx: job_page(
        tx, wanted=JobFilter(statuses=[JobStatus.CANCELLED, JobStatus.PAUSED])
    ),
    "jobs by a rare base": lambda tx: job_page(tx, wanted=JobFilter(models=["hf:org/rare"])),
    "jobs by a rare priority": lambda tx: job_page(tx, wanted=JobFilter(priorities=[10])),
    "jobs by rare metadata": lambda tx: job_page(tx, wanted=JobFilter(labels={"team": "rare"})),
    "jobs without metadata": lambda tx: job_page(tx, wanted=JobFilter(has_no_labels=True)),
    "jobs by metadata": lambda tx: job_page(tx, wanted=JobFilter(labels={"team": "team 7"})),
    "a job": lambda tx: jobs.get(tx, JOB),
    "what the jobs of a page published": lambda tx: registry.outcomes_of(tx, PAGE_IDS),
    "the newest attempts of a page": lambda tx: queries.last_attempts(tx, PAGE_IDS),
    "the places of a page in the queue": lambda tx: queries.queue_places(tx, job_page(tx)),
    "events backwards": lambda tx: jobs.events_before(tx, FIRST_JOB, seq=LONG // 2, limit=20),
    "attempts": lambda tx: queries.attempt_page(tx, JOB, limit=20, after=None),
    "checkpoints": lambda tx: queries.checkpoint_page(tx, JOB, limit=20, after=CheckpointId("ftckpt-z")),
    "curves": lambda tx: queries.metric_series(tx, JOB, max_points=100),
    "logs": lambda tx: queries.log_chunks(tx, JOB),
    "a claim and what is written under it": with_lease(
        lambda tx, lease: jobs.record(tx, lease, Note(level="info", message="Hello."))
    ),
    "a heartbeat": with_lease(lambda tx, lease: jobs.extend(tx, lease, ttl=MINUTE)),
    "the end of a job": with_lease(lambda tx, lease: jobs.finish(tx, lease, result="m@1")),
    "a cancellation": lambda tx: jobs.cancel(tx, WAITING_JOB),
    "who waits": lambda tx: shares.waiting(tx, free={"default": 20}, offer_again_after=MINUTE),
    "the shares": lambda tx: shares.shares(tx, offer_again_after=MINUTE, max_running=None),
    "offers": jobs.offer,
    "a sample of what is used": jobs.sample_usage,
    "reaping": jobs.reap,
    "what the relay sends": lambda tx: outbox.unsent(tx, limit=100),
    "whether objects are named": lambda tx: files.repository.named(tx, [f"files/sha256/{n}" for n in range(500)]),
    "a model": lambda tx: registry.get(tx, "model-000500", project=DEFAULT_PROJECT),
    "a version": lambda tx: registry.get_version(tx, "model-000500", 2, project=DEFAULT_PROJECT),
    "the facts of a base": lambda tx: registry.repository.newest_of_base(tx, "hf:org/7", project=DEFAULT_PROJECT),
    "deleting a model": lambda tx: registry.delete(tx, "model-000500", project=DEFAULT_PROJECT),
    "open jobs": lambda tx: limits.check_open_jobs(
        tx, project=DEFAULT_PROJECT, installation=limits.Limits(requests_per_minute=1, open_jobs=9**9, storage_bytes=1)
    ),
    "an answer that was given": lambda tx: answers.replayed(
        tx, "key 7", project=DEFAULT_PROJECT, request_sha256="0" * 64
    ),
    "deliveries that are due": lambda tx: deliveries.take(tx, limit=8, lease=MINUTE),
    "uploads that expired": lambda tx: uploads.repository.expire(tx),
    "what is still wanted of a job's objects": lambda tx: jobs.retention.referenced(tx, JOB),
    "sent messages of long ago": lambda tx: outbox.prune(tx, older_than=MINUTE),
    "answers of long ago": lambda tx: identity.forget_answers(tx, older_than=timedelta(days=1)),
    "deliveries of long ago": lambda tx: deliveries.prune(tx, older_than=timedelta(days=30)),
    "checkpoints of long ago": lambda tx: jobs.retention.forget_checkpoints(tx, finished_before=timedelta(days=7)),
    "logs of long ago": lambda tx: jobs.retention.forget_logs(tx, finished_before=timedelta(days=30)),
    "jobs by status": jobs.figures.by_status,
    "attempts that are over": jobs.figures.attempts_ended,
    "time on devices": jobs.figures.gpu_seconds,
    "what ended since the last tally": jobs.figures.tally,
    "deliveries by status": deliveries.counts,
    "stored bytes": lambda tx: limits.stored_bytes(tx, project=DEFAULT_PROJECT),
    "archiving a project": lambda tx: projects.archive(tx, projects.create(tx, name="blue").id),
    "how long jobs waited": jobs.figures.queue_waits,
    "what waits in which pool": jobs.figures.by_pool,
    "the oldest wait": jobs.oldest_wait_seconds,
    "flip rates": jobs.figures.flip_rates,
    "estimates": jobs.figures.estimate_accuracy,
    "the most overdue delivery": deliveries.oldest_due_seconds,
    "whether a file is needed": lambda tx: files.delete(tx, FileId(row("file", JOBS // 2 + 5))),
}

QUESTIONS |= registry_questions.POINTED

PAGES: dict[str, tuple[Callable[[Tx], object], Callable[[Tx], object]]] = {
    "jobs": (job_page, lambda tx: job_page(tx, after=JobId(row("ftjob", 500)))),
    "files": (lambda tx: file_page(tx), lambda tx: file_page(tx, after=FileId(row("file", 500)))),
    "models": (lambda tx: model_page(tx), lambda tx: model_page(tx, after=f"model-{MODELS - 100:06d}")),
    "events": (
        lambda tx: jobs.events_after(tx, FIRST_JOB, seq=0, limit=20),
        lambda tx: jobs.events_after(tx, FIRST_JOB, seq=LONG - 100, limit=20),
    ),
    "keys": (lambda tx: key_page(tx), lambda tx: key_page(tx, after=ApiKeyId(row("key", 100)))),
    "deliveries": (lambda tx: delivery_page(tx), lambda tx: delivery_page(tx, after=DeliveryId(row("whd", 500)))),
    "the audit trail": (lambda tx: audit_page(tx), lambda tx: audit_page(tx, after=500)),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_it_is_answered_from_an_index_and_looks_at_little(full: Tx, question: str) -> None:
    for explained in explain(full, QUESTIONS[question]):
        scanned = {node["Relation Name"] for node in explained.nodes() if node["Node Type"] == "Seq Scan"}
        assert not scanned & BIG, explained.told()
        assert explained.pages < MOST_PAGES, explained.told()


@pytest.mark.parametrize("question", registry_questions.BROWSED)
def test_browsing_reads_no_table_twice(full: Tx, question: str) -> None:
    """What is sorted or counted is read once, whole; a version that is not the newest costs nothing but its place."""
    sizes = dict(table_pages(full))
    once = sum(sizes[name] for name in ("models", "versions", "eval_results"))
    for explained in explain(full, registry_questions.BROWSED[question]):
        read = [node["Relation Name"] for node in explained.nodes() if node["Node Type"] == "Seq Scan"]
        assert len(read) == len(set(read)), explained.told()
        assert explained.pages <= once + MOST_PAGES, f"{once}: {explained.told()}"


def table_pages(tx: Tx) -> list[tuple[str, int]]:
    """How large each table is, without its indexes."""
    asked = text("SELECT relname, relpages FROM pg_class WHERE relkind = 'r'")
    return [(name, pages) for name, pages in tx.execute(asked)]


@pytest.mark.parametrize("list_", PAGES)
def test_a_deep_page_costs_what_the_first_one_costs(full: Tx, list_: str) -> None:
    first, deep = ([explained.pages for explained in explain(full, ask)] for ask in PAGES[list_])
    assert len(first) == len(deep), "it asks as often"
    assert sum(deep) <= 2 * sum(first) + 10
