"""What is a family's or a container's stands in its record, and nowhere else: no other module compares an id or lists suffixes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from unetscope.checkpoints.families import FAMILIES, Family
from unetscope.checkpoints.formats import FORMATS, suffixes

ROOT = Path(__file__).parent.parent
ROOMS = ("checkpoints", "library", "merge", "analysis", "diagrams", "search", "dashboard", "cli")
RECORDS = ("checkpoints/families/", "checkpoints/formats/")


def modules() -> list[str]:
    """The product's modules, but for those of records."""
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")] + list(ROOT.glob("*.py"))
    names = sorted(path.relative_to(ROOT).as_posix() for path in found)
    return [name for name in names if not name.startswith(RECORDS)]


def told_to_people(tree: ast.AST) -> set[ast.AST]:
    """Docstrings, and help texts of the command line and the app."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg == "help":
            found |= set(ast.walk(node.value))
    return found


def words_of(code: str) -> Iterator[tuple[int, str]]:
    """Line and value of every string that the code works with."""
    tree = ast.parse(code)
    people = told_to_people(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in people:
            yield node.lineno, node.value


def named(node: ast.expr) -> str:
    """The last name of an expression: `family` of `checkpoint.architecture.family`, `id` of `family.id`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_family(node: ast.expr) -> bool:
    """Whether an expression is, by its name, a family or its id."""
    if named(node) in ("family", "family_id", "base_family"):
        return True
    return isinstance(node, ast.Attribute) and node.attr == "id" and named(node.value) in ("family", "record")


def comparisons(code: str) -> Iterator[tuple[int, str]]:
    """Line and word of every comparison of a family with words, whatever the words."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            words = [
                x for side in sides for x in ast.walk(side) if isinstance(x, ast.Constant) and isinstance(x.value, str)
            ]
            if any(map(is_family, sides)) and any(x.value for x in words):
                yield node.lineno, words[0].value
        elif isinstance(node, ast.Match) and is_family(node.subject):
            yield node.lineno, "match"


def asked_for(code: str) -> Iterator[tuple[int, str]]:
    """A record that is asked for by its id: `FAMILIES["sd1"]`, `family_of("sd1")`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Subscript) and named(node.value) == "FAMILIES" and isinstance(node.slice, ast.Constant):
            yield node.lineno, str(node.slice.value)
        elif isinstance(node, ast.Call) and named(node.func) in ("family_of", "named", "layout"):
            yield from (
                (node.lineno, x.value) for x in node.args[:1] if isinstance(x, ast.Constant) and x.value in FAMILIES
            )


def records_imported(name: str, code: str) -> Iterator[tuple[int, str]]:
    """Imports of a module that holds one family's record."""
    homes = {FAMILIES.home(family) for family in FAMILIES}
    records = {home.rpartition(".")[2] for home in homes if home.startswith("unetscope.checkpoints.families.")}
    parts = name.split("/")[:-1]
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                path = [x for x in [*module, alias.name] if x != "unetscope"]
                if path[:2] == ["checkpoints", "families"] and set(path[2:3]) & records:
                    yield node.lineno, ".".join(path)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.rpartition(".")[2] in records and ".families." in alias.name:
                    yield node.lineno, alias.name


def suffix_words(code: str) -> Iterator[tuple[int, str]]:
    """Strings that are a suffix, or the end of a name that is put together."""
    return ((line, word) for line, word in words_of(code) if word.strip().lower().startswith(suffixes()))


@pytest.fixture(scope="module")
def code() -> dict[str, str]:
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in modules()}


def test_no_module_outside_of_families_knows_a_familys_id(code):
    found = [f"{n}:{line}: {word!r}" for n, text in code.items() for line, word in words_of(text) if word in FAMILIES]
    found += [f"{n}:{line}: {word!r} is compared" for n, text in code.items() for line, word in comparisons(text)]
    found += [f"{n}:{line}: {word!r} is asked for" for n, text in code.items() for line, word in asked_for(text)]
    assert not found, "ask the record for what you want to know:\n" + "\n".join(found)


