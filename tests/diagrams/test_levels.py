"""What the three levels show, and that all of it comes from the trace."""

from dataclasses import replace

import pytest
from drawn_checkpoints import checkpoint_of
from drawn_svgs import Picture
from places import UNET_LABELS

from unetscope.checkpoints.families import family_of
from unetscope.checkpoints.families.conventions import convention_named
from unetscope.diagrams import DrawingError, draw, layers
from unetscope.diagrams.dot import dot_source
from unetscope.diagrams.graph import architecture_graph
from unetscope.diagrams.graphviz import run_dot
from unetscope.diagrams.module_level import ModuleLevel
from unetscope.diagrams.ugrid import Look, UGrid
from unetscope.diagrams.values import Values

FAMILIES = ("sd1", "sd2", "sdxl", "sdxl_refiner")
PLAIN = Look(Values(None), {}, convention_named("supermerger"))


def without_skip(family, source, target):
    """A trace that lost the skip connection between two blocks."""
    graph = architecture_graph(family)
    label = {node.id: node.label for node in graph.nodes}
    return replace(graph, edges=tuple((a, b) for a, b in graph.edges if (label[a], label[b]) != (source, target)))


@pytest.mark.parametrize("family", FAMILIES)
def test_block_level_has_one_box_per_label_and_its_text_encoders_and_vae(family):
    boxes = Picture(draw(family)).of_class("block")
    labels = [box.get("data-label") for box in boxes]
    assert len(labels) == len(set(labels))
    assert set(UNET_LABELS[family]) | {"VAE"} <= set(labels)


@pytest.mark.parametrize("family", FAMILIES)
def test_block_level_draws_exactly_the_skips_as_dashed_arrows(family):
    picture = Picture(draw(family))
    dashed = {
        (e.get("data-source"), e.get("data-target"))
        for e in picture.of_class("edge")
        if any(p.get("class") == "skip" for p in e)
    }
    assert dashed == {(x, family_of(family).skip_partner(x)) for x in UNET_LABELS[family] if x.startswith("IN")}


@pytest.mark.parametrize("level", [UGrid, ModuleLevel])
def test_a_skip_that_leaves_the_trace_leaves_the_drawing(level):
    graph = without_skip("sdxl", "IN04", "OUT04")
    before = Picture(level(architecture_graph("sdxl"), PLAIN).canvas.document("x")).edges()
    after = Picture(level(graph, PLAIN).canvas.document("x")).edges()
    assert before - after == {("IN04", "OUT04")}
    assert '"IN04" -> "OUT04"' in dot_source(architecture_graph("sdxl"), "block", None, PLAIN, "")
    assert '"IN04" -> "OUT04"' not in dot_source(graph, "block", None, PLAIN, "")


def test_skip_arrows_are_horizontal_and_end_at_both_boxes():
    picture = Picture(draw("sd1"))
    for edge in picture.of_class("edge"):
        for path in edge:
            if path.get("class") == "skip":
                x0, y0, x1, y1 = (float(v) for v in path.get("d")[1:].replace("L", " ").split())
                assert y0 == y1 and x0 < x1


