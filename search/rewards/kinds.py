"""Which rewards there are, and how settings become one: built in, from another package, or from the user's own file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoints.on_demand import OnDemand
from ..errors import SearchError
from ..user_code import find_kind
from .contract import Reward
from .options import checked_options

if TYPE_CHECKING:
    from PIL.Image import Image

# Modules are imported when asked for: some need packages that not everybody has.
KINDS = OnDemand(
    "reward",
    __package__,
    "unetscope.rewards",
    {
        "aesthetic": "aesthetic:Aesthetic",
        "image_reward": "image_reward:ImageReward",
        "pick_score": "clip_scores:PickScore",
        "hps_v21": "clip_scores:HpsV21",
        "clip_score": "clip_scores:ClipScore",
        "command": "command:Command",
        "manual": "manual:Manual",
        "composite": "composite:Composite",
        "features": "features:Features",
    },
    error=SearchError,
)
# Kinds of earlier versions.
_REMOVED = ("http", "onnx")


def make_reward(settings: Mapping[str, Any] | Sequence[Any] | str, folder: Path) -> Reward:
    """The reward that a study asks for; nothing is loaded yet.

    Args:
        settings: a kind (`"features"`), a kind with its options (`{"kind": "aesthetic", "weights": ...}`), or a list of
            these: their composite, with equal weights. A kind is one of `KINDS` (those of the entry points of the group
            `unetscope.rewards` are among them), `package.module:Class`, or `my_reward.py:Class`. Instead of a class there
            may be a function `(images, prompts) -> scores`.
        folder: of the study file; relative paths begin there.

    Raises:
        SearchError: no such kind, or an option that it does not take.
    """
    if isinstance(settings, str):
        settings = {"kind": settings}
    elif isinstance(settings, Sequence):
        settings = {"kind": "composite", "parts": list(settings)}
    if not isinstance(settings, Mapping):
        raise SearchError(f"reward: is {settings!r}; write a kind ({', '.join(KINDS)}) or {{kind: ..., options}}")
    options = {str(name): value for name, value in settings.items()}
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or not kind.strip():
        raise SearchError(f"reward: names no kind; write kind: one of {', '.join(KINDS)}, or FILE.py:Class")
    if kind in _REMOVED and kind not in KINDS:
        raise SearchError(
            f"reward {kind}: this kind is no longer there; run the scorer by {{kind: command, command: ...}}, or by a class of "
            "your own (my_reward.py:Class)"
        )
    made = find_kind(KINDS, kind.strip(), folder, "class or function", "reward: there is no kind")
    if inspect.isclass(made):
        reward = made(**checked_options(made, options, kind, folder))
        if not isinstance(reward, Reward):
            raise SearchError(
                f"reward {kind}: {made.__name__} is not a Reward; derive it from unetscope.search.rewards.Reward"
            )
        reward.name = reward.name or kind
        return reward
    if options:
        raise SearchError(
            f"reward {kind}: a function takes no options, found {', '.join(options)}; write a class instead"
        )
    return FunctionReward(made, kind)


class FunctionReward(Reward):
    """A function `(images, prompts) -> scores` as a reward; higher is better."""

    def __init__(self, function: Callable[[Sequence[Image], Sequence[str]], Sequence[float]], name: str):
        self.name = name
        self._function = function

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        return list(self._function(images, prompts))
