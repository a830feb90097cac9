"""What commands say of mistakes: for the case at hand, in the terms of the command line, and never false."""

from __future__ import annotations

import json
import re
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

SUM = ["merge", "weighted-sum", "a.safetensors"]
BAKE = ["lora", "bake", "a.safetensors", "--lora"]
TO = ["-o", "out.safetensors"]
# What no sentence of a command holds: Python, and steps that nobody has written.
FOREIGN = re.compile(r"\w+='|\(\)|Traceback|NoneType|Errno|codec|steps\.merge|Value error|for none")

CASES = {
    "a difference": (["merge", "subtract", "a.safetensors", "b.safetensors", *TO], r"a difference here, not a model"),
    "a smaller LoRA": (["merge", "truncate-rank", "lora.safetensors", "--rank", "4", *TO], r"truncate-rank makes a difference"),
    "a LoRA as a model": ([*SUM, "lora.safetensors", *TO], r"found LoRA.*`lora bake`"),
    "a LoRA on a LoRA": (["lora", "bake", "lora.safetensors", "--lora", "lora.safetensors", *TO], r"expected a checkpoint"),
    "an embedding as a LoRA": ([*BAKE, "style.safetensors", *TO], r"LoRA, found a textual inversion"),
    "an IP-Adapter as a LoRA": ([*BAKE, "ip.safetensors", *TO], r"expected a LoRA, found an IP-Adapter"),
    "a dead link to index": (["index", "dead.txt"], r"dead\.txt: .*a link to gone\.txt"),
    "a dead link to lint": (["lint", "dead.yaml"], r"dead\.yaml: .*a link to gone\.yaml"),
    "a dead link to weights": ([*SUM, "b.safetensors", "--blocks", "@dead.txt", *TO], r"'dead\.txt'.*a link to gone\.txt"),
    "a LoRA to draw": (["diagram", "lora.safetensors", "-o", "x.svg"], r"\(LoRA for .*\).*no blocks of its own"),
    "a LoRA to list": (["layers", "lora.safetensors"], r"no blocks of its own"),
    "an embedding to draw": (["diagram", "style.safetensors", "-o", "x.svg"], r"\(a textual inversion.*no blocks of its own"),
    "an embedding to merge": ([*SUM, "style.safetensors", *TO], r"found a textual inversion embedding, 2 vectors of 768 \(SD1\)"),
    "a VAE to draw": (["diagram", "vae.safetensors", "-o", "x.svg"], r"is VAE alone, which several.*sd1, sd2, sdxl"),
    "a text encoder alone to draw": (["diagram", "text.safetensors", "-o", "x.svg"], r"has no UNET \(it is .*block CLIP_G"),
    "a misspelt architecture": (["diagram", "sdxxl", "-o", "x.svg"], r"sdxxl: no such file, and.*did you mean 'sdxl'"),
    "a dead link": (["inspect", "dead.safetensors"], r"dead\.safetensors: it is a link to .*gone\.safetensors, which is not there"),
    "a dead link to a recipe": (["merge", "run", "dead.yaml", *TO], r"dead\.yaml: .*a link to gone\.yaml"),
    "a dead link to a list": (["compare", "@dead.txt"], r"dead\.txt: .*a link to gone\.txt"),
    "a model as a recipe": (["merge", "run", "a.safetensors", *TO], r"a\.safetensors: is a model.*`unetscope import`"),
    "a model as a study": (["search", "a.safetensors"], r"a\.safetensors: is a model"),
    "a model as a table": (["diagram", "sd1", "-o", "x.svg", "--values", "a.safetensors"], r"text in UTF-8"),
    "no table": (["diagram", "sd1", "-o", "x.svg", "--values", "no.csv"], r"no\.csv: .*No such file"),
    "a folder of models": (["inspect", "."], r"holds 1\d model files, such as a\.safetensors"),
    "a preset that there is not": ([*SUM, "b.safetensors", "--alpha", "GRAD_X", *TO], r"^unetscope: Unknown preset 'GRAD_X'"),
    "a dtype that there is not": (["convert", "a.safetensors", "o.safetensors", "--dtype", "fp4"], r"'fp4' is not one of 'fp16'"),
    "CosXL as diffusers": (["convert", "cosxl.safetensors", "folder", "--to", "diffusers"], r"is an EDM model"),
}  # fmt: skip


