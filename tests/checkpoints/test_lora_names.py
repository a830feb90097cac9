"""Every style of every trainer names the same weights: tables against diffusers' own modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import others_long

from unetscope.checkpoints import CheckpointError, open_checkpoint
from unetscope.checkpoints.demo import write_demo_lora
from unetscope.checkpoints.demo.loras import KINDS
from unetscope.checkpoints.families import FAMILIES as RECORDS
from unetscope.checkpoints.families import layout
from unetscope.checkpoints.families.diffusers import unet_config
from unetscope.checkpoints.lora import open_lora
from unetscope.checkpoints.lora.names import STYLES, lora_families, reader_for, spelled, targets
from unetscope.checkpoints.lora.numbered import unet_order
from unetscope.checkpoints.lora.recognition import recognise_names

SPELLED = [style for style in STYLES if style != "numbered"]
LORA_FAMILIES = lora_families()
TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
TO_K_KEY = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
TO_OUT_KEY = TO_K_KEY.replace("to_k", "to_out.0")


def pair(name: str, up: str, down: str, outputs: int = 640, inputs: int = 768) -> dict[str, torch.Tensor]:
    return {name + up: torch.zeros(outputs, 4), name + down: torch.zeros(4, inputs)}


@pytest.mark.parametrize("family", LORA_FAMILIES)
def test_every_matrix_of_unet_and_text_encoders_is_a_target_once(family):
    prefixes = ("model.diffusion_model.", "cond_stage_model.", "conditioner.")
    keys = {
        k for k, s in layout(family).items() if k.startswith(prefixes) and len(s.shape) >= 2 and not k.endswith("ids")
    }
    if family == "sd2":  # the last layer and the projection of CLIP-H, which SD2 does not use and diffusers leaves out
        keys = {k for k in keys if ".resblocks.23." not in k and not k.endswith("text_projection")}
    found = [t for t in targets(family) if t.weight in keys]
    assert {t.weight for t in found} == keys
    rows = [(t.weight, t.third) for t in found]
    assert len(set(rows)) == len(rows)
    assert {t.third for t in found if "in_proj" in t.weight} <= {0, 1, 2}
    assert sum(t.third is not None for t in found) == 3 * sum("in_proj_weight" in k for k in keys)


@pytest.mark.one_by_one
@pytest.mark.parametrize("family", LORA_FAMILIES)
@pytest.mark.parametrize("style", SPELLED)
def test_spellings_are_read_back_as_the_module_that_they_were_made_of(family, style):
    reader = reader_for(family)
    names = {spelled(target, family, style): target for target in targets(family)}
    assert len(names) == len(targets(family))
    assert all(reader.find(name).target == target for name, target in names.items())


@pytest.mark.parametrize("family", LORA_FAMILIES)
def test_unet_modules_are_those_of_diffusers(family):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**unet_config(family))
    weighted = {n for n, m in unet.named_modules() if getattr(m, "weight", None) is not None}
    assert {t.module for t in targets(family) if t.component == "unet"} == weighted


@pytest.mark.parametrize(
    ("name", "up", "down"),
    [
        (f"lora_unet_{TO_K.replace('.', '_')}", ".lora_up.weight", ".lora_down.weight"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", ".lora_up.weight", ".lora_down.weight"),
        (f"unet.{TO_K}", ".lora_B.weight", ".lora_A.weight"),
        (f"unet.{TO_K}", ".lora_B.default.weight", ".lora_A.default.weight"),
        (f"base_model.model.{TO_K}", ".lora_B.weight", ".lora_A.weight"),
        (f"unet.{TO_K}", ".lora.up.weight", ".lora.down.weight"),
        (TO_K.replace("to_k", "processor.to_k"), "_lora.up.weight", "_lora.down.weight"),
        (f"unet.{TO_K.replace('to_k', 'processor.to_k')}", "_lora.up.weight", "_lora.down.weight"),
        (TO_K_KEY.removesuffix(".weight").removeprefix("model."), ".lora_B.weight", ".lora_A.weight"),
    ],
)
def test_names_as_trainers_write_them(tmp_path, name, up, down):
    save_file(pair(name, up, down), tmp_path / "a.safetensors")
    with open_lora(tmp_path / "a.safetensors") as lora:
        assert list(lora.modules) == [TO_K_KEY] and lora.family == "sd1" and lora.unknown == []
        assert lora.modules[TO_K_KEY].shape == (640, 768)


# What trainers, wrappers and programs put before, into and behind a module's name; {} is the module, dotted or flat.
ODD_UNET = [
    ("unet.unet.{}", "."), ("unet.base_model.model.{}", "."), ("base_model.model.unet.{}", "."), ("_orig_mod.{}", "."),
    ("unet._orig_mod.{}", "."), ("module.{}", "."), ("unet.module.{}", "."), ("module._orig_mod.unet.{}", "."),
    ("unet._fsdp_wrapped_module.{}", "."), ("lycoris.{}", "."), ("lora_unet.{}", "."),
    ("base_model.model.base_model.model.{}", "."), ("lycoris_{}", "_"),
    ("lycoris_unet_{}", "_"), ("lora_unet_unet_{}", "_"), ("lora_unet__orig_mod_{}", "_"), ("lora_{}", "_"),
    ("lora_unet_module_{}", "_"), ("unet_{}", "_"),
]  # fmt: skip
ODD_INSIDE = [
    TO_K, TO_K.replace(".to_k", ".processor.to_k"), TO_K.replace(".attn2", "._orig_mod.attn2"),
    TO_K.replace(".attn2", "._checkpoint_wrapped_module.attn2"),
    TO_K_KEY.removeprefix("model.diffusion_model.").removesuffix(".weight"),
]  # fmt: skip
ENDINGS = [
    (".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight"), (".lora.up.weight", ".lora.down.weight"),
    ("_lora.up.weight", "_lora.down.weight"), (".lora_B.default_0.weight", ".lora_A.default_0.weight"),
    (".lora_B.my style-v1.5.weight", ".lora_A.my style-v1.5.weight"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
]  # fmt: skip


@pytest.mark.one_by_one
@pytest.mark.parametrize(("around", "sign"), ODD_UNET)
@pytest.mark.parametrize("module", ODD_INSIDE)
def test_whatever_stands_around_a_module_it_is_found(around, sign, module):
    name = around.format(module.replace(".", sign))
    for up, down in ENDINGS:
        tensors = {name + up: (640, 4), name + down: (4, 768)}
        found = recognise_names(Path("x"), tensors, {})
        assert [t.weight for t in found.modules] == [TO_K_KEY] and found.unknown == [], (name, up)


@pytest.mark.parametrize(
    "name",
    [
        "{}text_model.encoder.layers.3.self_attn.out_proj",
        "{}encoder.layers.3.self_attn.out_proj",
        "{}text_model.encoder.layers.3.self_attn.to_out",
        "{}_orig_mod.text_model.encoder.layers.3.self_attn.out_proj",
        "base_model.model.{}base_model.model.text_model.encoder.layers.3.self_attn.out_proj",
    ],
)
def test_text_encoders_are_told_by_the_words_before_them(name):
    places = {
        "text_encoder.": "conditioner.embedders.0.transformer.text_model.encoder.layers.3.self_attn.out_proj.weight",
        "text_encoder_2.": "conditioner.embedders.1.model.transformer.resblocks.3.attn.out_proj.weight",
    }
    others = {"text_encoders.clip_l.transformer.": "text_encoder.", "lora_te2_": "text_encoder_2.", "lora_te1_": "text_encoder.",
              "te2.": "text_encoder_2.", "text_encoder_2.text_encoder_2.": "text_encoder_2."}  # fmt: skip
    for said, key in {**places, **{said: places[folder] for said, folder in others.items()}}.items():
        module = name.format(said)
        module = module.replace(".", "_") if said.startswith("lora_") else module
        assert reader_for("sdxl").find(module).target.weight == key, module
    assert reader_for("sdxl").find(name.format("")) is None  # either encoder's
    assert reader_for("sd1").find(name.format("")) is not None
    assert reader_for("sdxl").find(name.format("unet.")) is None


@pytest.mark.parametrize("style", SPELLED)
@pytest.mark.parametrize("family", ["ssd_1b", "sd1_bk_tiny"])
def test_kin_have_the_names_of_their_family(family, style):
    reader = reader_for(family)
    for target in targets(family):
        assert reader.find(spelled(target, family, style)).target == target
        assert spelled(target, family, style) == spelled(target, RECORDS[family].parent, style)


def test_a_file_of_two_adapters_is_refused_or_one_of_them_is_taken(tmp_path):
    tensors, path = {}, tmp_path / "two.safetensors"
    for value, adapter in enumerate(("default", "style", "other"), 1):
        for name, shape in (
            (f"unet.{TO_K}.lora_B.{adapter}.weight", (640, 1)),
            (f"unet.{TO_K}.lora_A.{adapter}.weight", (1, 768)),
        ):
            tensors[name] = torch.full(shape, float(value))
    only = TO_K.replace("to_k", "to_q")  # of one of them alone
    tensors |= pair(f"unet.{only}", ".lora_B.style.weight", ".lora_A.style.weight", 640, 640)
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=r"two.safetensors: holds 3 adapters \(default, .*, style\)|holds 3 adapters"
    ):
        open_lora(path)
    for value, adapter in enumerate(("default", "style", "other"), 1):
        with open_lora(path, adapter=adapter) as lora:
            assert len(lora.modules) == (2 if adapter == "style" else 1) and lora.unknown == []
            assert (lora.modules[TO_K_KEY].delta() == value * value).all()
    with pytest.raises(CheckpointError, match="'styl'"):
        open_lora(path, adapter="styl")
    save_file(
        pair(f"unet.{TO_K}", ".lora_B.weight", ".lora_A.weight")
        | pair(f"unet.{only}", ".lora_B.b.weight", ".lora_A.b.weight"),
        path,
    )
    with pytest.raises(CheckpointError, match="holds 2 adapters"):  # one without a name and one with
        open_lora(path)


def test_the_adapters_of_a_model_are_those_that_peft_has(tmp_path):
    """A model's whole state with two adapters, names and base weights in it, as `torch.save` of a wrapped model keeps it."""
    peft = pytest.importorskip("peft")

    def model():
        torch.manual_seed(3)
        layer = torch.nn.Linear(32, 16)
        inside = torch.nn.ModuleDict({"attn2": torch.nn.ModuleDict({"to_k": layer})})
        for name in ("0", "transformer_blocks", "0", "attentions", "0", "down_blocks"):
            inside = torch.nn.ModuleDict({name: inside})
        return inside

    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=["to_k"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model(), config, adapter_name="first")
    wrapped.add_adapter("second", config)
    save_file(wrapped.state_dict(), tmp_path / "both.safetensors")
    before = model()["down_blocks"]["0"]["attentions"]["0"]["transformer_blocks"]["0"]["attn2"]["to_k"].weight
    for name in ("first", "second"):
        wrapped.set_adapter(name)
        change = wrapped.base_model.model["down_blocks"]["0"]["attentions"]["0"]["transformer_blocks"]["0"]["attn2"][
            "to_k"
        ].get_delta_weight(name)
        assert change.shape == before.shape
        with open_lora(tmp_path / "both.safetensors", adapter=name) as lora:
            assert list(lora.modules) == [key]
            np.testing.assert_allclose(lora.modules[key].delta(), change.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "name", ["lora_te_text_model_encoder_layers_3_self_attn_out_proj.lora_{}.weight",
             "text_encoder.text_model.encoder.layers.3.self_attn.out_proj.lora_linear_layer.{}.weight",
             "text_encoder.text_model.encoder.layers.3.self_attn.to_out_lora.{}.weight",
             "text_encoder.encoder.layers.3.self_attn.out_proj.lora.{}.weight"],
)  # fmt: skip
def test_text_encoder_names_as_trainers_write_them(tmp_path, name):
    save_file(pair("", name.format("up"), name.format("down"), 768, 768), tmp_path / "a.safetensors")
    with open_lora(tmp_path / "a.safetensors", family="sd1") as lora:
        assert list(lora.modules) == [
            "cond_stage_model.transformer.text_model.encoder.layers.3.self_attn.out_proj.weight"
        ]


