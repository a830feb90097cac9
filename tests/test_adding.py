"""What docs/architecture.md says: its map is true, and the files that it adds to the house work in both places."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from fake_distribution import install
from guides import DOCS, files_of
from safetensors.numpy import load_file, save_file
from samples import others_long
from test_layering import MAY_IMPORT

ROOT = DOCS.parent
PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")
PICTURE = runpy.run_path(str(DOCS / "pictures" / "architecture.py"))
FILES = {
    name: text for page in ("architecture.md", "dashboard.md", "search.md") for name, text in files_of(page).items()
}
POINTS = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]
FILES = {name: text for name, text in FILES.items() if name.startswith("my_")}


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    lines = PAGE.split(f"\n{heading}\n")[1].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|---"))
    table = lines[start + 1 : lines.index("", start)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


# -- the files ---------------------------------------------------------------------------------------------------------

# What is new is asked for: by commands, and of the kinds that commands show only in a search or in the app, in Python.
ASKED = """
import contextlib, io, json, sys
from pathlib import Path

import unetscope
from unetscope.cli import main
from unetscope.dashboard.page import in_order
from unetscope.search.generators import make_generator
from unetscope.search.rewards import make_reward
from unetscope.search.image_requests import ImageRequest

folder = Path(sys.argv[1])


def command(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            assert not stop.code, words
    return out.getvalue()


vector = ["--blocks", "0,0,1,0,0,0"]
command("merge", "midpoint", folder / "a.toy", folder / "b.safetensors", "-o", folder / "mid.safetensors", "--dtype", "fp32")
command("merge", "weighted-sum", folder / "a.toy", folder / "b.safetensors", *vector, "-o", folder / "mbw.safetensors")
images = make_generator("grey", folder).images([ImageRequest("a", "a", 9)])
print(json.dumps({
    "home": str(Path(unetscope.__file__).parent),
    "a": json.loads(command("inspect", folder / "a.toy", "--json")),
    "b": json.loads(command("inspect", folder / "b.safetensors", "--json")),
    "methods": command("methods"),
    "pages": [page.id for page in in_order()],
    "score": make_reward({"kind": "redness", "times": 2}, folder).score(images, ["a"]),
}))
"""
CODES = ("layers.1.attention.qkv", "layers.2.attention.qkv")


def dit(seed: int) -> dict[str, np.ndarray]:
    """The weights of the page's toy transformer, very narrow."""
    shapes = {"x_embedder.weight": (4, 2), "t_embedder.mlp.0.weight": (4, 4)}
    for n in range(4):
        shapes |= {f"layers.{n}.attention.qkv.weight": (12, 4), f"layers.{n}.mlp.w1.weight": (4, 4)}
        shapes |= {f"layers.{n}.norm.weight": (4,)}
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(s).astype(np.float32) for name, s in (shapes | {"final_layer.weight": (2, 4)}).items()
    }


