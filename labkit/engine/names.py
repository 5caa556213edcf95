"""Names for containers that were given none: an adjective and somebody who made computing what it is."""

from __future__ import annotations

import random
from collections.abc import Container

ADJECTIVES = (
    "able", "apt", "bold", "brave", "bright", "brisk", "calm", "candid", "clear", "clever", "cosmic", "crisp",
    "deft", "eager", "earnest", "fair", "fluent", "focused", "frank", "gentle", "glad", "graceful", "happy", "honest",
    "humble", "jolly", "keen", "kind", "lively", "lucid", "mellow", "merry", "modest", "neat", "nimble", "patient",
    "playful", "polite", "proud", "quiet", "quick", "serene", "sharp", "steady", "sunny", "tender", "tidy", "upbeat",
    "vivid", "warm", "wise", "witty", "zealous",
)  # fmt: skip
PEOPLE = (
    "allen", "backus", "bartik", "berners_lee", "borg", "cerf", "church", "clarke", "codd", "conway", "dijkstra",
    "engelbart", "floyd", "goldberg", "hamilton", "hamming", "hoare", "holberton", "hopper", "johnson", "kahn", "kay",
    "kernighan", "knuth", "lamarr", "lamport", "liskov", "lovelace", "mccarthy", "mcilroy", "meltzer", "milner",
    "neumann", "noether", "nygaard", "perlman", "pike", "postel", "ritchie", "shannon", "shaw", "shirley", "sutherland",
    "tarjan", "thompson", "torvalds", "turing", "wilkes", "wing", "wirth", "zuse",
)  # fmt: skip


def random_name(taken: Container[str]) -> str:
    """A name that isn't taken; with a digit behind it when chance keeps meeting taken ones."""
    for attempt in range(100):
        name = f"{random.choice(ADJECTIVES)}_{random.choice(PEOPLE)}"
        if attempt > 4:
            name += str(random.randrange(10 ** (attempt // 4)))
        if name not in taken:
            return name
    raise AssertionError("a hundred taken names in a row")
