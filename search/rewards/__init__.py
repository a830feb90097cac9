"""Rewards: where scores come from. `make_reward` builds one from a study's settings; `contract.Reward` is what one is."""

from .contract import Parts, Reward
from .kinds import KINDS, make_reward

__all__ = ["KINDS", "Parts", "Reward", "make_reward"]
