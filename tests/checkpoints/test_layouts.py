"""Layouts against models that diffusers and transformers build, and against sd-mecha's lists."""

from math import prod

import numpy as np
import pytest
from places import place

from unetscope.checkpoints.families import FAMILIES, family_of, is_buffer, layout
from unetscope.checkpoints.families.diffusers import text_configs, unet_config, vae_config
from unetscope.checkpoints.families.parts.clip import is_open_clip
from unetscope.checkpoints.families.parts.schedule import SCHEDULE_KEYS, schedule

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from diffusers.loaders import single_file_utils  # noqa: E402

# Published configurations; what is not named has diffusers' default.
LEVELS = {"layers_per_block": 2, "in_channels": 4, "out_channels": 4}
SD_BLOCKS = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
PUBLISHED = {
    "sd1": LEVELS | SD_BLOCKS | {"sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768},
    "sd2": LEVELS
    | SD_BLOCKS
    | {
        "sample_size": 96,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": LEVELS
    | {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sdxl_refiner": LEVELS
    | {
        "sample_size": 128,
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 4,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    },
}
REAL_TEXT = {
    "CLIP_L": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "CLIP_H": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
    "CLIP_G": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20},
}
REAL_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
SHAPES = [(family, widths) for family in FAMILIES for widths in ("real", "narrow")]


# Families that diffusers' own conversion knows; the layouts of kin are held against diffusers in test_kin.
CONVERTED = [(family, widths) for family, widths in SHAPES if not family_of(family).parent]
IN_PIPELINES = [(family, widths) for family, widths in SHAPES if family_of(family).pipeline is not None]


def meta_tensors(family, **options):
    """A checkpoint of the layout's shapes on the meta device."""
    specs = layout(family, **options)
    return {key: torch.empty(spec.shape, device="meta") for key, spec in specs.items()}


def shapes(state):
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def without_prefix(checkpoint, prefix):
    return {key.removeprefix(prefix): value for key, value in checkpoint.items() if key.startswith(prefix)}


@pytest.mark.parametrize(("family", "widths"), CONVERTED)
def test_the_unet_has_exactly_the_tensors_of_the_model_that_diffusers_builds(family, widths):
    config = PUBLISHED[family] if widths == "real" else unet_config(family, widths)
    with torch.device("meta"):
        built = diffusers.UNet2DConditionModel(**config)
    unet = meta_tensors(family, widths=widths)
    converted = single_file_utils.convert_ldm_unet_checkpoint(unet, dict(built.config))
    assert shapes(converted) == shapes(built.state_dict())
    # Nothing is left over: the conversion of a UNET renames tensors one to one.
    assert len(converted) == len(without_prefix(unet, "model.diffusion_model."))


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_real_unet_config_builds_what_the_published_one_builds(family):
    with torch.device("meta"):
        ours = diffusers.UNet2DConditionModel(**unet_config(family))
        published = diffusers.UNet2DConditionModel(**PUBLISHED[family])
    assert str(ours) == str(published)


@pytest.mark.parametrize(
    ("family", "parameters", "tensors"),
    [("sd1", 859_520_964, 686), ("sd2", 865_910_724, 686), ("sdxl", 2_567_463_684, 1680)],
)
def test_parameter_counts_are_the_published_ones(family, parameters, tensors):
    unet = [spec for key, spec in layout(family).items() if place(key).component == "unet"]
    assert (sum(prod(spec.shape) for spec in unet), len(unet)) == (parameters, tensors)


@pytest.mark.parametrize(("family", "total"), [("sd1", 1145), ("sd2", 1242), ("sdxl", 2515)])
def test_a_layout_has_as_many_tensors_as_the_published_file(family, total):
    assert len(layout(family)) == total


@pytest.mark.parametrize(("family", "widths"), SHAPES)
def test_the_vae_has_exactly_the_tensors_of_the_model_that_diffusers_builds(family, widths):
    config = REAL_VAE if widths == "real" else vae_config(family, widths)
    with torch.device("meta"):
        built = diffusers.AutoencoderKL(**config)
    checkpoint = meta_tensors(family, widths=widths)
    converted = single_file_utils.convert_ldm_vae_checkpoint(checkpoint, dict(built.config))
    assert shapes(converted) == shapes(built.state_dict())
    assert len(converted) == len(without_prefix(checkpoint, "first_stage_model."))


@pytest.mark.parametrize(("family", "widths"), SHAPES)
def test_each_text_encoder_has_exactly_the_tensors_of_the_model_that_transformers_builds(family, widths):
    checkpoint = meta_tensors(family, widths=widths)
    encoders = [c for c in family_of(family).components if c.part.text]
    for encoder, config in zip(encoders, text_configs(family, widths).values(), strict=True):
        config = config | (REAL_TEXT[encoder.part.label] if widths == "real" else {})
        projected = encoder.part.label == "CLIP_G"
        cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
        with torch.device("meta"):
            built = cls(transformers.CLIPTextConfig(**config))
        if is_open_clip(encoder.part):
            state = single_file_utils.convert_open_clip_checkpoint(built, checkpoint, prefix=encoder.prefix)
        else:
            state = without_prefix(checkpoint, encoder.prefix)
            # A buffer that newer versions of transformers do not store.
            assert state.pop("text_model.embeddings.position_ids").shape == (1, 77)
        if not any(key.startswith("text_model.") for key in built.state_dict()):
            state = {key.removeprefix("text_model."): value for key, value in state.items()}
        # SD2's last layer and projection, which diffusers drops, are dropped by the conversion as well.
        assert shapes(state) == shapes(built.state_dict())


def test_sd2_keeps_the_last_text_layer_that_diffusers_drops():
    keys = layout("sd2")
    assert "cond_stage_model.model.transformer.resblocks.23.mlp.c_proj.weight" in keys
    assert keys["cond_stage_model.model.text_projection"].shape == (1024, 1024)


@pytest.mark.parametrize(("family", "name"), [("sd1", "sd1-ldm"), ("sdxl", "sdxl-sgm")])
def test_keys_and_shapes_are_those_of_sd_mecha(family, name):
    configs = pytest.importorskip("sd_mecha.extensions.model_configs")
    theirs = {key: tuple(meta.shape) for key, meta in configs.resolve(name).keys().items()}
    ours = {key: spec.shape for key, spec in layout(family).items()}
    assert set(ours) <= set(theirs)
    assert {key: theirs[key] for key in ours} == ours
    # What sd-mecha lists beyond the published file: buffers and markers that some community files carry,
    # and the averaged copy of the UNET.
    extra = {place(key).component for key in set(theirs) - set(ours)}
    assert extra <= {"schedule", "marker", "ema"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrow_layout_has_the_keys_ranks_and_order_of_the_real_one(family):
    real, narrow = layout(family), layout(family, widths="narrow")
    assert list(real) == list(narrow)
    assert all(len(real[key].shape) == len(narrow[key].shape) for key in real)
    assert sum(prod(spec.shape) for spec in narrow.values()) * 2 < 20e6


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_a_layout_has_a_label(family):
    assert "OTHER" not in {family_of(family).block_of(key).label for key in layout(family)}


@pytest.mark.parametrize("channels", [5, 8, 9])
def test_input_channels_change_the_first_convolution_only(channels):
    base, other = layout("sd1"), layout("sd1", in_channels=channels)
    different = {key for key in base if base[key] != other[key]}
    assert different == {"model.diffusion_model.input_blocks.0.0.weight"}
    assert other["model.diffusion_model.input_blocks.0.0.weight"].shape == (320, channels, 3, 3)


def test_the_cross_attention_reads_what_the_text_encoders_write():
    for family, widths in IN_PIPELINES:
        spec = family_of(family).size(widths)
        text = [getattr(c, widths) for c in family_of(family).components if c.part.text]
        assert spec.context == sum(encoder.width for encoder in text)
        assert spec.pooled in (0, text[-1].width)


def test_the_schedule_is_the_one_that_diffusers_computes():
    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ours = schedule()
    assert tuple(ours) == SCHEDULE_KEYS
    np.testing.assert_allclose(ours["betas"], scheduler.betas.numpy(), rtol=2e-5)
    np.testing.assert_allclose(ours["alphas_cumprod"], scheduler.alphas_cumprod.numpy(), rtol=2e-5)
    # The posterior of DDPM, equations 6 and 7 of Ho et al. 2020, written out for one step.
    step, product, beta = 500, ours["alphas_cumprod"], ours["betas"]
    variance = (1 - product[step - 1]) / (1 - product[step]) * beta[step]
    assert ours["posterior_variance"][step] == pytest.approx(variance)
    assert ours["posterior_log_variance_clipped"][0] == pytest.approx(np.log(1e-20))
    coefficients = ours["posterior_mean_coef1"][step], ours["posterior_mean_coef2"][step]
    expected = (
        np.sqrt(product[step - 1]) * beta[step] / (1 - product[step]),
        np.sqrt(1 - beta[step]) * (1 - product[step - 1]) / (1 - product[step]),
    )
    assert coefficients == pytest.approx(expected)


def test_buffers_are_the_keys_without_trained_weights():
    buffers = {key for key in layout("sd1") if is_buffer(key)}
    clip = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    assert buffers == {*SCHEDULE_KEYS, "model_ema.decay", "model_ema.num_updates", clip}
