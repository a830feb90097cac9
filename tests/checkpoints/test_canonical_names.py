"""Single files of every kind against the layouts and the models that diffusers and transformers build."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import place
from told import codes, the

from unetscope.checkpoints.dtypes import F32
from unetscope.checkpoints.families import FAMILIES, family_of, layout
from unetscope.checkpoints.families.diffusers import text_configs, unet_config, vae_config
from unetscope.checkpoints.recognition import canonical_names, is_diffusers_unet, to_single_file
from unetscope.checkpoints.tensors import StoredTensor

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

OPEN_CLIP_PREFIX = {
    "sd2": "cond_stage_model.model.",
    "sdxl": "conditioner.embedders.1.model.",
    "sdxl_refiner": "conditioner.embedders.0.model.",
}


def stored(shapes):
    """Tensors of these shapes in a file that nobody reads."""
    return [StoredTensor.at(name, F32, tuple(shape), Path("weights"), 0) for name, shape in shapes.items()]


# Zero123's UNET alone is one of SD1 with eight input channels: what stands next to it in a whole file tells.
TOLD_BY_THE_UNET = [family for family in FAMILIES if family_of(family).variants.get(8) != "base"]


@pytest.fixture(scope="module", params=TOLD_BY_THE_UNET)
def real(request):
    """A family, and the shapes of its published UNET and VAE under diffusers' names."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**unet_config(request.param))
        vae = diffusers.AutoencoderKL(**vae_config(request.param))
    modules = {"unet": unet, "vae": vae}
    return request.param, {f: {n: tuple(t.shape) for n, t in m.state_dict().items()} for f, m in modules.items()}


def component_of(family, component):
    place = family_of(family).block_of
    return {k: spec.shape for k, spec in layout(family).items() if place(k).component == component}


def read_alone(shapes):
    translation = canonical_names(stored(shapes))
    return translation, {key: t.shape for key, t in translation.tensors.items()}


def test_a_full_checkpoint_passes_through_unchanged(real):
    family, _ = real
    shapes = {key: spec.shape for key, spec in layout(family).items()} | {"stray.weight": (2,)}
    translation, read = read_alone(shapes)
    assert read == shapes
    assert list(read) == list(shapes)
    assert translation.notes == []


def test_text_model_is_put_back_where_a_checkpoint_lacks_it():
    shapes = {key: spec.shape for key, spec in layout("sd1").items()}
    bare = {key.replace(".text_model.", "."): shape for key, shape in shapes.items()}
    translation, read = read_alone(bare)
    assert bare != shapes == read
    assert codes(translation.notes) == ["names.text_model_lacking"]


def test_linear_attention_in_a_checkpoints_vae_is_read_as_convolutions():
    shapes = {key: spec.shape for key, spec in layout("sd1").items()}
    linear = {k: s[:2] if ".attn_1." in k and k.startswith("first_stage_model.") else s for k, s in shapes.items()}
    translation, read = read_alone(linear)
    assert linear != shapes == read
    assert len(the(translation.notes, "names.attention_linear").subject) == 8


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_a_lone_unet_in_single_file_naming_gets_its_prefix(real, prefix):
    family, _ = real
    shapes = component_of(family, "unet")
    _, read = read_alone({key.replace("model.diffusion_model.", prefix, 1): shape for key, shape in shapes.items()})
    assert read == shapes


def test_a_lone_unet_in_diffusers_naming_gets_single_file_keys(real):
    family, shapes = real
    translation, read = read_alone(shapes["unet"])
    assert read == component_of(family, "unet")
    assert translation.family == family
    assert translation.unknown == translation.lacking == []


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_a_lone_vae_in_single_file_naming_gets_its_prefix(prefix):
    shapes = component_of("sd1", "vae")
    _, read = read_alone({key.replace("first_stage_model.", prefix, 1): shape for key, shape in shapes.items()})
    assert read == shapes


def test_a_lone_vae_with_linear_attention_gets_convolutions(real):
    _, shapes = real
    expected = component_of("sd1", "vae")
    _, from_diffusers = read_alone(shapes["vae"])
    named = {k.removeprefix("first_stage_model."): s[:2] if ".attn_1." in k else s for k, s in expected.items()}
    _, from_single = read_alone(named)
    assert from_diffusers == from_single == expected


def test_what_a_vae_training_file_has_beside_the_vae_keeps_its_name():
    shapes = {k.removeprefix("first_stage_model."): s for k, s in component_of("sd1", "vae").items()}
    translation, read = read_alone(shapes | {"loss.logvar": ()})
    assert translation.unknown == ["loss.logvar"]
    assert set(read) == set(component_of("sd1", "vae")) | {"loss.logvar"}


@pytest.mark.one_by_one
@pytest.mark.parametrize(
    ("family", "folder"), [("sd1", "text_encoder"), ("sd2", "text_encoder"), ("sdxl", "text_encoder_2")]
)
@pytest.mark.parametrize("prefix", ["", "text_model.", "transformer.text_model."])
def test_a_lone_text_encoder_of_transformers_gets_the_keys_of_its_kind(family, folder, prefix):
    config = text_configs(family, "narrow")[folder]
    with torch.device("meta"):
        state = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)).state_dict()
    names = {prefix + n.removeprefix("text_model."): tuple(t.shape) for n, t in state.items()}
    translation, read = read_alone(names)
    expected = {
        key: shape
        for key, shape in ((k, s.shape) for k, s in layout(family, widths="narrow").items())
        if place(key).component in ("clip_l" if family == "sd1" else "clip_h", "clip_g")
        and not key.endswith(("position_ids", "logit_scale", "text_projection"))
        and ".resblocks.23." not in (key if family == "sd2" else "")
    }
    assert read == expected
    assert translation.unknown == []


