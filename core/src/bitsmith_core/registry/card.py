"""A version's model card: what is known, written around what people wrote. Pure.

The front matter is what Hugging Face's tools read, evaluation results included (`model-index`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from bitsmith_core.bundle import Manifest, QuantizationFacts
from bitsmith_core.db.models import EvalResult, Model, Version
from bitsmith_core.registry import front_matter
from bitsmith_core.registry.front_matter import Value
from bitsmith_core.spec.references import hub_reference

EXPORT = "bf16/"
"""Where a bundle has the folder that transformers loads."""

_OWN_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?^---[ \t]*$\n?", flags=re.DOTALL | re.MULTILINE)


def render(model: Model, version: Version, manifest: Manifest, scores: Sequence[EvalResult]) -> str:
    """Markdown with YAML front matter.

    Args:
        scores: of the version, in the order in which they were recorded; of two for the same, the later counts.
    """
    latest = newest(scores)
    paragraphs = [
        front_matter.write(metadata(model, version, manifest, latest)),
        f"# {model.display_name or model.name}, version {version.number}\n",
        _introduction(version, manifest),
        _text_of_people(model.card),
        _facts(model, version, manifest),
        _scores(latest, version.subject),
        _usage(model, version, manifest),
    ]
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def metadata(model: Model, version: Version, manifest: Manifest, scores: Sequence[EvalResult]) -> dict[str, Value]:
    """The front matter; fields that nobody has filled in are left out."""
    fields: dict[str, Value] = {
        "base_model": _base(model.base_model),
        "base_model_relation": "finetune" if manifest.quantization is None else "quantized",
        "license": model.licence,
        "library_name": "transformers" if has_export(manifest) else "bitsmith",
        "pipeline_tag": model.task,
        "tags": sorted({"bitsmith", version.subject, *model.tags}),
        "quantization": None if manifest.quantization is None else _quantization(manifest.quantization),
        "model-index": _model_index(model, version, scores),
    }
    return {key: value for key, value in fields.items() if value is not None}


def newest(scores: Iterable[EvalResult]) -> list[EvalResult]:
    """The last score of each subject, task and metric."""
    return list({(score.subject, score.task, score.metric): score for score in scores}.values())


def has_export(manifest: Manifest) -> bool:
    return any(file.path.startswith(EXPORT) for file in manifest.files)


def _base(reference: str) -> str:
    """As the hub writes it, if it is the hub's."""
    found = hub_reference(reference)
    return found[0] if found else reference


def _quantization(facts: QuantizationFacts) -> dict[str, Value]:
    weights: Counter[int] = Counter()
    for layer in facts.layers:
        weights[layer.bits] += layer.weights
    widths: dict[str, Value] = {
        f"{bits}-bit": round(count / weights.total(), 4) for bits, count in sorted(weights.items()) if count
    }
    return {
        "scheme": facts.scheme,
        "bits_per_weight": round(facts.bpw_codes, 4),
        "bits_per_weight_with_scales": round(facts.bpw_effective, 4),
        "group_sizes": sorted({layer.group_size for layer in facts.layers}),
        "weights_by_width": widths,
        "bytes": facts.model_bytes,
        "bytes_of_the_base": facts.float_bytes,
    }


def _model_index(model: Model, version: Version, scores: Sequence[EvalResult]) -> list[Value] | None:
    by_task: dict[str, list[Value]] = {}
    for score in scores:
        if score.subject == version.subject:
            by_task.setdefault(score.task, []).append(_metric(score))
    results: list[Value] = [
        {"task": {"type": model.task}, "dataset": {"type": task, "name": task}, "metrics": metrics}
        for task, metrics in by_task.items()
    ]
    return [{"name": f"{model.name}@{version.number}", "results": results}] if results else None


def _metric(score: EvalResult) -> dict[str, Value]:
    known = {name: value for name, value in (score.details or {}).items() if value is not None}
    args: dict[str, Value] = {"stderr": score.stderr, "n": score.n, "n_unit": score.n_unit}
    return {
        "type": score.metric,
        "value": score.value,
        "name": f"{score.metric} ({'higher' if score.higher_is_better else 'lower'} is better)",
        "args": args | {"comparable_key": score.comparable_key} | known,
    }