@pytest.mark.parametrize(("inputs", "family"), [(768, "sd1"), (1024, "sd2")])
def test_the_family_follows_from_the_width_of_the_text(tmp_path, inputs, family):
    name = f"lora_unet_{TO_K.replace('.', '_')}"
    save_file(pair(name, ".lora_up.weight", ".lora_down.weight", inputs=inputs), tmp_path / "a.safetensors")
    with open_lora(tmp_path / "a.safetensors") as lora:
        assert lora.family == family


@pytest.mark.one_by_one
@pytest.mark.parametrize("family", LORA_FAMILIES)
@pytest.mark.parametrize("style", STYLES)
def test_a_demo_lora_is_of_its_family_and_style(tmp_path, family, style):
    path = write_demo_lora(tmp_path / "a.safetensors", family, style=style)
    with open_lora(path) as lora:
        assert (lora.family, lora.style, lora.unknown) == (family, style, [])
        reference = {k: s.shape for k, s in layout(family, widths="narrow").items()}
        assert all(module.shape == reference[key] for key, module in lora.modules.items())


@pytest.mark.parametrize("family", LORA_FAMILIES)
def test_all_styles_change_the_same_keys_by_the_same_numbers(tmp_path, family):
    changes = {}
    for style in SPELLED:
        path = write_demo_lora(tmp_path / f"{style}.safetensors", family, style=style, seed=4)
        with open_lora(path) as lora:
            assert list(lora.modules) and lora.style == style
            changes[style] = {
                key: module.delta() for key, module in lora.modules.items() if "attn2.to_k" in key or "_proj" in key
            }
    for style in SPELLED[1:]:
        assert changes[style].keys() == changes["kohya"].keys()
        for key, change in changes["kohya"].items():
            np.testing.assert_array_equal(changes[style][key], change)


