"""The parser against pflag's rules and messages."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.cli.commands import BY_NAME, COMMANDS, GROUPS
from labkit.cli.grammar import FlagError, HelpWanted, StatusError, parse, read_flags
from labkit.cli.session import find

RUN = BY_NAME[("run",)]
PS = BY_NAME[("ps",)]


def run_words(*words: str) -> tuple[dict[str, Any], list[str]]:
    given = parse("labkit", RUN, ("run",), words)
    return given.options, given.arguments


@pytest.mark.parametrize(
    ("words", "options", "arguments"),
    [
        (["-it", "x"], {"interactive": True, "tty": True}, ["x"]),
        (["-p8080:80", "x"], {"publish": ["8080:80"]}, ["x"]),
        (["-p=8080:80", "x"], {"publish": ["8080:80"]}, ["x"]),
        (["-itp", "80", "x"], {"interactive": True, "tty": True, "publish": ["80"]}, ["x"]),
        (["--name=web", "x", "--rm"], {"name": "web"}, ["x", "--rm"]),
        (["--name", "web", "x", "-it"], {"name": "web"}, ["x", "-it"]),
        (["--rm=false", "x"], {"rm": False}, ["x"]),
        (["-d=0", "x"], {"detach": False}, ["x"]),
        (["-e", "A=1", "-eB=2", "--env", "C", "x"], {"env": ["A=1", "B=2", "C"]}, ["x"]),
        (["--net", "host", "x"], {"network": [{"Target": "host"}]}, ["x"]),
        (["--", "x", "-y"], {}, ["x", "-y"]),
        (["-h", "box", "x"], {"hostname": "box"}, ["x"]),
        (["-m", "1.5g", "--cpus", ".5", "x"], {"memory": 1610612736, "cpus": 500_000_000}, ["x"]),
        (["--name", "--rm", "x"], {"name": "--rm"}, ["x"]),
        (["x", "-"], {}, ["x", "-"]),
    ],
)
def test_words_are_split_as_pflag_splits_them(words: list[str], options: dict[str, Any], arguments: list[str]) -> None:
    assert run_words(*words) == (options, arguments)


def test_options_may_follow_arguments_unless_the_command_says_otherwise() -> None:
    stop = parse("labkit", BY_NAME[("stop",)], ("stop",), ["web", "-t", "5", "db"])
    assert (stop.options, stop.arguments) == ({"timeout": 5}, ["web", "db"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["-iZt"], "unknown shorthand flag: 'Z' in -iZt"),
        (["--name"], "flag needs an argument: --name"),
        (["-ie"], "flag needs an argument: 'e' in -ie"),
        (["---x"], "bad flag syntax: ---x"),
        (["--=x"], "bad flag syntax: --=x"),
        (["-m", "foo"], 'invalid argument "foo" for "-m, --memory" flag: invalid size: \'foo\''),
        (["--rm=x"], 'invalid argument "x" for "--rm" flag: strconv.ParseBool: parsing "x": invalid syntax'),
    ],
)
def test_what_the_flags_do_not_allow_is_said_in_pflags_words(words: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        read_flags(RUN.flags, words, RUN.interspersed)
    assert str(caught.value) == message


def test_a_wrong_flag_ends_with_125_and_the_usage() -> None:
    with pytest.raises(StatusError) as caught:
        run_words("--foo")
    assert caught.value.exit_code == 125
    assert str(caught.value) == (
        "unknown flag: --foo\n\nUsage:  labkit run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\n"
        "Run 'labkit run --help' for more information"
    )


@pytest.mark.parametrize(
    ("command", "words", "problem"),
    [
        ("ps", ["x"], "accepts no arguments"),
        ("rename", ["a"], "requires 2 arguments"),
        ("run", [], "requires at least 1 argument"),
        ("exec", ["a"], "requires at least 2 arguments"),
        ("images", ["a", "b"], "requires at most 1 argument"),
        ("port", [], "requires at least 1 and at most 2 arguments"),
    ],
)
def test_a_wrong_number_of_arguments_ends_with_1(command: str, words: list[str], problem: str) -> None:
    with pytest.raises(StatusError, match=f"^labkit: 'labkit {command}' {problem}\n") as caught:
        parse("labkit", BY_NAME[(command,)], (command,), words)
    assert caught.value.exit_code == 1


def test_help_is_wanted_before_anything_is_wrong() -> None:
    with pytest.raises(HelpWanted):
        parse("labkit", PS, ("ps",), ["--help", "too", "many"])


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["ps"], ("ps",)),
        (["-H", "unix:///x", "ps"], ("ps",)),
        (["container", "ps"], ("container", "ls")),
        (["image", "remove"], ("image", "rm")),
    ],
)
def test_a_command_is_found_by_all_its_names(words: list[str], path: tuple[str, ...]) -> None:
    assert find("labkit", words).path == path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["foo"], "labkit: unknown command: labkit foo\n\nRun 'labkit --help' for more information"),
        (["image", "foo"], "labkit: unknown command: labkit image foo\n\nUsage:  labkit image\n\nRun 'labkit image"),
    ],
)
def test_an_unknown_command_is_said_to_be_one(words: list[str], message: str) -> None:
    with pytest.raises(StatusError) as caught:
        find("labkit", words)
    assert str(caught.value).startswith(message)


def test_the_table_is_consistent() -> None:
    for command in COMMANDS:
        names = [flag.name for flag in command.flags]
        shorts = [flag.short for flag in command.flags if flag.short]
        assert len(set(names)) == len(names)
        assert len(set(shorts)) == len(shorts)
        assert all(flag.same_as in names for flag in command.flags if flag.same_as)
        assert all(name[0] in GROUPS for name in command.names if len(name) == 2)
    assert len(BY_NAME) == sum(len(command.names) for command in COMMANDS)
