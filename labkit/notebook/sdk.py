"""`labkit.connect()`: the Docker SDK on labkit's engine, its requests traced as the magics' are.

Each cell's requests are one trace; outside IPython each client has one.
"""

from __future__ import annotations

import time
from typing import Any

import docker
from requests import PreparedRequest, Response
from requests.auth import AuthBase

from labkit.client.locate import chosen_host, locate
from labkit.notebook.actions import remember
from labkit.trace import Span, TraceContext, new_trace


class RequestTrace(AuthBase):
    """Adds a `traceparent` to each request and keeps its span. requests calls an auth object just before it sends."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._root = new_trace()

    def begin(self, *_: object) -> None:
        """A new action: the requests that follow are a trace of their own."""
        self._root = new_trace()
        self.spans = []

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        context = self._root.child()
        request.headers["Traceparent"] = context.traceparent()
        began = time.time_ns()
        request.hooks["response"].append(lambda response, **_: self._answered(context, began, response))
        return request

    def _answered(self, context: TraceContext, began: int, response: Response) -> None:
        path = response.request.path_url.partition("?")[0]
        attributes = {
            "http.request.method": response.request.method,
            "url.path": path,
            "http.response.status_code": response.status_code,
        }
        name = f"{response.request.method} {path}"
        self.spans.append(Span(context, name, "client", began, time.time_ns(), attributes))
        remember(self.spans)


def connect(host: str = "") -> docker.DockerClient:
    """See `labkit.connect`."""
    chosen = chosen_host(host)
    if not chosen:
        client = locate()
        chosen = client.host
        client.close()
    sdk = docker.DockerClient(base_url=chosen)
    trace = RequestTrace()
    sdk.api.auth = trace
    _join_ipython(trace)
    return sdk


def _join_ipython(trace: RequestTrace) -> None:
    """Where a cell is running: one trace a cell, and tables for what the SDK returns."""
    from IPython.core.getipython import get_ipython

    from labkit.notebook.display import register

    shell: Any = get_ipython()
    if shell is not None:
        register(shell)
        shell.events.register("pre_run_cell", trace.begin)
