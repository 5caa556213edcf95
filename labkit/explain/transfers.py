"""A pull or push (or a login, a search), told: the requests to the registry, what became of each blob and why, and
where the time went."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Any

from labkit.cli.units import human_size
from labkit.explain.choice import Choice, count, milliseconds
from labkit.explain.tree import Node

Data = dict[str, Any]

_WIDTH = 20  # characters of the longest bar
_TELLING = frozenset(
    ("authorization", "content-range", "docker-content-digest", "link", "location", "range", "retry-after")
) | {"www-authenticate"}
_TELLING_FAMILIES = ("oci-", "ratelimit-", "docker-ratelimit-")


def transfer_node(transfer: Data, choice: Choice) -> Node:
    """One pull or push."""
    remarks = [milliseconds(transfer["ended"] - transfer["began"])] if choice.times else []
    remarks += [f"failed: {transfer['error']}"] if transfer["error"] else []
    remarks += [transfer["rate_limit"]] if transfer["rate_limit"] else []
    said = f"{transfer['verb']} {choice.style.words(transfer['reference'])}"
    parts = [_requests(transfer, choice)]
    parts += [_blobs(transfer, choice)] if transfer["blobs"] else []
    parts += [_spent(transfer)] if choice.times and _times(transfer) else []
    return Node("transfer", said, tuple(remarks), tuple(parts))


def _in_order(transfer: Data, choice: Choice) -> list[Data]:
    """The requests as they began; those about blobs, which are under way at once, by blob where the next run must read
    the same."""
    exchanges = sorted(transfer["exchanges"], key=lambda exchange: int(exchange["began"]))
    if not choice.style.stable:
        return exchanges
    digests = [blob["digest"] for blob in transfer["blobs"] if blob["role"] == "layer"]

    def place(exchange: Data) -> int:
        told = f"{exchange['url']} {exchange['purpose']}"
        return next((place for place, digest in enumerate(digests) if digest in told), -1)

    runs = groupby(exchanges, key=lambda exchange: place(exchange) >= 0)
    return [exchange for _, run in runs for exchange in sorted(run, key=place)]


def _requests(transfer: Data, choice: Choice) -> Node:
    exchanges = _in_order(transfer, choice)
    told = tuple(_exchange(exchange, choice) for exchange in exchanges)
    return Node("exchanges", "asked of the registry", (count(exchanges, "request"),), told, folded=choice.folded)


def _exchange(exchange: Data, choice: Choice) -> Node:
    outcome = str(exchange["status"] or "no answer")
    remarks = [choice.style.words(exchange["purpose"])]
    if choice.times:
        remarks.append(milliseconds(exchange["ended"] - exchange["began"]))
    if exchange["error"] and not choice.style.stable:
        remarks.append(exchange["error"])
    headers = [f"> {line}" for line in _headers(exchange["sent"])] + [
        f"< {line}" for line in _headers(exchange["received"])
    ]
    told = tuple(Node("header", choice.style.words(line), code=True) for line in headers)
    return Node(
        "exchange", f"{exchange['method']} {choice.style.words(exchange['url'])} → {outcome}", tuple(remarks), told
    )


def _headers(pairs: list[list[str]]) -> list[str]:
    """Those of the headers that explain something."""
    return [
        f"{name}: {value}"
        for name, value in pairs
        if name.lower() in _TELLING or name.lower().startswith(_TELLING_FAMILIES)
    ]


def _blobs(transfer: Data, choice: Choice) -> Node:
    told = tuple(_blob(blob, choice) for blob in transfer["blobs"])
    return Node("blobs", "what became of each blob", (count(told, "blob"),), told)


def _times(transfer: Data) -> dict[str, int]:
    """Nanoseconds by what they were spent on, of all blobs and of the whole, in the order of the pipeline."""
    total: Counter[str] = Counter()
    for times in (*(blob["times"] for blob in transfer["blobs"]), transfer["times"]):
        total.update(times)
    return dict(total)


def _spent(transfer: Data) -> Node:
    several = sum(bool(blob["times"]) for blob in transfer["blobs"]) > 1
    remarks = ("blobs come at the same time: together more than it took",) if several else ()
    return Node("times", "where the time went", remarks, tuple(_bars(_times(transfer))))


def _blob(blob: Data, choice: Choice) -> Node:
    said = f"{blob['role']} {choice.style.words(blob['digest'])}"
    remarks = (human_size(blob["size"]), choice.style.words(blob["fate"]))
    return Node("blob", said, remarks, tuple(_bars(blob["times"]) if choice.times else ()))


def _bars(times: Data) -> list[Node]:
    """What time was spent on, as bars of a length in proportion; the stages of one blob overlap."""
    most = max(times.values(), default=0)
    width = max(map(len, times), default=0)
    return [
        Node("time", f"{stage:<{width}} {'█' * round(_WIDTH * spent / most) if most else ''}", (milliseconds(spent),))
        for stage, spent in times.items()
    ]