@pytest.mark.one_by_one
@pytest.mark.parametrize(("family", "component"), [("sd2", "clip_h"), ("sdxl", "clip_g"), ("sdxl_refiner", "clip_g")])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_lone_open_clip_gets_the_prefix_of_its_kind(family, component, prefix):
    shapes = component_of(family, component)
    start = OPEN_CLIP_PREFIX[family]
    translation, read = read_alone({key.replace(start, prefix, 1): shape for key, shape in shapes.items()})
    canonical = "cond_stage_model.model." if component == "clip_h" else "conditioner.embedders.1.model."
    assert read == {key.replace(start, canonical, 1): shape for key, shape in shapes.items()}
    assert translation.unknown == []


def test_a_clip_l_in_openai_naming_gets_the_names_of_transformers():
    hugging = component_of("sd1", "clip_l")
    as_open_clip = to_single_file(
        {"text_encoder": stored({k.removeprefix("cond_stage_model.transformer."): s for k, s in hugging.items()})},
        "sd2",
    )
    names = {k.removeprefix("cond_stage_model.model."): t.shape for k, t in as_open_clip.tensors.items()}
    images = {f"visual.transformer.resblocks.{i}.ln_1.weight": (4,) for i in range(24)}
    _, read = read_alone(names | images)
    assert read == {k: s for k, s in hugging.items() if "position_ids" not in k} | images


def test_the_text_half_of_a_full_clip_is_told_apart_from_the_image_half():
    hugging = component_of("sd1", "clip_l")
    names = {k.removeprefix("cond_stage_model.transformer."): s for k, s in hugging.items()}
    images = {f"vision_model.encoder.layers.{i}.mlp.fc1.weight": (4, 4) for i in range(24)}
    translation, read = read_alone(names | images | {"logit_scale": ()})
    assert read == hugging | images | {"logit_scale": ()}
    assert set(translation.unknown) == {*images, "logit_scale"}


@pytest.mark.parametrize(
    "names",
    [
        ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"],
        ["unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"],
        ["control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"],
        ["input_blocks.0.0.weight", "zero_convs.0.0.weight"],
        ["double_blocks.0.img_attn.qkv.weight"],
        ["encoder.block.0.layer.0.SelfAttention.q.weight"],
        ["text_model.embeddings.token_embedding.weight", "text_model.encoder.layers.6.mlp.fc1.weight"],
        [],
    ],
)
def test_what_is_no_checkpoint_and_no_component_keeps_its_names(names):
    assert list(canonical_names(stored(dict.fromkeys(names, (2, 2)))).tensors) == names


def test_a_controlnet_in_diffusers_naming_is_no_unet_and_keeps_its_names():
    with torch.device("meta"):
        net = diffusers.ControlNetModel(block_out_channels=(32, 64), down_block_types=("DownBlock2D",) * 2)
    names = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    assert not is_diffusers_unet(names)
    assert set(canonical_names(stored(names)).tensors) == set(names)


PREFIXES = [
    "",
    "model.",
    "text_model.",
    "transformer.text_model.",
    "vae.",
    "diffusion_model.",
    "model.diffusion_model.",
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.text_model.",
    "first_stage_model.",
]
NAMES = [
    *(f"encoder.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 11, 22, 31) for p in "qkv"),
    *(
        f"transformer.resblocks.{i}.{n}"
        for i in (0, 11, 23)
        for n in ("attn.in_proj_weight", "ln_1.weight", "ln_1.odd")
    ),
    *("embeddings.token_embedding.weight", "embeddings.position_ids", "text_projection.weight", "logit_scale"),
    *("token_embedding.weight", "text_projection", "positional_embedding", "ln_final.bias"),
    *("conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight", "add_embedding.linear_1.weight"),
    *(f"down_blocks.{i}.attentions.0.proj_in.weight" for i in range(4)),
    *("up_blocks.0.resnets.0.conv1.weight", "up_blocks.0.resnets.0.conv9.weight", "input_blocks.0.0.weight"),
    *("decoder.up.0.block.0.conv1.weight", "encoder.mid.attn_1.q.weight", "decoder.up_blocks.0.resnets.0.norm1.bias"),
    *("encoder.mid_block.attentions.0.to_q.weight", "encoder.mid_block.attentions.0.query.weight", "a..b", "."),
]
SHAPES = st.sampled_from([(), (6,), (6, 6), (6, 6, 1), (6, 6, 1, 1), (5, 6), (0, 6)])


@given(
    shapes=st.dictionaries(st.builds(str.__add__, st.sampled_from(PREFIXES), st.sampled_from(NAMES)), SHAPES),
    fixed=st.sampled_from(PREFIXES),
    whole=st.sampled_from(["", "token_embedding", "resblocks", "embeddings", "unet", "encoder.layers"]),
)
def test_no_tensor_of_any_file_is_lost_and_none_stands_twice(shapes, fixed, whole):
    shapes |= {fixed + name: (6, 6) for name in NAMES if whole and whole in name}
    tensors = [StoredTensor.at(name, F32, shape, Path("w"), 1000 * i) for i, (name, shape) in enumerate(shapes.items())]
    translation = canonical_names(tensors)
    kept = sorted(piece.offset for tensor in translation.tensors.values() for piece in tensor.pieces)
    assert kept == [t.pieces[0].offset for t in tensors if t.name not in translation.dropped]
    assert sum(t.elements for t in translation.tensors.values()) == sum(
        t.elements for t in tensors if t.name not in translation.dropped
    )