def injected(unet: torch.nn.Module, classes: tuple[str, ...] = ("CrossAttention", "Attention", "GEGLU")) -> list[str]:
    """The layers that cloneofsimo's trainer replaces, walking the modules as it does."""
    names = []
    for path, ancestor in unet.named_modules():
        if type(ancestor).__name__ in classes:
            names += [f"{path}.{n}" for n, m in ancestor.named_modules() if isinstance(m, torch.nn.Linear)]
    return names


@pytest.mark.parametrize("family", LORA_FAMILIES)
def test_numbers_count_the_layers_in_the_order_of_diffusers(family):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**unet_config(family, "narrow"))
    assert [t.module for t in unet_order(family, "since 0.15", resnets=False)] == injected(unet)


@pytest.mark.one_by_one
@pytest.mark.parametrize("classes", [("Attention",), ("Attention", "GEGLU")], ids=["attention alone", "GEGLU too"])
@pytest.mark.parametrize("prefix", ["unet:", ""])
@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_numbered_layers_tell_their_family_by_what_attention_reads(family, prefix, classes):
    """The published widths: those of SD1 and SD2 differ in the inputs of attn2 alone."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**unet_config(family))
    names = injected(unet, classes)
    shapes: dict[str, tuple[int, ...]] = {}
    for number, name in enumerate(names):
        outputs, inputs = unet.get_submodule(name).weight.shape
        shapes |= {f"{prefix}{number}:up": (outputs, 1), f"{prefix}{number}:down": (1, inputs)}
    found = recognise_names(Path("x"), shapes, {})
    assert found.family == family and [t.module for t in found.modules] == names
    assert len(names) == (128 if len(classes) == 1 else 144) and found.unknown == []


def test_before_0_15_the_feed_forward_came_before_the_cross_attention():
    old, new = (unet_order("sd1", order, resnets=False) for order in ("before 0.15", "since 0.15"))
    assert sorted(t.module for t in old) == sorted(t.module for t in new) and len(old) == 144
    assert [t.module.split("transformer_blocks.0.")[1] for t in old[:9]] == [
        *(f"attn1.{m}" for m in ("to_q", "to_k", "to_v", "to_out.0")),
        "ff.net.0.proj",
        *(f"attn2.{m}" for m in ("to_q", "to_k", "to_v", "to_out.0")),
    ]


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_a_pt_of_numbered_layers_is_a_bare_list(tmp_path, component):
    whole = write_demo_lora(tmp_path / "a.safetensors", "sd1", style="numbered")
    tensors = load_file(whole)
    count = sum(name.startswith(f"{component}:") for name in tensors) // 2
    torch.save([tensors[f"{component}:{i}:{side}"] for i in range(count) for side in ("up", "down")], tmp_path / "a.pt")
    with open_lora(whole) as expected, open_lora(tmp_path / "a.pt") as lora:
        assert (lora.style, lora.format, lora.unknown) == ("numbered", "ckpt", []) and len(lora.modules) == count
        for key, module in lora.modules.items():
            np.testing.assert_array_equal(module.delta(), expected.modules[key].delta())


def test_numbers_that_are_those_of_no_model_are_refused(tmp_path):
    save_file(pair("unet:0:", "up", "down"), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"1.*UNET"):
        open_lora(tmp_path / "a.safetensors")


MADE = [(f, {"kind": k}) for f in LORA_FAMILIES for k in KINDS] + [(f, {"style": "numbered"}) for f in ("sd1", "sd2")]


# Each family once, and each kind once.
SEEN = [*{family: {"kind": "lora"} for family in LORA_FAMILIES}.items(), *(("sd1", {"kind": kind}) for kind in KINDS)]


@pytest.mark.parametrize(("family", "options"), others_long(MADE, lambda *case: case in SEEN), ids=str)
def test_opening_and_applying_agree_on_the_family(tmp_path, family, options):
    path = write_demo_lora(tmp_path / "a.safetensors", family, **options)
    with open_lora(path) as lora, open_checkpoint(path) as seen:
        assert lora.family == seen.architecture.family == family
        assert seen.architecture.name.endswith(f" for {RECORDS[family].title}")


def test_a_kronecker_product_has_the_inputs_of_both_sides_multiplied(tmp_path):
    name, shapes = f"lora_unet_{TO_K.replace('.', '_')}", {"lokr_w1": (8, 8), "lokr_w2_a": (80, 4)}
    for width, family in ((768, "sd1"), (1024, "sd2"), (2048, "sdxl")):
        shapes["lokr_w2_b"] = (4, width // 8)
        save_file({f"{name}.{end}": torch.zeros(shape) for end, shape in shapes.items()}, tmp_path / "a.safetensors")
        with open_lora(tmp_path / "a.safetensors") as lora:
            assert lora.family == family and lora.modules[TO_K_KEY].shape == (640, width)
