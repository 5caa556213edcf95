"""Image references against the rules (and the examples) of Distribution's reference package."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import InvalidParameter
from labkit.images.references import Reference, check_digest, matches, parse, parse_repository

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("library/user/app", "docker.io/library/user/app:latest", "library/user/app:latest"),
        ("docker.io/my.org/app", "docker.io/my.org/app:latest", None),  # short, it would be a registry
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("registry.example.com/a/b__c/d-e.f", "registry.example.com/a/b__c/d-e.f:latest", None),
        ("Host/app", "Host/app:latest", None),
        ("[::1]:5000/app", "[::1]:5000/app:latest", None),
        (f"busybox@sha256:{HEX}", f"docker.io/library/busybox@sha256:{HEX}", f"busybox@sha256:{HEX}"),
        (f"a/b:t@sha256:{HEX}", f"docker.io/a/b:t@sha256:{HEX}", f"a/b:t@sha256:{HEX}"),
    ],
)
def test_normal_forms(text: str, full: str, familiar: str | None) -> None:
    reference = parse(text).tagged()
    assert str(reference) == full
    assert reference.familiar == (familiar or full)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"),
        ("a//b", "invalid reference format"),
        ("a:b:c", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a@sha256:abc", "invalid reference format"),
        (f"a@sha256:{HEX[:-1]}", f"invalid checksum digest length: sha256:{HEX[:-1]}"),
        (f"a@sha512:{HEX}", f"unsupported digest algorithm: sha512:{HEX}"),
        ("a\n", "invalid reference format"),
        ("a/../b", "invalid reference format"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ("a/" * 128 + "a", "repository name must not be more than 255 characters"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(text)
    assert str(caught.value) == message


_component = st.from_regex(r"[a-z0-9]{1,8}((?:[._]|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
_path = st.lists(_component, min_size=1, max_size=3).map("/".join)
_domain = st.sampled_from(["docker.io", "localhost", "localhost:5000", "quay.io", "a.b-c.example:443"])
_tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
_digest = st.from_regex(r"sha256:[a-f0-9]{64}", fullmatch=True)


@given(_domain, _path, _tag | st.just(""), _digest | st.just(""))
def test_what_is_written_is_read_again(domain: str, path: str, tag: str, digest: str) -> None:
    reference = parse(str(Reference(domain, path, tag, digest)))
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference
    assert (reference.domain, reference.tag, reference.digest) == (domain, tag, digest)


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidParameter:
        return
    assert parse(reference.familiar) == reference
    assert ".." not in reference.path.split("/")


def test_repository_and_tag_of_the_api() -> None:
    assert str(parse_repository("app", "")) == "docker.io/library/app:latest"
    assert str(parse_repository("app:v1", "")) == "docker.io/library/app:v1"
    assert str(parse_repository("app:v1", "v2")) == "docker.io/library/app:v2"
    with pytest.raises(InvalidParameter, match="invalid tag format"):
        parse_repository("app", "a b")
    with pytest.raises(InvalidParameter, match="refusing to create a tag with a digest reference"):
        parse_repository(f"app@sha256:{HEX}", "")


@pytest.mark.parametrize("digest", ["", "sha256:", f"sha256:{HEX.upper()}", "sha256:../../etc", f"md5:{HEX[:32]}", HEX])
def test_digests_that_are_none(digest: str) -> None:
    with pytest.raises(InvalidParameter):
        check_digest(digest)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("busybox", True),
        ("busy*", True),
        ("busybox:1.*", True),
        ("b?sybox", True),
        ("[a-c]usybox", True),
        ("[^b]usybox", False),
        ("docker.io/*", False),
        ("*/busybox", False),
        ("\\busybox", True),
        ("busybox:2", False),
    ],
)
def test_reference_filter(pattern: str, found: bool) -> None:
    assert matches(pattern, parse("busybox:1.36")) is found


def test_reference_filter_refuses_an_open_bracket() -> None:
    with pytest.raises(InvalidParameter, match="syntax error in pattern"):
        matches("busy[box", parse("busybox"))
