"""Statistics of one checkpoint against numpy, and its health in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import place

from unetscope.analysis import AnalysisError, examine, measure
from unetscope.analysis.statistics import STATISTICS, edges
from unetscope.library.health import level


def reference(x: np.ndarray, normal: float) -> dict[str, float]:
    ok = x[np.isfinite(x)]
    with np.errstate(over="ignore"):
        half = ok.astype(np.float32).astype(np.float16)
    return {
        "mean": ok.mean(),
        "std": ok.std(),
        "rms": np.sqrt((ok**2).mean()),
        "mean_abs": abs(ok).mean(),
        "l1": abs(ok).sum(),
        "l2": np.linalg.norm(ok),
        "min": ok.min(),
        "max": ok.max(),
        "zeros": (ok == 0).mean(),
        "subnormal": ((ok != 0) & (abs(ok) < normal)).mean(),
        "nan": np.isnan(x).sum(),
        "inf": np.isinf(x).sum(),
        "beyond_fp16": np.isinf(half).sum(),
        "vanishing_fp16": ((half == 0) & (ok != 0)).mean(),
    }


@pytest.mark.one_by_one
@pytest.mark.parametrize(("dtype", "normal"), [("fp16", 2.0**-14), ("bf16", 2.0**-126), ("fp32", 2.0**-126)])
@pytest.mark.parametrize("by", ["tensor", "label", "component"])
def test_statistics_match_numpy(write_model, random_model, dtype, normal, by):
    tensors = random_model(1)
    for i, value in enumerate(tensors.values()):
        flat = value.reshape(-1)
        flat[:3] = 0
        flat[3:5] *= 1e-7
        if i % 2:
            flat[5:7] = np.nan, np.inf
            flat[0] = 70000
    checkpoint, values = write_model("m", tensors, dtype)
    table = measure(checkpoint).table(by)
    for _, row in table.iterrows():
        keys = [row["key"]] if by == "tensor" else [k for k in values if getattr(place(k), by) == row[by]]
        expected = reference(np.concatenate([values[k].ravel() for k in keys]), normal)
        assert set(expected) == set(STATISTICS)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (name, keys)


def test_histograms_count_the_finite_values_of_each_label(write_model, random_model):
    tensors = random_model(1)
    tensors["first_stage_model.decoder.conv_in.weight"].flat[0] = np.nan
    checkpoint, values = write_model("m", tensors, "fp32")
    histograms, bounds = measure(checkpoint).histograms, edges()
    assert (np.diff(bounds[np.isfinite(bounds)]) > 0).all()
    for label in ("IN01", "VAE", "CLIP_L"):
        x = np.concatenate([v.ravel() for k, v in values.items() if place(k).label == label])
        x = x[np.isfinite(x)]
        inside = np.isfinite(bounds)
        expected, _ = np.histogram(x, bounds[inside])
        got = histograms[label][np.flatnonzero(inside)[0] : np.flatnonzero(inside)[-1]]
        assert (got == expected).all() and histograms[label].sum() == x.size


def test_threads_change_no_digit_of_the_statistics(write_model, random_model):
    checkpoint, _ = write_model("m", random_model(1))
    assert measure(checkpoint, threads=1).terms.equals(measure(checkpoint, threads=3).terms)


def test_integers_are_listed_without_statistics(write_model, random_model):
    key = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    checkpoint, _ = write_model("m", random_model(1), extra={key: torch.arange(77)})
    row = measure(checkpoint).table().set_index("key").loc[key]
    assert row["dtypes"] == "I64" and np.isnan(row["mean"]) and np.isnan(row["max"]) and row["nan"] == 0


def said(checkpoint) -> dict[str, str]:
    return {finding.text: level(finding) for finding in examine(checkpoint, measure(checkpoint))}


def test_what_is_wrong_with_the_values_is_said_worst_first(write_model, random_model):
    good = random_model(1)
    bad = {k: v.copy() for k, v in good.items()}
    q, k2, _, conv, _, ff, out, text, *_ = bad
    bad[q].flat[:2] = np.nan
    bad[k2][:] = 0
    bad[conv][:] = 0.25
    bad[ff].flat[0] = 5000
    bad[out].flat[0] = 1e6
    bad[text] *= 1e-8
    checkpoint, _ = write_model("bad", bad, "fp32")
    found = said(checkpoint)
    levels = list(found.values())
    assert levels == sorted(levels, key=["broken", "suspect", "note"].index)
    text = "\n".join(found)
    for words in (
        "NaN",
        "zero",
        "one constant throughout",
        "values up to 1e+06",
        "too large for fp16",
        "too small for fp16",
    ):
        assert words in text, words
    sound = "\n".join(said(write_model("good", good, "fp32")[0]))
    for words in ("NaN", "zero", "constant", "values up to", "fp16", "subnormal", "mixed"):
        assert words not in sound, words


def test_mixed_dtypes_and_subnormals_are_noted(write_model, random_model):
    tensors = random_model(1)
    key = "first_stage_model.decoder.conv_in.weight"
    tensors[key] *= 1e-5
    extra = {"first_stage_model.decoder.conv_in.bias": torch.zeros(6, dtype=torch.float32)}
    text = "\n".join(said(write_model("m", tensors, "fp16", extra)[0]))
    assert "dtypes are mixed" in text and "VAE" in text and "subnormal" in text


def test_a_statistic_that_does_not_exist_is_refused(write_model, random_model):
    checkpoint, _ = write_model("m", random_model(1))
    with pytest.raises(AnalysisError, match="'median'"):
        measure(checkpoint).table(sort="median")