def test_no_module_outside_of_families_imports_one_familys_record(code):
    found = [f"{name}:{line}: {what}" for name, text in code.items() for line, what in records_imported(name, text)]
    assert not found, "ask FAMILIES for it:\n" + "\n".join(found)


def test_no_attribute_of_a_family_is_one_that_only_one_can_have():
    names = {name for name in dir(Family) if not name.startswith("_")} | {field.name for field in fields(Family)}
    words = {"xl", "sd", "sdxl", "refiner"} | set(FAMILIES)
    assert not [name for name in names if words & set(name.split("_")) or name in words]
    switches = [field.name for field in fields(Family) if field.type == "bool"]
    for name in switches:
        said = [family.id for family in FAMILIES.values() if getattr(family, name)]
        assert len(said) != 1, f"{name} is another name for {said[0]}"


def test_suffixes_stand_in_the_records_of_containers(code):
    assert {".safetensors", ".ckpt"} <= set(suffixes())
    found = [f"{name}:{line}: {word!r}" for name, text in code.items() for line, word in suffix_words(text)]
    assert not found, "ask checkpoints.formats (`suffixes`, `written_suffixes`, `is_model_name`):\n" + "\n".join(found)
    # A container is compared by what it can do, not by its id; what is written for old trainers' sake names its own.
    formats = {form.id for form in FORMATS.values()} - {"diffusers"}
    found = [(n, word) for n, text in code.items() for _, word in words_of(text) if word in formats - {"safetensors"}]
    assert found == [("checkpoints/demo/models.py", "ckpt")]


# -- the checks can fail -------------------------------------------------------------------------------------------------

WRONG = {
    'if family == "sd1":\n    pass': "id",
    'if plan.family.id in ("sd1", "sd2"):\n    pass': "id",
    'if record.id == "tomorrow":\n    pass': "compared",
    'ORDER = ["sd2", "sdxl"]': "id",
    'def f(family="sdxl"): ...': "id",
    'x = FAMILIES["sd1"]': "asked for",
    'x = family_of("sd1")': "asked for",
    "from ..checkpoints.families.sd1 import SD1": "imported",
    "from ..checkpoints.families import sdxl": "imported",
    "import unetscope.checkpoints.families.sd2": "imported",
    'SUFFIXES = (".safetensors", ".ckpt")': "suffix",
    'x = f"{name}.safetensors"': "suffix",
}
RIGHT = [
    '"""Files of sd1."""\nx = Option(help="sd1, sd2")',
    'x = family == other and family.id != "" and family in FAMILIES',
    "from ..checkpoints.families import FAMILIES\nfrom ..checkpoints.families.parts import unet",
    'x = "ImageReward.pt"',
]


def faults(text: str) -> set[str]:
    found = {
        "id": [word for _, word in words_of(text) if word in FAMILIES],
        "compared": list(comparisons(text)),
        "asked for": list(asked_for(text)),
        "imported": list(records_imported("merge/plan.py", text)),
        "suffix": list(suffix_words(text)),
    }
    return {kind for kind, hits in found.items() if hits}


@pytest.mark.parametrize(("text", "kind"), WRONG.items())
def test_each_check_finds_what_it_looks_for(text, kind):
    assert kind in faults(text)


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_passes(text):
    assert not faults(text)


# Where a file is put in place or written without `checkpoints.files.output`, and why.
WRITES_ITSELF = {
    "checkpoints/files/output.py": "the one that does",
    "checkpoints/files/folder.py": "folders are renamed",
    "checkpoints/files/positioned.py": "positioned writes into a file under construction",
    "checkpoints/files/locks.py": "opens what is to be locked",
    "checkpoints/files/partial.py": "makes files under construction",
    "checkpoints/files/resumable.py": "the journal of an output",
    "checkpoints/files/targets.py": "sees whether a folder takes files",
    "search/journal.py": "makes a journal, and puts a damaged one aside",
    "search/generators/tokenizer.py": "in a temporary folder",
    "diagrams/export.py": "a page for typst, in a temporary folder",
    "diagrams/graph.py": "traces, written by their maker",
    "dashboard/jobs.py": "a process's log",
    "dashboard/worker.py": "a process's log",
}  # fmt: skip


