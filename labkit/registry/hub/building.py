"""`labkit hub build`: recipes become images in the hub's store, each on its base, which is built first where it is
missing.

Bases are shared: one Debian layer below nginx, redis and python. What a base looks like unpacked is kept as long as
the workshop is open, in a directory that goes with it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from labkit.errors import Forbidden, LabkitError
from labkit.images.layers import apply_layer
from labkit.images.manifests import Descriptor
from labkit.images.streams import decompressed, file_chunks
from labkit.registry.hub import busybox, debian, recipes
from labkit.registry.hub.images import Stored, find, seconds, store
from labkit.registry.hub.layers import Layer, cleaned, files_tar, keep_layer, write_layer
from labkit.registry.hub.recipes import Recipe
from labkit.registry.server.storage import Storage

Tell = Callable[[str, str], None]
"""Takes an image's name and a line of progress."""


@dataclass(frozen=True, slots=True)
class Made:
    """An image that was built: its tags, the files taken from this machine, and the packages that its layer adds."""

    recipe: Recipe
    tags: tuple[str, ...]
    image: Stored
    taken: tuple[busybox.Taken, ...] = ()
    applets: int = 0
    packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.recipe.name}:{self.tags[0]}"


@dataclass(frozen=True, slots=True)
class _Built:
    """A layer, the packages of the whole image, and those that are new in it."""

    layer: Layer
    versions: dict[str, str]
    programs: busybox.Programs | None = None
    added: tuple[str, ...] = ()


class Workshop:
    """A hub's store, open for building; a context manager. Raises Conflict while another process builds there."""

    def __init__(self, root: Path, mirrors: Sequence[str], tell: Tell) -> None:
        debian.sources(mirrors)  # a bad one is told before anything is built
        self._root = root
        self._mirrors = mirrors
        self._tell = tell
        self._exit = ExitStack()
        self._trees: dict[str, Path] = {}
        self._made: dict[str, Made] = {}

    def __enter__(self) -> Workshop:
        with ExitStack() as opened:
            self.storage = Storage(self._root)
            opened.callback(self.storage.close)
            temporary = tempfile.TemporaryDirectory(dir=self.storage.workspace, prefix="build-")
            self._work = Path(opened.enter_context(temporary)).resolve()
            self._exit = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    def make(self, recipe: Recipe) -> Made:
        """Builds an image, and stores it."""
        base = self._base(recipe)
        work = self._work / str(len(self._made))
        work.mkdir()
        built = self._build(recipe, base, work)
        tags = recipes.tags(recipe, built.versions)
        image = store(self.storage, recipe, base, built.layer, built.versions, tags, work)
        built.layer.tar.unlink()
        taken, applets = (built.programs.taken, built.programs.applets) if built.programs else ((), 0)
        self._made[recipe.name] = Made(recipe, tags, image, taken, applets, built.added)
        return self._made[recipe.name]

    def _base(self, recipe: Recipe) -> Stored | None:
        """The image that it stands on: the one in the store, or else a new one."""
        if not recipe.base:
            return None
        base = recipes.find(recipe.base)
        return find(self.storage, base.path) or self.make(base).image

    def _build(self, recipe: Recipe, base: Stored | None, work: Path) -> _Built:
        target = work / "layer.tar"
        if recipe.system == "busybox":
            programs = busybox.gather()
            return _Built(keep_layer(programs.layer(), target, programs.created), {}, programs)
        if recipe.system == "debian" or recipe.packages:
            return self._of_packages(recipe, base, work, target)
        created = seconds(base.config.created) if base else 0
        return _Built(keep_layer(files_tar(recipe.files, recipe.links, created), target, created), {})

    def _of_packages(self, recipe: Recipe, base: Stored | None, work: Path, target: Path) -> _Built:
        if os.geteuid() != 0:
            raise Forbidden(f"{recipe.name} is made of Debian packages, which takes root: run it with sudo")
        began, lower = time.time_ns(), self._unpacked(base)

        def say(line: str) -> None:
            self._tell(recipe.name, line)

        if lower:
            tree = debian.install(recipe, lower, work, self._mirrors, say)
        else:
            tree = debian.bootstrap(recipe, work, self._mirrors, say)
        say("writing the layer")
        layer = write_layer((tree.path, *lower), target, cleaned(tree.path, lower, recipe.removed, began))
        self._trees[layer.diff_id] = tree.path
        before = next((debian.read_packages(path) for path in lower if (path / debian.PACKAGES).exists()), {})
        added = tuple(f"{name} {version}" for name, version in tree.packages.items() if before.get(name) != version)
        return _Built(layer, tree.packages, None, added)

    def _unpacked(self, image: Stored | None) -> tuple[Path, ...]:
        """The layers of an image as directories, topmost first."""
        if image is None:
            return ()
        layers = zip(image.manifest.layers, image.config.rootfs.diff_ids, strict=True)
        return tuple(reversed([self._tree(layer, diff_id) for layer, diff_id in layers]))

    def _tree(self, layer: Descriptor, diff_id: str) -> Path:
        if diff_id not in self._trees:
            path = self._work / f"tree{len(self._trees)}"
            path.mkdir()
            root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with open(self.storage.pooled(layer.digest), "rb") as blob:
                    apply_layer(decompressed(file_chunks(blob.fileno())), root)
            except FileNotFoundError as error:
                raise LabkitError(f"{self._root} has lost {layer.digest}: build the base again") from error
            finally:
                os.close(root)
            self._trees[diff_id] = path
        return self._trees[diff_id]


def build(root: Path, names: Sequence[str], mirrors: Sequence[str], tell: Tell) -> list[Made]:
    """Builds images into the store at `root`. Raises NotFound for a name without a recipe, before anything is built."""
    wanted = recipes.ordered(names)
    with Workshop(root, mirrors, tell) as workshop:
        return [workshop.make(recipe) for recipe in wanted]
