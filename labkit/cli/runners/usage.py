"""`system df`: what takes up the disk, and what could go (Engine API `SystemDataUsage`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from labkit.cli.grammar import Invocation, StatusError
from labkit.cli.references import familiar, short_id, split_name
from labkit.cli.runners import containers, images
from labkit.cli.session import Session
from labkit.cli.tables import Row, write_rows
from labkit.cli.tabwriter import align
from labkit.cli.units import ago, human_size, unix_time
from labkit.errors import InvalidParameter
from labkit.templates.parsing import TemplateError, parse
from labkit.templates.rendering import execute, go_json

Usage = Mapping[str, Any]

_TABLE = "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
_RAW = """type: {{.Type}}
total: {{.TotalCount}}
active: {{.Active}}
size: {{.Size}}
reclaimable: {{.Reclaimable}}
"""
_HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
_KIND = "*formatter.diskUsageImagesContext"
_IMAGES = images.TABLE + "\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}"
_CONTAINERS = (
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}"
)
_VOLUMES = "table {{.Name}}\t{{.Links}}\t{{.Size}}"
_VOLUME_HEADERS = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
_CACHE_TITLES = ("CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED")
_LIVE = ("running", "paused", "restarting")


def disk_usage(session: Session, given: Invocation) -> None:
    usage = session.client.get("/system/df")
    template = given.text("format") or "table"
    if given.flag("verbose"):
        session.out(_verbose_table(usage) if template == "table" else _verbose(usage, template))
        return
    template = _TABLE if template == "table" else _RAW if template == "raw" else template
    try:
        session.out(write_rows(template, summary_rows(usage), _HEADERS, _KIND))
    except InvalidParameter as error:  # the one list for which docker says it so
        raise StatusError(str(error).replace("failed to execute template", "template parsing error")) from error


def summary_rows(usage: Usage) -> list[Row]:
    """One row a kind of object: how many, how many in use, how large, how much of it could go."""
    found, running = usage.get("Images") or (), usage.get("Containers") or ()
    volumes, cache = usage.get("Volumes") or (), usage.get("BuildCache") or ()
    layers = usage.get("LayersSize") or 0
    needed = sum(one["Size"] - one["SharedSize"] for one in found if one["Containers"] and one["SharedSize"] != -1)
    written = [(one["State"] in _LIVE, one.get("SizeRw") or 0) for one in running]
    kept = [(one["UsageData"]["RefCount"] > 0, max(0, one["UsageData"]["Size"])) for one in volumes]
    built = [(one["InUse"], one["Size"]) for one in cache if not one["Shared"]]
    return [
        _row("Images", len(found), sum(one["Containers"] > 0 for one in found), layers, layers - needed),
        _row("Containers", len(running), *_measured(written)),
        _row("Local Volumes", len(volumes), *_measured(kept)),
        _row("Build Cache", len(cache), *_measured(built), percent=False),
    ]


def _measured(items: Sequence[tuple[bool, int]]) -> tuple[int, int, int]:
    """How many are in use, the bytes of all, the bytes of those that aren't."""
    return sum(used for used, _ in items), sum(size for _, size in items), sum(size for used, size in items if not used)


def _row(kind: str, total: int, active: int, size: int, reclaimable: int, percent: bool = True) -> Row:
    share = f" ({int(reclaimable * 100 / size)}%)" if percent and size > 0 else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size),
        "Reclaimable": lambda: human_size(reclaimable) + share,
    }


def _rows(usage: Usage, truncate: bool) -> dict[str, list[Row]]:
    """The objects themselves, as `images`, `ps -a` and so on show them."""
    return {
        "Images": [_image_row(image, truncate) for image in usage.get("Images") or ()],
        "Containers": [
            containers.container_row({**one, "SizeRootFs": 0}, truncate) for one in usage.get("Containers") or ()
        ],
        "Volumes": [_volume_row(volume) for volume in usage.get("Volumes") or ()],
        "BuildCache": list(usage.get("BuildCache") or ()),
    }


def _image_row(image: Mapping[str, Any], truncate: bool) -> Row:
    tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
    name, tag, _ = split_name(familiar(tags[0])) if tags else ("<none>", "<none>", "")
    return images.image_row(image, truncate, name, tag, "")


def _volume_row(volume: Mapping[str, Any]) -> Row:
    used = volume.get("UsageData") or {"RefCount": -1, "Size": -1}
    links, size = used["RefCount"], used["Size"]
    return {
        "Name": volume["Name"],
        "Links": "N/A" if links == -1 else str(links),
        "Size": "N/A" if size == -1 else human_size(size),
    }


def _verbose(usage: Usage, template: str) -> str:
    rows = _rows(usage, False)
    if template in ("json", "{{json .}}"):
        listed = (f'"{name}":[{",".join(map(go_json, items))}]' for name, items in rows.items())
        return f"{{{','.join(listed)}}}"
    template = template.removeprefix("table").strip(" ")
    try:
        return execute(parse(template), rows, "*formatter.diskUsageContext", template)
    except TemplateError as error:
        raise StatusError(str(error)) from error


def _verbose_table(usage: Usage) -> str:
    rows = _rows(usage, True)
    cache = usage.get("BuildCache") or ()
    size = human_size(sum(one["Size"] for one in cache if not one["Shared"]))
    return "".join(
        (
            "Images space usage:\n\n",
            write_rows(_IMAGES, rows["Images"], images.HEADERS, "*formatter.imageContext"),
            "\nContainers space usage:\n\n",
            write_rows(_CONTAINERS, rows["Containers"], containers.HEADERS, "*formatter.ContainerContext"),
            "\nLocal Volumes space usage:\n\n",
            write_rows(_VOLUMES, rows["Volumes"], _VOLUME_HEADERS, "*formatter.volumeContext"),
            f"\nBuild cache usage: {size}\n\n",
            align("\t".join(_CACHE_TITLES) + "\n" + "".join(_cache_lines(cache))),
        )
    )


def _cache_lines(cache: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for one in cache:
        times = (ago(unix_time(one[key])) if one.get(key) else "" for key in ("CreatedAt", "LastUsedAt"))
        shared = "true" if one["Shared"] else "false"
        yield (
            "\t".join(
                (short_id(one["ID"]), one["Type"], human_size(one["Size"]), *times, str(one["UsageCount"]), shared)
            )
            + "\n"
        )
