"""Colours: palette, scales, which box gets which number, and what is printed."""

import math

import pytest
from drawn_checkpoints import checkpoint_of
from drawn_svgs import Picture
from hypothesis import given
from hypothesis import strategies as st

from unetscope.checkpoints.text import amount, number
from unetscope.diagrams import DrawingError, draw, draw_beside
from unetscope.diagrams.graph import architecture_graph
from unetscope.diagrams.palette import ColourScale, colour, ink_is_dark, luminance, scale_for


def test_the_palette_is_matplotlibs_viridis_and_grows_brighter():
    matplotlib = pytest.importorskip("matplotlib")
    viridis = matplotlib.colormaps["viridis"]
    for i in range(101):
        ours = [int(colour(i / 100)[j : j + 2], 16) / 255 for j in (1, 3, 5)]
        assert max(abs(a - b) for a, b in zip(ours, viridis(i / 100), strict=False)) < 0.03
    bright = [luminance(colour(i / 50)) for i in range(51)]
    assert bright == sorted(bright)


@given(st.floats(0, 1))
def test_text_on_any_colour_has_the_contrast_that_wcag_asks_for(fraction):
    fill = colour(fraction)
    lum = luminance(fill)
    contrast = (lum + 0.05) / 0.05 if ink_is_dark(fill) else 1.05 / (lum + 0.05)
    assert contrast >= 4.5


@given(st.lists(st.floats(1e-8, 1e8), min_size=2), st.sampled_from(["log", "linear"]))
def test_scales_keep_the_order_and_span_the_palette(values, kind):
    scale = scale_for(values, kind)
    fractions = [scale.fraction(v) for v in sorted(values)]
    assert fractions == sorted(fractions)
    assert all(0 <= f <= 1 for f in fractions)
    if min(values) < max(values):
        assert fractions[0] == 0 and fractions[-1] == pytest.approx(1)


def test_a_log_scale_gives_each_factor_of_ten_the_same_step():
    scale = ColourScale("log", 1e-3, 1.0)
    assert [scale.fraction(v) for v in (1e-3, 1e-2, 1e-1, 1)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert scale.fraction(0.0) == 0 and scale.fraction(-1) == 0 and scale.fraction(math.inf) == 1


def test_numbers_are_written_with_three_digits():
    written = [number(v) for v in (0, 0.286, 0.00596, 12.345, 123456.0, -0.5, 3e-7, 0.9999)]
    assert written == ["0", "0.286", "0.00596", "12.3", "1.2e5", "-0.500", "3.0e-7", "1.000"]
    assert [amount(n) for n in (375_425_280, 11_840, 640, 999_999, 2_567_463_684)] == [
        "375.4 M", "11.8 k", "640", "1.00 M", "2.57 B",
    ]  # fmt: skip


def test_boxes_get_their_values_colour_and_number_grey_without_and_hatching_when_missing():
    values = {"IN00": 0.001, "IN01": 0.1, "IN02": None, "IN03": math.nan}
    picture = Picture(draw("sd1", values=values, units="relative difference"))
    assert picture.fill_of("block-IN00") == colour(0)
    assert picture.fill_of("block-IN01") == colour(1)
    assert "0.100" in picture.texts(picture.by_id("block-IN01"))
    assert picture.fill_of("block-IN02") == picture.fill_of("block-IN03") == "url(#hatched)"
    assert picture.fill_of("block-IN04") is None
    assert picture.by_id("block-IN04")[1].get("class") == "box none"
    assert any("relative difference" in t for t in picture.texts())
    assert "missing or mismatched" in picture.texts()


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_infinite_values_have_an_end_of_the_palette(scale):
    modules = {"down_blocks.0.resnets.0": math.inf, "down_blocks.0.attentions.0": -math.inf}
    values = {"IN04": 0.001, "IN05": 0.1, "M00": math.inf, "OUT00": -math.inf}
    picture = Picture(draw("sd1", values=values | modules, scale=scale))
    for block, end, written in (("M00", 1, "∞"), ("OUT00", 0, "-∞")):
        assert picture.fill_of(f"block-{block}") == colour(end)
        assert written in picture.texts(picture.by_id(f"block-{block}"))
    assert picture.fill_of("block-IN01") == "url(#hatched)"  # infinities of both signs have no mean


def test_finer_values_are_averaged_by_parameters_and_coarser_ones_inherited():
    graph = architecture_graph("sd1")
    sizes = {k: math.prod(s) for k, s in graph.tensors.items() if ".input_blocks.1." in k}
    values = {k: float(i + 1) for i, k in enumerate(sizes)}
    mean = sum(values[k] * sizes[k] for k in sizes) / sum(sizes.values())
    box = Picture(draw("sd1", values=values, scale="linear")).by_id("block-IN01")
    assert box.get("data-value") == number(mean)
    module = Picture(draw("sd1", "module", values={"IN01": 0.5, "down_blocks.0.attentions.0": 0.25}))
    assert module.by_id("module-down_blocks.0.resnets.0").get("data-value") == "0.500"
    assert module.by_id("module-down_blocks.0.attentions.0").get("data-value") == "0.250"


def test_base_stands_for_the_text_encoders():
    picture = Picture(draw("sdxl", values={"BASE": 0.2, "IN00": 0.1}))
    assert "0.200" in picture.texts(picture.by_id("block-CLIP_L"))
    assert "0.200" in picture.texts(picture.by_id("block-CLIP_G"))


def test_a_range_fixes_the_ends_of_the_palette():
    picture = Picture(draw("sd1", values={"IN00": 0.5}, scale="linear", value_range=(0, 1)))
    assert picture.fill_of("block-IN00") == colour(0.5)


def test_badges_are_bars_as_long_as_the_value():
    picture = Picture(draw("sd1", badges={"IN00": 0.25, "IN01": 1.0}))
    lengths = {}
    for label in ("IN00", "IN01"):
        track, bar = (e for e in picture.by_id(f"block-{label}") if "bar" in (e.get("class") or ""))
        lengths[label] = float(bar.get("width")) / float(track.get("width"))
    assert lengths == pytest.approx({"IN00": 0.25, "IN01": 1.0}, abs=0.01)
    assert "0.250" in picture.texts(picture.by_id("block-IN00"))


def test_two_diagrams_share_one_scale():
    drawing = draw_beside(["sd1"], values=[{"IN00": 1e-3}, {"IN00": 1e-1}], names=["old", "new"])
    picture = Picture(drawing)
    assert picture.fill_of("a-block-IN00") == colour(0)
    assert picture.fill_of("b-block-IN00") == colour(1)
    assert {"old", "new"} <= set(picture.texts())
    assert len(picture.ids()) == len(set(picture.ids()))


def test_values_that_belong_elsewhere_are_refused_or_listed():
    with pytest.raises(DrawingError, match=r"1.*IN5"):
        draw("sd1", values={"IN5": 0.3})
    assert draw("sdxl", values={"IN00": 0.3, "IN11": 0.2}).unused == ("IN11",)
    with pytest.raises(DrawingError, match="a number is needed"):
        draw("sd1", values={"IN00": "much"})


@pytest.mark.parametrize(("scale", "ends"), [("log", (0, 1)), ("linear", (1, 1)), ("cubic", None)])
def test_scales_that_cannot_be_are_refused(scale, ends):
    with pytest.raises(DrawingError):
        draw("sd1", values={"IN00": 0.3}, scale=scale, value_range=ends)


def test_values_colour_a_checkpoint_too():
    picture = Picture(draw(checkpoint_of("sdxl"), values={"M00": 0.5, "OUT00": 0.05}))
    assert picture.fill_of("block-M00") == colour(1)
