"""How long a page's data takes in a registry of 10,000 versions and 200,000 scores, on real servers.

    python bench/registry.py --out registry.json

Each question is what one page of the web UI asks for. They are asked of one API process, one after another over two
connections, with what they ask for drawn anew each time; p50 and p95 are of single answers, read to their end.
`core ms` is what the API and Postgres computed for one answer: on a machine that others use too it is the number to
read, for the others' work is in the latencies.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from apis import bitsmith
from apis.load import Make, Request, burst
from results import Results, table
from sqlalchemy import text

WARM_S = 1.0
TASKS = [f"task-{n}" for n in range(10)]
_TASK = "'task-' || t"

# Numbers that look drawn and are the same each time: a hash of what they belong to, as a share of one.
_SHARE = "(hashint8extended({of}, {seed}) & 1048575) / 1048576.0"
FILL = f"""
INSERT INTO models (id, project_id, name, base_model, licence, tags, last_number)
SELECT 'shelf-' || n, project_id, 'shelf-' || lpad(n::text, 6, '0'), 'hf:org/base-' || n % 40,
       (ARRAY['apache-2.0', 'mit', 'llama3', NULL])[1 + n % 4], jsonb_build_array('team-' || n % 20, 'use-' || n % 7),
       :each
FROM models, generate_series(1, :models) n WHERE name = 'pattern';
INSERT INTO versions (model_id, number, is_newest, job_id, manifest_sha256, manifest, bytes, weights_bytes, subject,
                      scheme, training_file, bpw_codes, bpw_effective, created_at)
SELECT 'shelf-' || n, i, i = :each, 'ftjob-' || lpad((:used + (n - 1) * :each + i)::text, 26, '0'), manifest_sha256,
       manifest, bytes, (1 + 40 * {_SHARE.format(of="n * 100 + i", seed=1)}) * 100000000,
       (ARRAY['qsft', 'quantized', 'lora'])[1 + n % 3],
       CASE WHEN n % 3 <> 2 THEN (ARRAY['uniform', 'layer-mix'])[1 + n % 2] END,
       training_file, 2.5, CASE WHEN n % 3 <> 2 THEN 2 + 4 * {_SHARE.format(of="n * 100 + i", seed=2)} END,
       timestamptz '2026-01-01' + (n * :each + i) * interval '1 minute'
FROM versions, generate_series(1, :models) n, generate_series(1, :each) i WHERE model_id = :pattern;
INSERT INTO version_files (version_id, path, bytes, sha256, object_key)
SELECT versions.id, path, files.bytes, sha256, object_key
FROM versions, version_files files WHERE model_id LIKE 'shelf-%' AND version_id = :version;
INSERT INTO evals (id, version_id, job_id, engine, environment)
SELECT 'eval-shelf-' || versions.id, versions.id, versions.job_id, engine, environment
FROM versions, evals WHERE model_id LIKE 'shelf-%' AND version_id = :version;
INSERT INTO eval_results (eval_id, version_id, subject, task, metric, value, stderr, n, n_unit, higher_is_better,
                          comparable_key, is_headline)
SELECT 'eval-shelf-' || id, id, s, {_TASK}, 'acc', {_SHARE.format(of="id * 100 + t", seed=3)}, 0.01, 1000, 'questions',
       true, 'key ' || t, s <> 'float'
