"""Names against models that diffusers and transformers build, diffusers' own converters, and sd-mecha's lists."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import UNET_LABELS, place

from unetscope.checkpoints.dtypes import F16, F32
from unetscope.checkpoints.families import layout
from unetscope.checkpoints.families.diffusers import text_configs, unet_config, vae_config
from unetscope.checkpoints.recognition import (
    diffusers_family,
    is_diffusers_unet,
    to_diffusers,
    to_single_file,
    unet_family,
)
from unetscope.checkpoints.tensors import StoredTensor

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from diffusers.loaders import single_file_utils  # noqa: E402

FAMILIES = ("sd1", "sd2", "sdxl", "sdxl_refiner")
NOWHERE = Path("weights")
OPEN_CLIP = {
    "sd2": ("text_encoder", "cond_stage_model.model."),
    "sdxl": ("text_encoder_2", "conditioner.embedders.1.model."),
    "sdxl_refiner": ("text_encoder_2", "conditioner.embedders.0.model."),
}


def built(family, widths, device):
    """The modules of a family's pipeline by folder, with random weights or on the meta device."""
    torch.manual_seed(0)
    with torch.device(device):
        modules = {
            "unet": diffusers.UNet2DConditionModel(**unet_config(family, widths)),
            "vae": diffusers.AutoencoderKL(**vae_config(family, widths)),
        }
        for folder, config in text_configs(family, widths).items():
            projected = folder == "text_encoder_2"
            kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
            modules[folder] = kind(transformers.CLIPTextConfig(**config))
    return modules


def stored(shapes, dtype=F32):
    """Tensors of these shapes one after another in a file that nobody reads."""
    at, out = 0, []
    for name, shape in shapes.items():
        out.append(StoredTensor.at(name, dtype, tuple(shape), NOWHERE, at))
        at += out[-1].nbytes
    return out


def written(state, path):
    """A state dict's values in a raw file, and the tensors that describe them."""
    with open(path, "wb") as file:
        out = []
        for name, tensor in state.items():
            out.append(StoredTensor.at(name, F32, tuple(tensor.shape), path, file.tell()))
            file.write(tensor.detach().to(torch.float32).numpy().tobytes())
    return out


def value(tensor):
    """The numbers of a stored fp32 tensor, piece by piece."""
    parts = []
    for piece in tensor.pieces:
        data = np.fromfile(piece.path, "<f4", piece.span, offset=piece.offset)
        strides = None if piece.strides is None else [4 * s for s in piece.strides]
        parts.append(np.lib.stride_tricks.as_strided(data, piece.shape, strides).ravel())
    return torch.from_numpy(np.concatenate(parts).reshape(tensor.shape).copy())


@pytest.fixture(scope="module", params=FAMILIES)
def real(request):
    """A family, and the shapes of its published models by folder."""
    modules = built(request.param, "real", "meta")
    return request.param, {
        folder: {name: tuple(t.shape) for name, t in module.state_dict().items()} for folder, module in modules.items()
    }


@pytest.fixture(scope="module", params=FAMILIES)
def narrow(request, tmp_path_factory):
    """A family, its narrow models' state dicts by folder, and the same as stored tensors."""
    folder = tmp_path_factory.mktemp(request.param)
    states = {name: module.state_dict() for name, module in built(request.param, "narrow", "cpu").items()}
    return request.param, states, {name: written(state, folder / name) for name, state in states.items()}


# -- names and shapes ---------------------------------------------------------------------------------------------------


def test_every_tensor_of_the_published_models_gets_the_key_and_shape_of_the_single_file_layout(real):
    family, shapes = real
    translation = to_single_file({folder: stored(names) for folder, names in shapes.items()}, family)
    expected = {key: spec.shape for key, spec in layout(family).items() if key not in translation.lacking}
    assert {key: t.shape for key, t in translation.tensors.items()} == expected
    assert translation.unknown == translation.dropped == []


def test_what_the_diffusers_layout_lacks_is_buffers_and_the_unused_end_of_sd2s_text_encoder(real):
    family, shapes = real
    lacking = set(to_single_file({folder: stored(names) for folder, names in shapes.items()}, family).lacking)
    buffers = {k for k in lacking if place(k).component in ("schedule", "ema") or k.endswith(("_ids", "logit_scale"))}
    unused = lacking - buffers
    prefix = "cond_stage_model.model."
    layer = {key for key in layout("sd2") if key.startswith(prefix + "transformer.resblocks.23.")}
    assert len(layer) == 12
    assert unused == (layer | {prefix + "text_projection"} if family == "sd2" else set())


