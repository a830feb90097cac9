"""What a model lacks of a merge, and what a result would lack: refused before a byte is written, or counted."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from places import place
from safetensors.torch import save_file
from tiny import load, raw, tensors_of
from told import codes, the

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.library.inspection import inspect
from unetscope.library.scan import scan
from unetscope.merge import MergeError, Recipe, dry_run, merge
from unetscope.merge.lint import lint
from unetscope.merge.lora import LoraUse, bake_recipe, merge_loras

UNET, CLIP, VAE = "model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model."
WEIGHT = UNET + "middle_block.0.in_layers.2.weight"
TEXT = CLIP + "text_model.encoder.layers.3.mlp.fc1.weight"


def of(models, steps, **more):
    """A recipe: steps as (method, inputs, parameters), or one of them."""
    steps = steps if isinstance(steps, dict) else {"m": steps}
    written = {name: {"method": m, "inputs": i.split(), **p} for name, (m, i, p) in steps.items()}
    output = {"dtype": "fp32", **more.pop("output", {})}
    return Recipe.parse({"models": {n: str(p) for n, p in models.items()}, "steps": written, "output": output, **more})


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Three whole models, and the same without text encoder and VAE; to be copied."""
    folder = tmp_path_factory.mktemp("wholeness")
    for seed, name in enumerate("abc"):
        tensors = tensors_of("sd1", seed)
        save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})
        unet = {k: t for k, t in tensors.items() if not k.startswith((CLIP, VAE))}
        save_file(unet, folder / f"only_{name}.safetensors")
    return folder


@pytest.fixture
def made(once, tmp_path):
    """These files; paths and tensors by name."""
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    paths = {path.stem: tmp_path / path.name for path in once.iterdir()}
    return paths, {name: tensors_of("sd1", seed) for seed, name in enumerate("abc")}


def chosen(made, names):
    return {name[-1]: made[0][name] for name in names.split()}


def refused(recipe, folder, said):
    """A recipe that is refused in words that match, by the dry run and the merge, and leaves nothing behind."""
    out = folder / "refused.safetensors"
    for run in (dry_run, merge):
        with pytest.raises(MergeError, match=said):
            run(recipe, out)
    assert not out.exists()


# -- a model without a component takes no part in it -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "method", "inputs", "more", "expected"),
    [
        ("a only_b", "weighted_sum", "a b", {"alpha": 0.3}, {"a": 1.0}),
        ("only_a b", "weighted_sum", "a b", {"alpha": 0.3}, {"b": 1.0}),
        ("a only_b", "weighted_sum", "a b", {"alpha": 1}, {"a": 1.0}),
        ("a only_b", "weighted_sum", "a b", {"alpha": -0.5}, {"a": 1.0}),
        ("a only_b c", "uniform", "a b c", {}, {"a": 0.5, "c": 0.5}),
        ("only_a b c", "weighted_average", "a b c", {"weights": [1, 1, 3]}, {"b": 0.25, "c": 0.75}),
        ("a only_b only_c", "add_difference", "a b c", {}, {"a": 1.0}),
        ("a only_b c", "task_arithmetic", "a b c", {"weights": [0.5, 0.25]}, {"a": 0.75, "c": 0.25}),
        ("a only_b", "slerp", "a b", {"alpha": 0.5}, {"a": 1.0}),
        ("a only_b only_c", "train_difference", "a b c", {}, {"a": 1.0}),
    ],
)
def test_the_others_are_merged_as_if_it_were_not_there(names, method, inputs, more, expected, made, tmp_path):
    out = tmp_path / "out.safetensors"
    report = merge(of(chosen(made, names), (method, inputs, more)), out)
    wanted = sum(share * made[1][name][TEXT].double() for name, share in expected.items())
    assert torch.allclose(load(out)[TEXT].double(), wanted, atol=1e-6)
    shares = next(row.shares for row in report.labels if row.label == "CLIP_L")
    assert shares == pytest.approx(expected)
    assert inspect(out).missing == {} and "plan.tensors_lacking" not in codes(report.warnings)


