"""What a merge says it did."""

from __future__ import annotations

from unetscope.merge import Recipe, merge


def test_files_of_components_that_are_called_alike_have_names_of_their_own(make_checkpoint, tmp_path):
    paths = []
    for seed, folder in enumerate(("one", "two", "three")):
        (tmp_path / folder).mkdir()
        paths.append(make_checkpoint(f"{folder}/part", seed=seed)[0])
    components = {"vae": str(paths[1]), "clip_l": str(paths[2])}
    data = {
        "models": {"a": str(paths[0])},
        "steps": {"s": {"method": "copy", "inputs": ["a"]}},
        "components": components,
    }
    report = merge(Recipe.parse(data), tmp_path / "x.safetensors", fsync=False)
    assert list(report.models) == ["a", "part.safetensors", "part.safetensors (2)"]
    shares = {row.label: row.shares for row in report.labels}
    assert (shares["VAE"], shares["M00"]) == ({"part.safetensors": 1.0}, {"a": 1.0})
    assert shares["CLIP_L"] == {"part.safetensors (2)": 1.0}
