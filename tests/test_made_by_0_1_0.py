"""What people made with version 0.1.0 is read: recipes, studies, run folders, journals, metadata, caches, the app's records, and
what scripts know of the commands. `made_by_0_1_0/` holds it.

Everything goes through the command line and the names that rooms offer, wherever their code stands. Assertions compare codes,
numbers and fields with what 0.1.0 wrote down, not with its sentences.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import typer
import xxhash
import yaml
from made_by_0_1_0.small_models import (
    CHANGED,
    HERE,
    MODELS,
    content,
    fingerprint,
    read_safetensors,
    write_model,
    write_safetensors,
)
from samples import others_long

from unetscope.cli import main
from unetscope.merge import Recipe, merge

PLACE = "@HERE@"
RECIPES = json.loads((HERE / "recipes.json").read_text(encoding="utf-8"))
METADATA = json.loads((HERE / "metadata.json").read_text(encoding="utf-8"))
# Fields whose values depend on when and where a command runs.
OF_THE_MOMENT = ("seconds", "version", "date", "threads", "memory", "free", "changed", "mtime")


@pytest.fixture(autouse=True, scope="module")
def _forgets_methods():
    """The recipes' own methods are not left to other tests."""
    yield
    from unetscope.merge.methods import files

    for file in files.all_files():
        files.forget_methods(file)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """The folder as a user of 0.1.0 had it, with its models. Tests read it; what they write has names of its own."""
    here = tmp_path_factory.mktemp("of_0_1_0").resolve()
    for path in HERE.iterdir():
        if path.is_dir() and path.name not in ("__pycache__", "state", "cache"):
            shutil.copytree(path, here / path.name)
    for path in (*(here / "loras").iterdir(), *(here / "merged").iterdir()):
        os.utime(path, ns=(CHANGED, CHANGED))
    (here / "models").mkdir()
    for name in MODELS:
        write_model(name, here / "models")
    yield here
    content.cache_clear()


@pytest.fixture
def inside(old, monkeypatch) -> Path:
    """The same, as the working directory."""
    monkeypatch.chdir(old)
    return old


@pytest.fixture
def run(capsys):
    """Runs a command that succeeds: -> what it prints."""

    def call(*words: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(words))
        out, err = capsys.readouterr()
        assert end.value.code in (None, 0), err
        return out

    return call


def at_home(value: Any, here: Path) -> Any:
    """Plain data with this folder in place of the one that it was made in."""
    if isinstance(value, str):
        return value.replace(PLACE, str(here))
    if isinstance(value, list):
        return [at_home(one, here) for one in value]
    return {at_home(k, here): at_home(v, here) for k, v in value.items()} if isinstance(value, dict) else value


def lacking(old: Any, new: Any, where: str = "") -> list[str]:
    """Fields of `old` that `new` has not, or with a value of another kind; of lists the first entries are compared."""
    if isinstance(old, dict):
        if not isinstance(new, dict):
            return [f"{where}: {type(new).__name__} in place of fields"]
        return [
            x
            for k, v in old.items()
            for x in ([f"{where}.{k}"] if k not in new else lacking(v, new[k], f"{where}.{k}"))
        ]
    if isinstance(old, list):
        if not isinstance(new, list) or (old and not new):
            return [f"{where}: {new!r} in place of a list"]
        return lacking(old[0], new[0], f"{where}[0]") if old else []
    numbers = (int, float)
    same = (
        old is None or new is None or type(old) is type(new) or (isinstance(old, numbers) and isinstance(new, numbers))
    )
    return [] if same else [f"{where}: {type(new).__name__} in place of {type(old).__name__}"]


# -- recipes ------------------------------------------------------------------------------------------------------------


def groups() -> dict[str, list[str]]:
    """Recipes by the first word of their names, methods with options or by block apart: a test each, not two hundred."""
    found: dict[str, list[str]] = {}
    for name in RECIPES:
        kind, _, rest = name.partition("-")
        found.setdefault(f"{kind} varied" if "-by-block" in rest or "=" in rest else kind, []).append(name)
    return found


@pytest.mark.parametrize("group", others_long(groups(), lambda group: not group.endswith("varied")))
def test_recipes_come_to_the_same_tensors(group, old, tmp_path):
    wrong = []
    for name in groups()[group]:
        made, known = tmp_path / "out.safetensors", RECIPES[name]
        recipe = Recipe.load(old / "recipes" / f"{name}.yaml")
        assert (recipe.title, recipe.result, list(recipe.models)) == (known["title"], known["result"], known["models"])
        merge(recipe, made, fsync=False, reproducible=True, overwrite=True)
        digest, size = fingerprint(made)
        if known["sha256"] not in (None, digest) or size != pytest.approx(known["norm"], rel=1e-3):
            wrong.append(name)
    assert wrong == []