def _text_of_people(card: str | None) -> str:
    """Without front matter of its own: a card has one, and only the first is read."""
    return _OWN_FRONT_MATTER.sub("", card).strip() + "\n" if card and card.strip() else ""


def _introduction(version: Version, manifest: Manifest) -> str:
    facts = manifest.quantization
    if facts is None:
        return f"Adapters trained on `{manifest.base_model}` by {version.subject} and merged into 16-bit weights.\n"
    trained = "" if manifest.training is None else " and trained in those bits"
    share = facts.model_bytes / facts.float_bytes
    return (
        f"`{manifest.base_model}` at {facts.bpw_codes:.4g} bits per weight ({facts.bpw_effective:.4g} with scales)"
        f"{trained}: {_size(facts.model_bytes)}, {share:.0%} of the base's {_size(facts.float_bytes)}.\n"
    )


def _facts(model: Model, version: Version, manifest: Manifest) -> str:
    quantization, training = manifest.quantization, manifest.training
    rows = [
        ("Version", f"`{model.name}@{version.number}`, published {version.created_at:%Y-%m-%d}"),
        ("Base model", f"`{manifest.base_model}`"),
        ("Made by", f"job `{version.job_id}` ({version.subject})"),
    ]
    if version.training_file is not None:
        rows.append(("Training data", f"`{version.training_file}`"))
    if quantization is not None:
        widths = ", ".join(f"{bits} {share:.1%}" for bits, share in _widths(quantization))
        rows.append(("Scheme", quantization.scheme + (f"; {widths}" if widths else "")))
        rows += [("Note", note) for note in quantization.notes]
    if training is not None:
        rows.append(
            ("Training", f"{training.optimizer}, {training.mode}: {training.steps} steps, {training.tokens} tokens")
        )
        rows.append(("Loss", f"{training.first_loss:.4g} → {training.last_loss:.4g}"))
    environment = manifest.environment
    engine = f"bitsmith {environment.engine}, torch {environment.torch}, transformers {environment.transformers}"
    rows.append(("Environment", f"{engine}, {environment.device}, seed {environment.seed}"))
    rows.append(("Files", f"{len(manifest.files)}, {_size(manifest.total_bytes)}; digest `{version.manifest_sha256}`"))
    return "\n".join(["## Facts\n", *_table(("", ""), rows), ""])


def _widths(facts: QuantizationFacts) -> list[tuple[str, float]]:
    widths: Any = _quantization(facts)["weights_by_width"]
    return list(widths.items())


def _scores(scores: Sequence[EvalResult], subject: str) -> str:
    bases = {_what(score): score for score in scores if score.subject == "float"}
    rows = []
    for score in scores:
        if score.subject != subject:
            continue
        base = bases.get(_what(score)) if subject != "float" else None
        rows.append(
            (
                f"{score.task} ({score.metric}, {'↑' if score.higher_is_better else '↓'})",
                _measured(score),
                "" if base is None else _measured(base),
                "" if base is None else f"{score.value - base.value:+.4g}",
                f"{score.n} {score.n_unit}",
            )
        )
    if not rows:
        return ""
    headings = ("Task", "Score ± standard error", "Float base", "Change", "On")
    return "\n".join(["## Scores\n", *_table(headings, rows), ""])


def _what(score: EvalResult) -> tuple[str, str, str]:
    """Scores with another key were measured on something else: no difference is told."""
    return score.task, score.metric, score.comparable_key


def _measured(score: EvalResult) -> str:
    return f"{score.value:.4g}" + ("" if score.stderr is None else f" ± {score.stderr:.2g}")


def _usage(model: Model, version: Version, manifest: Manifest) -> str:
    if not has_export(manifest):
        return ""
    return (
        "## Use it\n\n"
        "With `HF_ENDPOINT` set to this installation's address followed by `/hub`, and `HF_TOKEN` to an API key:\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{model.name}", revision="{version.number}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{model.name}", revision="{version.number}")\n'
        "```\n"
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(map(_cell, line))} |" for line in lines]


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _size(size_bytes: int) -> str:
    for unit, divisor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= divisor:
            return f"{size_bytes / divisor:.3g} {unit}"
    return f"{size_bytes} bytes"
