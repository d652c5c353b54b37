"""Shapes that the drawings are made of: boxes, slots, arrows and words, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 14px; }
.panel { fill: #f3f8f7; stroke: #9fbfbb; }
.box { fill: #ffffff; stroke: #9fbfbb; }
.slot { fill: #00796b; }
.other { fill: #c7702c; }
.token { fill: #ffffff; stroke: #52615f; }
.ink { fill: #1d2b2a; }
.soft { fill: #52615f; }
.small { font-size: 12.5px; }
.title { fill: #00796b; font-weight: 600; }
.line { stroke: #52615f; fill: none; stroke-width: 1.5; }
.tip { fill: #52615f; }
@media (prefers-color-scheme: dark) {
.panel { fill: #1c2928; stroke: #47625f; }
.box { fill: #263836; stroke: #47625f; }
.slot { fill: #4db6ac; }
.other { fill: #e0955c; }
.token { fill: #263836; stroke: #a9bdba; }
.ink { fill: #e4efed; }
.soft { fill: #a9bdba; }
.title { fill: #4db6ac; }
.line { stroke: #a9bdba; }
.tip { fill: #a9bdba; }
}
"""
"""Colours for a page that knows nothing of the drawing; the site has its own for the same classes."""
WIDTH = 520


def drawing(title: str, height: int, parts: Sequence[str]) -> str:
    """A whole file; `title` is what it shows, for those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" class="cmt"><title>{escape(title)}</title>\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def panel(x: float, y: float, width: float, height: float, title: str) -> str:
    """A surface with a heading."""
    return _rectangle("panel", x, y, width, height, 10) + words(x + 16, y + 25, title, "title")


def box(x: float, y: float, width: float, height: float, *lines: str) -> str:
    """A box with centred lines of words; the second and later ones are small."""
    middle = y + height / 2 + 5 - 8.5 * (len(lines) - 1)
    written = [
        words(x + width / 2, middle + 17 * i, line, "ink" if i == 0 else "soft small", "middle")
        for i, line in enumerate(lines)
    ]
    return _rectangle("box", x, y, width, height, 6) + "".join(written)


def store(x: float, y: float, width: float, height: float, *lines: str) -> str:
    """A cylinder with words."""
    rim, side = 8, height - 16
    body = (
        f'<path class="box" d="M{x} {y + rim} v{side} a{width / 2} {rim} 0 0 0 {width} 0 v-{side}"/>'
        f'<ellipse class="box" cx="{x + width / 2}" cy="{y + rim}" rx="{width / 2}" ry="{rim}"/>'
    )
    return body + "".join(
        words(x + width / 2, y + height / 2 + 9 + 17 * i, line, "ink" if i == 0 else "soft small", "middle")
        for i, line in enumerate(lines)
    )


def cells(x: float, y: float, count: int, kind: str, size: float = 14, gap: float = 3, rows: int = 1) -> str:
    """A row of squares (`slot`, `other`, `token`), or several rows."""
    return "".join(
        _rectangle(kind, x + column * (size + gap), y + row * (size + gap), size, size, 2)
        for row in range(rows)
        for column in range(count)
    )


def words(x: float, y: float, text: str, kind: str = "ink", anchor: str = "start") -> str:
    """A line of words."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def arrow(*points: tuple[float, float]) -> str:
    """A line through points, with a tip at the last; its pieces are horizontal or vertical."""
    (x0, y0), (x, y) = points[-2:]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    path = " ".join(
        f"{'M' if i == 0 else 'L'}{px:g} {py:g}" for i, (px, py) in enumerate((*points[:-1], (x - 6 * dx, y - 6 * dy)))
    )
    sides = [(x - 8 * dx - 4.5 * dy, y - 8 * dy - 4.5 * dx), (x - 8 * dx + 4.5 * dy, y - 8 * dy + 4.5 * dx)]
    tip = " ".join(f"{px:g},{py:g}" for px, py in ((x, y), *sides))
    return f'<path class="line" d="{path}"/><polygon class="tip" points="{tip}"/>'


def _rectangle(kind: str, x: float, y: float, width: float, height: float, radius: float) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"/>'
