"""Image references: what `docker run NAME` means. NAME[:TAG][@DIGEST], normalised to DOMAIN/PATH.

The grammar is that of the reference package of the Distribution project (`reference/regexp.go`, `normalize.go`); errors
have its wording, since clients show them. Inside, names are complete (`docker.io/library/busybox:latest`); people
see the familiar form (`busybox:latest`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from labkit.errors import InvalidParameter

_DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_NAME_LIMIT = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(
    rf"(?P<domain>{_HOST}(?::[0-9]+)?)/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?"
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_SHA256 = re.compile(r"sha256:[a-f0-9]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A normalised reference; `tag` and `digest` are empty where not given."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository with its registry: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: `busybox`. Complete where the short form would mean another."""
        short = self.path.removeprefix(_OFFICIAL)
        for name in (short, self.path):
            if self.domain == _DEFAULT_DOMAIN and _split_domain(name) == (self.domain, self.path):
                return name
        return self.name

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        """The whole reference as people write it: `busybox:latest`, `busybox@sha256:…`."""
        return self.familiar_name + self._suffix()

    def __str__(self) -> str:
        return self.name + self._suffix()

    def tagged(self) -> Reference:
        """This reference with `latest` where it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag="latest")


def _split_domain(name: str) -> tuple[str, str]:
    """The first component is a registry only if it looks like a host: has a dot, a port, capitals, or is localhost."""
    first, slash, rest = name.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first)
    domain, remainder = (first, rest) if is_host else (_DEFAULT_DOMAIN, name)
    if domain == _LEGACY_DOMAIN:
        domain = _DEFAULT_DOMAIN
    if domain == _DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder


def check_digest(digest: str) -> str:
    """The digest, if it is a SHA-256 in its only form (64 lower-case digits): safe as part of a path.

    Raises InvalidParameter with the wording of the go-digest package.
    """
    if _SHA256.fullmatch(digest):
        return digest
    algorithm, separator, _ = digest.partition(":")
    if not separator:
        raise InvalidParameter(f"invalid checksum digest format: {digest}")
    if algorithm != "sha256":
        raise InvalidParameter(f"unsupported digest algorithm: {digest}")
    raise InvalidParameter(f"invalid checksum digest length: {digest}")


def parse(text: str) -> Reference:
    """The normalised reference that `text` stands for; no tag is added. Raises InvalidParameter."""
    if _IDENTIFIER.fullmatch(text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = _split_domain(text)
    remote = remainder.partition(":")[0]
    if remote.lower() != remote:
        raise InvalidParameter(f"invalid reference format: repository name ({remote}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if not match:
        raise InvalidParameter("invalid reference format")
    reference = Reference(match["domain"], match["path"], match["tag"] or "", match["digest"] or "")
    if len(reference.name) > _NAME_LIMIT:
        raise InvalidParameter("repository name must not be more than 255 characters")
    if reference.digest:
        check_digest(reference.digest)
    return reference


def parse_repository(repository: str, tag: str) -> Reference:
    """The reference of the API's `repo` and `tag` parameters, `latest` by default. Raises InvalidParameter."""
    reference = parse(repository)
    if reference.digest:
        raise InvalidParameter("refusing to create a tag with a digest reference")
    if not tag:
        return reference.tagged()
    if not re.fullmatch(_TAG, tag):
        raise InvalidParameter("invalid tag format")
    return replace(reference, tag=tag)


def matches(pattern: str, reference: Reference) -> bool:
    """Whether the `reference` filter's glob matches, as Go's path.Match does: `*` stops at a slash.

    Like dockerd it is tried on the familiar name with and without its tag or digest. Raises InvalidParameter.
    """
    try:
        expression = re.compile(_translate(pattern))
    except re.error as error:
        raise InvalidParameter(f"syntax error in pattern {pattern}") from error
    return any(expression.fullmatch(text) for text in (reference.familiar, reference.familiar_name))


def _translate(pattern: str) -> str:
    """The regular expression of a Go path.Match pattern; raises re.error if it has an open bracket."""
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                raise re.error("missing ]")
            out.append("[" + pattern[at:end].replace("[", r"\[") + "]")
            at = end + 1
        elif char == "\\" and at < len(pattern):
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append({"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char))
    return "".join(out)
