"""Merges that ComfyUI saved, by the nodes in the header: what its patches add up to, component by component."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny import load, tensors_of
from told import codes, raising

from unetscope.merge import RecipeError, merge
from unetscope.merge.exchange import Request, import_recipe
from unetscope.merge.exchange.comfyui import from_prompt
from unetscope.merge.exchange.reading import import_text

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.", "first_stage_model."
KEYS = {
    "unet": UNET + "input_blocks.1.0.in_layers.2.weight",
    "text": TEXT + "transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    "vae": VAE + "decoder.conv_in.weight",
}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def loaders(names="abc"):
    return {n: node("CheckpointLoaderSimple", ckpt_name=f"{n}.safetensors") for n in names}


def save(model, clip=("a", 1), vae=("a", 2), prefix="out"):
    return node(
        "CheckpointSave", model=list(model), clip=list(clip), vae=list(vae), filename_prefix=f"checkpoints/{prefix}"
    )


def imported(nodes, name="out_00001_.safetensors", **request):
    return from_prompt(json.dumps(nodes), name, Request(**request))


SIMPLE = node("ModelMergeSimple", model1=["a", 0], model2=["b", 0], ratio=0.7)
GRAPHS = {
    # ratio is the share of the first.
    "simple": (
        {"m": SIMPLE, "s": save(["m", 0])},
        lambda a, b, c: {"unet": 0.7 * a["unet"] + 0.3 * b["unet"], "text": a["text"], "vae": a["vae"]},
    ),
    "text encoders apart, and another VAE": (
        {"m": SIMPLE, "t": node("CLIPMergeSimple", clip1=["b", 1], clip2=["c", 1], ratio=0.2),
         "s": save(["m", 0], ["t", 0], ["c", 2])},
        lambda a, b, c: {"unet": 0.7 * a["unet"] + 0.3 * b["unet"], "text": 0.2 * b["text"] + 0.8 * c["text"], "vae": c["vae"]},
    ),
    "add difference": (
        {"d": node("ModelMergeSubtract", model1=["b", 0], model2=["c", 0], multiplier=0.6),
         "m": node("ModelMergeAdd", model1=["a", 0], model2=["d", 0]), "s": save(["m", 0], ["b", 1], ["b", 2])},
        lambda a, b, c: {"unet": a["unet"] + 0.6 * (b["unet"] - c["unet"]), "text": b["text"], "vae": b["vae"]},
    ),
    "added the other way round": (
        {"d": node("CLIPMergeSubtract", clip1=["b", 1], clip2=["c", 1], multiplier=1.0),
         "t": node("CLIPMergeAdd", clip1=["d", 0], clip2=["a", 1]), "s": save(["b", 0], ["t", 0])},
        lambda a, b, c: {"unet": b["unet"], "text": a["text"] + b["text"] - c["text"], "vae": a["vae"]},
    ),
    "nested, and sampled otherwise": (
        {"m": SIMPLE, "r": node("RescaleCFG", model=["m", 0], multiplier=0.7),
         "n": node("ModelMergeSimple", model1=["r", 0], model2=["c", 0], ratio=["p", 0]), "p": node("PrimitiveFloat", value=0.5),
         "s": save(["n", 0])},
        lambda a, b, c: {"unet": 0.35 * a["unet"] + 0.15 * b["unet"] + 0.5 * c["unet"], "text": a["text"], "vae": a["vae"]},
    ),
    "blocks": (
        {"m": node("ModelMergeBlocks", model1=["a", 0], model2=["b", 0], input=0.9, middle=0.5, out=0.1), "s": save(["m", 0])},
        lambda a, b, c: {"unet": 0.9 * a["unet"] + 0.1 * b["unet"], "text": a["text"], "vae": a["vae"]},
    ),
    "the model alone, of whole ones": (
        {"m": SIMPLE, "s": node("ModelSave", model=["m", 0], filename_prefix="out")},
        lambda a, b, c: {part: a[part] if part == "vae" else 0.7 * a[part] + 0.3 * b[part] for part in KEYS},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfyui")
    for seed, name in enumerate("abc"):
        save_file(tensors_of("sd1", seed), folder / f"{name}.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("name", GRAPHS)
def test_nodes_become_what_comfyui_made_of_them(name, files, tmp_path):
    nodes, expected = GRAPHS[name]
    found = imported({**loaders(), **nodes}, find=lambda said: files / said if (files / said).exists() else None)
    recipe = found.recipe.model_copy(update={"output": found.recipe.output.model_copy(update={"dtype": "fp32"})})
    merge(recipe, tmp_path / "out.safetensors", fsync=False)
    out = load(tmp_path / "out.safetensors")
    parts = [{part: tensors_of("sd1", i)[key].double() for part, key in KEYS.items()} for i in range(3)]
    for part, wanted in expected(*parts).items():
        torch.testing.assert_close(out[KEYS[part]].double(), wanted, atol=1e-6, rtol=1e-5)


def weight(found, key, family="sd1"):
    step = list(found.recipe.steps.values())[-1]
    return step.weights(found.recipe.convention)["alpha"].resolve(family).weight(UNET + key)


@pytest.mark.parametrize("family, kind, dot", [("sd1", "ModelMergeSD1", "."), ("sdxl", "ModelMergeSDXL", "")])
def test_block_nodes_give_each_key_the_number_of_the_longest_name_that_it_begins_with(family, kind, dot):
    count = 12 if family == "sd1" else 9
    names = ["time_embed.", "label_emb.", *(f"input_blocks.{i}{dot}" for i in range(count))]
    names += [*(f"middle_block.{i}{dot}" for i in range(3)), *(f"output_blocks.{i}{dot}" for i in range(count)), "out."]
    ratios = {name: round(0.02 * (i + 1), 2) for i, name in enumerate(names)}
    nodes = {**loaders("ab"), "m": node(kind, model1=["a", 0], model2=["b", 0], **ratios), "s": save(["m", 0])}
    found = imported(nodes)
    keys = [
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "input_blocks.8.0.x",
        "middle_block.0.x",
        "middle_block.2.x",
    ]
    keys += ["output_blocks.4.0.x", "out.2.bias", *(["label_emb.0.0.weight"] if family == "sdxl" else [])]
    for key in keys:
        longest = max((name for name in names if key.startswith(name)), key=len)
        assert weight(found, key, family) == pytest.approx(1 - ratios[longest]), key


def test_the_first_number_is_that_of_keys_without_a_name():
    given = node("ModelMergeBlocks", model1=["a", 0], model2=["b", 0], middle=0.4, input=0.9, out=0.1)
    found = imported({**loaders("ab"), "m": given, "s": save(["m", 0])})
    wanted = {"time_embed.0.weight": 0.6, "input_blocks.3.0.op.weight": 0.1, "middle_block.1.x": 0.6, "out.0.bias": 0.9}
    assert {key: weight(found, key) for key in wanted} == pytest.approx(wanted)


def test_a_lora_has_its_strength_in_each_component():
    nodes = {
        **loaders("a"), "l": node("LoraLoader", model=["a", 0], clip=["a", 1], lora_name="x.safetensors", strength_model=0.8,
                                  strength_clip=0.3),
        "o": node("LoraLoaderModelOnly", model=["l", 0], lora_name="y.safetensors", strength_model=-0.5),
        "s": save(["o", 0], ["l", 1]),
    }  # fmt: skip
    recipe = imported(nodes).recipe
    steps = {name: step.to_plain() for name, step in recipe.steps.items()}
    first = {"method": "add", "inputs": ["a", "x"]}
    assert steps["add"] == {**first, "alpha": 0.8} and steps["add.2"] == {**first, "alpha": 0.3}
    assert steps["add.3"] == {"method": "add", "inputs": ["add", "y"], "alpha": -0.5}
    assert (recipe.result, recipe.components) == ("add.3", {"text_encoders": "add.2", "vae": "a"})


def test_text_encoders_and_vae_of_their_own_files_are_components():
    nodes = {
        **loaders("ab"), "m": SIMPLE, "t": node("CLIPLoader", clip_name="te.safetensors", type="sd"),
        "v": node("VAELoader", vae_name="sub/vae.safetensors"), "s": save(["m", 0], ["t", 0], ["v", 0]),
    }  # fmt: skip
    assert imported(nodes).recipe.components == {"text_encoders": "./te.safetensors", "vae": "sub/vae.safetensors"}


def test_logit_scale_stays_with_the_first_text_encoder():
    nodes = {
        **loaders("ab"),
        "t": node("CLIPMergeSimple", clip1=["a", 1], clip2=["b", 1], ratio=0.25),
        "s": save(["a", 0], ["t", 0]),
    }
    found = imported(nodes, family="sdxl")
    alpha = found.recipe.steps["weighted_sum"].weights("supermerger")["alpha"].resolve("sdxl")
    assert alpha.weight("conditioner.embedders.1.model.logit_scale") == 0
    assert alpha.weight("conditioner.embedders.1.model.ln_final.weight") == 0.75
    assert imported(nodes, family="sd1").recipe.steps["weighted_sum"].given["alpha"] == 0.75


def test_of_several_files_that_of_the_name_is_taken():
    nodes = {**loaders(), "m": SIMPLE, "s": save(["m", 0], prefix="mix"), "t": save(["c", 0], prefix="mix_c")}
    assert imported(nodes, "mix_00002_.safetensors").recipe.result == "weighted_sum"
    assert imported(nodes, "mix_c_00001_.safetensors").recipe.result == "c"
    with raising("import.fault", RecipeError, ["2", "mix, mix_c"]):
        imported(nodes, "renamed.safetensors")


@pytest.mark.parametrize(
    "nodes, code, about",
    [
        ({"m": SIMPLE}, "import.fault", ["ComfyUI's"]),
        ({"m": SIMPLE, "s": save(["m", 0])}, "import.fault", ["a"]),
        ({"m": node("ModelMergeSimple", model1=["m", 0], model2=["m", 0]), "s": save(["m", 0])}, "import.fault", ["m"]),
        (
            {**loaders(), "m": node("MyMerge", model=["a", 0], other=["b", 0]), "s": save(["m", 0])},
            "import.refused", ["m", "MyMerge", "--partial"],
        ),
        (
            {**loaders(), "m": node("ModelMergeDARE", model1=["a", 0], model2=["b", 0], drop_rate=0.7), "s": save(["m", 0])},
            "import.refused", ["m", "ModelMergeDARE", "--partial"],
        ),
        (
            {**loaders(), "m": {**SIMPLE, "inputs": {**SIMPLE["inputs"], "ratio": "x"}}, "s": save(["m", 0])},
            "import.refused", ["m", "ModelMergeSimple", "ratio", "--partial"],
        ),
        (
            {**loaders(), "d": node("ModelMergeSubtract", model1=["a", 0], model2=["b", 0], multiplier=1), "s": save(["d", 0])},
            "import.fault", ["s"],
        ),
        (
            {**loaders(), "t": node("DualCLIPLoader", clip_name1="l", clip_name2="g"), "s": save(["a", 0], ["t", 0])},
            "import.refused", ["t", "DualCLIPLoader", "--partial"],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_with_the_node(nodes, code, about):
    with raising(code, RecipeError, about) as error:
        imported(nodes)
    assert "\n" not in str(error.value)


def test_with_partial_a_node_that_is_not_known_hands_on_what_comes_in():
    nodes = {**loaders(), "m": SIMPLE, "u": node("MyNode", model=["m", 0], strength=2), "s": save(["u", 0])}
    found = imported(nodes, partial=True)
    assert found.recipe.result == "weighted_sum"
    assert "import.no_equivalent" in codes(found.notes)


def test_a_file_that_comfyui_saved_is_read_and_so_are_its_nodes_alone(files, tmp_path):
    nodes = {**loaders("ab"), "m": SIMPLE, "s": save(["m", 0], prefix="x")}
    path = tmp_path / "x_00001_.safetensors"
    save_file(load(files / "a.safetensors"), path, {"prompt": json.dumps(nodes), "modelspec.predict_key": "epsilon"})
    assert import_recipe(path).shares == pytest.approx({"a": 0.7, "b": 0.3})
    assert import_text(json.dumps(nodes), "x.json").shares == pytest.approx({"a": 0.7, "b": 0.3})


@pytest.mark.parametrize(
    "metadata",
    [
        {"prompt": '{"1": {"class_type": "CheckpointSave"'}, {"sd_merge_recipe": '{"type": "webui", "interp'},
        {"unetscope.recipe": "models: ["},
    ],
)  # fmt: skip
def test_a_broken_record_is_called_broken_and_not_absent(metadata, files, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({k: v for k, v in load(files / "a.safetensors").items() if k.startswith(VAE)}, path, metadata)
    with raising("import.fault", RecipeError):
        import_recipe(path)
    if "sd_merge_recipe" in metadata:
        with raising("import.fault", RecipeError):
            import_text('{"sd_merge_recipe": "{\\"a\\"', "x.json")