def test_a_variadic_method_that_is_not_linear_works_on_the_others_with_their_own_weights(made, tmp_path):
    step = ("ties", "a b c", {"weights": [1.0, 0.5], "density": 0.4})
    merge(of(chosen(made, "a only_b c"), step), tmp_path / "with.safetensors")
    alone = ("ties", "a c", {"weights": [0.5], "density": 0.4})
    merge(of(chosen(made, "a c"), alone), tmp_path / "without.safetensors")
    assert raw(load(tmp_path / "with.safetensors")[TEXT]) == raw(load(tmp_path / "without.safetensors")[TEXT])


@pytest.mark.parametrize(
    ("names", "method", "inputs", "more"),
    [
        ("a b only_c", "add_difference", "a b c", {}),  # b's change is not known without c
        ("only_a b c", "add_difference", "a b c", {}),
        ("only_a b c", "ties", "a b c", {"weights": [1, 1]}),
        ("a b only_c", "train_difference", "a b c", {}),
    ],
)
def test_where_no_rule_says_what_is_left_it_is_refused_unless_allowed(names, method, inputs, more, made, tmp_path):
    models, step = chosen(made, names), (method, inputs, more)
    refused(of(models, step), tmp_path, "allow-missing")
    report = merge(of(models, step, output={"allow_missing": True}), tmp_path / "out.safetensors")
    owner = next(name[-1] for name in names.split() if not name.startswith("only"))
    assert (load(tmp_path / "out.safetensors")[TEXT] == made[1][owner][TEXT].float()).all()
    told = [
        n for n in report.warnings if n.code in ("plan.tensors_lacking", "plan.step_unmet") and "clip_l" in n.subject
    ]
    assert any("197 " in notice.text or "196 " in notice.text for notice in told)


@pytest.mark.parametrize(
    "more", [{}, {"w": ("weighted_sum", "m a", {})}], ids=["as the result", "in a sum with a model that has it"]
)
def test_a_difference_without_the_model_that_it_is_added_to_is_no_result(more, made, tmp_path):
    models = {"a": made[0]["a"], "b": made[0]["only_b"], "c": made[0]["c"]}
    steps = {"d": ("subtract", "a c", {}), "m": ("add", "b d", {}), **more}
    refused(of(models, steps), tmp_path, "steps.m: b lacks 19[67] tensors of clip_l.*allow-missing")
    merge(of(models, steps, output={"allow_missing": True}), tmp_path / "out.safetensors")
    assert (load(tmp_path / "out.safetensors")[TEXT] == made[1]["a"][TEXT].float()).all()


def test_a_component_is_not_picked_from_a_model_that_has_none(made, tmp_path):
    models, step = chosen(made, "a only_b"), ("pick_component", "a b", {"component": "clip_l"})
    refused(of(models, step), tmp_path, "b lacks 19[67] tensors of clip_l")
    refused(of(models, step, output={"allow_missing": True}), tmp_path, "nothing of it")


def test_a_difference_that_nobody_has_adds_nothing(made, tmp_path):
    steps = {"d": ("subtract", "b c", {}), "m": ("add", "a d", {})}
    merge(of(chosen(made, "a only_b only_c"), steps), tmp_path / "out.safetensors")
    found = load(tmp_path / "out.safetensors")
    assert (found[TEXT] == made[1]["a"][TEXT].float()).all()
    a, b, c = (made[1][n][WEIGHT].double() for n in "abc")
    assert torch.allclose(found[WEIGHT].double(), a + b - c, atol=1e-6)


# -- holes -------------------------------------------------------------------------------------------------------------------


def without(*starts):
    return lambda tensors: {k: t for k, t in tensors.items() if not k.startswith(starts)}


def renamed(old, new, within=""):
    return lambda tensors: {k.replace(old, new) if within in k else k: t for k, t in tensors.items()}


def with_peft(tensors):
    """The same with an adapter of PEFT in one layer of attention, as a UNET has it that was saved before it was merged."""
    out = {}
    for key, tensor in tensors.items():
        if ".attn1.to_q." in key and "output_blocks.5." in key:
            name = key.removesuffix("weight")
            out[f"{name}base_layer.weight"] = tensor
            out[f"{name}lora_A.default.weight"] = torch.ones(2, tensor.shape[1])
            out[f"{name}lora_B.default.weight"] = torch.ones(tensor.shape[0], 2)
        else:
            out[key] = tensor
    return out