@pytest.fixture
def models(tmp_path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`a.toy` in the page's container, `b.safetensors` with codes in its encoding under another prefix; and their numbers."""
    a, b = dit(1), dit(2)
    header = json.dumps([[name, list(x.shape)] for name, x in a.items()]).encode()
    (tmp_path / "a.toy").write_bytes(
        b"TOY1" + len(header).to_bytes(4, "little") + header + b"".join(x.tobytes() for x in a.values())
    )
    stored = dict(b)
    for module in CODES:
        scale = np.abs(b[f"{module}.weight"]).max() / 127
        codes = np.round(b[f"{module}.weight"] / scale).astype(np.int8)
        b[f"{module}.weight"] = codes * scale
        stored |= {f"{module}.weight": codes, f"{module}.my_scale": np.array(scale, np.float32)}
    save_file({f"transformer.{name}": x for name, x in stored.items()}, tmp_path / "b.safetensors")
    return a, b


def in_another_package(folder: Path) -> Path:
    """A folder for the path with the page's files as an installed package, and the house as it is."""
    modules = {name.removesuffix(".py"): text for name, text in FILES.items()}
    return install(folder / "site", "my_models", modules, POINTS)


def in_the_house(folder: Path) -> Path:
    """A folder for the path with a copy of the house, and the page's files in the folders that its table names."""
    house = folder / "house" / "unetscope"
    for room in ("", *MAY_IMPORT):
        for file in (ROOT / room).rglob("*.py") if room else ROOT.glob("*.py"):
            copy = house / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    for kind, where, *_ in rows("## Adding to it"):
        target, listed = re.findall(r"`([\w/]+)`", where)[0], re.findall(r"`(\w+)`", where)
        (house / target / f"my_{kind}.py").write_text(FILES[f"my_{kind}.py"], encoding="utf-8")
        if listed:
            ((name, value),) = POINTS[f"unetscope.{kind}s"].items()
            table = house / target / f"{listed[-1]}.py"
            text, count = re.subn(
                r'^( +)"\w+": "\w+:\w+",\n',
                rf'\g<0>\1"{name}": "{value}",\n',
                table.read_text("utf-8"),
                count=1,
                flags=re.M,
            )
            assert count == 1, table
            table.write_text(text, encoding="utf-8")
    return folder / "house"


@pytest.mark.parametrize(
    "place", others_long([in_another_package, in_the_house], lambda place: place is in_another_package)
)
def test_the_files_of_the_page_work(place, models, tmp_path):
    a, b = models
    first = place(tmp_path)
    path = os.pathsep.join(map(str, (first, ROOT.parent)))
    command = [sys.executable, "-c", ASKED, str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert Path(said["home"]) == (first / "unetscope" if place is in_the_house else ROOT)

    labels = ["IN", "LAYER00", "LAYER01", "LAYER02", "LAYER03", "FINAL"]
    for file in ("a", "b"):
        assert (
            said[file]["architecture"]["family"] == "toy_dit"
            and [row["label"] for row in said[file]["labels"]] == labels
        )
    assert said["a"]["format"] == "toy" and said["a"]["total"]["tensors"] == len(a)
    assert [(s["encoding"], s["tensors"], s["decoded"]) for s in said["b"]["stored"]] == [
        ("my_int8", len(CODES), True), ("plain", len(b) - len(CODES), True),
    ]  # fmt: skip
    assert said["b"]["total"]["tensors"] == len(b)

    written = load_file(tmp_path / "mid.safetensors")
    prefix = "model.diffusion_model."
    assert written.keys() == {prefix + name for name in a}
    assert all(np.allclose(written[prefix + n], (a[n] + b[n]) / 2, rtol=1e-6, atol=1e-7) for n in a)
    by_block = load_file(tmp_path / "mbw.safetensors")
    for name in a:
        taken = b if name.startswith("layers.1.") else a
        assert np.array_equal(by_block[prefix + name], taken[name].astype(np.float16)), name

    assert "midpoint" in said["methods"] and "zeros" in said["pages"] and said["score"] == [18.0]


def test_every_kind_of_record_has_a_file_a_folder_and_an_entry_point_group():
    table = rows("## Adding to it")
    assert {f"my_{kind}.py" for kind, *_ in table} == set(FILES)
    assert {group.strip("`") for *_, group, _ in table} == set(POINTS)
    assert all((ROOT / re.findall(r"`([\w/]+)`", where)[0]).is_dir() for _, where, *_ in table)


# -- the map -----------------------------------------------------------------------------------------------------------


def test_every_room_that_the_map_names_is_there():
    table = rows("## Where to find what")
    assert {room.strip("`/") for room, *_ in table} >= set(MAY_IMPORT)
    for room, _ in table:
        assert (ROOT / room.strip("`/") / "__init__.py").is_file(), room


def test_the_picture_is_what_its_script_draws():
    drawn = PICTURE["picture"]()
    assert (DOCS / "pictures" / "architecture.svg").read_text(encoding="utf-8") == drawn
    assert "](pictures/architecture.svg)" in PAGE


def test_the_arrows_of_the_picture_lead_to_what_a_room_may_import():
    rooms = PICTURE["ROOMS"]

    def reached(room: str) -> set[str]:
        return {r for below in rooms[room][2] for r in (below, *reached(below))}

    assert {room: reached(room) for room in rooms} == MAY_IMPORT


def test_the_picture_shows_every_folder_of_records():
    shown = {f"{room}/{kind}/" for room, (_, kinds, _) in PICTURE["ROOMS"].items() for kind in kinds}
    assert shown == {re.findall(r"`([\w/]+)`", where)[0] for _, where, *_ in rows("## Adding to it")}


def test_links_lead_to_headings_that_are_there():
    for page, anchor in re.findall(r"\]\((\w+\.md)#([\w-]+)\)", PAGE):
        headings = re.findall(r"^#+ (.+)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, (
            page,
            anchor,
        )
