"""What is written: hostile names, themes, formats, the gallery."""

import os
import runpy
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from drawn_checkpoints import checkpoint_of
from drawn_svgs import NAMESPACE, Picture
from hypothesis import given, settings
from hypothesis import strategies as st

from unetscope.diagrams import DrawingError, TreeNode, draw, draw_tree
from unetscope.diagrams.dot import text_of
from unetscope.diagrams.graphviz import find_dot, run_dot
from unetscope.diagrams.svg import Canvas
from unetscope.diagrams.text import fit, plain, width

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
GALLERY = PICTURES / "gallery"

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "a & b &lt; ]]> <!-- -->",
    "line one\nline two\r\n\ttab",
    "\x00\x01\ud800\uffff\u202e",
    "quote \" and 'quote' \\ \\N \\\" ; } digraph {",
    "n" * 10_000,
]
ELEMENTS = {"svg", "title", "style", "defs", "pattern", "linearGradient", "stop", "rect", "path", "g", "text"}


def check_safe(svg: str) -> None:
    """Well-formed, and nothing in it but what our writer draws."""
    for element in ElementTree.fromstring(svg).iter():
        assert element.tag.removeprefix(NAMESPACE) in ELEMENTS
        assert not any(name.startswith("on") or "href" in name for name in element.attrib)
        assert max([len(v) for v in element.attrib.values()] + [0]) < 20_000
        assert len(element.text or "") < 10_000


@pytest.mark.one_by_one
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("level", ["block", "layer"])
def test_hostile_names_never_leave_their_place(name, level):
    checkpoint = checkpoint_of("sd1", name="x", extra={name: (3,)})
    checkpoint.path = Path(name.replace("/", "|"))
    block = "IN01" if level == "layer" else None
    drawing = draw(checkpoint, level, block=block, values={"IN01": 0.5, name: 0.2}, title=name, units=name)
    check_safe(drawing.svg)
    check_safe(draw(checkpoint, level, block=block).svg)
    check_safe(run_dot(drawing.dot, "svg").replace("polygon", "path").replace("ellipse", "path").replace("<a ", "<g "))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_in_recipes_never_leave_their_place(name):
    tree = TreeNode(name, name, None, "", [TreeNode(name, name, 0.5, name), TreeNode("b", "", 0.5, "b")])
    drawing = draw_tree(tree, name, name)
    check_safe(drawing.svg)
    assert "<svg" in run_dot(drawing.dot, "svg")


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_survives_as_itself_in_svg(text):
    canvas = Canvas()
    with canvas.group(text, "g", text, name=text):
        canvas.text(0, 0, text, "md")
    picture = Picture(canvas.document(text))
    assert "".join(picture.texts()) == plain(text)


@given(st.text(), st.floats(10, 400))
@settings(deadline=None)
def test_fitted_text_is_never_wider_than_its_room(text, room):
    assert width(fit(text, room, 12), 12) <= room