@pytest.mark.parametrize("family", FAMILIES)
def test_module_level_draws_every_part_once(family):
    graph = architecture_graph(family)
    parts = {n.unit for n in graph.nodes if n.label not in ("", "TIME_EMBED", "LABEL_EMB")}
    drawn = [e.get("data-module") for e in Picture(draw(family, "module")).of_class("module")]
    assert sorted(drawn) == sorted(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_level_draws_every_parameter_tensor_exactly_once(family):
    keys = [e.get("data-key") for e in Picture(draw(family, "layer")).of_class("layer")]
    assert sorted(keys) == sorted(architecture_graph(family).tensors)


def test_layer_level_of_one_block_draws_its_tensors_and_no_others():
    keys = {e.get("data-key") for e in Picture(draw("sdxl", "layer", block="IN07")).of_class("layer")}
    assert keys == {k for k in architecture_graph("sdxl").tensors if ".input_blocks.7." in k}


@pytest.mark.one_by_one
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("level", ["block", "module", "layer"])
def test_ids_are_unique(family, level):
    ids = Picture(draw(family, level)).ids()
    assert len(ids) == len(set(ids))


def test_boxes_say_where_labels_without_a_slot_read_and_that_lbw_has_attention_only():
    picture = Picture(draw("sdxl"))
    assert "reads IN00" in picture.texts(picture.by_id("block-LABEL_EMB"))
    assert "reads OUT08" in picture.texts(picture.by_id("block-OUT"))
    assert "BASE, MBW 0" in picture.texts(picture.by_id("block-CLIP_G"))
    assert "reads BASE" in picture.texts(picture.by_id("block-VAE"))
    assert {"MBW 5", "LBW 1"} <= set(picture.texts(picture.by_id("block-IN04")))
    assert not any("LBW" in t for t in picture.texts(picture.by_id("block-IN01")))
    other = Picture(draw("sdxl", convention="merge-block-weighted"))
    assert "reads BASE" in other.texts(other.by_id("block-LABEL_EMB"))


def test_a_narrow_inpainting_checkpoint_is_drawn_with_its_own_shapes_and_counts():
    checkpoint = checkpoint_of("sd1", in_channels=9)
    picture = Picture(draw(checkpoint))
    own = {k: i.elements for k, i in checkpoint.tensors.items() if k.startswith("model.diffusion_model.")}
    assert f"{sum(own.values()):,} parameters in 686 tensors" in picture.texts()
    assert "noisy latent 9×64×64" in picture.texts()
    channels = checkpoint["model.diffusion_model.input_blocks.4.0.out_layers.3.weight"].shape[0]
    assert any(t.startswith(f"{channels}×32×32 ·") for t in picture.texts(picture.by_id("block-IN04")))
    rows = layers(checkpoint)
    assert {r["key"]: r["params"] for r in rows} == own


def test_what_a_checkpoint_lacks_is_hatched():
    lost = [k for k in architecture_graph("sd1").tensors if ".input_blocks.3." in k]
    checkpoint = checkpoint_of("sd1", drop=lost)
    assert Picture(draw(checkpoint)).fill_of("block-IN03") == "url(#hatched)"
    layer = Picture(draw(checkpoint, "layer", block="IN03"))
    assert layer.fill_of(f"layer-{lost[0]}") == "url(#hatched)"
    assert len(layers(checkpoint)) == 686 - len(lost)


@pytest.mark.parametrize(
    ("family", "label", "boxes"), [("sd1", "CLIP_L", 14), ("sdxl", "CLIP_G", 34), ("sd2", "VAE", 17)]
)
def test_text_encoders_and_the_vae_have_a_box_per_layer_or_block(family, label, boxes):
    picture = Picture(draw(family, block=label))
    assert len(picture.of_class("block")) == boxes
    assert len(picture.of_class("edge")) == boxes - 1


def test_a_file_without_a_unet_can_be_drawn_by_its_parts_only():
    unet = [k for k in checkpoint_of("sdxl").tensors if k.startswith("model.diffusion_model.")]
    checkpoint = checkpoint_of("sdxl", drop=unet, name="parts.safetensors")
    assert "decoder.mid" in Picture(draw(checkpoint, block="VAE")).texts()
    with pytest.raises(DrawingError, match=r"parts.safetensors.*UNET"):
        draw(checkpoint)


@pytest.mark.parametrize("level", ["block", "module", "layer"])
def test_graphviz_lays_out_the_dot_source_of_every_level(level):
    source = draw("sd1", level).dot
    assert "<svg" in run_dot(source, "svg")


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_layers_lists_every_tensor_with_its_label_and_lbw_mark(family):
    rows = layers(family)
    graph = architecture_graph(family)
    assert {r["key"]: tuple(r["shape"]) for r in rows} == graph.tensors
    assert sum(r["params"] for r in rows) == graph.params
    # LBW vectors hold exactly the labels with attention.
    attention = {r["label"] for r in rows if r["kind"].startswith("attn")}
    assert {r["label"] for r in rows if r["lbw"]} == attention


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("sd4",), "no architecture 'sd4'"),
        (("sd1", "tensor"), "no level 'tensor'"),
        (("sdxl", "layer", "IN09"), "no block 'IN09'"),
        (("sdxl", "module", "IN05"), "level 'layer'"),
    ],
)
def test_mistakes_are_named(arguments, part):
    with pytest.raises(DrawingError, match=part):
        draw(*arguments[:2], block=arguments[2] if len(arguments) > 2 else None)
