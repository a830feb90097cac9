"""Recognising what a file is, by the names and ranks of its tensors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetscope.checkpoints.families import FAMILIES, family_of, is_buffer, layout
from unetscope.checkpoints.recognition.architecture import missing_keys, recognise

UNET = "model.diffusion_model."
# Zero123's UNET alone is one of SD1 with eight input channels: what stands next to it tells.
TOLD_BY_THE_UNET = [family for family in FAMILIES if family_of(family).variants.get(8) != "base"]


def shapes(family, **options):
    return {key: spec.shape for key, spec in layout(family, **options).items()}


def component(family, *components, **options):
    place = family_of(family).block_of
    return {key: shape for key, shape in shapes(family, **options).items() if place(key).component in components}


@pytest.mark.one_by_one
@pytest.mark.parametrize("widths", ["real", "narrow"])
@pytest.mark.parametrize(
    ("family", "name"),
    [("sd1", "SD1"), ("sd2", "SD2"), ("sdxl", "SDXL"), ("sdxl_refiner", "SDXL refiner")],
)
def test_whole_checkpoints_are_recognised_at_any_width(family, name, widths):
    found = recognise(shapes(family, widths=widths))
    assert (found.family, found.what, found.variant, found.name) == (family, "checkpoint", "base", f"{name} checkpoint")


@pytest.mark.one_by_one
@pytest.mark.parametrize("widths", ["real", "narrow"])
@pytest.mark.parametrize("family", TOLD_BY_THE_UNET)
def test_a_unet_alone_is_a_component_of_its_family(family, widths):
    found = recognise(component(family, "unet", widths=widths))
    assert (found.family, found.what, found.parts) == (family, "component", ("unet",))
    assert found.name.endswith(" UNET")


@pytest.mark.parametrize(
    ("channels", "variant"),
    [(9, "inpainting"), (8, "instruct-pix2pix"), (5, "depth"), (7, "unusual input")],
)
def test_variants_are_told_by_the_channels_of_the_first_convolution(channels, variant):
    found = recognise(shapes("sd2", in_channels=channels))
    assert (found.family, found.variant) == ("sd2", variant)
    assert found.name == f"SD2 checkpoint, {variant}"


def test_sd1_and_sd2_unets_alone_differ_in_projection_rank_and_context_width():
    sd1, sd2 = component("sd1", "unet"), component("sd2", "unet")
    assert set(sd1) == set(sd2)
    # A file that stores SD1's 1x1 convolutions as matrices is still SD1: the context width says so.
    flat = {key: shape[:2] if ".proj_" in key else shape for key, shape in sd1.items()}
    assert recognise(flat).family == "sd1"
    assert recognise(sd2).family == "sd2"


def test_an_sdxl_checkpoint_that_lost_its_label_emb_is_still_sdxl_and_the_loss_shows():
    kept = {key: shape for key, shape in shapes("sdxl").items() if ".label_emb." not in key}
    assert recognise(kept).family == "sdxl"
    assert len(missing_keys("sdxl", kept, "unet")) == 4


def test_a_unet_with_a_vae_is_a_checkpoint_and_says_which_parts_it_has():
    found = recognise(component("sdxl", "unet", "vae"))
    assert (found.family, found.what, found.parts) == ("sdxl", "checkpoint", ("unet", "vae"))


def test_a_vae_or_clip_l_alone_belongs_to_no_single_family():
    assert recognise(component("sd1", "vae")).family is None
    assert recognise(component("sd1", "vae")).what == "component"
    for family in ("sd1", "sdxl"):
        found = recognise(component(family, "clip_l"))
        assert (found.family, found.what, found.parts) == (None, "component", ("clip_l",))


@pytest.mark.parametrize(("family", "part"), [("sd2", "clip_h"), ("sdxl", "clip_g"), ("sdxl_refiner", "clip_g")])
def test_an_open_clip_text_encoder_tells_its_family(family, part):
    found = recognise(component(family, part))
    assert (found.family, found.what) == (family, "component")


def test_a_vae_with_sixteen_latent_channels_is_not_ours():
    vae = component("sdxl", "vae") | {"first_stage_model.decoder.conv_in.weight": (512, 16, 3, 3)}
    found = recognise(vae)
    assert found.what == "other"
    assert "16 latent channels" in found.name


# Names as the trainers write them; the shapes are (rank, inputs) and (outputs, rank).
KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
LORAS = {
    "kohya, SD1": (
        {f"{KOHYA}.lora_down.weight": (16, 768), f"{KOHYA}.lora_up.weight": (640, 16), f"{KOHYA}.alpha": ()},
        "sd1",
    ),
    "kohya, SD2": ({f"{KOHYA}.lora_down.weight": (16, 1024), f"{KOHYA}.lora_up.weight": (640, 16)}, "sd2"),
    "kohya, SDXL": ({f"{KOHYA}.lora_down.weight": (16, 2048), f"{KOHYA}.lora_up.weight": (640, 16)}, "sdxl"),
    "text encoder of SDXL": (
        {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (8, 1280)},
        "sdxl",
    ),
    "diffusers": (
        {
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": (4, 320),
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight": (320, 4),
        },
        "sd1",
    ),
    "older diffusers": (
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight": (4, 768)},
        "sd1",
    ),
    "LoHa": ({f"{KOHYA}.hada_w1_a": (640, 8), f"{KOHYA}.hada_w1_b": (8, 768), f"{KOHYA}.alpha": ()}, "sd1"),
    "LoKr": ({f"{KOHYA}.lokr_w1": (8, 8), f"{KOHYA}.lokr_w2_a": (80, 4), f"{KOHYA}.alpha": ()}, None),
    "IA3": ({f"{KOHYA}.weight": (640, 1), f"{KOHYA}.on_input": ()}, None),
    "cloneofsimo's": ({"unet:0:up": (320, 4), "unet:0:down": (4, 320), "text_encoder:3:up": (768, 4)}, None),
    "Flux": (
        {
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (16, 3072),
            "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": (9216, 16),
        },
        None,
    ),
}


@pytest.mark.parametrize("kind", LORAS)
def test_loras_of_every_trainer_are_told_from_checkpoints(kind):
    tensors, family = LORAS[kind]
    found = recognise(tensors)
    assert (found.what, found.family) == ("lora", family)


def test_lycoris_files_are_named_by_their_kind():
    assert recognise(LORAS["LoHa"][0]).name == "LoHa (LyCORIS) for SD1"
    assert recognise(LORAS["LoKr"][0]).name.startswith("LoKr (LyCORIS) for an architecture")


def test_a_few_lora_tensors_in_a_checkpoint_do_not_make_it_a_lora():
    assert recognise(shapes("sd1") | LORAS["kohya, SD1"][0]).what == "checkpoint"


def test_controlnets_are_recognised_in_both_namings():
    original = {
        key.replace(UNET, "control_model."): shape
        for key, shape in component("sd1", "unet").items()
        if "input_blocks" in key or "middle_block" in key or "time_embed" in key
    }
    original |= {
        "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
        "control_model.zero_convs.0.0.weight": (320, 320, 1, 1),
    }
    found = recognise(original)
    assert (found.what, found.family) == ("controlnet", "sd1")

    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        built = diffusers.ControlNetModel(cross_attention_dim=1024, use_linear_projection=True)
    found = recognise({key: tuple(t.shape) for key, t in built.state_dict().items()})
    assert (found.what, found.family) == ("controlnet", "sd2")


def test_the_files_own_names_give_a_controlnet_away_after_its_keys_were_translated():
    translated = {key: shape for key, shape in component("sd1", "unet").items() if "output_blocks" not in key}
    found = recognise(translated, ["conv_in.weight", "controlnet_cond_embedding.conv_in.weight"])
    assert found.what == "controlnet"


OTHERS = [
    (["model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias"], "SD3"),
    (["double_blocks.0.img_attn.norm.key_norm.scale"], "Flux"),
    (
        ["transformer_blocks.0.attn.add_k_proj.weight", "transformer_blocks.0.norm1_context.linear.bias"],
        "SD3 or Flux",
    ),
    (["model.diffusion_model.input_blocks.1.1.time_stack.0.norm1.bias"], "Video"),
    (["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"], "AnimateDiff"),
    (["clip_txt_mapper.weight"], "Cascade"),
    (["model.diffusion_model.label_emb.weight"], "x4 upscaler"),
    (["blocks.0.attn.qkv_x.weight"], "diffusion transformer"),
    (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "IP-Adapter"),
    (["adapter.body.0.resnets.0.block1.weight"], "T2I-Adapter"),
    (["body.3.block1.weight"], "T2I-Adapter"),
    (["model.1.sub.0.RDB1.conv1.0.weight"], "image upscaler"),
    (["encoder.block.0.layer.0.SelfAttention.q.weight"], "T5"),
    (["emb_params"], "textual inversion"),
    (["clip_l", "clip_g"], "textual inversion"),
    (["something", "else"], "among its 2 tensors"),
    ([], "without tensors"),
]


@pytest.mark.parametrize(("names", "word"), OTHERS)
def test_other_files_are_named_as_what_they_look_like(names, word):
    found = recognise(dict.fromkeys(names, (8, 8)))
    assert (found.family, found.what) == (None, "other")
    assert word in found.name


def test_a_layer_as_wide_as_a_text_encoder_is_no_embedding():
    assert "among its 2 tensors" in recognise({"weight": (768, 768), "bias": (768,)}).name
    assert "2 vectors of 768 (SD1)" in recognise({"my-style": (2, 768)}).name


@pytest.mark.parametrize("names", [names for names, word in OTHERS if word not in ("Video", "x4 upscaler")])
def test_junk_of_other_models_in_a_checkpoint_does_not_change_what_it_is(names):
    found = recognise(shapes("sdxl") | dict.fromkeys(names, (8, 8)))
    assert (found.family, found.what) == ("sdxl", "checkpoint")


def test_a_video_model_is_not_taken_for_sd2():
    found = recognise(shapes("sd2", in_channels=8) | {f"{UNET}input_blocks.1.1.time_stack.0.norm1.bias": (320,)})
    assert (found.family, found.what) == (None, "other")


def test_a_unet_of_another_layout_is_not_taken_for_one_of_ours():
    strange = {f"{UNET}input_blocks.1.1.qkv.weight": (8, 8, 1), f"{UNET}output_blocks.1.1.qkv.weight": (8, 8, 1)}
    found = recognise(strange)
    assert (found.family, found.what) == (None, "other")
    assert "none of the layouts" in found.name


@given(family=st.sampled_from(list(FAMILIES)), data=st.data())
def test_a_checkpoint_that_lost_some_tensors_keeps_its_family_and_the_lost_ones_are_listed(family, data):
    place = family_of(family).block_of
    keys = [key for key in layout(family) if not is_buffer(key) and place(key).component != "extra"]
    lost = data.draw(st.sets(st.sampled_from(keys), max_size=12))
    kept = {key: shape for key, shape in shapes(family).items() if key not in lost}
    assert recognise(kept).family == family
    listed = [key for part in ("unet", "clip_l", "clip_h", "clip_g", "vae") for key in missing_keys(family, kept, part)]
    assert set(listed) == lost
    assert len(listed) == len(lost)


@given(st.dictionaries(st.text(max_size=60), st.lists(st.integers(0, 4000), max_size=5).map(tuple), max_size=20))
def test_any_set_of_names_and_shapes_gets_an_answer(tensors):
    found = recognise(tensors)
    assert found.name


def test_buffers_are_never_missing():
    trained = {key for key in layout("sd1") if not is_buffer(key)}
    assert missing_keys("sd1", trained, "clip_l") == ()
    assert missing_keys("sd1", (), "schedule") == ()
    assert "cond_stage_model.transformer.text_model.final_layer_norm.bias" in missing_keys("sd1", (), "clip_l")