@pytest.fixture
def spoilt(here):
    for name in ("dead.safetensors", "dead.yaml", "dead.txt"):
        (here / name).symlink_to(name.replace("dead", "gone"))
    save_file({"emb_params": torch.ones(2, 768)}, here / "style.safetensors")
    save_file(
        {"image_proj.w.weight": torch.ones(2, 2), "ip_adapter.1.to_k_ip.weight": torch.ones(2, 2)},
        here / "ip.safetensors",
    )
    tensors = load_file(here / "a.safetensors")
    save_file({k: v for k, v in tensors.items() if k.startswith("first_stage_model.")}, here / "vae.safetensors")
    text = {k: v for k, v in load_file(here / "xl.safetensors").items() if k.startswith("conditioner.embedders.1.")}
    save_file(text, here / "text.safetensors")
    save_file(tensors | {"edm_vpred.sigma_max": torch.tensor(120.0)}, here / "cosxl.safetensors")
    return here


@pytest.mark.parametrize("what", CASES)
def test_a_mistake_is_said_in_the_terms_of_the_command_line(what, spoilt, run):
    before = set(spoilt.iterdir())
    arguments, said = CASES[what]
    code, out, err = run(*arguments)
    flat = " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())
    assert (code, out) == (2, "") and re.search(said, flat), flat
    assert not FOREIGN.search(flat), flat
    assert set(spoilt.iterdir()) == before


# -- the app's port -------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_with_another_one_before_a_server_starts(run, monkeypatch):
    pytest.importorskip("streamlit")
    monkeypatch.setattr("subprocess.call", lambda *_, **__: pytest.fail("a server was started"))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen(1)
        port = one.getsockname()[1]
        code, _, err = run("app", "--port", port, "--no-browser")
    assert code == 2 and re.search(rf"port {port} is in use.*--port \d+", err), err
    assert int(re.findall(r"--port (\d+)", err)[0]) != port


def test_an_address_of_another_machine_is_said(run, monkeypatch):
    pytest.importorskip("streamlit")
    monkeypatch.setattr("subprocess.call", lambda *_, **__: pytest.fail("a server was started"))
    code, _, err = run("app", "--address", "192.0.2.1", "--no-browser")  # kept for documentation, no machine has it
    assert code == 2 and "192.0.2.1: is not an address of this machine" in err


def test_a_free_port_is_taken(run, monkeypatch):
    pytest.importorskip("streamlit")
    started = []
    monkeypatch.setattr("subprocess.call", lambda command, **_: started.append(command) or 0)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    assert run("app", "--port", port, "--no-browser")[0] == 0 and len(started) == 1


# -- a dot that is none ---------------------------------------------------------------------------------------------------

DOTS = {
    "nowhere": ("", r"names .*nowhere"),
    "no program": ("no program", r"cannot be run"),
    "one that says nothing": ("#!/bin/sh\nexit 0\n", r"answered nothing"),
    "one that fails": ("#!/bin/sh\necho broken >&2\nexit 3\n", r"failed to lay out the diagram \(broken\)"),
    "one that says something else": ("#!/bin/sh\necho hello\n", r"does not answer as Graphviz"),
    "one that says half of it": ("#!/bin/sh\necho '{\"objects\": []}'\n", r"does not answer as Graphviz"),
}


@pytest.mark.parametrize("what", DOTS)
def test_a_dot_that_is_none_is_said_by_its_variable(what, tmp_path, monkeypatch, run):
    content, said = DOTS[what]
    dot = tmp_path / "nowhere"
    if content:
        dot.write_text(content)
        dot.chmod(0o755)
    monkeypatch.setenv("UNETSCOPE_DOT", str(dot))
    code, _, err = run("diagram", "sd1", "--level", "layer", "--block", "IN05", "-o", tmp_path / "x.svg")
    assert code == 2 and re.search(said, err) and "UNETSCOPE_DOT" in err, err
    assert not (tmp_path / "x.svg").exists()


