"""Output on its way to the log, taken over from a daemon that was killed."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from labkit.engine.logging.formats import JsonLines
from labkit.engine.logging.logger import Files, Logger
from labkit.engine.logging.options import Rotation
from labkit.engine.output import Output
from labkit.kernel import pipes


def test_what_a_killed_daemon_had_staged_is_in_the_log_at_once(tmp_path: Path) -> None:
    async def take_over() -> bytes:
        source, stage, scratch = pipes.make_pipe(), pipes.make_pipe(), pipes.make_pipe()
        os.write(stage[1], b"whole line\npart")
        output = Output(log := Logger(Files(str(tmp_path / "log"), JsonLines(), Rotation())))
        output.add("stdout", source[0], stage, None, scratch)
        output.begin()
        found = (tmp_path / "log").read_bytes()
        os.close(source[1])
        await output.ended.wait()
        log.close()
        for fd in scratch:
            os.close(fd)
        return found

    assert json.loads(asyncio.run(take_over()))["log"] == "whole line\n"
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["log"] for line in lines] == ["whole line\n", "part"]
