"""What the bit map promises: every unit once, coloured by its width, explained to whoever points at it."""

from xml.etree import ElementTree

import torch
from bitsmith_engine.quant.plan import LayerPlan, plan_layer
from bitsmith_engine.search.bitmap import bit_map
from bitsmith_engine.search.sensitivity import LayerShape, UnitSensitivity
from toy_plans import four_and_two

SVG = "{http://www.w3.org/2000/svg}"


def unit(name: str, layer: str) -> UnitSensitivity:
    shape = LayerShape(name=layer, output_features=1000, input_features=128)
    return UnitSensitivity(name=name, layers=(shape,), damages={2: 0.25, 4: 0.0125}, weight_errors={})


UNITS = [unit("0.qkv", "a"), unit("0.o", "b"), unit("1.qkv", "c"), unit("1.o", "d")]
MIXED = four_and_two(torch.arange(32), 128)
PLANS: dict[str, LayerPlan] = {"a": plan_layer(2, 128), "b": plan_layer(4, 128), "c": MIXED, "d": plan_layer(2, 128)}


def drawing(title: str = "toy") -> ElementTree.Element:
    return ElementTree.fromstring(bit_map(UNITS, PLANS, title=title))


def of_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == name]


def told(rect: ElementTree.Element) -> str:
    return rect.findtext(f"{SVG}title") or ""


def test_every_unit_has_one_cell_at_its_depth_and_kind() -> None:
    cells = {told(rect).partition(":")[0]: (rect.get("x"), rect.get("y")) for rect in of_class(drawing(), "cell")}
    assert set(cells) == {"0.qkv", "0.o", "1.qkv", "1.o"}
    assert cells["0.qkv"][0] == cells["0.o"][0] != cells["1.qkv"][0] == cells["1.o"][0]
    assert cells["0.qkv"][1] == cells["1.qkv"][1] != cells["0.o"][1] == cells["1.o"][1]


def test_pointing_at_a_cell_tells_width_damage_and_weights() -> None:
    lines = [told(rect) for rect in of_class(drawing(), "cell")]
    assert lines[0] == "0.qkv: INT2; damage 0.25 nats per token; 128,000 weights"
    assert lines[1] == "0.o: INT4; damage 0.0125 nats per token; 128,000 weights"
    assert lines[2].startswith("1.qkv: 25% INT4, 75% INT2; damage 0.25 nats per token at INT2")


def test_colours_are_those_of_the_legend_and_a_mixture_lies_between() -> None:
    root = drawing()
    low, high = (rect.get("fill") or "" for rect in of_class(root, "key"))
    fills = [rect.get("fill") or "" for rect in of_class(root, "cell")]
    assert fills[0] == fills[3] == low
    assert fills[1] == high
    for start in (1, 3, 5):
        at_low, at_high, mixed = (int(colour[start : start + 2], 16) for colour in (low, high, fills[2]))
        assert abs(mixed - (0.75 * at_low + 0.25 * at_high)) <= 0.5
    assert [text.text for text in root.iter(f"{SVG}text")].count("INT4") == 1


def test_the_file_needs_nothing_else_and_knows_the_dark() -> None:
    text = bit_map(UNITS, PLANS, title="toy")
    assert "prefers-color-scheme: dark" in text
    assert text.count("http") == 1  # the namespace
    assert "<script" not in text


def test_a_title_is_text_whatever_is_in_it() -> None:
    root = drawing("<b> & co")
    assert root.findtext(f"{SVG}title") == "<b> & co"
    assert not list(root.iter(f"{SVG}b"))
