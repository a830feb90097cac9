"""Every command that computes refuses a file of codes; what only looks says what it is."""

from __future__ import annotations

import json

import pytest
from quantised import bare_int8, scaled_fp8, write_quantised

COMPUTING = {
    "stats": ["stats", "q.safetensors"],
    "diff": ["diff", "a.safetensors", "q.safetensors"],
    "compare": ["compare", "a.safetensors", "b.safetensors", "q.safetensors"],
    "trace": ["trace", "a.safetensors", "--among", "b.safetensors", "q.safetensors"],
    "spectrum": ["spectrum", "q.safetensors", "a.safetensors"],
    "predict": ["predict", "r.yaml"],
    "scan": ["inspect", "q.safetensors", "--scan"],
    "convert": ["convert", "q.safetensors", "out.safetensors"],
    "convert to fp16": ["convert", "q.safetensors", "out.safetensors", "--dtype", "fp16"],
    "convert to a folder": ["convert", "q.safetensors", "out", "--to", "diffusers"],
    "a merge": ["merge", "weighted-sum", "a.safetensors", "q.safetensors", "-o", "out.safetensors"],
    "a dry run": ["merge", "weighted-sum", "a.safetensors", "q.safetensors", "-o", "out.safetensors", "--dry-run"],
    "a method that measures": ["merge", "slerp", "a.safetensors", "q.safetensors", "-o", "out.safetensors"],
    "a recipe": ["merge", "run", "r.yaml", "-o", "out.safetensors"],
    "a VAE": ["merge", "uniform", "a.safetensors", "b.safetensors", "--vae", "q.safetensors", "-o", "out.safetensors"],
    "extract": ["lora", "extract", "q.safetensors", "a.safetensors", "-o", "out.safetensors"],
    "bake": ["lora", "bake", "q.safetensors", "--lora", "lora.safetensors", "-o", "out.safetensors"],
}
RECIPE = (
    "models: {a: a.safetensors, q: q.safetensors}\nsteps: {s: {method: weighted_sum, inputs: [a, q], alpha: 0.5}}\n"
)


@pytest.mark.one_by_one
@pytest.mark.parametrize("form", [scaled_fp8, bare_int8], ids=lambda form: form.__name__)
@pytest.mark.parametrize("name", COMPUTING)
def test_what_computes_refuses_codes_in_one_sentence_and_writes_nothing(name, form, here, run):
    write_quantised(here / "q.safetensors", form)
    (here / "r.yaml").write_text(RECIPE)
    before = sorted(here.iterdir())
    code, out, err = run(*COMPUTING[name])
    assert (code, out) == (2, ""), err
    assert "q.safetensors: is stored as" in err and len(err.strip().splitlines()) == 1
    assert sorted(here.iterdir()) == before


def test_lint_counts_codes_as_an_error(here, run):
    write_quantised(here / "q.safetensors", scaled_fp8)
    (here / "r.yaml").write_text(RECIPE)
    code, out, err = run("lint", "r.yaml")
    assert code in (1, 2) and "is stored as" in out + err


def test_inspect_and_diagrams_look_at_it_all_the_same(here, run):
    write_quantised(here / "q.safetensors", scaled_fp8)
    code, out, err = run("inspect", "q.safetensors", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["architecture"]["family"] == "sd1" and found["stored"][0]["decoded"] is False
    code, out, err = run("inspect", "q.safetensors")
    assert code == 0 and "fp8 codes with scales" in out
    code, _, err = run("diagram", "q.safetensors", "-o", "d.svg")
    assert code == 0, err
