"""Whole files merged by sd-mecha and by us: the same numbers wherever the definitions agree.

sd-mecha averages integer buffers and writes them as floats, so only floating point weights are compared; it merges the VAE
like everything else, so the VAE is asked for here.
"""

from __future__ import annotations

import pytest
import torch
from places import place
from samples import others_long
from tiny import load

from unetscope.checkpoints.families.conventions import CONVENTIONS
from unetscope.merge import Recipe, merge

sd_mecha = pytest.importorskip("sd_mecha")
from mecha_oracle import COMPARED, merged  # noqa: E402 (only where sd-mecha is)

ALPHA = 0.3
# An alpha for every slot of sd-mecha's block weights, no two alike, ends included: 0, 1/n, ... 1.
SLOTS = {family: CONVENTIONS["sd-mecha"].slots(family, n) for family, n in (("sd1", 26), ("sdxl", 21))}
BLOCKS = {f: {s: i / (len(slots) - 1) for i, s in enumerate(slots)} for f, slots in SLOTS.items()}

METHODS = {
    "weighted_sum": ({"alpha": ALPHA}, lambda a, b, c: sd_mecha.weighted_sum(a, b, alpha=ALPHA), 2),
    "uniform": ({}, lambda a, b, c: sd_mecha.n_average(a, b, c), 3),
    "add_difference": ({"alpha": ALPHA}, lambda a, b, c: sd_mecha.add_difference(a, b, c, alpha=ALPHA), 3),
}


def ours(paths, step, folder, **recipe) -> dict[str, torch.Tensor]:
    models = {f"m{i}": str(p) for i, p in enumerate(paths)}
    data = {"models": models, "steps": {"out": {"inputs": list(models), **step}}, "components": {"vae": "merge"}}
    merge(Recipe.parse(data | {"output": {"dtype": "fp32"}} | recipe), folder / "out.safetensors", fsync=False)
    return load(folder / "out.safetensors")


def compare(out, expected, inputs) -> None:
    """Equal up to the rounding of fp32: both sides take at most four roundings of values not larger than the inputs' sum."""
    step = torch.finfo(torch.float32).eps
    compared = 0
    for key, tensor in inputs[0].items():
        if place(key).component in COMPARED and tensor.is_floating_point():
            largest = sum(float(t[key].abs().max()) for t in inputs if t[key].numel())
            assert (out[key].double() - expected[key].double()).abs().max() <= 2 * step * largest, key
            compared += 1
    assert compared > 1100
    assert {k for k in expected if place(k).component in COMPARED} == {k for k in out if place(k).component in COMPARED}


# Each method is held against sd-mecha on thin files in `test_export_mecha`, and so are block weights of both families.
@pytest.mark.parametrize("method", others_long(METHODS, lambda method: method == "weighted_sum"))
def test_a_whole_file_equals_sd_mechas(method, make_checkpoint, tmp_path):
    made = [make_checkpoint(name, seed=i) for i, name in enumerate("abc")]
    parameters, build, count = METHODS[method]
    node = build(*(sd_mecha.model(str(path)) for path, _ in made))
    out = ours([p for p, _ in made[:count]], {"method": method, **parameters}, tmp_path)
    compare(out, merged(node), [t for _, t in made[:count]])


@pytest.mark.long
@pytest.mark.parametrize("family", BLOCKS)
def test_block_weights_equal_sd_mechas(family, make_checkpoint, tmp_path):
    made = [make_checkpoint(name, family, seed=i) for i, name in enumerate("ab")]
    a, b = (sd_mecha.model(str(path)) for path, _ in made)
    node = sd_mecha.weighted_sum(a, b, alpha=sd_mecha.convert(BLOCKS[family], a))
    step = {"method": "weighted_sum", "alpha": list(BLOCKS[family].values())}
    out = ours([p for p, _ in made], step, tmp_path, convention="sd-mecha")
    compare(out, merged(node), [t for _, t in made])
