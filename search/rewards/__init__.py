"""Rewards: where scores come from. `make_reward` builds one from a study's settings; `Reward` is what one is.

Kinds are imported when a study asks for them. The files:

- `contract`, `kinds`, `options`: what a reward is, which there are, how their options are checked
- `weights`, `pixels`, `clip`, `towers`, `head`: models that score, from local files
- `aesthetic`, `clip_scores`, `image_reward`: rewards that are models
- `command`, `manual`: rewards that are other programs, or people
- `composite`: several as one
- `features`: plain measures of an image
"""

from .contract import Parts, Reward
from .kinds import KINDS, make_reward

__all__ = ["KINDS", "Parts", "Reward", "make_reward"]
