"""Dockerfile instructions as `--change`: results and refusals as dockerd's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from labkit.errors import InvalidParameter
from labkit.images.changes import apply_changes, duration
from labkit.images.manifests import ContainerConfig

SECOND = 10**9


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["CMD echo hi"], {"Cmd": ["/bin/sh", "-c", "echo hi"]}),
        (['cmd ["echo", "hi"]'], {"Cmd": ["echo", "hi"]}),
        (['SHELL ["/bin/bash", "-c"]', "CMD ls"], {"Shell": ["/bin/bash", "-c"], "Cmd": ["/bin/bash", "-c", "ls"]}),
        (['ENTRYPOINT ["/init"]'], {"Entrypoint": ["/init"]}),
        (["ENV A=1 B='two words'"], {"Env": ["A=1", "B=two words"]}),
        (["ENV A all of this", "ENV A=2"], {"Env": ["A=2"]}),
        (["ENV A=1", "ENV B=$A${A}x C=${N:-d} D=${A:+set} E=\\$A"], {"Env": ["A=1", "B=11x", "C=d", "D=set", "E=$A"]}),
        (
            ["EXPOSE 80 53/udp 8000-8001"],
            {"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}}},
        ),
        (["LABEL a=1", 'LABEL a="2 x" b'], None),
        (["LABEL a=1", 'LABEL a="2 x"'], {"Labels": {"a": "2 x"}}),
        (["USER 1000:1000"], {"User": "1000:1000"}),
        (["VOLUME /a /b"], {"Volumes": {"/a": {}, "/b": {}}}),
        (['VOLUME ["/a b"]'], {"Volumes": {"/a b": {}}}),
        (["WORKDIR /a", "WORKDIR b/../c", "WORKDIR ./d"], {"WorkingDir": "/a/c/d"}),
        (["WORKDIR /a/../../.."], {"WorkingDir": "/"}),
        (["STOPSIGNAL SIGINT"], {"StopSignal": "SIGINT"}),
        (["ONBUILD RUN make"], {"OnBuild": ["RUN make"]}),
        (["HEALTHCHECK NONE"], {"Healthcheck": {"Test": ["NONE"]}}),
        (
            ["HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f x"],
            {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f x"], "Interval": 90 * SECOND, "Retries": 3}},
        ),
        (['HEALTHCHECK CMD ["true"]'], {"Healthcheck": {"Test": ["CMD", "true"]}}),
        (["# a comment", "", "USER a\nUSER b"], {"User": "b"}),
        (["RUN true"], "run is not a valid change command"),
        (["FROM x"], "from is not a valid change command"),
        (["CMD"], "CMD requires at least one argument"),
        (["ENV A"], "ENV must have two arguments"),
        (["ENV =x"], "ENV names can not be blank"),
        (["ENV A=1 B"], "Syntax error - can't find = in 'B'. Must be of the form: name=value"),
        (["ENV A='open"], "syntax error in"),
        (["EXPOSE 0"], "invalid containerPort: 0"),
        (["EXPOSE 80/icmp"], "invalid containerPort: 80/icmp"),
        (["EXPOSE 9-8"], "invalid containerPort: 9-8"),
        (['VOLUME [""]'], "VOLUME specified can not be an empty string"),
        (["SHELL /bin/sh"], "SHELL requires the arguments to be in JSON form"),
        (["ONBUILD ONBUILD RUN x"], "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        (["ONBUILD FROM x"], "FROM isn't allowed as an ONBUILD trigger"),
        (["HEALTHCHECK SOMETIMES x"], "Unknown type 'SOMETIMES' in HEALTHCHECK (try CMD)"),
        (["HEALTHCHECK --interval=often CMD x"], 'time: invalid duration "often"'),
        (["HEALTHCHECK --what=1 CMD x"], "unknown flag or bad value in HEALTHCHECK: --what=1"),
    ],
)
def test_changes(changes: list[str], expected: dict[str, Any] | str | None) -> None:
    if isinstance(expected, dict):
        assert msgspec.to_builtins(apply_changes(ContainerConfig(), changes)) == expected
        return
    with pytest.raises(InvalidParameter) as caught:
        apply_changes(ContainerConfig(), changes)
    assert (expected or "Syntax error - can't find = in 'b'") in str(caught.value)


def test_durations() -> None:
    assert [duration(text) for text in ("1h2m3.5s", "250ms", "1us")] == [3723 * SECOND + SECOND // 2, SECOND // 4, 1000]