def test_every_tensor_of_the_published_models_comes_back_under_its_own_name(real):
    family, shapes = real
    there = to_single_file({folder: stored(names) for folder, names in shapes.items()}, family)
    back = to_diffusers(there.tensors, family)
    with_prefix = {
        folder: {n if "text" not in folder or n.startswith("text_") else f"text_model.{n}": s for n, s in names.items()}
        for folder, names in shapes.items()
    }
    assert {f: {n: t.shape for n, t in names.items()} for f, names in back.components.items()} == with_prefix
    assert back.unplaced == []


def test_a_published_single_file_goes_to_diffusers_but_for_what_that_layout_has_no_place_for(real):
    family, shapes = real
    tensors = {t.name: t for t in stored({key: spec.shape for key, spec in layout(family).items()})}
    there = to_diffusers(tensors, family)
    counts = {f: sum("position_ids" not in name for name in names) for f, names in there.components.items()}
    assert counts == {folder: len(names) for folder, names in shapes.items()}
    lacking = to_single_file({folder: stored(names) for folder, names in shapes.items()}, family).lacking
    assert set(there.unplaced) == {key for key in lacking if not key.endswith("position_ids")}


# diffusers module of a UNET -> label, by the published table of blocks.
SD1_PLACES = """
time_embedding.linear_1 TIME_EMBED | time_embedding.linear_2 TIME_EMBED | conv_in IN00
down_blocks.0.resnets.0 IN01 | down_blocks.0.attentions.0 IN01 | down_blocks.0.resnets.1 IN02
down_blocks.0.attentions.1 IN02 | down_blocks.0.downsamplers.0 IN03 | down_blocks.1.resnets.0 IN04
down_blocks.1.attentions.0 IN04 | down_blocks.1.resnets.1 IN05 | down_blocks.1.attentions.1 IN05
down_blocks.1.downsamplers.0 IN06 | down_blocks.2.resnets.0 IN07 | down_blocks.2.attentions.0 IN07
down_blocks.2.resnets.1 IN08 | down_blocks.2.attentions.1 IN08 | down_blocks.2.downsamplers.0 IN09
down_blocks.3.resnets.0 IN10 | down_blocks.3.resnets.1 IN11 | mid_block.resnets.0 M00 | mid_block.attentions.0 M00
mid_block.resnets.1 M00 | up_blocks.0.resnets.0 OUT00 | up_blocks.0.resnets.1 OUT01 | up_blocks.0.resnets.2 OUT02
up_blocks.0.upsamplers.0 OUT02 | up_blocks.1.resnets.0 OUT03 | up_blocks.1.attentions.0 OUT03
up_blocks.1.resnets.1 OUT04 | up_blocks.1.attentions.1 OUT04 | up_blocks.1.resnets.2 OUT05
up_blocks.1.attentions.2 OUT05 | up_blocks.1.upsamplers.0 OUT05 | up_blocks.2.resnets.0 OUT06
up_blocks.2.attentions.0 OUT06 | up_blocks.2.resnets.1 OUT07 | up_blocks.2.attentions.1 OUT07
up_blocks.2.resnets.2 OUT08 | up_blocks.2.attentions.2 OUT08 | up_blocks.2.upsamplers.0 OUT08
up_blocks.3.resnets.0 OUT09 | up_blocks.3.attentions.0 OUT09 | up_blocks.3.resnets.1 OUT10
up_blocks.3.attentions.1 OUT10 | up_blocks.3.resnets.2 OUT11 | up_blocks.3.attentions.2 OUT11
conv_norm_out OUT | conv_out OUT
"""
SDXL_PLACES = """
time_embedding.linear_1 TIME_EMBED | time_embedding.linear_2 TIME_EMBED | add_embedding.linear_1 LABEL_EMB
add_embedding.linear_2 LABEL_EMB | conv_in IN00 | down_blocks.0.resnets.0 IN01 | down_blocks.0.resnets.1 IN02
down_blocks.0.downsamplers.0 IN03 | down_blocks.1.resnets.0 IN04 | down_blocks.1.attentions.0 IN04
down_blocks.1.resnets.1 IN05 | down_blocks.1.attentions.1 IN05 | down_blocks.1.downsamplers.0 IN06
down_blocks.2.resnets.0 IN07 | down_blocks.2.attentions.0 IN07 | down_blocks.2.resnets.1 IN08
down_blocks.2.attentions.1 IN08 | mid_block.resnets.0 M00 | mid_block.attentions.0 M00 | mid_block.resnets.1 M00
up_blocks.0.resnets.0 OUT00 | up_blocks.0.attentions.0 OUT00 | up_blocks.0.resnets.1 OUT01
up_blocks.0.attentions.1 OUT01 | up_blocks.0.resnets.2 OUT02 | up_blocks.0.attentions.2 OUT02
up_blocks.0.upsamplers.0 OUT02 | up_blocks.1.resnets.0 OUT03 | up_blocks.1.attentions.0 OUT03
up_blocks.1.resnets.1 OUT04 | up_blocks.1.attentions.1 OUT04 | up_blocks.1.resnets.2 OUT05
up_blocks.1.attentions.2 OUT05 | up_blocks.1.upsamplers.0 OUT05 | up_blocks.2.resnets.0 OUT06
up_blocks.2.resnets.1 OUT07 | up_blocks.2.resnets.2 OUT08 | conv_norm_out OUT | conv_out OUT
"""
PLACES = {"sd1": SD1_PLACES, "sd2": SD1_PLACES, "sdxl": SDXL_PLACES}


