"""Finds a recipe: an optimiser proposes its free numbers, images made with the merge are scored by a reward.

A study (YAML) names a recipe with free numbers, payloads, a generator, a reward and a budget; everything that is learnt goes
into a run folder. This room uses `merge`, `analysis`, `diagrams` and `checkpoints`, and nothing above it.
"""
