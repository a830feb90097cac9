"""Files and folders whose names are not UTF-8, and tensors whose names are not text: each command works or says why."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from unetscope.cli import main

LATIN = os.fsdecode(b"caf\xe9")
# Macs take no such names.
BYTES = os.name == "posix" and os.uname().sysname != "Darwin"
pytestmark = pytest.mark.skipif(not BYTES, reason="this system's file names are Unicode")

COMMANDS = [
    "inspect {a}",
    "inspect {a} --scan",
    "inspect {a} --json",
    "stats {a} --csv {t}.csv",
    "stats {a} --by tensor --json",
    "diff {a} {b} --csv {t}.csv --heatmap {t}.svg --diagram {t}2.svg",
    "diff {b} {a} --json",
    "compare {a} {b} --plot {t} --csv {t}.csv",
    "compare {a} {b} {c} --json",
    "trace {a} --among {b} {c} --csv {t}.csv --save-recipe {t}.yaml --plot {t}.svg",
    "trace {c} --among {a} {b} --json",
    "predict {r} --csv {t}.csv",
    "lint {r}",
    "lint {a} --deep",
    "lint {a} --json",
    "layers {a} -o {t}.csv",
    "layers {a} -o {t}.json",
    "diagram {a} -o {t}.svg",
    "diagram {r} -o {t}.svg",
    "convert {a} {t}.safetensors",
    "convert {b} {t}.safetensors --dtype fp16 --json",
    "merge uniform {b} {c} -o {t}.safetensors --save-recipe {t}.yaml --hash --json",
    "merge uniform {b} {c} -o {t}.safetensors --resumable",
    "merge uniform {a} {b} -o {t}.safetensors",
    "merge run {r} -o {t}.safetensors --save-recipe {t}.yaml --hash",
    "merge run {r} -o {t}.safetensors --dry-run --json",
    "merge grid --unets {a} {b} --text-encoders {a} {c} -o {t}",
    "lora extract {a} {b} -o {t}.safetensors --rank 2",
    "lora extract {b} {c} -o {t}.safetensors --rank 2 --json",
    "lora bake {b} --lora {l} -o {t}.safetensors",
    "lora merge {l} {l} -o {t}.safetensors",
    "lora resize {l} -o {t}.safetensors --rank 1 --json",
    "lora convert {l} -o {t}.safetensors --to kohya",
    "inspect {l} --json",
    "index {d} --compute",
    "index {d} --compute --json",
    "index {d} --find b",
    "import {m} --models {d} -o {t}.yaml",
    "import {m} --models {d} --json",
    "export {r} -o {t}.mecha",
    "inspect {x}/missing.safetensors",
]


def tensors(seed: int) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    return {f"net.blocks.{i}.{p}.weight": torch.randn(16, 16, generator=numbers) for i in range(3) for p in "xyz"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files under plain names."""
    folder = tmp_path_factory.mktemp("plain")
    for seed, name in enumerate("abc"):
        save_file(tensors(seed), folder / f"{name}.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit):
        main(
            [
                "lora",
                "extract",
                *(str(folder / f"{name}.safetensors") for name in "bc"),
                "-o",
                str(folder / "l.safetensors"),
            ]
        )
    return folder


def told(run, text: str, **places) -> tuple[int, str, str]:
    """Run a command of the list; whatever it says is text, and an end is one of those that are known."""
    words = [word.format(**places) for word in text.split()]
    code, out, err = run(*words)
    assert code in (0, 2) or (code == 1 and words[0] == "lint"), (text, code, err)
    (out + err).encode()
    assert "Traceback" not in err and not (code == 2 and len(err.strip().splitlines()) != 1), (text, err)
    if code == 0 and "--json" in words and "search" not in words:
        json.loads(out)
    return code, out, err


@pytest.fixture(params=["name", "folder"])
def places(request, made, tmp_path):
    """Where things are, in names that are not UTF-8: that of the files, or that of their folder."""
    folder, end = (tmp_path, LATIN) if request.param == "name" else (tmp_path / LATIN, "")
    folder.mkdir(exist_ok=True)
    found = {}
    for name in "abcl":
        found[name] = folder / f"{name}{end if name != 'b' else ''}.safetensors"
        shutil.copy(made / f"{name}.safetensors", found[name])
    found["r"] = folder / f"r{end}.yaml"
    plain = {"models": {"a": f"a{end}.safetensors", "b": "b.safetensors"}}
    found["r"].write_text(
        json.dumps(plain | {"steps": {"m": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.3}}})
    )
    found["t"] = folder / f"out{end}"
    return found | {"d": folder, "x": folder, "m": found["a"]}


def test_file_names_that_are_not_utf8(places, run):
    refused = {}
    for text in COMMANDS if places["d"].name != LATIN else COMMANDS[1::2]:
        for left in places["d"].glob("out*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        code, _, err = told(run, text, **places)
        if code == 2:
            refused[text] = err
    # None of them for the name: LoRAs of an unknown model, no text encoders, no record of a merge, no file.
    others = ("lora merge", "lora resize", "lora convert", "merge grid", "import", "inspect {x}")
    assert all(text.startswith(others) for text in refused), refused


def test_one_bad_name_does_not_stop_a_folder(places, run):
    code, out, err = told(run, "index {d} --compute --json", **places)
    assert code == 0 and len(json.loads(out)["files"]) == 4, err


def test_tensor_names_that_are_no_text(made, tmp_path, run):
    strange = {f"{name}\ud800" if ".1.x" in name else name: value for name, value in tensors(0).items()}
    a, b, r = tmp_path / "a.ckpt", tmp_path / "b.ckpt", tmp_path / "r.yaml"
    torch.save({"state_dict": strange | {"x\n\x1b[31m": torch.zeros(2)}, "a\udce9": "\ud800", "epoch": 1}, a)
    torch.save({k: v + 1 for k, v in strange.items()}, b)
    lora = load_file(made / "l.safetensors")
    torch.save({f"{k}\udfff" if ".0.x" in k else k: v for k, v in lora.items()}, tmp_path / "l.pt")
    step = "{m: {method: weighted_sum, inputs: [a, b], alpha: 0.5}}"
    r.write_text(f"models: {{a: a.ckpt, b: b.ckpt}}\nsteps: {step}\noutput: {{dtype: fp32, allow_missing: true}}\n")
    places = {"a": a, "b": b, "c": b, "l": tmp_path / "l.pt", "r": r, "t": tmp_path / "out"}
    places |= {"d": tmp_path, "x": tmp_path, "m": a}
    worked = set()
    for text in COMMANDS:
        for left in tmp_path.glob("out*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        code, _, err = told(run, text, **places)
        assert "\x1b" not in err
        if code == 0:
            worked.add(text)
        if text.startswith("merge run {r} -o {t}.safetensors --save"):
            assert code == 0, err
            merged = load_file(tmp_path / "out.safetensors")
            before = strange["net.blocks.1.x.weight\ud800"]
            assert torch.allclose(merged["net.blocks.1.x.weight\\ud800"], before + 0.5)
    assert {"stats {a} --by tensor --json", "convert {a} {t}.safetensors", "index {d} --compute"} <= worked


def test_names_that_become_one_are_refused(tmp_path, run):
    both = tensors(0) | {
        "net.blocks.0.w\ud800": torch.ones(2),
        "net.blocks.0.w\\ud800": torch.ones(2),
    }
    torch.save(both, tmp_path / "a.ckpt")
    code, _, err = run("inspect", tmp_path / "a.ckpt")
    assert code == 2 and "name of two tensors" in err
