"""Docker's rules for `rmi`, case by case (moby `daemon/images/image_delete.go`)."""

from __future__ import annotations

import pytest

from labkit.errors import Conflict
from labkit.images.image import Image
from labkit.images.manifests import Descriptor, ImageConfig
from labkit.images.references import Reference, parse
from labkit.images.removal import ContainerUse, Removal, is_single, plan_removal

DIGEST = "@sha256:" + "d" * 64
STOPPED, RUNNING = ContainerUse("5" * 64, False), ContainerUse("6" * 64, True)
ID = "aaaaaaaaaaaa"


def image(*names: str) -> Image:
    manifest = Descriptor("m", "sha256:" + "b" * 64, 1)
    references = tuple(parse(name) for name in names)
    return Image("sha256:" + "a" * 64, manifest, (), ImageConfig(), b"{}", references, 0)


def references(*names: str) -> tuple[Reference, ...]:
    return tuple(parse(name) for name in names)


@pytest.mark.parametrize(
    ("names", "single"),
    [
        ((), True),
        (("a:1",), True),
        (("a" + DIGEST,), True),
        (("a:1", "a" + DIGEST), True),
        (("a:1", "a:2"), False),
        (("a:1", "b" + DIGEST), False),
        (("a" + DIGEST, "b" + DIGEST), False),
    ],
)
def test_single(names: tuple[str, ...], single: bool) -> None:
    assert is_single(references(*names)) is single


@pytest.mark.parametrize(
    ("names", "named", "force", "uses", "gone", "whole"),
    [
        (("a:1",), "a:1", False, (), ("a:1",), True),
        (("a:1", "a:2"), "a:1", False, (), ("a:1",), False),
        (("a:1", "a:2"), "a:1", False, (RUNNING,), ("a:1",), False),
        (("a:1", "a" + DIGEST), "a:1", False, (), ("a:1", "a" + DIGEST), True),
        (("a:1", "b" + DIGEST), "a:1", False, (), ("a:1",), False),
        (("a:1", "a" + DIGEST), "a" + DIGEST, False, (), ("a" + DIGEST,), False),
        (("a:1",), "a:1", True, (STOPPED,), ("a:1",), True),
        (("a:1",), "a:1", True, (RUNNING,), ("a:1",), False),
        ((), None, False, (), (), True),
        (("a:1", "a" + DIGEST), None, False, (), ("a:1", "a" + DIGEST), True),
        (("a:1", "b:1"), None, True, (STOPPED,), ("a:1", "b:1"), True),
    ],
)
def test_what_goes(
    names: tuple[str, ...],
    named: str | None,
    force: bool,
    uses: tuple[ContainerUse, ...],
    gone: tuple[str, ...],
    whole: bool,
) -> None:
    plan = plan_removal(image(*names), parse(named) if named else None, force, uses, False)
    assert plan == Removal(references(*gone), whole)


@pytest.mark.parametrize(
    ("names", "named", "force", "uses", "children", "message"),
    [
        (
            ("a:1",),
            "a:1",
            False,
            (RUNNING,),
            False,
            f'conflict: unable to remove repository reference "a:1" (must force) - '
            f"container 666666666666 is using its referenced image {ID}",
        ),
        (("a:1",), None, False, (STOPPED,), False, "(must be forced) - image is being used by stopped container 5{12}"),
        (
            ("a:1",),
            None,
            True,
            (RUNNING,),
            False,
            "(cannot be forced) - image is being used by running container 6{12}",
        ),
        (("a:1", "b:1"), None, False, (), False, "(must be forced) - image is referenced in multiple repositories"),
        (("a:1",), None, True, (), True, "(cannot be forced) - image has dependent child images"),
    ],
)
def test_conflicts(
    names: tuple[str, ...],
    named: str | None,
    force: bool,
    uses: tuple[ContainerUse, ...],
    children: bool,
    message: str,
) -> None:
    with pytest.raises(Conflict) as caught:
        plan_removal(image(*names), parse(named) if named else None, force, uses, children)
    expected = message.replace("5{12}", "5" * 12).replace("6{12}", "6" * 12)
    assert str(caught.value) == (expected if named else f"conflict: unable to delete {ID} {expected}")


def test_children_keep_an_image_that_lost_its_last_name() -> None:
    assert plan_removal(image("a:1"), parse("a:1"), False, (), True) == Removal(references("a:1"), False)