def test_every_diffusers_module_lies_in_the_block_that_the_published_table_says(real):
    family, shapes = real
    if family == "sdxl_refiner":  # numbered like SD1, conditioned like SDXL, attention on the middle levels
        table = dict(row.split() for row in SD1_PLACES.replace("\n", "|").split("|") if row.strip())
        table |= {"add_embedding.linear_1": "LABEL_EMB", "add_embedding.linear_2": "LABEL_EMB"}
    else:
        table = dict(row.split() for row in PLACES[family].replace("\n", "|").split("|") if row.strip())
    used = set()
    for tensor in stored(shapes["unet"]):
        (key,) = to_single_file({"unet": [tensor]}, family).tensors
        module = next(m for m in table if tensor.name.startswith(m + "."))
        used.add(place(key).label)
        assert place(key).label == table[module], tensor.name
    assert used == set(UNET_LABELS[family])


def test_translated_keys_are_those_that_sd_mecha_lists_but_for_the_lacking_ones():
    sd_mecha = pytest.importorskip("sd_mecha")
    from sd_mecha.extensions import model_configs

    assert sd_mecha
    for family, config in (("sd1", "sd1-ldm"), ("sdxl", "sdxl-sgm")):
        modules = built(family, "real", "meta")
        files = {f: stored({n: t.shape for n, t in m.state_dict().items()}) for f, m in modules.items()}
        translation = to_single_file(files, family)
        keys = model_configs.resolve(config).keys()
        assert set(translation.tensors) <= set(keys)
        required = {k for k, metadata in keys.items() if not metadata.optional}
        assert required - set(translation.tensors) <= set(translation.lacking)


# -- values -------------------------------------------------------------------------------------------------------------


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor.to(torch.float32)), name


def test_diffusers_own_converters_give_back_the_models_that_were_translated(narrow):
    family, states, files = narrow
    single = {key: value(t) for key, t in to_single_file(files, family).tensors.items()}
    config = unet_config(family, "narrow")
    same(
        single_file_utils.convert_ldm_unet_checkpoint(dict(single), config | {"class_embed_type": None}), states["unet"]
    )
    same(single_file_utils.convert_ldm_vae_checkpoint(dict(single), vae_config(family, "narrow")), states["vae"])
    if family in OPEN_CLIP:
        folder, prefix = OPEN_CLIP[family]
        width = text_configs(family, "narrow")[folder]["hidden_size"]
        model = type("Model", (), {"config": type("Config", (), {"hidden_size": width})})
        converted = single_file_utils.convert_open_clip_checkpoint(model, dict(single), prefix=prefix)
        same({n.removeprefix("text_model."): t for n, t in converted.items()}, without_text_model(states[folder]))


def without_text_model(state):
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}


def test_values_survive_the_way_to_the_single_file_layout_and_back(narrow):
    family, states, files = narrow
    there = to_single_file(files, family)
    back = to_diffusers(there.tensors, family)
    for folder, state in states.items():
        same({n: value(t) for n, t in without_text_model(back.components[folder]).items()}, without_text_model(state))


def test_values_survive_the_way_to_diffusers_and_back(narrow, tmp_path):
    family, _, files = narrow
    before = {key: value(t) for key, t in to_single_file(files, family).tensors.items()}
    tensors = {t.name: t for t in written(before, tmp_path / "single")}
    there = to_diffusers(tensors, family)
    again = to_single_file({f: renamed(names) for f, names in there.components.items()}, family)
    same({key: value(t) for key, t in again.tensors.items()}, before)