def writes(code: str) -> Iterator[tuple[int, str]]:
    """Line and name of every call that writes a file under its final name, or renames one."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        name, first = named(node.func), node.args[0] if node.args else None
        if name in ("write_text", "write_bytes"):
            yield node.lineno, name
        elif (
            name in ("replace", "rename", "link")
            and isinstance(node.func, ast.Attribute)
            and named(node.func.value) == "os"
        ):
            yield node.lineno, f"os.{name}"
        elif name in ("replace", "rename") and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
            if not node.keywords and named(node.func.value) != "dataclasses":  # of a path; text has two arguments
                yield node.lineno, name
        elif name in ("move", "copy", "copy2", "copyfile", "copytree") and named(node.func.value) == "shutil":
            yield node.lineno, f"shutil.{name}"
        elif name in ("to_csv", "to_json", "savefig") and first is not None and named(first) == "path":
            yield node.lineno, name
        elif name == "open":
            given = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
            modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if any(set(mode) & set("wax+") and set(mode) <= set("rwaxbt+") for mode in modes):
                yield node.lineno, name


@pytest.mark.parametrize("name", modules())
def test_files_are_put_in_place_by_one_module(name):
    found = list(writes((ROOT / name).read_text(encoding="utf-8")))
    assert not found or name in WRITES_ITSELF, (
        f"write with checkpoints.files.output: write_output or replace_file: {found}"
    )


WRONG_WRITES = [
    "os.replace(a, b)",
    "path.replace(target)",
    "path.rename(target)",
    "shutil.move(a, b)",
    "path.write_text(x)",
    "open(path, mode='w')",
    "open(path, 'ab')",
]
RIGHT_WRITES = [
    "text.replace('a', 'b')",
    "open(path)",
    "open(path, 'rb')",
    "replace(record, name=1)",
    "frame.rename(columns=x)",
]


def test_the_check_finds_what_writes():
    assert [code for code in WRONG_WRITES if not list(writes(code))] == []
    assert [code for code in RIGHT_WRITES if list(writes(code))] == []


def modules_imported(code: str) -> set[str]:
    """First names of the modules that code imports absolutely."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


LOCKING = {"fcntl", "msvcrt", "filelock", "portalocker"}


def test_locks_are_taken_in_one_module():
    found = [name for name in modules() if modules_imported((ROOT / name).read_text(encoding="utf-8")) & LOCKING]
    assert found == ["checkpoints/files/locks.py"]


# What programs tell apart; within one of them, by the error's code.
ERRORS = {
    "UnetscopeError": "checkpoints/errors.py",
    "CheckpointError": "checkpoints/errors.py",
    "OutputError": "checkpoints/errors.py",
    "RecipeError": "checkpoints/errors.py",
    "Cancelled": "checkpoints/errors.py",
    "SearchError": "search/errors.py",
}


def test_there_are_few_classes_of_errors():
    found = {}
    for name in modules():
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            bases = {named(base) for base in node.bases} if isinstance(node, ast.ClassDef) else set()
            if bases & ERRORS.keys() or (isinstance(node, ast.ClassDef) and node.name.endswith("Error")):
                found[node.name] = name
    assert found == ERRORS


def refusals(code: str) -> Iterator[int]:
    """Line of every loop that goes on after a PermissionError, as what another program holds on Windows raises."""
    for loop in ast.walk(ast.parse(code)):
        if isinstance(loop, ast.For | ast.While):
            for node in ast.walk(loop):
                if isinstance(node, ast.ExceptHandler) and node.type and "PermissionError" in ast.unparse(node.type):
                    yield loop.lineno


def test_what_another_program_holds_is_waited_for_in_one_place():
    found = [name for name in modules() if list(refusals((ROOT / name).read_text(encoding="utf-8")))]
    assert found == ["checkpoints/files/system.py"]


def test_what_writes_itself_does():
    assert [name for name in WRITES_ITSELF if not list(writes((ROOT / name).read_text(encoding="utf-8")))] == []