HOLES = {
    "a block": without(UNET + "input_blocks.4."),
    "a layer of the text encoder": without(CLIP + "text_model.encoder.layers.5."),
    "half of the VAE": without(VAE + "encoder."),
    "attention under other names": renamed(".to_q.", ".q_proj.", "output_blocks.5."),
    "an adapter that is not merged": with_peft,
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_model_with_a_hole_is_refused_by_a_merge_and_by_a_swap(hole, make_checkpoint, tmp_path):
    (pa, _), (pb, _) = make_checkpoint("a"), make_checkpoint("b", seed=2, change=HOLES[hole])
    vae = {"components": {"vae": "merge"}} if "VAE" in hole else {}
    refused(of({"a": pa, "b": pb}, ("weighted_sum", "a b", {}), **vae), tmp_path, "allow-missing")
    part = "vae" if "VAE" in hole else "text_encoders" if "text" in hole else "unet"
    refused(of({"a": pa}, ("copy", "a", {}), components={part: str(pb)}), tmp_path, "allow-missing")


def test_layers_that_peft_wrapped_and_that_have_no_adapter_are_read(make_checkpoint, tmp_path):
    (pa, a), (_, b) = make_checkpoint("a"), make_checkpoint("b", seed=2)
    wrapped = {k.replace(".to_q.weight", ".to_q.base_layer.weight"): t for k, t in b.items()}
    save_file(wrapped, tmp_path / "wrapped.safetensors")
    merge(of({"a": pa, "b": tmp_path / "wrapped.safetensors"}, ("uniform", "a b", {})), tmp_path / "out.safetensors")
    found, key = load(tmp_path / "out.safetensors"), UNET + "input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
    assert torch.allclose(found[key], (a[key].float() + b[key].float()) / 2, atol=1e-6)
    assert not any("base_layer" in name for name in found)


def test_what_may_be_missing_by_the_recipes_leave_is_counted(make_checkpoint, tmp_path):
    (pa, a), (pb, _) = make_checkpoint("a"), make_checkpoint("b", seed=2, change=HOLES["a block"])
    allowed = of({"a": pa, "b": pb}, ("weighted_sum", "a b", {}), output={"allow_missing": True})
    report = merge(allowed, tmp_path / "out.safetensors")
    assert "38 " in (told := the(report.warnings, "plan.tensors_lacking")).text and told.subject == ("b", "unet", "a")
    key = UNET + "input_blocks.4.0.in_layers.2.weight"
    assert (load(tmp_path / "out.safetensors")[key] == a[key].float()).all()


def test_scan_calls_no_result_broken_of_which_the_merge_said_nothing(make_checkpoint, tmp_path):
    (pa, _), (pb, _) = make_checkpoint("a"), make_checkpoint("b", seed=2, change=HOLES["half of the VAE"])
    recipe = of({"a": pa}, ("copy", "a", {}), components={"vae": str(pb)}, output={"allow_missing": True})
    report = merge(recipe, tmp_path / "out.safetensors")
    broken = [f for f in scan(tmp_path / "out.safetensors").health if f.severity == "error"]
    assert (
        len(broken) == 1
        and "106 " in (told := the(report.warnings, "plan.result_lacking")).text
        and "vae" in told.subject
    )


def test_a_third_model_is_merged_where_the_second_has_a_hole_of_one_tensor(make_checkpoint, tmp_path):
    gone = without(WEIGHT)
    (pa, a), (pb, _), (pc, c) = (
        make_checkpoint(n, seed=i, change=gone if n == "b" else None) for i, n in enumerate("abc")
    )
    report = merge(of({"a": pa, "b": pb, "c": pc}, ("uniform", "a b c", {})), tmp_path / "out.safetensors")
    assert torch.allclose(
        load(tmp_path / "out.safetensors")[WEIGHT], (a[WEIGHT].float() + c[WEIGHT].float()) / 2, atol=1e-6
    )
    assert the(report.warnings, "plan.tensors_lacking").subject[:2] == ("b", "unet")


@pytest.mark.parametrize("buffer", ["text_model.embeddings.position_ids"])
def test_buffers_may_be_missing_without_a_word(buffer, make_checkpoint, tmp_path):
    (pa, _), (pb, _) = make_checkpoint("a"), make_checkpoint("b", seed=2, change=without(CLIP + buffer))
    for order in ({"a": pa, "b": pb}, {"b": pb, "a": pa}):
        report = merge(of(order, ("uniform", " ".join(order), {})), tmp_path / f"{next(iter(order))}o.safetensors")
        assert report.warnings == [] and CLIP + buffer in load(tmp_path / f"{next(iter(order))}o.safetensors")


# -- tensors outside the layout ----------------------------------------------------------------------------------------------

ODD, INSIDE = "control.hint.weight", UNET + "input_blocks.4.1.extra.weight"


def with_tensors(value, shape=(4, 3)):
    def change(tensors):
        return tensors | {
            ODD: torch.full(shape, value),
            INSIDE: torch.full((2, 2), value),
            "count": torch.tensor([int(value)]),
        }

    return change


def test_tensors_that_all_models_have_are_merged_with_their_blocks_weight_or_that_of_base(make_checkpoint, tmp_path):
    (pa, _), (pb, _) = (make_checkpoint(n, seed=i, change=with_tensors(8.0 * i)) for i, n in enumerate("ab"))
    alpha = {"IN04": 0.75, "BASE": 0.25, "default": 0.5}
    report = merge(of({"a": pa, "b": pb}, ("weighted_sum", "a b", {"alpha": alpha})), tmp_path / "out.safetensors")
    found = load(tmp_path / "out.safetensors")
    assert (found[INSIDE] == 6).all() and (found[ODD] == 2).all() and found["count"].tolist() == [0]
    assert len(the(report.warnings, "plan.unknown_merged").subject) == 2


def test_tensors_of_other_shapes_stay_the_first_models_and_strange_ones_of_the_second_are_left_out(
    make_checkpoint, tmp_path
):
    (pa, _), (pb, _) = (
        make_checkpoint("a", change=with_tensors(1.0)),
        make_checkpoint("b", change=with_tensors(2.0, (5, 3))),
    )
    (pc, _) = make_checkpoint("c", seed=3)
    step = ("weighted_sum", "a b", {"alpha": 0.5})
    report = merge(of({"a": pa, "b": pb}, step), tmp_path / "out.safetensors")
    assert (load(tmp_path / "out.safetensors")[ODD] == 1).all()
    assert (
        len((told := the(report.warnings, "plan.unknown_kept")).subject) == 3 and told.subject[0] == "a"
    )  # and the integer
    report = merge(of({"a": pc, "b": pb}, step), tmp_path / "other.safetensors")
    assert not {ODD, INSIDE, "count"} & set(load(tmp_path / "other.safetensors"))
    assert len((told := the(report.warnings, "plan.unknown_left_out")).subject) == 4 and told.subject[0] == "b"


def test_what_training_left_is_in_no_result(make_checkpoint, tmp_path):
    def trained(tensors):
        return tensors | {"optimizer.state.0.exp_avg": torch.ones(4), "global_step": torch.tensor([7])}

    path, tensors = make_checkpoint("a", change=trained)
    merge(of({"a": path}, ("copy", "a", {})), tmp_path / "out.safetensors")
    found = set(load(tmp_path / "out.safetensors"))
    assert {k for k in set(tensors) - found if place(k).component != "ema"} == {
        "optimizer.state.0.exp_avg",
        "global_step",
    }


# -- inputs without effect ---------------------------------------------------------------------------------------------------


def test_a_vae_alone_as_a_second_model_is_refused(made, tmp_path):
    paths, tensors = made
    vae = tmp_path / "vae.safetensors"
    save_file({k.removeprefix(VAE): t for k, t in tensors["b"].items() if k.startswith(VAE)}, vae)
    refused(of({"a": paths["a"], "b": vae}, ("weighted_sum", "a b", {"alpha": 0.5})), tmp_path, "--vae")
    refused(of({"a": paths["a"], "b": vae, "c": paths["c"]}, ("uniform", "a b c", {})), tmp_path, "--vae")
    merge(
        of({"a": paths["a"], "b": vae}, ("weighted_sum", "a b", {}), components={"vae": "merge"}),
        tmp_path / "o.safetensors",
    )
    merge(of({"a": paths["a"], "b": vae}, ("weighted_sum", "a b", {"alpha": 0})), tmp_path / "zero.safetensors")
    key = VAE + "decoder.conv_in.weight"
    mean = (tensors["a"][key].float() + tensors["b"][key].float()) / 2
    assert torch.allclose(load(tmp_path / "o.safetensors")[key], mean, atol=1e-6)


def lora_of(tensors, path, alpha, up=0.5):
    """A LoRA of two attention matrices, its factors of rank 2."""
    changes = {}
    for part in ("q", "k"):
        name = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_{part}"
        outputs, inputs = tensors[UNET + f"input_blocks.1.1.transformer_blocks.0.attn1.to_{part}.weight"].shape
        changes[f"{name}.lora_down.weight"] = torch.full((2, inputs), 0.25)
        changes[f"{name}.lora_up.weight"] = torch.full((outputs, 2), up)
        changes[f"{name}.alpha"] = torch.tensor(float(alpha[part]))
    save_file(changes, path)
    return path


@pytest.mark.parametrize(
    ("alpha", "up", "said"), [({"q": 0, "k": 0}, 0.5, "alpha is 0"), ({"q": 2, "k": 2}, 0.0, "change is 0")]
)
def test_a_lora_that_changes_nothing_is_refused_and_one_of_strength_0_is_not(
    alpha, up, said, make_checkpoint, tmp_path
):
    path, tensors = make_checkpoint("base")
    lora = lora_of(tensors, tmp_path / "lora.safetensors", alpha, up)
    out = tmp_path / "out.safetensors"
    with pytest.raises(UnetscopeError, match=said):
        merge(bake_recipe(path, [LoraUse(lora)]), out)
    with pytest.raises(UnetscopeError, match=said):
        merge_loras([LoraUse(lora)], out)
    assert not out.exists()
    assert merge(bake_recipe(path, [LoraUse(lora, 0.0)]), out).equal_to == "base"
    assert raw(load(out)[WEIGHT]) == raw(tensors[WEIGHT])


def test_layers_whose_alpha_is_0_are_counted(make_checkpoint, tmp_path):
    path, tensors = make_checkpoint("base")
    lora = lora_of(tensors, tmp_path / "lora.safetensors", {"q": 0, "k": 2})
    report = merge(bake_recipe(path, [LoraUse(lora)]), tmp_path / "out.safetensors")
    assert (
        re.findall(r"\d+", the(report.warnings, "lora.alpha_zero").text)[-3:] == ["1", "2", "0"]
        and report.equal_to == ""
    )


def test_a_lora_that_hits_nothing_is_refused(make_checkpoint, tmp_path):
    path, tensors = make_checkpoint("base")
    save_file({k: t for k, t in tensors.items() if not k.startswith(UNET)}, tmp_path / "parts.safetensors")
    lora = lora_of(tensors, tmp_path / "lora.safetensors", {"q": 2, "k": 2})
    with pytest.raises(MergeError, match="changes no tensor"):
        merge(bake_recipe(tmp_path / "parts.safetensors", [LoraUse(lora)]), tmp_path / "out.safetensors")
    use = LoraUse(lora, blocks=[0.0] * 16 + [1.0])  # weights only where it has no layers
    with pytest.raises(MergeError, match="changes no tensor"):
        merge(bake_recipe(path, [use]), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


# -- results that are a model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "equal"),
    [
        (("copy", "a", {}), "a"),
        (("weighted_sum", "a b", {"alpha": 0}), "a"),
        (("weighted_sum", "a a", {"alpha": 0.5}), "a"),
        (("weighted_sum", "a b", {"alpha": {"VAE": 1, "default": 1}}), "b"),
        (("add_difference", "a b b", {}), "a"),
        (("task_arithmetic", "a b c", {"weights": [0, 0]}), "a"),
        (("ties", "a a a", {"weights": [1, 0.5]}), "a"),
        (("weighted_sum", "a b", {"alpha": {"OUT": 0.1}}), ""),
    ],
)
def test_the_report_says_which_model_a_result_is_equal_to(step, equal, made, tmp_path):
    recipe = of(chosen(made, "a b c"), step, output={"dtype": "keep"})
    assert dry_run(recipe, tmp_path / "out.safetensors").equal_to == equal
    assert merge(recipe, tmp_path / "out.safetensors").equal_to == equal
    found = load(tmp_path / "out.safetensors")
    if equal:
        assert all(raw(found[key]) == raw(made[1][equal][key]) for key in (WEIGHT, TEXT))


@pytest.mark.parametrize(
    ("step", "equal"),
    [
        (("ties", "a b", {"weights": [0]}), "a"),
        (("slerp", "a twin", {"alpha": 0.3}), "a"),
        (("weighted_sum", "a twin", {"alpha": 0.25}), "a"),
        (("slerp", "a b", {"alpha": 0.3}), ""),
    ],
)
def test_what_only_the_values_tell_is_said_of_a_written_result(step, equal, made, tmp_path):
    paths, tensors = made
    save_file(tensors["a"], tmp_path / "twin.safetensors")
    models = {"a": paths["a"], "b": paths["b"], "twin": tmp_path / "twin.safetensors"}
    for dtype in ("keep", "fp32", "bf16"):
        report = merge(of(models, step, output={"dtype": dtype}), tmp_path / f"{dtype}.safetensors")
        assert report.equal_to == equal
    assert (raw(load(tmp_path / "keep.safetensors")[WEIGHT]) == raw(tensors["a"][WEIGHT])) is bool(equal)


def test_a_copy_whose_values_were_replaced_is_not_said_to_be_equal(made, tmp_path):
    for name, value, output in (
        ("nan", float("nan"), {"nan": "zero", "dtype": "keep"}),
        ("large", 1e6, {"overflow": "clamp", "dtype": "fp16"}),
    ):
        tensors = {key: tensor.float() if key == WEIGHT else tensor.clone() for key, tensor in made[1]["a"].items()}
        tensors[WEIGHT].view(-1)[0] = value
        save_file(tensors, tmp_path / f"{name}.safetensors")
        recipe = of({"a": tmp_path / f"{name}.safetensors"}, ("copy", "a", {}), output=output)
        report = merge(recipe, tmp_path / f"{name}_out.safetensors")
        assert report.warnings and report.equal_to == ""


def test_another_dtype_and_another_vae_are_said(made, tmp_path):
    models = chosen(made, "a b")
    assert dry_run(of(models, ("copy", "a", {})), tmp_path / "o.safetensors").equal_to == "a, stored as F32"
    swapped = of(models, ("copy", "a", {}), components={"vae": "b"}, output={"dtype": "keep"})
    assert dry_run(swapped, tmp_path / "o.safetensors").equal_to == ""


# -- lint ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["a only_b", "only_a b", "a only_b c"])
def test_lint_the_dry_run_and_the_merge_agree_on_shares(names, made, tmp_path):
    models = chosen(made, names)
    recipe = of(models, ("uniform", " ".join(models), {}))
    told = {part.component: part.shares for part in lint(recipe).shares}
    for run in (dry_run, merge):
        rows = {row.label: row.shares for row in run(recipe, tmp_path / "out.safetensors").labels}
        for component, label in (("unet", "M00"), ("clip_l", "CLIP_L"), ("vae", "VAE")):
            assert told[component] == pytest.approx(rows[label])


def test_lint_reports_what_the_merge_refuses_as_an_error_alone(made, tmp_path):
    paths, tensors = made
    save_file(
        {k.removeprefix(VAE): t for k, t in tensors["b"].items() if k.startswith(VAE)}, tmp_path / "vae.safetensors"
    )
    found = lint(of({"a": paths["a"], "b": tmp_path / "vae.safetensors"}, ("weighted_sum", "a b", {"alpha": 0.5})))
    assert [f.severity for f in found.findings if f.subject == ("b",) or f.severity == "error"] == ["error"]
    assert all("b" not in part.shares for part in found.shares)
