"""The registry for a class's browser: what is in it, how big, and the command that pulls it. One page, no scripts.

All names are escaped, though the grammar leaves nothing to escape: other tools write to the layouts too.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from labkit.registry.server.documents import Document
from labkit.registry.server.refusals import Refused
from labkit.registry.server.storage import Repository, Storage

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>labkit registry</title><style>
body { font: 16px/1.5 sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color-scheme: light dark }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3em .8em .3em 0 }
tr { border-bottom: 1px solid #8886 } td.size { text-align: right; white-space: nowrap } code { user-select: all }
</style></head><body><main><h1>labkit registry</h1>
"""
_TABLE = '<table><thead><tr><th scope="col">Image<th scope="col">Size<th scope="col">Pull it</tr></thead><tbody>\n'
_TAIL = "</main></body></html>\n"
_EMPTY = (
    "<p>No images yet. Push one: <code>docker tag IMAGE {host}/IMAGE &amp;&amp; docker push {host}/IMAGE</code></p>\n"
)


def page(storage: Storage, host: str) -> str:
    """The page; `host` is how the client reached the registry."""
    rows = "".join(_rows(storage, host))
    return _HEAD + (f"{_TABLE}{rows}</tbody></table>\n" if rows else _EMPTY.format(host=escape(host))) + _TAIL


def _rows(storage: Storage, host: str) -> Iterator[str]:
    for name in storage.names():
        try:
            repository = storage.find(name)
            tags = repository.listing().tags
        except Refused:
            continue  # removed since it was listed
        for tag, entry in sorted(tags.items()):
            image, size = escape(f"{name}:{tag}"), size_of(repository, entry.digest)
            command = f"<code>docker pull {escape(host)}/{image}</code>"
            yield f'<tr><td>{image}<td class="size">{escape(size)}<td>{command}</tr>\n'


def size_of(repository: Repository, digest: str) -> str:
    """What a pull of this manifest downloads, for people; of an index, the sizes of what it offers."""
    document = repository.facts(digest)
    if document is None:
        return "damaged"
    if document.manifests is None:
        return human(_bytes(document))
    offered = [found for target in document.manifests if (found := repository.facts(target.digest))]
    sizes = sorted({_bytes(manifest) for manifest in offered})
    span = " to ".join(dict.fromkeys(map(human, sizes[:1] + sizes[-1:])))
    return f"{span}, {len(offered)} platforms" if sizes else "0B"


def _bytes(document: Document) -> int:
    return sum(target.size for target in document.targets)


def human(size: float) -> str:
    """A size in Docker's units: powers of 1000, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.4g}TB"
