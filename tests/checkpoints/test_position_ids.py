"""Position ids of an odd shape, wherever they are met."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import load

from unetscope.checkpoints.families.parts.position_ids import is_position_ids, positions
from unetscope.merge import Recipe, merge
from unetscope.merge.convert import convert

KEY = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def test_positions_count_along_the_last_axis_in_every_part():
    whole = np.tile(np.arange(77), (2, 1)).ravel()
    assert np.array_equal(positions((2, 77), 0, 154), whole)
    assert np.array_equal(positions((2, 77), 70, 90), whole[70:90])
    assert is_position_ids(KEY) and not is_position_ids("model.diffusion_model.position_ids")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_a_single_number_is_no_row_of_positions_and_breaks_nothing(dtype, make_checkpoint, tmp_path):
    odd = {KEY: torch.zeros((), dtype=dtype)}
    a, b = (make_checkpoint(n, seed=i, change=lambda t: {**t, **odd})[0] for i, n in enumerate("ab"))
    convert(a, tmp_path / "fixed.safetensors", fix_position_ids=True)
    kept = load(tmp_path / "fixed.safetensors")[KEY]
    assert (kept.dtype, kept.shape, float(kept)) == (dtype, (), 0.0)
    for ids in ("keep", "restore"):
        data = {"models": {"a": str(a), "b": str(b)}, "output": {"position_ids": ids}}
        data["steps"] = {"s": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.5}}
        merge(Recipe.parse(data), tmp_path / f"{ids}.safetensors", fsync=False)
        merged = load(tmp_path / f"{ids}.safetensors")[KEY]
        assert (merged.shape, float(merged)) == ((), 0.0)
