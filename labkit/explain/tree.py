"""A told trace as a tree, and its two faces: text with branches, and nested HTML lists that say the same.

The HTML has no script and no colour of its own, so that it reads in the dark theme, aloud and in print; what is
folded is an HTML `details` element, which is in the page all the same.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """One line: what it is (`kind`, which names its CSS class), what it says, remarks, and what is below it.

    A `code` line is a system call. A `folded` one hides what is below it until it is opened, in HTML only.
    """

    kind: str
    text: str
    remarks: tuple[str, ...] = ()
    children: tuple[Node, ...] = ()
    code: bool = False
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `%explain` shows: the traces that were asked for, oldest first."""

    roots: tuple[Node, ...]

    def text(self) -> str:
        """The tree, a line a node."""
        return "\n\n".join("\n".join(_lines(root)) for root in self.roots)

    def html(self) -> str:
        """The tree as nested lists. Paths and flags are long words, which must break to fit a narrow page."""
        roots = "".join(map(_root, self.roots))
        return f'<div class="labkit-explain" style="overflow-wrap: anywhere">{roots}</div>'

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self.html()}


@dataclass(frozen=True, slots=True)
class Usage:
    """What `%explain --help` shows."""

    help: str

    def text(self) -> str:
        return self.help.rstrip("\n")

    def __repr__(self) -> str:
        return self.text()


def _lines(node: Node) -> Iterator[str]:
    yield _line(node)
    for place, child in enumerate(node.children, 1):
        last = place == len(node.children)
        first, *others = _lines(child)
        yield ("└─ " if last else "├─ ") + first
        yield from (("   " if last else "│  ") + line for line in others)


def _line(node: Node) -> str:
    return "  · ".join([node.text, *node.remarks])


def _root(node: Node) -> str:
    return f"<p>{_label(node)}</p>{_list(node.children)}"


def _list(nodes: Iterable[Node]) -> str:
    items = "".join(f'<li class="labkit-{node.kind}"{_marker(node)}>{_item(node)}</li>' for node in nodes)
    return f"<ul>{items}</ul>" if items else ""


def _marker(node: Node) -> str:
    """What can be unfolded has a marker of its own."""
    return ' style="list-style: none"' if node.folded and node.children else ""


def _item(node: Node) -> str:
    if node.folded and node.children:
        return f"<details><summary>{_label(node)}</summary>{_list(node.children)}</details>"
    return _label(node) + _list(node.children)


def _label(node: Node) -> str:
    said = html.escape(node.text)
    remarks = "".join(f" · <small>{html.escape(remark)}</small>" for remark in node.remarks)
    if node.code:
        said = f"<code>{said.replace('|', '|<wbr>').replace(',', ',<wbr>')}</code>"  # the best places to break it
    return said + remarks
