"""`images --tree`: images with the platforms that each is there for (docker/cli `command/image/tree.go`, v28)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.references import ellipsis, short_id
from labkit.cli.session import Session
from labkit.cli.tabwriter import display_width
from labkit.cli.units import human_size
from labkit.client.engine import encode_filters

_REFUSED = {"quiet": "quiet", "no-trunc": "no-trunc", "digests": "show-digest", "format": "format"}
_WARNING = "WARNING: This is an experimental feature. The output may change and shouldn't be depended on."
_SPACING = "   "
_TITLES = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA")
_WIDTHS = (0, 12, 10, 12, 5)  # of the columns; the first is as wide as it must be
_RIGHT = (False, False, True, True, False)
_LEAST = 12  # columns that the first one keeps: others go for it
_RESET = "\x1b[0m"
_TITLE = "\x1b[39m\x1b[1m"  # also where there is no terminal


class _Palette(NamedTuple):
    """Codes for a terminal (ECMA-48, SGR); all empty where there is none."""

    warning: str = ""
    name: str = ""
    normal: str = ""
    untagged: str = ""
    legend: str = "Info ->  U In Use "
    legend_width: int = 18
    used: str = "U"
    unused: str = " "

    def paint(self, code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if code else text


_CHIP = "\x1b[38;5;0m\x1b[48;5;14m U \x1b[0m"
_COLOURED = _Palette(
    "\x1b[93m",
    "\x1b[34m\x1b[1m",
    "\x1b[39m",
    "\x1b[39m\x1b[2m",
    f"\x1b[1m\x1b[106m\x1b[30mi\x1b[0m\x1b[0m \x1b[96mInfo \u2192 \x1b[0m\x1b[0m {_CHIP} In Use ",
    21,
    _CHIP,
    "   ",
)


class _Line(NamedTuple):
    """The cells of an image or of one of its platforms."""

    name: str
    id: str
    usage: str
    content: str
    used: bool


class _Tree(NamedTuple):
    names: list[str]
    top: _Line
    children: list[_Line]


def images_tree(session: Session, given: Invocation) -> None:
    for option, name in _REFUSED.items():
        if given.options.get(option):
            raise StatusError(f"--{name} is not yet supported with --tree")
    filters = [*given.all("filter"), *(("reference", name) for name in given.arguments)]
    query = {"all": given.flag("all"), "manifests": True, "filters": encode_filters(filters)}
    found = session.client.get("/images/json", query)
    shown = [image for image in found if given.flag("all") or image.get("RepoTags")]
    trees = [_tree(image) for image in sorted(shown, key=lambda image: -image["Created"])]
    terminal = session.streams.stdout_is_terminal
    width = max(20, session.streams.width if terminal else 80)
    session.out("".join(f"{line}\n" for line in _lines(trees, width, _COLOURED if terminal else _Palette())))


def _tree(image: Mapping[str, Any]) -> _Tree:
    manifests = image.get("Manifests") or ()
    children = [_child(one) for one in manifests if one["Kind"] == "image"]
    used = image.get("Containers", -1) > 0 or any(child.used for child in children)
    content = human_size(sum(one["Size"]["Content"] for one in manifests), 3)
    names = sorted(image.get("RepoTags") or (), key=len, reverse=True)
    return _Tree(names, _Line("", short_id(image["Id"]), human_size(image["Size"], 3), content, used), children)


def _child(manifest: Mapping[str, Any]) -> _Line:
    data, size = manifest["ImageData"], manifest["Size"]
    platform = "/".join(filter(None, (data["Platform"].get(key) for key in ("os", "architecture", "variant"))))
    sizes = human_size(size["Total"], 3), human_size(size["Content"], 3)
    return _Line(platform, short_id(manifest["ID"]), *sizes, bool(data["Containers"]))


def _lines(trees: Sequence[_Tree], width: int, palette: _Palette) -> Iterator[str]:
    yield palette.paint(palette.warning, _WARNING)
    yield " " * max(0, width - palette.legend_width) + palette.legend
    yield ""
    widths = _widths(trees, width)
    titles = zip(_TITLES, widths, _RIGHT, strict=False)
    yield _SPACING.join(_cell(_TITLE, title, size, right, palette) for title, size, right in titles)
    chips = any(line.used for tree in trees for line in (tree.top, *tree.children))
    spaced = any(tree.children for tree in trees)
    for tree in trees:
        yield from (palette.paint(palette.name, ellipsis(name, width)) for name in tree.names[:-1])
        name, code = (tree.names[-1], palette.name) if tree.names else ("<untagged>", palette.untagged)
        yield _line(tree.top._replace(name=name), code, widths, chips, palette)
        for number, child in enumerate(tree.children, 1):
            branch = "\u2514\u2500 " if number == len(tree.children) else "\u251c\u2500 "
            yield _line(child._replace(name=branch + child.name), palette.normal, widths, chips, palette)
        if spaced:
            yield ""


def _widths(trees: Sequence[_Tree], width: int) -> list[int]:
    """The columns that there is room for; the first as narrow as its content allows."""
    widths, left = [0], width
    for size in _WIDTHS[1:]:
        if left - size - len(_SPACING) < _LEAST:
            break
        left -= size + len(_SPACING)
        widths.append(size)
    names = [len(name) for tree in trees for name in tree.names]
    platforms = [len(child.name) + 7 for tree in trees for child in tree.children]  # docker counts bytes: 7 of a branch
    widths[0] = min(left, max([len(_TITLES[0]), *names, *platforms]))
    return widths


def _line(line: _Line, code: str, widths: Sequence[int], chips: bool, palette: _Palette) -> str:
    values = zip((line.name, line.id, line.usage, line.content), widths, _RIGHT, strict=False)
    cells = [
        _cell(palette.normal if number else code, value, size, right, palette)
        for number, (value, size, right) in enumerate(values)
    ]
    if len(widths) == len(_WIDTHS):
        chip = (palette.used if line.used else palette.unused) if chips else ""
        cells.append(chip + " " * (_WIDTHS[-1] - (len(palette.unused) if chips else 0)))
    return _SPACING.join(cells)


def _cell(code: str, text: str, width: int, right: bool, palette: _Palette) -> str:
    room = width - display_width(text)
    painted = palette.paint(code, text if room >= 0 else ellipsis(text, width))
    fill = " " * max(0, room)
    return fill + painted if right else painted + fill
