"""The bit map: which part of the model got how many bits, as one SVG file that needs nothing else.

Decoder layers run from left to right, the kinds of units from top to bottom; a cell's colour is its width, or, where a
unit has two widths, a mixture by their shares. Pointing at a cell tells its width, damage and size. The colours follow
the reader's light or dark setting.
"""

from collections.abc import Mapping, Sequence
from html import escape

from bitsmith_engine.quant.plan import LayerPlan
from bitsmith_engine.search.sensitivity import UnitSensitivity

_CELL, _GAP = 18, 2
_LEFT, _TOP = 80, 44
_LEGEND_STEP = 64
_COLOURS = {2: "#2f6fb7", 3: "#3f9f8f", 4: "#e0a030", 8: "#c0433f"}  # cold to hot; apart also to colour-blind readers

_STYLE = """
svg { --ink: #1c2024; --page: #ffffff; font: 12px system-ui, sans-serif }
text { fill: var(--ink) }
.page { fill: var(--page) }
.cell:hover { stroke: var(--ink); stroke-width: 2 }
@media (prefers-color-scheme: dark) { svg { --ink: #e6e8ea; --page: #15181b } }
"""


def bit_map(units: Sequence[UnitSensitivity], plans: Mapping[str, LayerPlan], *, title: str) -> str:
    """SVG text. Every unit needs the plans of its layers, which are alike."""
    kinds = list(dict.fromkeys(_kind(unit) for unit in units))
    depths = 1 + max(_depth(unit) for unit in units)
    widths = sorted({scheme.bits for plan in plans.values() for scheme in plan.schemes})
    pitch = _CELL + _GAP
    width = _LEFT + max(depths * pitch, (len(widths) + 1) * _LEGEND_STEP) + _GAP
    height = _TOP + (len(kinds) + 1) * pitch + 2 * _GAP

    rows = [_text(_LEFT - 8, _TOP + row * pitch + 13, kind, anchor="end") for row, kind in enumerate(kinds)]
    every = max(1, -(-depths // 16))
    columns = [
        _text(_LEFT + depth * pitch + _CELL // 2, _TOP + len(kinds) * pitch + 14, str(depth), anchor="middle")
        for depth in range(0, depths, every)
    ]
    cells = [
        _cell(_LEFT + _depth(unit) * pitch, _TOP + kinds.index(_kind(unit)) * pitch, unit, plans[unit.layers[0].name])
        for unit in units
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        _text(_GAP, 14, title),
        *_legend(widths),
        *rows,
        *columns,
        *cells,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _cell(x: int, y: int, unit: UnitSensitivity, plan: LayerPlan) -> str:
    shares = _shares(plan)
    if len(shares) == 1:
        (bits,) = shares
        words = f"INT{bits}"
        damage = f"{unit.damages[bits]:.3g} nats per token" if bits in unit.damages else "damage not measured"
    else:
        words = ", ".join(f"{share:.0%} INT{bits}" for bits, share in shares.items())
        damage = ", ".join(f"{nats:.3g} nats per token at INT{bits}" for bits, nats in sorted(unit.damages.items()))
    about = f"{unit.name}: {words}; damage {damage}; {unit.weights:,} weights"
    return (
        f'<rect class="cell" x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" rx="3" fill="{_mixture(shares)}">'
        f"<title>{escape(about)}</title></rect>"
    )


def _legend(widths: Sequence[int]) -> list[str]:
    parts = []
    for index, bits in enumerate(widths):
        x = _LEFT + index * _LEGEND_STEP
        parts.append(f'<rect class="key" x="{x}" y="22" width="12" height="12" rx="3" fill="{_COLOURS[bits]}"/>')
        parts.append(_text(x + 17, 32, f"INT{bits}"))
    return parts


def _text(x: int, y: int, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def _shares(plan: LayerPlan) -> dict[int, float]:
    """Of the input channels, by width."""
    sizes = [1 if columns_K is None else len(columns_K) for columns_K in plan.columns]
    return {scheme.bits: size / sum(sizes) for scheme, size in zip(plan.schemes, sizes, strict=True)}


def _mixture(shares: Mapping[int, float]) -> str:
    channels = [
        round(sum(share * int(_COLOURS[bits][start : start + 2], 16) for bits, share in shares.items()))
        for start in (1, 3, 5)
    ]
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def _depth(unit: UnitSensitivity) -> int:
    return int(unit.name.partition(".")[0])


def _kind(unit: UnitSensitivity) -> str:
    return unit.name.partition(".")[2]
