"""Images by a Python function of the user's own: any program that can be called can be searched."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ...checkpoints.errors import UnetscopeError, nearest
from ...merge import merge
from ...merge.live import HeldMerge
from ..errors import SearchError
from ..shots import Shot
from .contract import Generator, NoImageError
from .settings import Settings, checked

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...merge.recipe import Recipe


class FunctionSettings(Settings):
    """Attributes:
    function: `module:function`, or `file.py:function` with a path from the study's folder. It is called as
        `function(model, shots)` and returns an image (PIL's) for each shot.
    takes: what `model` is: `weights`, key -> torch tensor, which change with the next trial; `file`, the path of the merged
        .safetensors file, removed after the trial; `recipe`, the `Recipe`.
    threads: for merging; left out: as many as there are cores.
    """

    function: str
    takes: Literal["weights", "file", "recipe"] = "weights"
    threads: Annotated[int, Field(ge=1)] | None = None


class FunctionGenerator(Generator):
    """See `FunctionSettings`."""

    def __init__(self, settings: Mapping[str, Any], folder: Path = Path()):
        self.settings = checked(FunctionSettings, settings)
        self._place = _parsed(self.settings.function, folder)
        self._function: Callable | None = None
        self._held: HeldMerge | None = None
        self._scratch: tempfile.TemporaryDirectory | None = None
        self._model: Any = None

    def check(self, recipe: Recipe, shots: Sequence[Shot]) -> None:
        self._load()

    def _load(self) -> Callable:
        if self._function is None:
            self._function = _imported(*self._place)
            try:
                inspect.signature(self._function).bind(None, [])
            except TypeError:
                raise SearchError(
                    f"generator.function: {self.settings.function} must take two arguments, the model and the shots"
                ) from None
            except ValueError:  # written in C: its arguments are not known before it is called
                pass
        return self._function

    def prepare(self, recipe: Recipe) -> None:
        self._load()
        if self.settings.takes == "recipe":
            self._model = recipe
        elif self.settings.takes == "weights":
            self._held = self._held or HeldMerge(threads=self.settings.threads)
            self._model = self._held.torch(recipe)
        else:
            self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="unetscope-trial-")
            path = Path(self._scratch.name) / "trial.safetensors"
            merge(recipe, path, threads=self.settings.threads, overwrite=True, fsync=False)
            self._model = path

    def images(self, shots: Sequence[Shot]) -> list[Image]:
        if self._model is None:
            raise SearchError("no model is prepared yet")
        named = f"generator.function: {self.settings.function}"
        try:
            found = self._load()(self._model, list(shots))
        except UnetscopeError:
            raise
        except Exception as error:  # the user's own code: whatever goes wrong in it fails the trial
            raise NoImageError(f"{named} failed with {type(error).__name__}: {error}{_line(error)}") from error
        return _images(found, len(shots), named)

    def close(self) -> None:
        if self._held:
            self._held.close()
        if self._scratch:
            self._scratch.cleanup()
        self._held = self._scratch = self._model = None


def _parsed(said: str, folder: Path) -> tuple[str | Path, str]:
    """The module's name or file, and the function's name."""
    place, _, name = said.rpartition(":")
    if not place or not name.isidentifier():
        raise SearchError(f"generator.function: is {said!r}; write module:function or file.py:function")
    if not place.endswith(".py"):
        return place, name
    path = folder / Path(place).expanduser()
    if not path.is_file():
        raise SearchError(f"generator.function: there is no file {path}")
    return path, name


def _imported(place: str | Path, name: str) -> Callable:
    try:
        if isinstance(place, Path):
            spec = importlib.util.spec_from_file_location(f"_unetscope_{place.stem}", place)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses in it look their module up
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except Exception as error:  # the user's own code
        raise SearchError(
            f"generator.function: {place} cannot be imported: {type(error).__name__}: {error}{_line(error)}"
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise SearchError(f"generator.function: {place} has no function {name!r}{nearest(name, vars(module))}")
    return function


def _images(found: Any, wanted: int, named: str) -> list[Image]:
    from PIL.Image import Image

    try:
        found = list(found)
    except TypeError:
        raise SearchError(f"{named} returned {type(found).__name__}; it must return a list of images") from None
    if strange := [type(image).__name__ for image in found if not isinstance(image, Image)]:
        raise SearchError(f"{named} returned {strange[0]} in its list; images are PIL.Image.Image")
    if len(found) != wanted:
        raise SearchError(f"{named} returned {len(found)} images for {wanted} shots; one for each, in order")
    return [image if image.mode == "RGB" else image.convert("RGB") for image in found]


def _line(error: BaseException) -> str:
    """Where in the user's code an error arose."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})" if trace else ""
