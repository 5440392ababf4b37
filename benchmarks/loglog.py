"""A plot with two logarithmic axes as an SVG file, for light pages and dark ones. Knows no benchmark."""

import math
from collections.abc import Iterable, Sequence
from html import escape

W, H = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 42
STYLE = (
    "text{font:12px sans-serif;fill:#555}.title{font-weight:600}.grid{stroke:#999;stroke-opacity:.25}"
    ".line{fill:none;stroke:#2f6fb3;stroke-width:2}.dot{fill:#2f6fb3}.work{fill:none;stroke:#999;stroke-dasharray:5 4}"
    "@media(prefers-color-scheme:dark){text{fill:#bbb}.line{stroke:#7fb2e5}.dot{fill:#7fb2e5}}"
)

Point = tuple[float, float]


def draw(title: str, x_title: str, y_title: str, points: Sequence[Point], guide: Sequence[Point]) -> str:
    """Points joined by a line, and a dashed guide: what they would be if cost grew as the work does."""
    every = [*points, *guide]
    x0, x1 = _range([x for x, _ in every])
    y0, y1 = _range([y for _, y in every])

    def place(p: Point) -> Point:
        return (
            LEFT + (math.log(p[0]) - x0) / (x1 - x0) * (W - LEFT - RIGHT),
            H - BOTTOM - (math.log(p[1]) - y0) / (y1 - y0) * (H - TOP - BOTTOM),
        )

    parts = [
        _words(W / 2, 18, title, "title"),
        _words((LEFT + W) / 2, H - 8, x_title, ""),
        _words(6, 18, y_title, "", "start"),
    ]
    for y in _ticks(y0, y1):
        at = place((math.exp(x0), y))[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{W - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_words(LEFT - 6, at + 4, _short(y), "", "end"))
    parts += [_words(place((x, math.exp(y0)))[0], H - BOTTOM + 18, _short(x), "") for x, _ in points]
    parts.append(f'<polyline class="work" points="{_path(map(place, guide))}"/>')
    parts.append(f'<polyline class="line" points="{_path(map(place, points))}"/>')
    for p in points:
        cx, cy = place(p)
        parts.append(
            f'<circle class="dot" cx="{cx:.1f}" cy="{cy:.1f}" r="3.5"><title>{p[0]:.4g}: {p[1]:.4g}</title></circle>'
        )
    label = f"{title}: " + ", ".join(f"{_short(y)} at {_short(x)}" for x, y in points)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" width="{W}" height="{H}" role="img" '
        f'aria-label="{escape(label)}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _range(values: Sequence[float]) -> Point:
    """Logarithms of the least and the most, with some room."""
    low, high = math.log(min(values)), math.log(max(values))
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten within the range, with their doubles and fives where there are few."""
    powers = range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)) + 1)
    steps = (1,) if high - low > 3 * math.log(10) else (1, 2, 5)
    return [s * 10.0**p for p in powers for s in steps if low <= math.log(s * 10.0**p) <= high]


def _short(value: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.2g}"


def _path(points: Iterable[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _words(x: float, y: float, text: str, css: str, anchor: str = "middle") -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
