"""`labkit.visit(8080)`: a published port, asked from here and linked so that the reader's browser reaches it.

The browser may be on another machine than the container: behind JupyterHub only the Jupyter server is reached, and
jupyter-server-proxy carries requests below `proxy/PORT/` on to this machine's ports.
"""

from __future__ import annotations

import html
import os
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.error import HTTPError, URLError

from labkit.errors import Unavailable

_TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_TAGS = re.compile(r"<(style|script).*?</\1>|<[^>]+>", re.IGNORECASE | re.DOTALL)
_PATIENCE = 10
_SHOWN = 400


@dataclass(frozen=True, slots=True)
class Visit:
    """A page that was fetched: displays as its status and words, and in a browser as the page itself with its links.

    `links` are pairs of what a link is for and its address.
    """

    url: str
    status: int
    title: str
    words: str
    links: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        title = f" “{self.title}”" if self.title else ""
        return f"GET {self.url} → {self.status}{title}\n{self.words}"

    def _repr_html_(self) -> str:
        links = " · ".join(
            f'<a href="{html.escape(address)}" target="_blank" rel="noopener">{html.escape(name)}</a>'
            for name, address in self.links
        )
        url, title = html.escape(self.url), html.escape(self.title)
        said = f"<p>GET <code>{url}</code> → {self.status} <b>{title}</b><br>{links}</p>"
        frame = html.escape(self.links[-1][1])
        return (
            f'{said}<iframe src="{frame}" title="{html.escape(self.title or self.url)}" width="100%" height="260" '
            'style="border: 1px solid; background: white"></iframe>'
        )


def visit(port: int, path: str = "/") -> Visit:
    """Fetch a page from a port of this machine. Raises Unavailable if nothing answers there."""
    url = f"http://127.0.0.1:{port}{path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_PATIENCE) as answer:
            status, body = answer.status, answer.read(1 << 20)
    except HTTPError as error:
        status, body = error.code, error.read(1 << 20)
    except (URLError, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise Unavailable(
            f"nothing answers at {url}: {reason}: see `docker ps`, and `labkit explain --way {port}`"
        ) from error
    text = body.decode(errors="replace")
    title = _TITLE.search(text)
    words = " ".join(html.unescape(_TAGS.sub(" ", text)).split())
    return Visit(url, status, html.unescape(title[1]).strip() if title else "", words[:_SHOWN], links(port, path))


def links(port: int, path: str = "/", environ: Mapping[str, str] = os.environ) -> tuple[tuple[str, str], ...]:
    """How a browser reaches a port: on this machine, and through the Jupyter server if that can pass it on."""
    found = [("on this machine", f"http://127.0.0.1:{port}{path}")]
    base = environ.get("JUPYTERHUB_SERVICE_PREFIX") or _base_url(environ)
    if base and find_spec("jupyter_server_proxy"):
        found.append(("through Jupyter", f"{base.rstrip('/')}/proxy/{port}{path}"))
    return tuple(found)


def _base_url(environ: Mapping[str, str]) -> str:
    """Where the Jupyter server that started this kernel has its pages; empty if none did."""
    from jupyter_server.serverapp import list_running_servers

    parent = environ.get("JPY_PARENT_PID", "")
    servers = [server for server in list_running_servers() if str(server["pid"]) == parent]
    return str(servers[0]["base_url"]) if servers else ""