def renamed(names):
    return [StoredTensor(name, t.dtype, t.shape, t.pieces) for name, t in names.items()]


@given(width=st.integers(1, 7), inputs=st.integers(1, 5), turned=st.booleans())
def test_a_fused_qkv_splits_into_thirds_of_its_rows_wherever_they_lie(width, inputs, turned):
    shape = (3 * width, inputs)
    strides = (1, 3 * width) if turned else (inputs, 1)
    fused = StoredTensor.at(
        "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", F32, shape, NOWHERE, 8, strides
    )
    memory = np.arange(width * 3 * inputs)
    whole = np.lib.stride_tricks.as_strided(memory, shape, [8 * s for s in strides])
    parts = to_diffusers({fused.name: fused}, "sd2").components["text_encoder"]
    for i, part in enumerate("qkv"):
        third = parts[f"text_model.encoder.layers.0.self_attn.{part}_proj.weight"]
        (piece,) = third.pieces
        steps = [8 * s for s in piece.strides or (inputs, 1)]
        start = memory[(piece.offset - 8) // 4 :]
        assert third.shape == (width, inputs)
        assert np.array_equal(
            np.lib.stride_tricks.as_strided(start, third.shape, steps), whole[i * width : (i + 1) * width]
        )


def test_a_query_without_its_key_and_value_is_kept_and_named_as_unknown():
    name = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    translation = to_single_file({"text_encoder": stored({name: (4, 4)})}, "sd2")
    assert translation.unknown == ["text_encoder." + name]
    assert list(translation.tensors) == ["text_encoder." + name]


def test_query_key_and_value_of_different_dtypes_are_kept_apart():
    names = [f"text_model.encoder.layers.0.self_attn.{p}_proj.weight" for p in "qkv"]
    tensors = stored(dict.fromkeys(names[:2], (4, 4))) + stored({names[2]: (4, 4)}, F16)
    assert len(to_single_file({"text_encoder": tensors}, "sd2").unknown) == 3


def test_position_ids_of_an_open_clip_are_dropped_and_named():
    translation = to_single_file({"text_encoder_2": stored({"text_model.embeddings.position_ids": (1, 77)})}, "sdxl")
    assert translation.tensors == {} and translation.unknown == []
    assert translation.dropped == ["text_encoder_2.text_model.embeddings.position_ids"]


def test_position_ids_of_a_clip_l_keep_their_place():
    translation = to_single_file({"text_encoder": stored({"text_model.embeddings.position_ids": (1, 77)})}, "sd1")
    assert list(translation.tensors) == ["cond_stage_model.transformer.text_model.embeddings.position_ids"]


def test_a_name_that_no_table_has_is_kept_under_its_component(real):
    family, _ = real
    translation = to_single_file({"unet": stored({"down_blocks.9.resnets.0.conv1.weight": (1,)})}, family)
    assert translation.unknown == ["unet.down_blocks.9.resnets.0.conv1.weight"] == list(translation.tensors)
    assert place(translation.unknown[0]).label == "OTHER"


def test_the_older_attention_names_of_a_vae_lead_to_the_same_keys(real):
    family, shapes = real
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    names = dict(shapes["vae"])
    for new, older in old.items():
        names = {name.replace(new, older): shape for name, shape in names.items()}
    assert sum("proj_attn" in name for name in names) == 4
    now, then = (to_single_file({"vae": stored(n)}, family).tensors for n in (shapes["vae"], names))
    assert {k: t.shape for k, t in now.items()} == {k: t.shape for k, t in then.items()}


# -- recognition --------------------------------------------------------------------------------------------------------


def test_a_diffusers_unet_tells_its_family_by_structure_at_any_width(narrow):
    family, states, files = narrow
    shapes = {name: tuple(t.shape) for name, t in states["unet"].items()}
    assert is_diffusers_unet(shapes)
    assert unet_family(shapes) == family == diffusers_family(files)


def test_a_folder_without_a_unet_tells_its_family_by_its_text_encoders(narrow):
    family, _, files = narrow
    assert diffusers_family({name: tensors for name, tensors in files.items() if name != "unet"}) == family


def test_the_text_width_decides_between_sd1_and_sd2_where_transformers_have_no_projection(real):
    family, shapes = real
    bare = {name: shape for name, shape in shapes["unet"].items() if ".proj_in." not in name}
    assert unet_family(bare) == family


def test_a_unet_of_another_kind_has_no_family():
    assert unet_family({"down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)}) is None
    assert unet_family({"add_embedding.linear_1.weight": (4, 4), "down_blocks.0.x.weight": (1,)}) is None
