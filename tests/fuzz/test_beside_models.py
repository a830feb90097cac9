"""Whatever is next to models (hashes, configurations, indices of shards, scans kept), reading it is no reason to fail otherwise
than in a sentence."""

from __future__ import annotations

import json

import pytest
import torch
from fuzz.cases import ANYTHING, FUZZ, SCALARS, damaged
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from unetscope.checkpoints import UnetscopeError, open_checkpoint
from unetscope.checkpoints.files.cache import cache_folder
from unetscope.checkpoints.hashes import identity
from unetscope.checkpoints.lora import open_lora
from unetscope.diagrams.values_file import read_values
from unetscope.library.adapter import look_at_adapter
from unetscope.library.hash_index import HashIndex
from unetscope.library.scan_cache import scan_file

DIGEST = "ab" * 32
DIGESTS = st.sampled_from([DIGEST, DIGEST.upper(), DIGEST[:10], f" {DIGEST}\n", ""]) | SCALARS
NAMES = st.sampled_from(["x.safetensors", "X.SAFETENSORS", "folder/x.safetensors", "checkpoint/x", "y", "hashes"])
RECORD = st.dictionaries(
    st.sampled_from(["sha256", "SHA256", "hashes", "files", "name", "sizeKB", "mtime"]), DIGESTS, max_size=4
)
LISTED = st.fixed_dictionaries({"hashes": RECORD, "name": NAMES, "sizeKB": SCALARS})
RECORDS = (
    st.fixed_dictionaries(
        {}, optional={"files": st.lists(RECORD | ANYTHING, max_size=3), "hashes": RECORD, "sha256": DIGESTS}
    )
    | st.fixed_dictionaries({"files": st.lists(LISTED, max_size=3)})
    | ANYTHING
)
WEBUI = (
    st.fixed_dictionaries({"hashes": st.dictionaries(NAMES.map("checkpoint/{}".format) | NAMES, RECORD | ANYTHING)})
    | ANYTHING
)
SUMS = st.lists(
    st.tuples(DIGESTS.map(str), st.sampled_from(["  ", " *", "", "\t"]), NAMES).map("".join), max_size=3
).map("\n".join)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "x.safetensors"
    save_file({"model.diffusion_model.out.2.bias": torch.ones(4)}, path)
    return path


def looked_up(model, **options) -> None:
    index = HashIndex.load([model.parent], **options)
    assert [file.path for file in index.files] == [model]
    json.dumps(index.to_plain())
    for text in (DIGEST, DIGEST[:10], "x", "x.safetensors [abababababab]", index.files[0].legacy):
        assert index.find(text) in (model, None)


@FUZZ
@given(
    st.sampled_from(["x.civitai.info", "x.json", "x.safetensors.metadata.json", "x.cm-info.json"]),
    RECORDS.map(lambda data: json.dumps(data).encode()) | damaged(json.dumps({"files": [{"hashes": {"SHA256": DIGEST}}]}).encode()),
    SUMS.map(lambda text: text.encode("utf-8", "replace")) | damaged(f"{DIGEST} *x.safetensors\n".encode()),
    WEBUI.map(lambda data: json.dumps(data).encode()),
)  # fmt: skip
def test_any_record_of_a_hash(model, name, record, sums, cache):
    written = [model.with_name(name), model.with_name("x.sha256"), model.with_name("cache.json")]
    for path, content in zip(written, (record, sums, cache), strict=True):
        path.write_bytes(content)
    try:
        looked_up(model, webui_cache=written[2])
    finally:
        for path in written:
            path.unlink()


KEPT = {"fingerprints": {"unet": "0" * 32}, "sha256": DIGEST}


@FUZZ
@given(
    st.fixed_dictionaries({"fingerprints": st.dictionaries(st.text(max_size=4), ANYTHING) | ANYTHING}, optional={"sha256": DIGESTS})
    .map(lambda data: json.dumps(data).encode())
    | damaged(json.dumps(KEPT).encode()),
    ANYTHING.map(lambda data: json.dumps(data).encode()) | damaged(b'{"x": "' + DIGEST.encode() + b'"}'),
)  # fmt: skip
@example(b'{"fingerprints": {}, "sha256": true}', b"{}")
def test_any_memory_of_earlier_reads(model, tmp_path, monkeypatch, scan, hashes):
    monkeypatch.setenv("UNETSCOPE_CACHE", str(tmp_path))
    kept = scan_file(identity(model))
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(scan)
    (cache_folder() / "sha256.json").write_bytes(hashes)
    looked_up(model)


# -- diffusers folders ----------------------------------------------------------------------------------------------------

