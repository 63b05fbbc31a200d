"""Calibration by distillation: each decoder layer is fitted to its float output, then the model to the distributions.

The float model runs once, layer by layer, beside the student: what is held of both is the hidden states at one depth.

    teacher   h_0 -> layer 0 -> h_1 -> layer 1 -> .. -> h_L -> distributions
    student   h_0 -> fit 0   -> g_1 -> fit 1   -> .. -> g_L        then end to end on the distributions

Layers are fitted on the first windows (calibrate.windows), the model end to end on all of them.

Of 24 windows or more, one in 16 is not fitted but looked at: what is nearest to the float model on those is kept, the
start included (calibrate.judge).

Files in the run's folder (B windows of T tokens, H hidden features, k kept tokens; 2 or 4 bytes a hidden feature):

    start.json             what the run started from; anything else in the folder is dropped when it differs
    teacher-D, student-D   hidden states before layer D; at most B * T * H numbers each, of two depths at a time
    start/                 the codes it started from
    blocks/D               layer D when fitted: codes and scales, floats, and the latent weights in float16
    latents/               what the codes of the result stand for, in float16; nothing if the start was kept
    top-*, rest-log-p      the distributions; (8 k + 4) bytes a token
    end-to-end/S           scales, floats and optimizer after step S

A block's folder appears by one rename, after everything that the next one needs is written, so a run that was stopped
or killed goes on where the last block or checkpoint ended, to the same bits on a CPU.

Memory: one decoder layer in training (calibrate.blockwise), then the quantized model in training
(calibrate.end_to_end); besides them the embedding and the head.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from bitsmith_core.spec import Distillation
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bitsmith_engine.calibrate.blockwise import BlockReport, StudentLayer, fit_block
from bitsmith_engine.calibrate.end_to_end import STEP_TOKENS, EndToEnd
from bitsmith_engine.calibrate.judge import Judge, split_windows
from bitsmith_engine.calibrate.snapshots import Snapshots, is_due
from bitsmith_engine.calibrate.steps import step_windows
from bitsmith_engine.calibrate.teacher import Stream, advance, open_distribution, store_distribution
from bitsmith_engine.calibrate.windows import layer_windows
from bitsmith_engine.errors import Stopped
from bitsmith_engine.models.blocks import Blocks
from bitsmith_engine.models.opening import Base, CausalLM
from bitsmith_engine.nn.assembly import REST_DTYPE, load_quantized
from bitsmith_engine.ports import Observer
from bitsmith_engine.quant.storage import Parameters, Rest, load_parameters, load_rest, save_parameters, save_rest
from bitsmith_engine.runtime import Runtime

_START_FILE = "start.json"
_START_FOLDER = "start"
_LATENTS = "latents"
_LATENT_FILE = "latent.safetensors"


def distil(
    base: Base,
    parameters: Parameters,
    rest: Rest,
    tokens_BT: Tensor,
    settings: Distillation,
    runtime: Runtime,
    observer: Observer,
    *,
    seed: int,
    folder: Path,
    snapshots: Snapshots | None = None,
) -> tuple[Parameters, Rest]:
    """Fit codes, scales, norms and biases to the float model on these windows.

    Args:
        parameters: the codes to start from, on the runtime's device; they are changed.
        rest: floats that the start changed, such as norms with a scale folded in.
        tokens_BT: int64, on the CPU, without padding.
        folder: this run's own; a second call with equal arguments continues what a first one left there.
        snapshots: taken now and then, and gone on from where the folder is not there.

    Returns:
        The parameters, and `rest` with all floats that changed, as the checkpoint's 16-bit type.

    Raises:
        Diverged: an error became NaN or infinite.
        Stopped: by the observer, after a block or a step; nothing that was finished is lost.
    """
    fitted_BT, judged_BT = split_windows(tokens_BT)
    run = _Run(base, parameters, rest, fitted_BT, settings, runtime, observer, snapshots, seed=seed, folder=folder)
    run.forget_other_runs()
    if len(judged_BT) == 0:
        run.fit_blocks()
        run.fit_end_to_end()
        return run.result("end to end")

    judge = Judge(Blocks(base, runtime), judged_BT, settings.teacher_top_k, runtime)
    stages = {}
    for name, work in {"start": run.keep_start, "blocks": run.fit_blocks, "end to end": run.fit_end_to_end}.items():
        work()
        stages[name] = judge.divergence(run.model())
    best = min(stages, key=stages.__getitem__)
    found = ", ".join(f"{name} {value:.3f}" for name, value in stages.items())
    observer.note(
        "info", f"divergence from the float model on {len(judged_BT)} windows not fitted: {found} nats a token"
    )
    if best == "start":
        observer.note("warn", "calibration did not help; the first codes are kept. Raise distillation.samples")
    return run.result(best)


class _Run:
    def __init__(
        self,
        base: Base,
        parameters: Parameters,
        rest: Rest,
        tokens_BT: Tensor,
        settings: Distillation,
        runtime: Runtime,
        observer: Observer,
        snapshots: Snapshots | None,
        *,
        seed: int,
        folder: Path,
    ) -> None:
        self._base = base
        self._parameters = dict(parameters)
        self._rest = dict(rest)
        self._start_rest = rest
        self._tokens_BT = tokens_BT
        fitted = len(layer_windows(base, tokens_BT))
        # What the teacher makes of the others is wanted end to end only.
        self._windows_of = {"teacher": len(tokens_BT) if settings.end_to_end_epochs else fitted, "student": fitted}
        self._settings = settings
        self._runtime = runtime
        self._observer, self._snapshots = observer, snapshots
        self._seed = seed
        self._folder = folder
        self._num_layers: int = base.config.num_hidden_layers
        self._plan = step_windows(
            *tokens_BT.shape, step_tokens=STEP_TOKENS, epochs=settings.end_to_end_epochs, seed=seed
        )
        self._total = self._num_layers + len(self._plan)

    def forget_other_runs(self) -> None:
        """Make the folder this run's."""
        if self._snapshots is not None:
            self._snapshots.restore(self._folder)
        start = self._fingerprint()
        file = self._folder / _START_FILE
        if file.is_file() and json.loads(file.read_text()) == start:
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        file.write_text(json.dumps(start))

    def keep_start(self) -> None:
        """For result("start"): the fit changes the parameters in place."""
        folder = self._folder / _START_FOLDER
        if not folder.is_dir():
            draft = folder.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            save_parameters(self._parameters, draft)
            draft.rename(folder)

    def model(self) -> CausalLM:
        """The student as it stands."""
        return load_quantized(self._base, self._parameters, self._runtime, self._rest)

    def result(self, stage: str) -> tuple[Parameters, Rest]:
        """The student as it was after this stage; fit_end_to_end is the last."""
        if stage == "start":
            return load_parameters(self._folder / _START_FOLDER, self._runtime.device), self._start_rest
        if stage == "blocks":
            self._rest = dict(self._start_rest)
            self._take_finished_blocks()
        self._keep_latents()
        return self._parameters, self._rest

    def _keep_latents(self) -> None:
        """Those of the block-wise fit, in the scales of now: the residual in levels stays what it was."""
        (self._folder / _LATENTS).mkdir(exist_ok=True)
        for depth in range(self._num_layers):
            fitted = load_parameters(self._block_folder(depth), torch.device("cpu"))
            tensors = {}
            for name, parameter in fitted.items():
                ratio_NG1 = (self._parameters[name].scale_NG.cpu().float() / parameter.scale_NG.float()).unsqueeze(-1)
                tensors[name] = (parameter.grouped(self._latent(name).float()) * ratio_NG1).flatten(1).half()
            save_file(tensors, self._folder / _LATENTS / f"latents-{depth}.safetensors")

    def fit_blocks(self) -> None:
        done = self._take_finished_blocks()
        if done == self._num_layers:
            return
        blocks = Blocks(self._base, self._runtime)
        if done == 0:
            self._embed(blocks)
        for depth in range(done, self._num_layers):
            report = self._fit_block(blocks, depth)
            metrics = {"block_error_before": report.before, "block_error": report.after, "codes_moved": report.moved}
            self._finish_layer(depth + 1, metrics)

    def fit_end_to_end(self) -> None:
        if not self._plan:
            return
        B, T = self._tokens_BT.shape
        teacher = open_distribution(self._folder, (B, T), self._settings.teacher_top_k, self._base.config.vocab_size)
        training = EndToEnd(
            self.model(),
            self._parameters,
            plan=self._plan,
            seed=self._seed,
            folder=self._folder / "end-to-end",
            on_checkpoint=lambda step, metrics: self._take_snapshot(self._num_layers + step, metrics),
        )
        self._rest |= training.run(
            teacher, self._tokens_BT, self._runtime, self._observer, done=self._num_layers, total=self._total
        )

    def _finish_layer(self, done: int, metrics: Mapping[str, float]) -> None:
        stopped = None
        try:
            self._observer.progress(done, self._total, metrics)
        except Stopped as error:
            stopped = error
        if stopped or is_due(done, self._num_layers):
            self._take_snapshot(done, metrics)
        if stopped:
            raise stopped

    def _take_snapshot(self, done: int, metrics: Mapping[str, float]) -> None:
        if self._snapshots is not None:
            self._snapshots.take(self._folder, done, metrics)

    def _fit_block(self, blocks: Blocks, depth: int) -> BlockReport:
        prefix = f"model.layers.{depth}."
        teacher, student = self._stream("teacher", depth), self._stream("student", depth)
        next_teacher, next_student = self._stream("teacher", depth + 1), self._stream("student", depth + 1)
        with blocks.layer(depth) as layer:
            advance(blocks, layer, teacher, next_teacher)
            fitted = StudentLayer(layer, self._parameters, self._start_rest, prefix=prefix)
            report = fit_block(
                blocks,
                fitted,
                student,
                next_teacher,
                epochs=self._settings.block_epochs,
                seed=self._seed + depth,
            )
            changed = fitted.settle_()
            advance(blocks, layer, student, next_student)
            if depth + 1 == self._num_layers and self._settings.end_to_end_epochs:
                vocabulary = self._base.config.vocab_size
                store_distribution(blocks, next_teacher, self._settings.teacher_top_k, self._folder, vocabulary)
            self._keep_block(depth, changed, {weight.parameter.name: weight.weight() for weight in fitted.weights})
        self._rest |= changed
        teacher.remove()
        student.remove()
        if depth + 1 == self._num_layers:
            next_teacher.remove()
            next_student.remove()
        return report

    def _keep_block(self, depth: int, rest: Rest, latent: Mapping[str, Tensor]) -> None:
        folder = self._block_folder(depth)
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_parameters({name: p for name, p in self._parameters.items() if name in latent}, draft)
        save_rest(rest, draft)
        save_file({name: tensor.cpu() for name, tensor in latent.items()}, draft / _LATENT_FILE)
        draft.rename(folder)

    def _take_finished_blocks(self) -> int:
        """Load them over the start; returns how many there are."""
        for depth in range(self._num_layers):
            folder = self._block_folder(depth)
            if not folder.is_dir():
                return depth
            self._parameters |= load_parameters(folder, self._runtime.device)
            self._rest |= load_rest(folder)
        return self._num_layers

    def _latent(self, name: str) -> Tensor:
        depth = int(name.removeprefix("model.layers.").partition(".")[0])
        with safe_open(self._block_folder(depth) / _LATENT_FILE, framework="pt") as file:
            w_NK: Tensor = file.get_tensor(name)
        return w_NK

    def _embed(self, blocks: Blocks) -> None:
        """The student reads embeddings as its checkpoint will hold them."""
        teacher, student = self._stream("teacher", 0), self._stream("student", 0)
        for windows in teacher.passes():
            teacher.write(windows, blocks.embed(self._tokens_BT[windows].to(self._runtime.device)))
        for windows in student.passes():
            hidden_BTH = teacher.read(windows)
            student.write(windows, hidden_BTH.to(REST_DTYPE).to(hidden_BTH.dtype))

    def _stream(self, kind: Literal["teacher", "student"], depth: int) -> Stream:
        shape_BTH = (self._windows_of[kind], self._tokens_BT.shape[1], self._base.config.hidden_size)
        return Stream(self._folder / f"{kind}-{depth}.bin", shape_BTH, self._runtime)

    def _block_folder(self, depth: int) -> Path:
        return self._folder / "blocks" / str(depth)

    def _fingerprint(self) -> dict[str, str]:
        return {
            "settings": self._settings.model_dump_json(),
            "seed": str(self._seed),
            "computation": str(self._runtime.compute_dtype),
            "tokens": _digest([self._tokens_BT]),
            "codes": _digest([t for p in self._parameters.values() for t in (p.codes_NK, p.scale_NG, p.zero_NG)]),
            "rest": _digest([self._rest[name].float() for name in sorted(self._rest)]),
        }


def take_latents(folder: Path, target: Path) -> None:
    """Move what the codes of a finished run stand for out of its folder; latent_reader reads it there."""
    for path in (folder / _LATENTS).glob("*"):
        path.rename(target / path.name)


def latent_reader(folder: Path) -> Callable[[str], Tensor] | None:
    """What the codes of a parameter were rounded from, by its name; None if the folder holds no latents."""
    file_of: dict[str, Path] = {}
    for path in folder.glob("latents-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            file_of |= dict.fromkeys(file.keys(), path)

    def read(name: str) -> Tensor:
        with safe_open(file_of[name], framework="pt") as file:
            w_NK: Tensor = file.get_tensor(name)
        return w_NK

    return read if file_of else None


def _digest(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
