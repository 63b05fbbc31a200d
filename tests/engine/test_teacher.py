"""What the stored teacher promises: the float model's own numbers, readable by whoever opens the files next."""

import math
from pathlib import Path

import torch
from bitsmith_engine.calibrate.teacher import Stream, advance, keep_top, open_distribution, store_distribution
from bitsmith_engine.models.blocks import Blocks
from bitsmith_engine.models.opening import load_float, open_base
from bitsmith_engine.runtime import choose_runtime
from toy_calibration import toy_windows

RUNTIME = choose_runtime("cpu")


def test_what_is_written_is_read_by_the_next_process(tmp_path: Path) -> None:
    hidden_BTH = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    written = Stream(tmp_path / "h.bin", (5, 3, 4), RUNTIME)
    written.write(slice(0, 2), hidden_BTH[:2])
    written.write(slice(2, 5), hidden_BTH[2:])
    again = Stream(tmp_path / "h.bin", (5, 3, 4), RUNTIME)
    assert torch.equal(again.read(slice(0, 5)), hidden_BTH)
    assert torch.equal(again.read(torch.tensor([4, 1])), hidden_BTH[[4, 1]])
    assert (tmp_path / "h.bin").stat().st_size == 5 * 3 * 4 * 4


def test_changing_what_was_read_leaves_the_file_alone(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "h.bin", (2, 3, 4), RUNTIME)
    stream.write(slice(0, 2), torch.ones(2, 3, 4))
    stream.read(slice(0, 2)).zero_()
    assert bool((stream.read(slice(0, 2)) == 1).all())


def test_the_kept_tokens_are_the_likeliest_and_the_rest_is_the_rest() -> None:
    p = [[0.5, 0.1, 0.25, 0.15], [0.01, 0.9, 0.02, 0.07]]
    kept = keep_top(torch.tensor(p).log(), 2)
    assert kept.token.tolist() == [[0, 2], [1, 3]]
    torch.testing.assert_close(kept.log_p.exp(), torch.tensor([[0.5, 0.25], [0.9, 0.07]]))
    torch.testing.assert_close(kept.log_rest.exp(), torch.tensor([0.25, 0.03]))


def test_a_sure_model_keeps_its_small_rest() -> None:
    # 1 - p is below float32's resolution here: subtracting would give 0, and its logarithm -inf.
    log_p_AV = torch.tensor([[0.0, -20.0, -25.0]])
    kept = keep_top(log_p_AV, 1)
    assert math.isclose(kept.log_rest.item(), math.log(math.exp(-20) + math.exp(-25)), rel_tol=1e-6)


def test_one_token_is_always_left_for_the_rest() -> None:
    kept = keep_top(torch.tensor([[0.2, 0.5, 0.3]]).log(), 64)
    assert kept.token.tolist() == [[1, 2]]
    torch.testing.assert_close(kept.log_rest.exp(), torch.tensor([0.2]))


def test_the_stored_distribution_is_that_of_the_whole_float_model(toy_model: Path, tmp_path: Path) -> None:
    base, tokens_BT = open_base(toy_model), toy_windows(6, 16)
    blocks = Blocks(base, RUNTIME)
    shape = (6, 16, base.config.hidden_size)
    source = Stream(tmp_path / "0.bin", shape, RUNTIME)
    source.write(slice(0, 6), blocks.embed(tokens_BT))
    for depth in range(len(blocks)):
        target = Stream(tmp_path / f"{depth + 1}.bin", shape, RUNTIME)
        with blocks.layer(depth) as layer:
            advance(blocks, layer, source, target)
        source = target
    store_distribution(blocks, source, 7, tmp_path, base.config.vocab_size)

    stored = open_distribution(tmp_path, (6, 16), 7, base.config.vocab_size)
    with torch.no_grad():
        p_BTV = load_float(base, RUNTIME)(input_ids=tokens_BT).logits.double().softmax(-1)
    best_BTk = p_BTV.sort(descending=True).values[..., :7]
    torch.testing.assert_close(stored.log_p.double().exp(), best_BTk, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(p_BTV.gather(2, stored.token.long()), best_BTk, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(stored.log_rest.double().exp(), 1 - best_BTk.sum(-1), rtol=1e-4, atol=1e-7)
