"""What training towards the teacher's distribution promises: the true divergence, and less of it afterwards."""

import math
from pathlib import Path

import torch
from bitsmith_engine.calibrate.end_to_end import EndToEnd, divergences, summed_divergence
from bitsmith_engine.calibrate.steps import step_windows
from bitsmith_engine.calibrate.teacher import Distribution, keep_top
from bitsmith_engine.models.opening import Base, load_float, open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.ports import Silent
from torch import Tensor, nn
from toy_calibration import RUNTIME, divergence_from_float, rounded, toy_windows


def random_logits(places: int = 12, vocabulary: int = 40, *, seed: int) -> Tensor:
    return 3 * torch.randn(places, vocabulary, generator=torch.Generator().manual_seed(seed))


def test_the_divergence_is_that_of_the_kept_tokens_and_the_rest() -> None:
    teacher_AV, student_AV = random_logits(seed=0).log_softmax(-1), random_logits(seed=1)
    found = divergences(student_AV, keep_top(teacher_AV, 5)).tolist()
    for place, (p, q) in enumerate(zip(teacher_AV.exp().tolist(), student_AV.softmax(-1).tolist(), strict=True)):
        top = sorted(range(40), key=lambda token: -p[token])[:5]
        others = [token for token in range(40) if token not in top]
        pairs = [(p[token], q[token]) for token in top]
        pairs.append((sum(p[token] for token in others), sum(q[token] for token in others)))
        assert math.isclose(found[place], sum(a * math.log(a / b) for a, b in pairs), rel_tol=1e-3)


def test_the_divergence_from_oneself_is_zero_and_never_above_the_full_one() -> None:
    teacher_AV, student_AV = random_logits(seed=0), random_logits(seed=1)
    log_p_AV = teacher_AV.log_softmax(-1)
    kept = keep_top(log_p_AV, 5)
    assert divergences(teacher_AV, kept).abs().max() < 1e-5
    full_A = (log_p_AV.exp() * (log_p_AV - student_AV.log_softmax(-1))).sum(-1)
    assert bool((divergences(student_AV, kept) <= full_A + 1e-5).all())


def test_a_student_that_leaves_nothing_for_the_rest_is_held_at_a_finite_distance() -> None:
    kept = keep_top(torch.tensor([[0.0, 0.0, -1.0]]).log_softmax(-1), 1)
    logits_AV = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    loss = divergences(logits_AV, kept).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits_AV.grad is not None
    assert bool(loss.isfinite())
    assert bool(logits_AV.grad.isfinite().all())


def test_pieces_of_the_head_give_the_loss_and_gradient_of_the_whole() -> None:
    head = nn.Linear(8, 40, bias=False).requires_grad_(False)
    teacher = keep_top(random_logits(seed=0).log_softmax(-1), 5)
    hidden_AH = torch.randn(12, 8, generator=torch.Generator().manual_seed(2))
    whole, pieces = (hidden_AH.clone().requires_grad_(True) for _ in range(2))
    expected = divergences(head(whole), teacher).sum() / 3
    found = summed_divergence(head, pieces, teacher, places_at_once=5) / 3
    expected.backward()  # type: ignore[no-untyped-call]
    found.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(pieces.grad, whole.grad)


def teacher_of(base: Base, tokens_BT: Tensor) -> Distribution:
    with torch.no_grad():
        log_p_BTV = load_float(base, RUNTIME)(input_ids=tokens_BT).logits.log_softmax(-1)
    B, T, V = log_p_BTV.shape
    return Distribution(*(part.view(B, T, *part.shape[1:]) for part in keep_top(log_p_BTV.view(-1, V), 16)))


def test_training_brings_the_model_nearer_on_windows_it_never_saw(toy_model: Path, tmp_path: Path) -> None:
    base, tokens_BT, unseen_BT = open_base(toy_model), toy_windows(), toy_windows(seed=1)
    parameters = rounded(base, bits=2)
    codes = {name: p.codes_NK.clone() for name, p in parameters.items()}
    before = divergence_from_float(base, parameters, {}, unseen_BT)
    training = EndToEnd(
        load_quantized(base, parameters, RUNTIME),
        parameters,
        plan=step_windows(*tokens_BT.shape, step_tokens=1024, epochs=20, seed=0),
        seed=0,
        folder=tmp_path,
    )
    rest = training.run(teacher_of(base, tokens_BT), tokens_BT, RUNTIME, Silent(), done=0, total=40)
    assert divergence_from_float(base, parameters, rest, unseen_BT) < 0.97 * before
    assert all(torch.equal(p.codes_NK, codes[name]) for name, p in parameters.items())
    assert "model.norm.weight" in rest
    assert all(tensor.dtype == torch.bfloat16 for tensor in rest.values())
