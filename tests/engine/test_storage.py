"""What stored quantized weights promise: they come back bit for bit, and take the bytes they claim."""

from pathlib import Path

import torch
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import Scheme
from bitsmith_engine.quant.storage import CODES_FILE, Parameters, load_parameters, packed_bytes, save_parameters


def parameters() -> Parameters:
    made = {}
    for index, scheme in enumerate([Scheme(bits=2, group_size=64), Scheme(bits=4, group_size=32)]):
        w_NK = torch.randn(6, 192, generator=torch.Generator().manual_seed(index))
        made[f"layers.{index}"] = QuantParameter(f"layers.{index}", scheme, quantize(w_NK, scheme, clip_search=True))
    return made


def test_every_bit_comes_back(tmp_path: Path) -> None:
    saved = parameters()
    save_parameters(saved, tmp_path)
    loaded = load_parameters(tmp_path, torch.device("cpu"))
    assert list(loaded) == list(saved)
    for name, parameter in saved.items():
        assert loaded[name].scheme == parameter.scheme
        assert torch.equal(loaded[name].codes_NK, parameter.codes_NK)
        assert torch.equal(loaded[name].scale_NG, parameter.scale_NG)
        assert torch.equal(loaded[name].zero_NG, parameter.zero_NG)


def test_the_file_is_packed(tmp_path: Path) -> None:
    saved = parameters()
    save_parameters(saved, tmp_path)
    two_bit = packed_bytes(saved["layers.0"])
    assert two_bit == (6 * 192 // 4, 6 * 3 * 2 + 6 * 1)
    payload = sum(sum(packed_bytes(parameter)) for parameter in saved.values())
    assert payload <= (tmp_path / CODES_FILE).stat().st_size < payload + 1024


def test_equal_weights_make_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_parameters(parameters(), tmp_path / name)
    assert (tmp_path / "a" / CODES_FILE).read_bytes() == (tmp_path / "b" / CODES_FILE).read_bytes()
