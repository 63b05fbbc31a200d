"""What stored quantized weights promise: they come back bit for bit, and take the bytes they claim."""

import json
from pathlib import Path

import pytest
import torch
from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import Affine, quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.plan import quantize_layer
from bitsmith_engine.quant.scheme import Scheme
from bitsmith_engine.quant.storage import (
    CODES_FILE,
    LAYOUT_FILE,
    Parameters,
    load_parameters,
    load_rest,
    packed_bytes,
    save_parameters,
    save_rest,
)
from toy_plans import four_and_two

FIRST_VERSION = (Scheme(bits=2, group_size=64), Scheme(bits=4, group_size=32))
SCHEMES = (
    *FIRST_VERSION,
    Scheme(bits=3, group_size=32),
    Scheme(bits=8, group_size=64),
    Scheme(bits=3, group_size=64, symmetric=True),
)


def parameters(schemes: tuple[Scheme, ...] = SCHEMES) -> Parameters:
    made = {}
    for index, scheme in enumerate(schemes):
        w_NK = torch.randn(6, 192, generator=torch.Generator().manual_seed(index))
        made[f"layers.{index}"] = QuantParameter(f"layers.{index}", scheme, quantize(w_NK, scheme, clip_search=True))
    return made


def column_blocks() -> Parameters:
    w_NK = torch.randn(6, 192, generator=torch.Generator().manual_seed(9))
    high_K = torch.arange(191, 0, -6)  # 32 channels, in an order of their own
    blocks = quantize_layer("layers.mixed", w_NK, four_and_two(high_K, 192), clip_search=False)
    return {block.name: block for block in blocks}


def float_zeros() -> Parameters:
    scheme = Scheme(bits=4, group_size=64, zero_kind="float")
    random = torch.Generator().manual_seed(3)
    codes_NK = torch.randint(0, 16, (6, 192), dtype=torch.uint8, generator=random)
    scale_NG = torch.rand(6, 3, generator=random).half()
    zero_NG = (torch.rand(6, 3, generator=random) * 15).half()
    return {"layers.float": QuantParameter("layers.float", scheme, Affine(codes_NK, scale_NG, zero_NG))}


def assert_same(loaded: Parameters, saved: Parameters) -> None:
    assert list(loaded) == list(saved)
    for name, parameter in saved.items():
        assert loaded[name].scheme == parameter.scheme
        for part in ("codes_NK", "scale_NG", "zero_NG", "columns_K"):
            ours, theirs = getattr(loaded[name], part), getattr(parameter, part)
            assert (ours is None and theirs is None) or (ours.dtype == theirs.dtype and torch.equal(ours, theirs))


@pytest.mark.parametrize("saved", [parameters(), column_blocks(), float_zeros()], ids=["grids", "blocks", "float"])
def test_every_bit_comes_back(saved: Parameters, tmp_path: Path) -> None:
    save_parameters(saved, tmp_path)
    assert_same(load_parameters(tmp_path, torch.device("cpu")), saved)


def test_the_first_version_of_the_layout_is_still_read(tmp_path: Path) -> None:
    saved = parameters(FIRST_VERSION)
    save_parameters(saved, tmp_path)
    layout = {
        "format": "bitsmith-codes/1",
        "formula": "(code - zero) * scale",
        "layers": [
            {"name": "layers.0", "bits": 2, "group_size": 64, "output_features": 6, "input_features": 192},
            {"name": "layers.1", "bits": 4, "group_size": 32, "output_features": 6, "input_features": 192},
        ],
    }
    (tmp_path / LAYOUT_FILE).write_text(json.dumps(layout))
    assert_same(load_parameters(tmp_path, torch.device("cpu")), saved)


def test_a_layout_of_the_future_is_refused(tmp_path: Path) -> None:
    save_parameters(parameters(), tmp_path)
    text = (tmp_path / LAYOUT_FILE).read_text()
    (tmp_path / LAYOUT_FILE).write_text(text.replace("bitsmith-codes/2", "bitsmith-codes/3"))
    with pytest.raises(BadModel, match=LAYOUT_FILE):
        load_parameters(tmp_path, torch.device("cpu"))


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    save_parameters(parameters(), tmp_path)
    (tmp_path / CODES_FILE).write_bytes((tmp_path / CODES_FILE).read_bytes()[:-100])
    with pytest.raises(BadModel, match="is damaged"):
        load_parameters(tmp_path, torch.device("cpu"))


def test_a_block_stores_four_bytes_for_each_of_its_columns() -> None:
    high, low = column_blocks().values()
    assert packed_bytes(high).columns == 32 * 4
    assert packed_bytes(low).columns == 160 * 4


def test_symmetric_grids_store_no_zeros() -> None:
    symmetric = parameters()["layers.4"]
    assert packed_bytes(symmetric) == (6 * 192 * 3 // 8, 6 * 3 * 2, 0)


def test_changed_float_weights_come_back(tmp_path: Path) -> None:
    rest = {"model.norm.weight": torch.arange(5.0), "b": torch.ones(4, 4, dtype=torch.bfloat16).T}
    save_rest(rest, tmp_path)
    loaded = load_rest(tmp_path)
    assert set(loaded) == set(rest)
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in rest.items()
    )


def test_a_folder_without_changed_float_weights_has_none(tmp_path: Path) -> None:
    assert load_rest(tmp_path) == {}
    save_rest({}, tmp_path)
    assert load_rest(tmp_path) == {}


def test_the_file_is_packed(tmp_path: Path) -> None:
    saved = parameters(FIRST_VERSION)
    save_parameters(saved, tmp_path)
    two_bit = packed_bytes(saved["layers.0"])
    assert two_bit == (6 * 192 // 4, 6 * 3 * 2 + 6 * 1, 0)
    payload = sum(sum(packed_bytes(parameter)) for parameter in saved.values())
    assert payload <= (tmp_path / CODES_FILE).stat().st_size < payload + 1024


def test_equal_weights_make_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_parameters(parameters(), tmp_path / name)
    assert (tmp_path / "a" / CODES_FILE).read_bytes() == (tmp_path / "b" / CODES_FILE).read_bytes()