def test_every_kind_of_recipe_is_there():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (HERE / "recipes").glob("*.yaml"))
    for word in (
        "loras:",
        "components:",
        "convention:",
        "methods:",
        "output:",
        "preset:",
        "gradient:",
        "vector:",
        "key:",
        "NOT ",
    ):
        assert word in text, word
    assert len(RECIPES) == len(list((HERE / "recipes").glob("*.yaml"))) > 150
    assert sum(known["sha256"] is None for known in RECIPES.values()) < 25


# -- the command line ---------------------------------------------------------------------------------------------------


def commands() -> dict[str, tuple[list[str], set[str]]]:
    """Every command with its arguments and all its flags, as typer has them."""
    top: list[Any] = []

    def caught(group, *_, **__):
        top.append(group)
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(typer.core.TyperGroup, "main", caught)
        main([])
    found = {}

    def walk(one, words: tuple[str, ...]) -> None:
        flags = {x for p in one.params if p.param_type_name == "option" for x in (*p.opts, *p.secondary_opts)}
        found[" ".join(words)] = [p.name for p in one.params if p.param_type_name == "argument"], flags
        for name, below in (getattr(one, "commands", None) or {}).items():
            walk(below, (*words, name))

    walk(top[0], ())
    return found


def test_every_command_and_every_flag_is_still_accepted():
    known, now = json.loads((HERE / "commands.json").read_text(encoding="utf-8")), commands()
    assert [line for line in known if line not in now] == []
    gone = {line: sorted(set(one["flags"]) - now[line][1]) for line, one in known.items()}
    assert {line: flags for line, flags in gone.items() if flags} == {}
    # An argument more would be one that an old line does not give.
    assert [line for line, one in known.items() if len(now[line][0]) != len(one["arguments"])] == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "json").glob("*.json")))
def test_what_is_printed_as_json_has_the_fields_that_it_had(name, inside, run):
    known = json.loads((HERE / "json" / f"{name}.json").read_text(encoding="utf-8"))
    words = known["command"].split()
    if "-o" in words:
        (inside / words[words.index("-o") + 1]).unlink(missing_ok=True)
    assert lacking(known["printed"], json.loads(run(*words))) == []


@pytest.mark.parametrize(
    "file, label, weight", [("blocks.yaml", "M00", 0.25), ("vector.txt", "IN05", 0.23), ("lines.txt", "IN05", 0.7)]
)
def test_files_of_block_weights_are_read(file, label, weight, inside, run):
    line = (
        "merge weighted-sum models/sd1-base.safetensors models/sd1-ink.safetensors -o no.safetensors --dry-run --json"
    )
    rows = {row["label"]: row for row in json.loads(run(*line.split(), "--blocks", f"@weights/{file}"))["labels"]}
    assert rows[label]["shares"]["b"] == pytest.approx(weight)


