"""Pictures without a library: boxes, lines and words as SVG (www.w3.org/TR/SVG11).

White ground and dark ink of their own, since JupyterLab shows SVG as an image, which the page's theme does not reach.
Every picture has a title and a description, for those who hear it.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH_OF_LETTER = 6.7  # pixels, of the monospaced font at 11 pixels
LINE = 15
INK, FAINT, GROUND = "#1f2933", "#8795a1", "#ffffff"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with lines of words in it, the first of them bold."""

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...] = ()
    fill: str = GROUND
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Wire:
    """A line through points, with words beside its middle; `arrow` at its end."""

    points: tuple[tuple[float, float], ...]
    label: str = ""
    arrow: bool = False


@dataclass(slots=True)
class Picture:
    """What is drawn, in order; `svg` makes it text."""

    title: str
    description: str
    boxes: list[Box] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)

    def svg(self) -> str:
        width = max((box.x + box.width for box in self.boxes), default=0) + 12
        height = max((box.y + box.height for box in self.boxes), default=0) + 12
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" font-size="11" xml:space="preserve">',
            f"<title>{html.escape(self.title)}</title><desc>{html.escape(self.description)}</desc>",
            _ARROW,
            f'<rect width="100%" height="100%" fill="{GROUND}"/>',
            *(_box(box) for box in self.boxes),
            *(_wire(wire) for wire in self.wires),
            "</svg>",
        ]
        return "\n".join(parts)


_ARROW = (
    '<defs><marker id="arrow" markerWidth="9" markerHeight="9" refX="7" refY="3" orient="auto">'
    f'<path d="M0,0 L7,3 L0,6 z" fill="{INK}"/></marker></defs>'
)


def mimebundle(svg: str, text: str) -> dict[str, str]:
    """A picture and its text twin for a notebook.

    As an image in HTML, too: JupyterLab shows SVG of a notebook that somebody else has saved only if it is trusted.
    """
    data = b64encode(svg.encode()).decode()
    image = f'<img alt="{html.escape(text)}" src="data:image/svg+xml;base64,{data}">'
    return {"text/plain": text, "text/html": image, "image/svg+xml": svg}


def width_of(lines: Sequence[str]) -> float:
    """How wide a box must be for its words, in pixels."""
    return max((len(line) for line in lines), default=0) * WIDTH_OF_LETTER + 20


def height_of(lines: Sequence[str]) -> float:
    return len(lines) * LINE + 12


def _box(box: Box) -> str:
    dash = ' stroke-dasharray="4 3"' if box.dashed else ""
    shape = (
        f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="4" '
        f'fill="{box.fill}" stroke="{INK}"{dash}/>'
    )
    return shape + "".join(
        _words(box.x + 10, box.y + 17 + number * LINE, line, bold=number == 0) for number, line in enumerate(box.lines)
    )


def _words(x: float, y: float, text: str, bold: bool = False, anchor: str = "start", fill: str = INK) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{fill}"{weight}>{html.escape(text)}</text>'


def _wire(wire: Wire) -> str:
    path = " ".join(f"{x:.0f},{y:.0f}" for x, y in wire.points)
    end = ' marker-end="url(#arrow)"' if wire.arrow else ""
    line = f'<polyline points="{path}" fill="none" stroke="{INK}"{end}/>'
    if not wire.label:
        return line
    (x1, y1), (x2, y2) = wire.points[-2:]
    return line + _words((x1 + x2) / 2, (y1 + y2) / 2 - 4, wire.label, anchor="middle")
