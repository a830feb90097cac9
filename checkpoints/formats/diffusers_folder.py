"""Reads the headers of a diffusers folder: a pipeline's (`unet/`, `vae/`, `text_encoder/`...) or one component's.

Which file of a component counts: the plain one before its variants (`fp16`...), .safetensors before .bin, one file
before shards.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError
from ..families.parts.schedule import CONTINUOUS, ZERO_SNR, said_by_word
from ..notices import Notice
from ..tensors import StoredTensor
from ..text import counted
from . import Contents, Format, is_model_name, read_file

COMPONENTS = ("unet", "text_encoder", "text_encoder_2", "vae")
# Weight files are called `<stem>[.variant].safetensors` or `.bin`; shards add `-00001-of-00002` to the stem.
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_CLASSES = {
    "UNet2DConditionModel": "unet",
    "AutoencoderKL": "vae",
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder_2",
}
_PIPELINE = "model_index.json"
_SCHEDULER = "scheduler/scheduler_config.json"
MAX_JSON_BYTES = 64 << 20


@dataclass
class DiffusersFolder:
    """A diffusers folder whose headers were read.

    Attributes:
        path: the folder.
        components: `unet`, `text_encoder`, `text_encoder_2`, `vae` -> tensors under diffusers' names.
        files: the weight files that were chosen, by component.
        configs: the `config.json` of each component.
        alone: whether the folder is one component and not a pipeline.
        prediction: `epsilon`, `v`, `edm` or `flow` by the scheduler's configuration, None where it says nothing known.
        noise: of what noise, by the same.
        prediction_from: the file that said so, empty when none did.
        metadata: the headers' strings, `<component>.<name>` -> text, and `pipeline` -> its class.
        notes: what was noticed.
    """

    path: Path
    components: dict[str, list[StoredTensor]] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    configs: dict[str, dict] = field(default_factory=dict)
    alone: bool = False
    prediction: str | None = None
    noise: str = ""
    prediction_from: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[Notice] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the chosen weight files."""
        return sum(file.stat().st_size for files in self.files.values() for file in files)


@dataclass(frozen=True, slots=True)
class _Weights:
    """A way in which a component's weights are stored: one file, or an index that names shards."""

    file: Path
    variant: str
    sharded: bool

    @property
    def rank(self) -> tuple:
        pickled = ".bin" in self.file.name
        return (self.variant != "", self.variant != "fp16", self.variant, pickled, self.sharded, self.file.name)


def read_folder(path: Path) -> DiffusersFolder:
    """The tensors and configurations of a diffusers folder; values are not read.

    Raises:
        CheckpointError: the folder is not a diffusers folder, holds another kind of model, lacks a shard, or one of its
            files is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such folder")
    out = DiffusersFolder(path)
    found = [name for name in COMPONENTS if (path / name).is_dir() and _ways(path / name)]
    if found:
        _read_index(out)
        if "unet" not in found and (path / "transformer").is_dir():
            raise CheckpointError(
                f"{path}: is a {out.metadata.get('pipeline', 'pipeline')} with a transformer in place of a UNET; "
                "only Stable Diffusion 1, 2 and XL are supported"
            )
        empty = [name for name in COMPONENTS if (path / name).is_dir() and name not in found]
        out.notes += [Notice("folder.empty", "the folder holds no weights").of(name) for name in empty]
        for name in found:
            _read_component(out, name, path / name)
        _read_prediction(out)
    else:
        out.alone = True
        _read_component(out, _component_alone(path), path)
    return out


def _component_alone(path: Path) -> str:
    """Which component a folder is that holds weights itself."""
    if (path / _PIPELINE).is_file():
        raise CheckpointError(
            f"{path}: this diffusers folder holds no weights of {', '.join(COMPONENTS)} "
            f"(it is a {_json(path / 'model_index.json').get('_class_name', 'pipeline without a class')}); "
            "download its weights, or give another folder"
        )
    config = _json(path / "config.json") if (path / "config.json").is_file() else {}
    architectures = config.get("architectures")
    names = [config.get("_class_name"), *(architectures if isinstance(architectures, list) else [])]
    known = next((_CLASSES[n] for n in names if isinstance(n, str) and n in _CLASSES), None)
    if known is None or not _ways(path):
        what = next((n for n in names if isinstance(n, str)), None)
        reason = (
            f"a {what} without weights" if known else f"a {what}" if what else "no model_index.json, no config.json"
        )
        raise CheckpointError(
            f"{path}: is not a diffusers folder of Stable Diffusion ({reason}); {_models_in(path)}give a .safetensors "
            "or .ckpt file, or a folder with unet, vae or text_encoder in it"
        )
    return known


def _models_in(path: Path) -> str:
    """`it holds 12 model files, such as a.safetensors: `; empty where it holds none."""
    try:
        models = sorted(file.name for file in path.iterdir() if is_model_name(file.name))
    except OSError:
        return ""
    return f"it holds {counted(len(models), 'model file')}, such as {models[0]}: " if models else ""


def _read_index(out: DiffusersFolder) -> None:
    """What `model_index.json` says, if it is there."""
    file = out.path / _PIPELINE
    if file.is_file():
        name = _json(file).get("_class_name")
        if isinstance(name, str):
            out.metadata["pipeline"] = name
    else:
        text = "the folder has no model_index.json; its components were found by their folders' names"
        out.notes.append(Notice("folder.no_index", text))


def _read_component(out: DiffusersFolder, name: str, folder: Path) -> None:
    """Choose among a component's weight files and read their headers."""
    ways = sorted(_ways(folder), key=lambda way: way.rank)
    chosen = ways[0]
    others = sorted({way.variant for way in ways if way.variant and way.variant != chosen.variant})
    if others:
        text = f"{chosen.file.name} was read; there is also the variant {', '.join(others)}"
        out.notes.append(Notice("folder.variants", text, tuple(others)).of(name))
    elif chosen.variant:
        text = f"only the variant {chosen.variant} is there, and was read"
        out.notes.append(Notice("folder.only_variant", text, (chosen.variant,)).of(name))
    if (folder / "config.json").is_file():
        out.configs[name] = _json(folder / "config.json")
    out.files[name], read = _read_shards(chosen.file) if chosen.sharded else ([chosen.file], read_file(chosen.file)[1])
    out.components[name] = read.tensors
    out.metadata |= {f"{name}.{key}": text for key, text in read.metadata.items() if key != "format"}
    out.notes += [note.of(name) for note in read.notes]