@pytest.mark.parametrize("kernel", ["numba", "torch"])
def test_values_of_environment_variables_are_accepted(kernel, inside, tmp_path):
    """They are read once a process, so this is one: what computes, how files are read, where things are kept."""
    values = {"KERNEL": kernel, "PORTABLE_IO": "1", "CACHE": str(tmp_path), "STATE": str(tmp_path), "MODELS": "models"}
    environment = os.environ | {f"UNETSCOPE_{name}": value for name, value in values.items()}
    words = ["merge", "run", "recipes/whole-toy-vector.yaml", "-o", str(tmp_path / "out.safetensors"), "--no-fsync"]
    done = subprocess.run([sys.executable, "-m", "unetscope", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert fingerprint(tmp_path / "out.safetensors")[0] == RECIPES["whole-toy-vector"]["sha256"]


@pytest.mark.parametrize("file", ["labels.csv", "modules.json"])
def test_files_of_values_colour_a_diagram(file, inside, run, tmp_path):
    run("diagram", "sd1", "--level", "module", "--values", f"values/{file}", "-o", str(tmp_path / "out.svg"))
    assert "0.125" in (tmp_path / "out.svg").read_text(encoding="utf-8")


def test_claims_beside_models_and_kept_hashes_are_known(inside, run, tmp_path, monkeypatch):
    """What is next to a model says its SHA-256; what was read before is kept in the cache."""
    folder, digests = tmp_path / "beside", {}
    shutil.copytree(HERE / "beside", folder)
    for name in ("toy-base", "toy-ink", "toy-photo", "toy-anime"):
        path = write_model(name, folder)
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setenv("UNETSCOPE_CACHE", str(kept))
    (kept / "sha256.json").write_text(
        json.dumps({identity(folder / "toy-anime.safetensors"): digests["toy-anime.safetensors"]})
    )
    found = json.loads(run("index", str(folder), "--webui-cache", str(folder / "cache.json"), "--json"))["files"]
    assert {Path(one["path"]).name: one["sha256"] for one in found} == digests
    assert {Path(one["path"]).name: one["claimed"] for one in found} == {
        n: n != "toy-anime.safetensors" for n in digests
    }


# -- metadata -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METADATA)
def test_metadata_tells_the_same_history(name, inside, run, tmp_path):
    """Of merges, LoRAs and conversions: `inspect` shows it, `import` makes the recipe again."""
    known, path = METADATA[name], tmp_path / f"{name}.safetensors"
    if name.startswith(("lora-merge", "lora-resize", "lora-convert")):
        _, *held = read_safetensors(inside / "loras" / "kohya.safetensors")
    else:
        held = content("sdxl-base" if name == "sdxl" else "sd1-base")
    write_safetensors(path, {"__metadata__": known["metadata"]} | held[0], held[1])
    found = json.loads(run("inspect", str(path), "--json"))
    for field in ("metadata", "history", "merged_from", "recipe"):
        if field in known["inspect"]:
            assert found[field] == at_home(known["inspect"][field], inside), field
    if "import" in known:
        imported = json.loads(run("import", str(path), "--models", "models", "--json"))
        assert imported["recipe"]["steps"] == known["import"]["recipe"]["steps"]
        assert lacking(known["import"], imported) == []


@pytest.mark.parametrize("name", ["toy", "history", "made"])
def test_a_merged_file_is_repeated_from_its_own_metadata(name, inside, run, tmp_path):
    recipe, again = tmp_path / "recipe.yaml", tmp_path / "again.safetensors"
    run("import", f"merged/{name}.safetensors", "--models", "models", "--models", "merged", "-o", str(recipe))
    merge(Recipe.load(recipe), again, fsync=False)
    assert fingerprint(again) == fingerprint(inside / "merged" / f"{name}.safetensors")


# -- a merge that was stopped -----------------------------------------------------------------------------------------------


def test_a_merge_that_was_stopped_is_continued(inside, tmp_path):
    """Part and journal are read. A journal knows the files that it is of by their folder: that line is today's."""
    out, whole = tmp_path / "out.safetensors", tmp_path / "whole.safetensors"
    part, journal = (Path(f"{out}.unetscope-{kind}") for kind in ("resumable", "journal"))
    recipe, cancel, first = Recipe.load("recipes/method-train_difference.yaml"), threading.Event(), []

    def looked(done: int, total: int, key: str) -> None:
        if journal.exists() and not first:
            first.append(json.loads(journal.read_bytes().split(b"\n")[0]))
            cancel.set()

    with contextlib.suppress(Exception):
        merge(recipe, out, resumable=True, reproducible=True, progress=looked, cancel=cancel)
    assert first and set(first[0]) == {"identity", "kept", "sum"}
    for path in (out, part, journal):
        path.unlink(missing_ok=True)
    lines = (inside / "resumable" / "out.safetensors.unetscope-journal").read_bytes().splitlines()
    begun = json.loads(lines[0]) | {"identity": first[0]["identity"]}
    del begun["sum"]
    begun["sum"] = xxhash.xxh3_64_hexdigest(json.dumps(begun, sort_keys=True).encode())
    journal.write_bytes(b"\n".join([json.dumps(begun).encode(), *lines[1:], b""]))
    shutil.copyfile(inside / "resumable" / "out.safetensors.unetscope-resumable", part)
    report = merge(recipe, out, resumable=True, reproducible=True)
    assert report.resumed == len(lines) - 1 > 1
    merge(recipe, whole, reproducible=True)
    assert out.read_bytes() == whole.read_bytes()
    assert fingerprint(out)[0] == RECIPES["method-train_difference"]["sha256"]


# -- searches -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def studies(old, tmp_path, monkeypatch) -> Path:
    """Studies and run folders that a test may continue with, the former as working directory."""
    for name in ("studies", "runs"):
        shutil.copytree(old / name, tmp_path / name)
    (tmp_path / "models").mkdir()
    for name in ("base", "ink", "photo", "anime"):
        shutil.copyfile(old / "models" / f"sd1-{name}.safetensors", tmp_path / "models" / f"sd1-{name}.safetensors")
    monkeypatch.chdir(tmp_path / "studies")
    return tmp_path


def records(run: Path) -> list[dict]:
    """The lines of all workers of a run folder."""
    lines = [line for path in sorted((run / "trials").glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda record: record["number"])


@pytest.mark.parametrize(
    "name", [path.stem for path in sorted((HERE / "studies").glob("*.yaml")) if path.stem not in ("recipe", "tree")]
)
def test_studies_are_read(name, studies):
    from unetscope.search import Study

    study = Study.load(f"{name}.yaml")
    plain = yaml.safe_load((studies / "studies" / f"{name}.yaml").read_text())
    assert study.trials == plain["trials"] and study.title == plain.get("title", name)


@pytest.mark.parametrize("name, done", [("finished", 14), ("half", 7), ("pictures", 9)])
def test_run_folders_are_read(name, done, studies):
    from unetscope.search import RunFolder

    folder, left_out = RunFolder(studies / "runs" / name), []
    known = records(folder.path)
    trials = folder.trials(left_out)
    assert left_out == [] and len(trials) == len(known) == done
    for trial, record in zip(sorted(trials, key=lambda t: t.number), known, strict=True):
        assert (trial.number, trial.state, trial.score, dict(trial.point), dict(trial.scores)) == (
            record["number"], record["state"], record["score"], record["point"], record["scores"],
        )  # fmt: skip
    setup = json.loads((folder.path / "setup.json").read_text())
    assert [p.name for p in folder.setup().parameters] == [p["name"] for p in setup["parameters"]]


@pytest.mark.parametrize("name, trials", [("finished", 16), ("half", 12), ("pictures", 10)])
def test_searches_are_continued(name, trials, studies, run):
    """The journal is read: the points that were tried are not tried again, and what a killed worker left undone is."""
    pytest.importorskip("optuna")
    folder = studies / "runs" / name
    before, damaged = records(folder), folder / "journal.log.damaged"
    run("search", f"{name}.yaml", "-o", str(folder), "--resume", "--trials", str(trials))
    after = records(folder)
    assert after[: len(before)] == before and not damaged.exists()
    scored = [record for record in after if record["score"] is not None]
    assert len(scored) == trials and len({record["number"] for record in after}) == len(after)


def test_a_tree_of_searches_is_read_as_the_searches_that_it_was_made_of(studies, run):
    """Trees are gone: their study is refused, and what was measured is read node by node."""
    from unetscope.search import RunFolder, SearchError, Study

    with pytest.raises(SearchError):
        Study.load("tree.yaml")
    folder = studies / "runs" / "tree"
    nodes = sorted(path for path in (folder / "nodes").iterdir() if path.is_dir())
    assert nodes and all(len(RunFolder(node).trials([])) == len(records(node)) > 0 for node in nodes)
    assert Recipe.load(folder / "best.yaml").result in Recipe.load(folder / "best.yaml").steps


def test_a_run_folder_gets_a_report(studies, run):
    folder, report = studies / "runs" / "pictures", studies / "report"
    run("search", "report", str(folder), "-o", str(report))
    assert (report / "index.html").stat().st_size > 1000
    header = (HERE / "runs" / "report.csv").read_text().splitlines()[0].split(",")
    rows = (report / "trials.csv").read_text().splitlines()
    assert set(header) <= set(rows[0].split(",")) and len(rows) == 10


# -- what the app and the caches keep ---------------------------------------------------------------------------------------


def identity(path: Path) -> str:
    """What 0.1.0 knows a file by."""
    found = path.stat()
    return f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}"


@pytest.fixture
def app(old, tmp_path, monkeypatch, one_look_for_components):
    """Opens a page of the app with the state and the caches of 0.1.0: `app("jobs")`; keywords are the address's."""
    from streamlit.testing.v1 import AppTest

    shutil.copyfile(old / "merged" / "made.safetensors", old / "models" / "made.safetensors")
    os.utime(old / "models" / "made.safetensors", ns=(CHANGED, CHANGED))
    state, cache = tmp_path / "state", tmp_path / "cache"
    shutil.copytree(HERE / "state", state)
    for path in state.rglob("*.json"):
        path.write_text(json.dumps(at_home(json.loads(path.read_text()), old)))
    for one in at_home(json.loads((HERE / "cache" / "measured.json").read_text()), old):
        known = [identity(old / "models" / name) if name else "-" for name in one["files"]]
        own = hashlib.sha256("\n".join([one["folder"], "1", *known]).encode()).hexdigest()[:32]
        (cache / one["folder"]).mkdir(parents=True)
        (cache / one["folder"] / f"{own}.json").write_text(json.dumps(one["kept"]))
    for name in ("library.json", "sha256.json"):
        kept = at_home(json.loads((HERE / "cache" / name).read_text(encoding="utf-8")), old)
        (cache / name).write_text(json.dumps(kept), encoding="utf-8")
    (cache / "scans").mkdir()
    for name, scan in at_home(json.loads((HERE / "cache" / "scans.json").read_text()), old).items():
        own = hashlib.sha256(identity(old / "models" / name).encode()).hexdigest()[:32]
        (cache / "scans" / f"{own}.json").write_text(json.dumps(scan))
    monkeypatch.setenv("UNETSCOPE_STATE", str(state))
    monkeypatch.setenv("UNETSCOPE_CACHE", str(cache))
    for name in ("MODELS", "OUTPUT"):  # the settings of 0.1.0 say which folders
        monkeypatch.delenv(f"UNETSCOPE_{name}", raising=False)

    def open_page(name: str, **address: str) -> AppTest:
        text = f"from unetscope.dashboard.pages import {name}\n{name}.show()"
        at, said = AppTest.from_string(text, default_timeout=600), None
        for key, value in address.items():
            at.query_params[key] = value
        at.run()
        while (now := texts(at)) != said:  # a page shows what it has read of the folder so far
            said = now
            at.run()
        assert not at.exception
        return at

    return open_page


def texts(at) -> str:
    kinds = ("markdown", "caption", "info", "warning", "error", "success", "text")
    return "\n".join([str(e.value) for kind in kinds for e in at.get(kind)] + [e.label for e in at.get("expander")])


def test_jobs_are_listed_with_how_they_ended(app):
    at = app("jobs")
    titles = [json.loads(path.read_text())["title"] for path in (HERE / "state" / "jobs").rglob("job.json")]
    labels = [expander.label.replace("\\", "") for expander in at.get("expander")]
    assert len(labels) == len(titles) and all(any(title in label for label in labels) for title in titles)
    states = [json.loads(path.read_text()) for path in (HERE / "state" / "jobs").rglob("state.json")]
    assert len(at.error) == sum(state["status"] == "failed" for state in states) == 1


def test_a_draft_is_opened(app):
    (draft,) = (HERE / "state" / "drafts").glob("*.json")
    at = app("merge", draft=draft.stem)
    step = recipe_of(at)["steps"]["mix"]
    assert step["method"] == "add_difference" and recipe_of(at)["output"] == {"dtype": "fp32"}
    assert step["alpha"]["IN06"] == 0.25
    next(b for b in at.button if b.label.startswith(":material/undo:")).click().run()
    assert recipe_of(at)["steps"]["mix"]["alpha"]["IN05"] == 0.9


def recipe_of(at) -> dict:
    return yaml.safe_load(next(code.value for code in at.code if code.value.startswith("models:")))


def starts(at) -> list[str]:
    """The buttons that start a measurement: there are none where its result is shown."""
    return [b.key for b in at.button if b.key and b.key.startswith("start-")]


@pytest.mark.parametrize(
    "page, files, other, also",
    [
        ("compare", {"a": "base", "b": "ink"}, {"a": "base", "b": "photo"}, {}),
        ("explore", {"of": "ink"}, {"of": "photo"}, {"selected": "LAYERS01"}),
    ],
)
def test_finished_measurements_are_shown(page, files, other, also, app):
    assert starts(app(page, **{key: f"toy-{name}.safetensors" for key, name in other.items()}, **also))
    at = app(page, **{key: f"toy-{name}.safetensors" for key, name in files.items()}, **also)
    assert not starts(at) and at.dataframe


@pytest.mark.parametrize(
    "page, address, box, names",
    [
        ("collection", {}, "collection models", ("base", "ink", "photo")),
        ("where_from", {"merged": "made.safetensors"}, "among made.safetensors", ("ink", "photo")),
    ],
)
def test_finished_measurements_of_many_files_are_shown(page, address, box, names, app):
    at = app(page, **address)
    assert starts(at)
    at.multiselect(key=box).set_value([f"toy-{name}.safetensors" for name in names]).run()
    assert not at.exception and not starts(at)


def test_a_kept_scan_is_shown(app):
    kept = json.loads((HERE / "cache" / "scans.json").read_text(encoding="utf-8"))["toy-ink.safetensors"]
    at = app("library", file="toy-ink.safetensors")
    shown = texts(at) + "".join(table.value.to_csv() for table in at.dataframe)
    assert kept["fingerprints"] and all(digits in shown for digits in kept["fingerprints"].values())
