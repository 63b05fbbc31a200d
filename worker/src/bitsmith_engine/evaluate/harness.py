"""EleutherAI's lm_eval on our models and on documents of our own keeping. The only module that imports it.

Prompts, metrics, few-shot sampling and aggregation are lm_eval's: its own YAML is loaded from the installed package,
and only where the documents come from is replaced. They are handed over in memory, so no hub is asked, nothing is
cached and no environment variable is needed for it. Splits keep the names of the YAML, because lm_eval decides by them
whether the asked document may be shown as an example; where examples come from the asked documents themselves, it may
not.

Log-likelihoods follow lm_eval's own HFLM: the same tokens, special tokens included, and a context that is cut at its
beginning where it is longer than the model's.

Source: https://github.com/EleutherAI/lm-evaluation-harness (Gao et al. 2024, https://doi.org/10.5281/zenodo.12608602).
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval.tasks
from datasets import Dataset
from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.config.group import GroupConfig
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from bitsmith_engine.errors import BadData, BadSpec
from bitsmith_engine.evaluate import packs
from bitsmith_engine.evaluate.continuations import Continuation, Likelihood, likelihoods
from bitsmith_engine.runtime import Runtime

FEWSHOT_SEED: int = DEFAULT_OTHER_SEED  # lm_eval's own default, so that others' runs show the same examples

_FOLDERS = {
    "boolq": "super_glue/boolq",
    "wic": "super_glue/wic",
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "anli_r1": "anli",
    "anli_r2": "anli",
    "anli_r3": "anli",
    "mmlu": "mmlu/default",
}
"""Below lm_eval's tasks, where the folder is not named like the task. Indexing only what is needed saves seconds."""

OnProgress = Callable[[float], None]


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm_eval is not typed
    """What lm_eval sees of a model: likelihoods of texts. It never generates: none of our tasks asks for that."""

    def __init__(
        self, model: Any, tokenizer: Any, runtime: Runtime, on_progress: OnProgress = lambda share: None
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._model, self._runtime, self._on_progress = model, runtime, on_progress
        self._max_length: int = resolve_max_length(model.config, tokenizer)

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **options)
        return ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """The whole text's log-likelihood, in windows of the model's length that each predict new tokens only."""
        windows: list[Continuation] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for pair in get_rolling_token_windows(ids, self.prefix_token_id, self._max_length, context_len=1):
                context, target = make_disjoint_window(pair)
                windows.append(Continuation(tuple(context), tuple(target)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, found in zip(owners, self._likelihoods(windows), strict=True):
            totals[owner] += found.log_likelihood
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        raise BadSpec(
            f"the task {requests[0].task_name} wants generated text, and this engine only scores given answers; "
            "choose a multiple-choice task"
        )

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        continuations = [Continuation(tuple(context), tuple(target)) for _, context, target in requests]
        return [(found.log_likelihood, found.is_greedy) for found in self._likelihoods(continuations)]

    def _likelihoods(self, continuations: Sequence[Continuation]) -> list[Likelihood]:
        found: dict[int, Likelihood] = {}
        for part in likelihoods(self._model, continuations, self._runtime, max_length=self._max_length):
            found |= part
            self._on_progress(len(found) / len(continuations))
        return [found[index] for index in range(len(continuations))]


def run(benchmark: packs.Benchmark, lm: EngineLM) -> Mapping[str, Any]:
    """lm_eval's results, as its `evaluate` answers them, samples included.

    Raises:
        BadData: a subject that lm_eval does not know.
    """
    with _quiet():
        loaded = load_tasks(benchmark)
        for task in loaded["tasks"].values():
            task.set_config("num_fewshot", benchmark.num_fewshot)
            task.set_fewshot_seed(FEWSHOT_SEED)
        # A range, not a list: lm_eval asks of every document whether it is in there.
        scored = {group.name: range(group.limit) for group in benchmark.groups}
        results: Mapping[str, Any] = evaluate(lm=lm, task_dict=loaded, samples=scored, log_samples=True)
    return results


def load_tasks(benchmark: packs.Benchmark) -> Any:
    """lm_eval's TaskDict: its own tasks on the benchmark's documents; subjects become a group of its name."""
    manager = _manager(benchmark.task)
    overrides = []
    for group in benchmark.groups:
        entry = manager.task_index.get(group.name)
        if entry is None:
            known = sorted(name.removeprefix(f"{benchmark.task}_") for name in manager.all_subtasks)
            subject = group.name.removeprefix(f"{benchmark.task}_")
            raise BadData(f"the eval pack for {benchmark.task} has the subject {subject!r}; known: {', '.join(known)}")
        overrides.append({"task": group.name, **_sources(entry.cfg, group)})

    # Overrides of a registered task are only taken from inside a group.
    loaded = manager.load({"group": "packs", "task": overrides})
    if benchmark.task in loaded["tasks"]:
        return {"tasks": loaded["tasks"], "groups": {}}
    whole = manager.task_index[benchmark.task].cfg
    shape = {key: whole[key] for key in ("group", "aggregate_metric_list", "metadata")}
    together = Group.from_config(GroupConfig(**shape))
    for task in loaded["tasks"].values():
        together.add(task)
    return {"tasks": loaded["tasks"], "groups": {benchmark.task: together}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm_eval's hints to those who write tasks: several lines for each of 57 subjects."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _manager(task: str) -> Any:
    tasks = Path(lm_eval.tasks.__file__).parent
    return lm_eval.tasks.TaskManager(include_defaults=False, include_path=tasks / _FOLDERS.get(task, task))


def _sources(config: Mapping[str, Any], group: packs.Group) -> dict[str, Any]:
    """What replaces the YAML's dataset: the documents under the split that is asked, the examples under theirs."""
    asked = config.get("test_split") or config["validation_split"]
    shown = config.get("fewshot_split") or config.get("training_split") or asked
    if group.shots is None:
        # Both splits by the same name is how lm_eval knows to leave the asked document out.
        return _from_memory({asked: group.docs}) | {
            "training_split": None,
            "validation_split": None,
            "test_split": asked,
            "fewshot_split": asked,
        }
    if shown == asked:
        return _from_memory({asked: group.docs, "fewshot": group.shots}) | {"fewshot_split": "fewshot"}
    return _from_memory({asked: group.docs, shown: group.shots})


def _from_memory(splits: Mapping[str, Sequence[packs.Doc]]) -> dict[str, Any]:
    datasets = {name: Dataset.from_list(list(docs)) for name, docs in splits.items()}
    return {"custom_dataset": lambda **_: datasets}