# -- LoRAs that change a text encoder alone -------------------------------------------------------------------------------


def text_lora(path, prefix, width, metadata=None):
    rng, tensors = np.random.default_rng(0), {}
    for n in range(2):
        name = f"{prefix}text_model_encoder_layers_{n}_mlp_fc1"
        tensors[f"{name}.lora_down.weight"] = torch.tensor(rng.standard_normal((2, width)), dtype=torch.float32)
        tensors[f"{name}.lora_up.weight"] = torch.tensor(rng.standard_normal((4 * width, 2)), dtype=torch.float32)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("prefix", "width", "metadata", "families"),
    [
        ("lora_te1_", 768, None, ["sdxl", "sd1"]),
        ("lora_te_", 768, None, ["sd1", "sdxl"]),
        ("lora_te_", 1024, None, ["sd2"]),
        ("lora_te2_", 1280, None, ["sdxl"]),
        ("lora_te1_", 768, {"ss_base_model_version": "sdxl_base_v1-0"}, ["sdxl"]),
        ("lora_te1_", 768, {"ss_base_model_version": "sd_v1"}, ["sd1"]),
    ],
)
def test_a_lora_of_a_text_encoder_alone_is_told_of_all_models_that_it_fits(
    tmp_path, run, prefix, width, metadata, families
):
    text_lora(tmp_path / "te.safetensors", prefix, width, metadata)
    _, out, _ = run("inspect", tmp_path / "te.safetensors", "--json")
    found = json.loads(out)
    assert found["adapter"]["families"] == families
    several = len(families) > 1
    assert found["architecture"]["family"] == (None if several else families[0])
    _, out, _ = run("inspect", tmp_path / "te.safetensors")
    assert ("text encoder alone" in out) == several


# -- models without a UNET ------------------------------------------------------------------------------------------------


def transformer(path, seed):
    """A model of no known family: four blocks, and what stands before and behind them."""
    rng = np.random.default_rng(seed)
    names = [f"blocks.{i}.{n}.weight" for i in range(4) for n in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    tensors = {
        n: torch.tensor(rng.standard_normal((4, 4)), dtype=torch.float16)
        for n in (*names, "x_embedder.weight", "final_layer.weight")
    }
    save_file(tensors, path)
    return tensors


def test_any_part_is_taken_from_a_file_by_its_name(tmp_path, run):
    a, b, out = (tmp_path / f"{n}.safetensors" for n in ("a", "b", "out"))
    transformer(a, 1)
    wanted = transformer(b, 2)
    assert run("merge", "copy", a, "--part", f"model={b}", "-o", out)[0] == 0
    written = load_file(out)
    assert written.keys() == wanted.keys() and all(torch.equal(written[k], wanted[k]) for k in wanted)
    for given, said in (("model", "NAME=FILE"), (f"modle={b}", "did you mean 'model'")):
        code, _, err = run("merge", "copy", a, "--part", given, "-o", tmp_path / "no.safetensors")
        assert code == 2 and said in err
    twice = ["--part", f"model={b}", "--part", f"model={a}"]
    assert run("merge", "copy", a, *twice, "-o", tmp_path / "no.safetensors")[0] == 2
    assert not (tmp_path / "no.safetensors").exists()


def test_a_vector_of_another_length_is_told_the_blocks_of_this_model(tmp_path, run):
    a, b = (tmp_path / f"{n}.safetensors" for n in "ab")
    transformer(a, 1), transformer(b, 2)
    code, _, err = run("merge", "weighted-sum", a, b, "--alpha", "0,0.5", "-o", tmp_path / "o.safetensors")
    assert code == 2 and re.search(r"which has 6: one for each block from START to END", err) and "26" not in err
