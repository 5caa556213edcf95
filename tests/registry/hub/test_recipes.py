"""Recipes as data."""

from __future__ import annotations

import pytest

from labkit.cli.commands.hub import NAMES
from labkit.errors import NotFound
from labkit.images.manifests import ContainerConfig
from labkit.images.references import parse
from labkit.registry.hub.recipes import RECIPES, Recipe, find, merged, ordered, tags


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_can_be_followed(recipe: Recipe) -> None:
    assert bool(recipe.base) != bool(recipe.system)
    assert parse(recipe.name).path == recipe.path
    names = list(RECIPES)
    assert not recipe.base or names.index(recipe.base) < names.index(recipe.name)
    for path in (*recipe.files, *recipe.links, *recipe.removed):
        assert not path.startswith("/")
        assert ".." not in path
    assert not recipe.versions_of or any(recipe.versions_of in package for package in recipe.packages)
    for file in recipe.files.values():
        assert file.text.endswith("\n")
        assert (file.mode == 0o755) == file.text.startswith("#!")


def test_the_command_knows_their_names() -> None:
    assert NAMES.split("|") == list(RECIPES)


def test_conventions_of_the_official_images() -> None:
    nginx, redis = RECIPES["nginx"].config, RECIPES["redis"].config
    assert (nginx.exposed_ports, nginx.stop_signal) == ({"80/tcp": {}}, "SIGQUIT")
    assert nginx.cmd == ["nginx", "-g", "daemon off;"]
    assert (redis.volumes, redis.working_dir, redis.cmd) == ({"/data": {}}, "/data", ["redis-server"])
    assert RECIPES["python"].config.cmd == ["python3"]


def test_finding() -> None:
    assert find("getting-started").name == "docker/getting-started"
    with pytest.raises(NotFound, match="no recipe for 'windows'; it has: busybox, alpine"):
        find("windows")
    assert [recipe.name for recipe in ordered(["nginx", "busybox", "nginx"])] == ["busybox", "nginx"]


def test_tags_of_versions() -> None:
    assert tags(find("nginx"), {"nginx": "1:1.22.1-9+deb12u11"}) == ("latest", "1.22.1", "1.22", "1")
    assert tags(find("nginx"), {}) == ("latest",)
    found = tags(find("python"), {"python3": "3.11.2-1+b1"})
    assert {"latest", "slim", "3", "3.11-slim", "3-slim-bookworm"} <= set(found)
    assert len(found) == len(set(found))


def test_configurations_add_up_as_in_a_dockerfile() -> None:
    base = ContainerConfig(cmd=["bash"], env=["A=1"], exposed_ports={"1/tcp": {}}, user="me")
    own = ContainerConfig(env=["B=2"], exposed_ports={"2/tcp": {}})
    assert merged(base, own) == ContainerConfig(
        cmd=["bash"], env=["A=1", "B=2"], exposed_ports={"1/tcp": {}, "2/tcp": {}}, user="me"
    )
    assert merged(base, ContainerConfig(entrypoint=["/run"])).cmd is None
    assert merged(base, ContainerConfig(entrypoint=["/run"], cmd=["x"])).cmd == ["x"]
