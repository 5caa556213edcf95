"""Bodies of requests: Go's tolerance of nulls, its words for what doesn't fit, and 64 bits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.api import bodies
from labkit.engine.models import CreateBody, ExecCreateBody
from labkit.errors import InvalidParameter


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"HostConfig": {"Memory": "x"}}, "string into Go struct field HostConfig.HostConfig.Memory of type int64"),
        ({"Env": "x"}, "string into Go struct field CreateRequest.Env of type []string"),
        ({"Env": [1]}, "number into Go struct field CreateRequest.Env of type string"),
        ({"Tty": "x"}, "string into Go struct field CreateRequest.Tty of type bool"),
        ({"HostConfig": []}, "array into Go struct field CreateRequest.HostConfig of type HostConfig"),
        ([], "array into Go value of type CreateRequest"),
        ("x", "string into Go value of type CreateRequest"),
        ({"Labels": {"a": 1}}, "number into Go struct field CreateRequest.Labels of type string"),
        ({"HostConfig": {"Memory": 1 << 70}},
         f"number {1 << 70} into Go struct field HostConfig.HostConfig.Memory of type int64"),
        ({"HostConfig": {"Ulimits": [{"Name": 1}]}},
         "number into Go struct field Ulimit.HostConfig.Ulimits.Name of type string"),
        ({"HostConfig": {"Sysctls": []}},
         "array into Go struct field HostConfig.HostConfig.Sysctls of type map[string]string"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_gos_words(body: Any, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        bodies.decode(
            msgspec.json.encode(body) if not _is_long(body) else str(body).replace("'", '"').encode(), CreateBody
        )
    assert str(caught.value) == f"invalid JSON: json: cannot unmarshal {words}"


def _is_long(body: Any) -> bool:
    return str(1 << 70) in str(body)


def test_a_null_is_a_field_that_was_not_given() -> None:
    given_nulls = (
        b'{"Image": "a", "Tty": null, "HostConfig": {"Memory": null, "LogConfig": null, "Mounts": [{"Type": null}]}}'
    )
    found = bodies.decode(given_nulls, CreateBody)
    assert found == bodies.decode(b'{"Image": "a", "HostConfig": {"Mounts": [{}]}}', CreateBody)
    assert bodies.decode(b"null", ExecCreateBody) == ExecCreateBody()


@pytest.mark.parametrize("body", [b"{", b"{]", b"x", b"\xff", b"[" * 100000, b'{"Image": "a"} x'])
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid JSON: "):
        bodies.decode(body, CreateBody)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names := st.sampled_from(
        ["Env", "Cmd", "HostConfig", "Memory", "Binds", "Labels", "Ulimits", "Name", "Mounts", "x"]
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_any_json_is_a_body_or_refused(value: Any) -> None:
    import json

    try:
        found = bodies.decode(json.dumps(value).encode(), CreateBody)
    except InvalidParameter as error:
        assert str(error).startswith("invalid JSON: ")  # noqa: PT017 - it may be decoded as well
    else:
        assert isinstance(found, CreateBody)


def test_the_case_of_a_fields_name_does_not_matter() -> None:
    """As in Go, where the later of two counts; what isn't a field's name (a label, a port) stays as it came."""
    body = {
        "Image": "no", "image": "a", "CMD": ["x"], "labels": {"Image": "b", "tty": "c"},
        "hostconfig": {
            "memory": 5, "mounts": [{"type": "tmpfs", "TARGET": "/t"}],
            "PORTBINDINGS": {"80/TCP": [{"hostport": "8", "HostIp": "::"}]}, "ulimits": [{"name": "core", "SOFT": 1}],
        },
        "networkingconfig": {"endpointsconfig": {"Lab": {"ipamconfig": {"ipv4address": "10.0.0.1"}}}},
    }  # fmt: skip
    found = bodies.decode(msgspec.json.encode(body), CreateBody)
    assert (found.Image, found.Cmd, found.Labels) == ("a", ["x"], {"Image": "b", "tty": "c"})
    host = found.HostConfig
    assert host
    assert host.Memory == 5
    assert host.Mounts == [{"Type": "tmpfs", "Target": "/t"}]
    assert host.PortBindings == {"80/TCP": [{"HostPort": "8", "HostIp": "::"}]}
    assert [(one.Name, one.Soft) for one in host.Ulimits or ()] == [("core", 1)]
    assert (
        msgspec.to_builtins(found.NetworkingConfig)["EndpointsConfig"]["Lab"]["IPAMConfig"]["IPv4Address"] == "10.0.0.1"
    )


def test_what_does_not_fit_is_named_as_it_is_meant() -> None:
    with pytest.raises(InvalidParameter, match=r"HostConfig\.HostConfig\.Memory of type int64"):
        bodies.decode(b'{"hostconfig": {"memory": "x"}}', CreateBody)