FROM versions, generate_series(0, {len(TASKS) - 1}) t, unnest(ARRAY['float', versions.subject]) s
WHERE model_id LIKE 'shelf-%'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=2, help="versions of each model")
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each question")
    settings = parser.parse_args()
    sizes = {name: getattr(settings, name) for name in ("versions", "each", "connections", "seconds")}
    results = Results(settings.out, settings=sizes, resume=False)
    with tempfile.TemporaryDirectory(prefix="bitsmith-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres runs as another account
        say(f"filling {settings.versions} versions")
        used = bitsmith.VERSIONS_OF_EACH
        with bitsmith.running(folder, num_jobs=used + settings.versions, num_versions=used) as platform:
            num_models = settings.versions // settings.each
            fill(platform, num_models=num_models, each=settings.each, used=used)
            for question, make in questions(num_models, settings.each).items():
                burst(platform.server, make, connections=1, seconds=WARM_S, seed=-1)
                asked = {"connections": settings.connections, "seconds": settings.seconds}
                before_s = core_seconds()
                found = burst(platform.server, make, seed=0, **asked)
                core_s = core_seconds() - before_s
                facts = {
                    "requests": len(found.latencies_ms),
                    "p50_ms": found.percentile_ms(50),
                    "p95_ms": found.percentile_ms(95),
                    "core_ms": core_s * 1000 / len(found.latencies_ms),
                    "bytes": found.bytes_each,
                }
                results.add(facts, question=question)
                told = (f"{facts[name]:.0f} {name}" for name in ("p50_ms", "p95_ms", "core_ms"))
                say(f"{question}: {', '.join(told)}")
    lines = [
        [
            row["key"]["question"],
            f"{row['p50_ms']:.0f}",
            f"{row['p95_ms']:.0f}",
            f"{row['core_ms']:.0f}",
            f"{row['bytes'] / 1000:.0f}",
            str(row["requests"]),
        ]
        for row in results.rows
    ]
    print(table(lines, ["question", "p50 ms", "p95 ms", "core ms", "KB", "requests"]))


def fill(platform: bitsmith.Platform, *, num_models: int, each: int, used: int) -> None:
    with platform.database.transaction() as tx:
        pattern = tx.scalar(text("SELECT id FROM models WHERE name = 'pattern'"))
        version = tx.scalar(text("SELECT id FROM versions WHERE model_id = :pattern"), {"pattern": pattern})
        values = {"models": num_models, "each": each, "used": used, "pattern": pattern, "version": version}
        for statement in FILL.split(";\n"):
            named = {name: value for name, value in values.items() if f":{name}" in statement}
            tx.execute(text(statement), named)
        scores = tx.scalar(text("SELECT count(*) FROM eval_results"))
    with platform.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    say(f"{num_models * each} versions of {num_models} models with {scores} scores")


def core_seconds() -> float:
    """What the processes that this one started, and those that they started, have computed so far."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = stat.read_text().rpartition(")")[2].split()  # what is before may hold anything
        except OSError:  # it has just ended
            continue
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(facts[1]), int(facts[11]) + int(facts[12])

    def is_ours(pid: int) -> bool:
        return pid in parents and (parents[pid] == os.getpid() or is_ours(parents[pid]))

    return sum(ticks[pid] for pid in parents if is_ours(pid)) / os.sysconf("SC_CLK_TCK")


def questions(num_models: int, each: int) -> dict[str, Make]:
    def some(drawn: random.Random) -> str:
        return f"shelf-{drawn.randint(1, num_models):06d}"

    def version(drawn: random.Random) -> str:
        return f"/v1/models/{some(drawn)}/versions/{drawn.randint(1, each)}"

    def narrowed(drawn: random.Random) -> str:
        task, least = drawn.choice(TASKS), drawn.uniform(0.2, 0.8)
        return f"score[{task}][gte]={least:.3f}&bpw[lte]={drawn.uniform(2.5, 5):.2f}&licence=mit"

    asked = {
        "models by name": lambda drawn: "/v1/models?limit=50",
        "models by name, a deep page": lambda drawn: f"/v1/models?limit=50&after={some(drawn)}",
        "models by score": lambda drawn: f"/v1/models?limit=50&sort=-score:{drawn.choice(TASKS)}",
        "models by score, a deep page": lambda drawn: (
            f"/v1/models?limit=50&sort=-score:{drawn.choice(TASKS)}&after={some(drawn)}"
        ),
        "models by size, a deep page": lambda drawn: f"/v1/models?limit=50&sort=size_bytes&after={some(drawn)}",
        "models, narrowed": lambda drawn: f"/v1/models?limit=50&sort=bpw&{narrowed(drawn)}",
        "models, words": lambda drawn: f"/v1/models?limit=50&q={some(drawn)[:10]}",
        "models of one base, for a plot": lambda drawn: (
            f"/v1/models?limit=100&sort=size_bytes&base_model=hf:org/base-{drawn.randint(0, 39)}"
        ),
        "facets": lambda drawn: "/v1/models/facets",
        "facets, narrowed": lambda drawn: f"/v1/models/facets?{narrowed(drawn)}",
        "the best that keeps 97 %": lambda drawn: (
            f"/v1/models/best?keeps=0.97&task={drawn.choice(TASKS)}&bpw[lte]={drawn.uniform(4, 6):.2f}"
        ),
        "a model": lambda drawn: f"/v1/models/{some(drawn)}",
        "a version": version,
        "a version's lineage": lambda drawn: f"{version(drawn)}/lineage",
        "a version's evaluations": lambda drawn: f"/v1/evals?model={some(drawn)}",
    }
    return {name: _get(path_of) for name, path_of in asked.items()}


def _get(path_of: Callable[[random.Random], str]) -> Make:
    return lambda n, drawn: Request("GET", path_of(drawn))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