WEIGHT = "conv_in.weight"
CLASSES = st.sampled_from(
    ["UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel", "StableDiffusionPipeline", "EDMEulerScheduler"]
)
CONFIG = (
    st.dictionaries(
        st.sampled_from(["_class_name", "architectures", "prediction_type", "cross_attention_dim", "in_channels"]),
        CLASSES | st.lists(CLASSES, max_size=2) | st.sampled_from(["v_prediction", "epsilon"]) | ANYTHING,
        max_size=4,
    )
    | ANYTHING
)
SHARDS = ["a-00001-of-00002.safetensors", "../x", "a/b", "unet", "\0", "", ".", "config.json"]
SHARDED = st.dictionaries(st.just(WEIGHT) | st.text(max_size=4), st.sampled_from(SHARDS) | SCALARS, max_size=2)
MAPS = st.fixed_dictionaries({"weight_map": SHARDED}) | ANYTHING
GOOD = {"weight_map": {WEIGHT: "a-00001-of-00002.safetensors"}}


@FUZZ
@given(CONFIG, CONFIG, CONFIG, MAPS.map(json.dumps).map(str.encode) | damaged(json.dumps(GOOD).encode()), st.booleans())
def test_any_configuration_of_a_pipeline(tmp_path, pipeline, config, scheduler, shards, alone):
    unet = tmp_path / "unet"
    for folder in (unet, tmp_path / "scheduler"):
        folder.mkdir(exist_ok=True)
    save_file({WEIGHT: torch.ones(8, 4, 3, 3)}, unet / "a-00001-of-00002.safetensors")
    (tmp_path / "model_index.json").write_text(json.dumps(pipeline))
    (unet / "config.json").write_text(json.dumps(config))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_bytes(shards)
    try:
        with open_checkpoint(unet if alone else tmp_path) as checkpoint:
            for key in checkpoint.tensors:
                checkpoint.raw(key)
    except UnetscopeError as error:
        assert str(tmp_path) in str(error) and "\n" not in str(error)


# -- LoRAs ----------------------------------------------------------------------------------------------------------------

PEFT = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
ADAPTER = {"r": 4, "lora_alpha": 8, "use_rslora": True, "rank_pattern": {"to_k": 4}, "feedforward_modules": ["to_k"]}
ADAPTERS = (
    st.fixed_dictionaries({"r": SCALARS}, optional={"lora_alpha": SCALARS, "alpha": ANYTHING, "use_rslora": ANYTHING,
        "rank_pattern": st.dictionaries(st.just("to_k"), ANYTHING) | ANYTHING, "alpha_pattern": ANYTHING,
        "feedforward_modules": ANYTHING})
    | ANYTHING
)  # fmt: skip
TAGS = st.dictionaries(
    st.text(max_size=4), st.dictionaries(st.text(max_size=4), SCALARS, max_size=2) | ANYTHING, max_size=2
)


@FUZZ
@given(ADAPTERS.map(json.dumps).map(str.encode) | damaged(json.dumps(ADAPTER).encode()), TAGS | ANYTHING, st.booleans())
def test_any_configuration_of_an_adapter(tmp_path, config, tags, ia3):
    names = {"ia3_l": (1, 32)} if ia3 else {"lora_A.weight": (4, 32), "lora_B.weight": (16, 4)}
    path = tmp_path / "adapter_model.safetensors"
    metadata = {"ss_tag_frequency": json.dumps(tags)}
    path.write_bytes(save({f"{PEFT}.{name}": torch.ones(shape) for name, shape in names.items()}, metadata))
    (tmp_path / "adapter_config.json").write_bytes(config)
    json.dumps(look_at_adapter(path, metadata).to_plain())
    try:
        with open_lora(path) as lora:
            for module in lora.modules.values():
                for part in module.parts:
                    lora.load(part)
    except UnetscopeError as error:  # of the LoRA, or of its configuration
        assert str(tmp_path) in str(error) and "\n" not in str(error)


# -- values to colour by --------------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.dictionaries(st.sampled_from(["name", "key", "label", "value", "x"]), SCALARS, max_size=3) | ANYTHING, max_size=3
)
TABLE = "label,value\nIN00,0.5\nM00,nan\nOUT01,-1\n"


@FUZZ
@given(
    st.tuples(st.just("json"), (ROWS | ANYTHING).map(json.dumps).map(str.encode))
    | st.tuples(st.sampled_from(["csv", "txt"]), damaged(TABLE.encode()))
    | st.tuples(st.just("csv"), st.lists(st.lists(SCALARS.map(str), max_size=3).map(",".join)).map("\n".join)
        .map(lambda text: text.encode("utf-8", "replace"))),
    st.sampled_from([None, "value", "x", ""]),
)  # fmt: skip
@example(("json", b'[{"name": "a", "value": 1}, {}]'), None)
def test_any_table_of_values(tmp_path, table, column):
    path = tmp_path / f"values.{table[0]}"
    path.write_bytes(table[1])
    try:
        for name, value in read_values(path, column).items():
            assert isinstance(name, str) and (value is None or isinstance(value, float))
    except UnetscopeError as error:
        assert str(path) in str(error)
