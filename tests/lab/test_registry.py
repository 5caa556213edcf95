"""A learner's registry: it answers, its requests tell themselves, and nothing of it outlives whoever made it."""

from __future__ import annotations

import os
import subprocess
import sys

from labkit.images.by_hand import digest_of
from labkit.lab import Registry

BLOB = b"some bytes"


def test_requests_and_what_they_tell() -> None:
    with Registry() as registry:
        missing = registry.ask("GET", f"/v2/app/blobs/{digest_of(BLOB)}")
        assert (missing.status, missing.json()["errors"][0]["code"]) == (404, "NAME_UNKNOWN")
        stored = registry.ask("POST", f"/v2/app/blobs/uploads/?digest={digest_of(BLOB)}", BLOB, {"X-Why": "test"})
        assert repr(stored).splitlines()[:3] == [
            f"> POST /v2/app/blobs/uploads/?digest={digest_of(BLOB)}",
            "> X-Why: test",
            "< 201 Created",
        ]
        assert registry.ask("GET", f"/v2/app/blobs/{digest_of(BLOB)}").body == BLOB
        assert registry.host in repr(registry)
    assert not os.path.exists(registry.root)
    assert repr(registry) == "a registry that has ended"
    registry.end()


def test_it_ends_with_the_process_that_made_it() -> None:
    """As when a notebook's kernel is killed: the pipe that this test reads ends when the last of them has."""
    program = "import os; from labkit.lab import Registry; print(Registry().root, flush=True); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -9
    assert not os.path.exists(done.stdout.strip())