@given(st.text(alphabet='a"\\\n{}<>', max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_dot_label_is_one_string(text):
    label = text_of(text)
    inner = label[1:-1].replace("\\\\", "").replace('\\"', "")
    assert label[0] == label[-1] == '"' and '"' not in inner and "\\" not in inner.replace("\\n", "")


def test_auto_themes_hold_both_and_forced_ones_hold_one():
    auto, light, dark = (draw("sd1", theme=t).svg for t in ("auto", "light", "dark"))
    assert "prefers-color-scheme:dark" in auto
    assert "@media" not in light and "@media" not in dark
    assert all(" .page{fill:" in svg for svg in (auto, light, dark))  # scoped: no rule reaches a page around it
    assert ".page{fill:#ffffff}" in light and ".page{fill:#0d1117}" in dark
    assert ".page{fill:#ffffff}" in auto and ".page{fill:#0d1117}" in auto
    with pytest.raises(DrawingError, match="no theme"):
        draw("sd1", theme="grey")


def test_an_svg_is_self_contained():
    svg = draw("sdxl", values={"M00": 0.5}).svg
    assert svg.count("http") == 1  # the namespace
    assert "<script" not in svg and "@import" not in svg


def test_saving_goes_by_suffix(tmp_path):
    pytest.importorskip("typst")
    drawing = draw("sd1")
    heads = {".svg": b"<svg ", ".png": b"\x89PNG", ".pdf": b"%PDF", ".dot": b"digraph"}
    for suffix, head in heads.items():
        assert drawing.save(tmp_path / f"x{suffix}").read_bytes().startswith(head)
    png = (tmp_path / "x.png").read_bytes()
    size = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    assert size == pytest.approx([2 * v for v in drawing.size], abs=2)
    with pytest.raises(DrawingError, match=r"use .svg, .png, .pdf, .dot"):
        drawing.save(tmp_path / "x.gif")


def test_dot_is_found_by_variable_and_its_absence_names_both_ways(monkeypatch, tmp_path):
    real = find_dot()
    monkeypatch.setenv("UNETSCOPE_DOT", real)
    assert Path(find_dot()) == Path(shutil.which(real))
    monkeypatch.setenv("UNETSCOPE_DOT", str(tmp_path / "nothing"))
    with pytest.raises(DrawingError, match="UNETSCOPE_DOT"):
        find_dot()
    monkeypatch.delenv("UNETSCOPE_DOT")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(DrawingError, match=r"graphviz-pure.*dot"):
        draw("sd1", "layer", block="IN01")
    assert draw("sd1").svg and draw("sd1", "module").svg  # these need no Graphviz


def structure(svg: str):
    """What a picture is made of, apart from where it stands to a tenth of a pixel."""
    return [
        (e.tag, e.get("id"), e.get("class"), (e.text or "").strip())
        for e in ElementTree.fromstring(svg).iter()
        if not e.tag.endswith("style")
    ]


def test_the_committed_gallery_is_what_is_drawn_today():
    drawn = runpy.run_path(str(PICTURES / "gallery.py"))["pictures"]()
    assert {p.name for p in GALLERY.glob("*.svg")} == set(drawn)
    for name, drawing in drawn.items():
        assert structure((GALLERY / name).read_text("utf-8")) == structure(drawing.svg), name


def test_gallery_files_are_small():
    sizes = {p.name: p.stat().st_size for p in GALLERY.glob("*.svg")}
    assert all(size < 60_000 for name, size in sizes.items() if name.endswith("_block.svg"))
    assert all(size < 250_000 for size in sizes.values())


def leaves(n):
    return [TreeNode(f"model_{i:02d}.safetensors", "SDXL", 1 / n, "abcdefghijklmnopqrst"[i]) for i in range(n)]


def test_a_recipe_of_twenty_models_shows_every_name_and_share_without_overlap():
    inner = TreeNode("geometric_median", "12 models", None, "a", leaves(12))
    tree = TreeNode("weighted_average", "0.6, 0.4", None, "", [inner, *leaves(8)])
    picture = Picture(draw_tree(tree, "recipe"))
    boxes = picture.of_class("model") + picture.of_class("step")
    assert len(picture.of_class("model")) == 20 and len(picture.of_class("step")) == 2
    assert sum("8.3 %" in picture.texts(b) for b in boxes) == 12
    rects = [tuple(float(b.find(NAMESPACE + "rect").get(k)) for k in ("x", "y", "width", "height")) for b in boxes]
    for i, (x, y, w, h) in enumerate(rects):
        for x2, y2, w2, h2 in rects[i + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_a_recipe_without_shares_does_not_speak_of_percentages():
    models = [TreeNode(f"{name}.safetensors") for name in "abc"]
    assert "Percentages" not in draw_tree(TreeNode("ties", "density 0.3", children=models)).svg
    assert "Percentages" in draw_tree(TreeNode("uniform", children=leaves(3))).svg


def test_importing_and_drawing_needs_neither_torch_nor_diffusers():
    import subprocess
    import sys

    code = (
        "import sys; from unetscope.diagrams import draw; draw('sdxl').svg; draw('sd1', 'layer', block='IN01').svg;"
        "print([m for m in ('torch', 'diffusers', 'torchview', 'pandas', 'numba') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
