"""Requests to a registry through its endpoints in their order, with the authorization that each asks for.

As dockerd: a mirror that fails in any way gives way to the registry; a registry itself only gives way to its next
address (http after https, where it is insecure) if it can't be reached. The one that answered is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from labkit.errors import LabkitError
from labkit.registry.auth import Authorizer, parse_challenges
from labkit.registry.cancelling import Cancelled
from labkit.registry.credentials import Credentials
from labkit.registry.endpoints import Endpoint, Settings, endpoints
from labkit.registry.exchange import Observe
from labkit.registry.transport import PATIENT, Answer, Body, Broken, Patience, Request, Transport, Unreachable, origin
from labkit.trace import TraceContext

_AMOUNT = re.compile(r"(\d{1,12})(?:\s*;\s*w=(\d{1,12}))?")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many pulls a registry allows in a window of seconds, and how many are left; `source` is whom it counts."""

    limit: int
    remaining: int
    window: int = 0
    source: str = ""


def rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """The rate limit that an answer tells (Docker Hub's `RateLimit-Limit: 100;w=21600`); None where it tells none."""
    limit = _AMOUNT.match(headers.get("RateLimit-Limit", ""))
    remaining = _AMOUNT.match(headers.get("RateLimit-Remaining", ""))
    if not limit or not remaining:
        return None
    source = headers.get("Docker-RateLimit-Source", "")
    return RateLimit(int(limit[1]), int(remaining[1]), int(limit[2] or remaining[2] or 0), source)


class Place:
    """One endpoint with its connections and its authorization."""

    def __init__(self, transport: Transport, credentials: Credentials) -> None:
        self.transport = transport
        self.endpoint: Endpoint = transport.endpoint
        self.authorizer = Authorizer(self.endpoint.url, credentials, transport.send)

    def ask(self, request: Request, scopes: tuple[str, ...]) -> Answer:
        """The answer; a challenge is met once."""
        own = self._is_own(request.url)
        used = self.authorizer.known(scopes) if own else ""
        answer = self.transport.send(_authorized(request, used))
        if answer.status != 401 or not self._is_own(answer.request.url):
            return answer
        challenges = parse_challenges(answer.headers.getlist("WWW-Authenticate"))
        try:
            value = self.authorizer.answer(challenges, scopes, used)
        except BaseException:
            answer.close()
            raise
        if not value:
            return answer
        answer.drain()
        return self.transport.send(_authorized(request, value))

    def _is_own(self, url: str) -> bool:
        """Whether it is this endpoint that credentials would go to."""
        return origin(url) == origin(self.endpoint.url)


def _authorized(request: Request, value: str) -> Request:
    if not value:
        return request
    headers = {**request.headers, "Authorization": value}
    return Request(request.method, request.url, request.purpose, headers, request.body, request.repeatable)


class Session:
    """The endpoints of one registry. All methods may be called from any thread."""

    def __init__(
        self,
        domain: str,
        settings: Settings,
        credentials: Credentials,
        observe: Observe,
        cancelled: Cancelled,
        context: TraceContext | None = None,
        push: bool = False,
        patience: Patience = PATIENT,
    ) -> None:
        self.domain = domain
        self.cancelled = cancelled
        self.patience = patience
        self.rate_limit: RateLimit | None = None
        self._current = 0
        self._places = [
            # Credentials are the registry's: a mirror gets none.
            Place(
                Transport(place, observe, cancelled, context, patience), Credentials() if place.mirror else credentials
            )
            for place in endpoints(domain, settings, push)
        ]

    def close(self) -> None:
        """Ends idle connections."""
        for place in self._places:
            place.transport.close()

    @property
    def place(self) -> Place:
        """The endpoint that answers."""
        return self._places[self._current]

    def give_up(self, place: Place) -> bool:
        """Goes on without a mirror that fails; False if it isn't one."""
        if place.endpoint.mirror:
            self._current = max(self._current, self._places.index(place) + 1)
        return place.endpoint.mirror

    def ask(
        self,
        method: str,
        path: str,
        purpose: str,
        scopes: tuple[str, ...],
        headers: dict[str, str] | None = None,
        body: Body = None,
        repeatable: bool = True,
        proven: bool = True,
    ) -> Answer:
        """The answer of the first endpoint that has one. `path` may be a URL that it gave before.

        Without authorization, whatever the endpoint asks for, unless it is to be `proven` who asks.

        Raises Unreachable, Broken, Unauthorized, Forbidden; Unavailable when cancelled.
        """
        for number in range(self._current, len(self._places)):
            place, last = self._places[number], number == len(self._places) - 1
            url = path if "://" in path else place.endpoint.url + path
            request = Request(method, url, purpose, dict(headers or {}), body, repeatable)
            try:
                answer = place.ask(request, scopes) if proven else place.transport.send(request)
            except LabkitError as error:
                self.cancelled.check()
                away = isinstance(error, Unreachable | Broken) and not place.transport.answered
                if last or not (away or place.endpoint.mirror):
                    raise
                self._current = max(self._current, number + 1)
                continue
            if answer.status < 400 or last or not place.endpoint.mirror:
                self.rate_limit = rate_limit(answer.headers) or self.rate_limit
                return answer
            answer.drain()
            if answer.status != 404:  # a mirror that lacks one blob may have the next
                self._current = max(self._current, number + 1)
        raise AssertionError("a session has endpoints, and the last one answers or raises")
