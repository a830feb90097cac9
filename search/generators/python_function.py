"""Images by a Python function of the user's own: any program that can be called can be searched."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ...checkpoints.errors import UnetscopeError, in_words
from ...checkpoints.text import counted
from ...merge import merge
from ...merge.live import HeldMerge
from ..errors import NO_IMAGE, SearchError
from ..image_requests import ImageRequest
from ..user_code import load_function
from .contract import Generator
from .settings import Settings, checked

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...merge.recipe import Recipe


class FunctionSettings(Settings):
    """Attributes:
    function: `module:function`, or `file.py:function` with a path from the study's folder. It is called as
        `function(model, requests)` and returns an image (PIL's) for each request.
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
        self._folder = folder
        self._function: Callable | None = None
        self._held: HeldMerge | None = None
        self._scratch: tempfile.TemporaryDirectory | None = None
        self._model: Any = None

    def check(self, recipe: Recipe, requests: Sequence[ImageRequest]) -> None:
        self._load()

    def _load(self) -> Callable:
        if self._function is None:
            self._function = load_function(self.settings.function, self._folder, "generator.function")
            try:
                inspect.signature(self._function).bind(None, [])
            except TypeError:
                raise SearchError(
                    f"generator.function: {self.settings.function} must take two arguments, the model and the requests"
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

    def images(self, requests: Sequence[ImageRequest]) -> list[Image]:
        if self._model is None:
            raise SearchError("no model is prepared yet")
        named = f"generator.function: {self.settings.function}"
        try:
            found = self._load()(self._model, list(requests))
        except UnetscopeError:
            raise
        except Exception as error:  # the user's own code: whatever goes wrong in it fails the trial
            raise SearchError(f"{named} failed with {in_words(error)}", code=NO_IMAGE) from error
        return _images(found, len(requests), named)

    def close(self) -> None:
        if self._held:
            self._held.close()
        if self._scratch:
            self._scratch.cleanup()
        self._held = self._scratch = self._model = None


def _images(found: Any, wanted: int, named: str) -> list[Image]:
    from PIL.Image import Image

    try:
        found = list(found)
    except TypeError:
        raise SearchError(f"{named} returned {type(found).__name__}; it must return a list of images") from None
    if strange := [type(image).__name__ for image in found if not isinstance(image, Image)]:
        raise SearchError(f"{named} returned {strange[0]} in its list; images are PIL.Image.Image")
    if len(found) != wanted:
        raise SearchError(
            f"{named} returned {counted(len(found), 'image')} for {counted(wanted, 'request')}; one for each, in order"
        )
    return [image if image.mode == "RGB" else image.convert("RGB") for image in found]