_WEIGHTS = re.compile(rf"({'|'.join(_STEMS)})(?:\.([\w-]+))?\.(?:safetensors|bin)")
_INDEX = re.compile(rf"({'|'.join(_STEMS)})(?:\.([\w-]+))?\.(?:safetensors|bin)\.index(?:\.([\w-]+))?\.json")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


def _ways(folder: Path) -> list[_Weights]:
    """The ways in which a folder stores weights."""
    ways = []
    for file in sorted(folder.iterdir()):
        if found := _WEIGHTS.fullmatch(_SHARD.sub("", file.name)):
            if not _SHARD.search(file.name):
                ways.append(_Weights(file, found[2] or "", sharded=False))
        elif found := _INDEX.fullmatch(file.name):
            ways.append(_Weights(file, found[2] or found[3] or "", sharded=True))
    return ways


def _read_shards(index: Path) -> tuple[list[Path], Contents]:
    """The shards that an index names, and the tensors that it says are in each."""
    where = _json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
        raise CheckpointError(f"{index}: has no weight_map from tensors to shards; download the file again")
    files, tensors, metadata, notes = [], [], {}, []
    for shard in dict.fromkeys(where.values()):
        file = index.parent / shard
        if Path(shard).name != shard or "\\" in shard:
            raise CheckpointError(f"{index}: names the shard {shard!r}, which is outside its folder; do not trust it")
        if not file.is_file():
            raise CheckpointError(f"{index}: the shard {shard} is missing; download it into {index.parent}")
        _, here = read_file(file)
        files.append(file)
        tensors += [t for t in here.tensors if where.get(t.name) == shard]
        metadata |= here.metadata
        notes += [note.of(shard) for note in here.notes]
    missing = where.keys() - {t.name for t in tensors}
    if missing:
        name = min(missing)
        raise CheckpointError(
            f"{index}: tensor {name} should be in {where[name]} but is not (and {len(missing) - 1} more); "
            "download the shards again"
        )
    return files, Contents(tensors, metadata, notes=tuple(notes))


def _read_prediction(out: DiffusersFolder) -> None:
    """How the model predicts, by its scheduler's configuration."""
    file = out.path / _SCHEDULER
    if not file.is_file():
        return
    config = _json(file)
    out.configs["scheduler"] = config
    scheduler, said = str(config.get("_class_name", "")), config.get("prediction_type")
    known = said_by_word(said)
    if scheduler.startswith("EDM"):
        # EDM's own preconditioning is called epsilon there.
        out.prediction, out.noise = known if known == "v" else "edm", CONTINUOUS
    elif scheduler.startswith("FlowMatch"):
        out.prediction = "flow"
    elif known is not None:
        out.prediction = known
        out.noise = ZERO_SNR if config.get("rescale_betas_zero_snr") is True else ""
    elif said is not None:
        text = f"{_SCHEDULER} says prediction_type {str(said)[:40]!r}, which is not a prediction that is known here"
        out.notes.append(Notice("folder.prediction_unknown", text, (_SCHEDULER,)))
    out.prediction_from = _SCHEDULER if out.prediction else ""


def _json(file: Path) -> dict:
    """A JSON object from a file."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{file}: has more than {MAX_JSON_BYTES:,} bytes, too many for a configuration")
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: is not valid JSON ({str(error)[:200]}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: is not a JSON object; download it again")
    return content


def _contents(path: Path, to_look: bool) -> Contents:
    folder = read_folder(path)
    alone = next(iter(folder.components.values())) if folder.alone else []
    return Contents(
        tensors=alone,
        metadata=folder.metadata,
        components={} if folder.alone else folder.components,
        prediction=folder.prediction,
        noise=folder.noise,
        prediction_from=folder.prediction_from,
        notes=tuple(folder.notes),
        size=folder.size,
    )


def _plan(checkpoint, tensors):
    from ..diffusers_output import plan_folder

    return plan_folder(checkpoint, tensors)


DIFFUSERS = Format(
    id="diffusers",
    title="a diffusers folder",
    suffixes=(),
    folder=True,
    markers=(_PIPELINE,),
    read=_contents,
    write=_plan,
)
