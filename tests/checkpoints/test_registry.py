"""Records are found in modules and entry points, whoever asks first; a list that cannot be read leaves nothing half-registered."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from importlib import import_module

import pytest
from fake_distribution import install

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.checkpoints.on_demand import OnDemand
from unetscope.checkpoints.registry import Registry

GROUP = "unetscope.test_animals"
ANIMAL = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Animal:
    id: str
    legs: int = 4
"""


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """Makes a registry of the animals in a package of the test's own: `zoo({module: code}, {entry point: value})`."""

    def made(modules: dict[str, str], points: dict[str, str] | None = None, others: dict[str, str] | None = None):
        package = tmp_path / "zoo_animals"
        package.mkdir()
        (package / "__init__.py").write_text(ANIMAL, encoding="utf-8")
        for name, code in modules.items():
            (package / f"{name}.py").write_text(f"from zoo_animals import Animal\n{code}\n", encoding="utf-8")
        others = {name: f"from zoo_animals import Animal\n{code}\n" for name, code in (others or {}).items()}
        monkeypatch.syspath_prepend(install(tmp_path / "site", "zoo", others, {GROUP: points or {}}))
        monkeypatch.syspath_prepend(tmp_path)
        registry = Registry("animal", import_module("zoo_animals").Animal, "zoo_animals", GROUP)
        registry.reread()
        return registry

    yield made
    for name in [name for name in sys.modules if name.startswith(("zoo_", "wild_"))]:
        del sys.modules[name]


def test_modules_come_first_and_then_other_peoples_records(zoo):
    animals = zoo(
        {"cat": "CAT = Animal('cat')", "_hidden": "DOG = Animal('dog')"},
        {"one": "wild_birds:CROW", "more": "wild_birds:MORE", "all": "wild_fish"},
        {
            "wild_birds": "CROW = Animal('crow', 2)\nMORE = [CROW, Animal('owl', 2)]",
            "wild_fish": "EEL = Animal('eel', 0)",
        },
    )
    assert sorted(animals) == ["cat", "crow", "eel", "owl"] and next(iter(animals)) == "cat"
    assert animals["owl"].legs == 2 and "wild_birds:MORE" in animals.home("owl")


def test_who_asks_while_another_thread_reads_waits_for_all_of_it(zoo):
    gate = sys.modules["zoo_gate"] = type(sys)("zoo_gate")
    gate.begun, gate.go = threading.Event(), threading.Event()
    animals = zoo(
        {
            "ant": "ANT = Animal('ant', 6)",
            "bee": "import zoo_gate as g\ng.begun.set()\ng.go.wait(600)\nBEE = Animal('bee', 6)",
        }
    )
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(list(animals))) for _ in range(2)]
    threads[0].start()
    assert gate.begun.wait(600)
    threads[1].start()
    threads[1].join(0.3)
    gate.go.set()
    for thread in threads:
        thread.join(600)
    assert found == [["ant", "bee"]] * 2


def test_a_list_that_cannot_be_read_says_why_each_time_and_is_whole_once_it_is_mended(zoo):
    animals = zoo(
        {"cat": "CAT = Animal('cat')"},
        {"mine": "wild_cat:CATS"},
        {"wild_cat": "CATS = [Animal('puma'), Animal('cat', 3)]"},
    )
    for _ in range(2):
        with pytest.raises(UnetscopeError, match=r"unetscope\.test_animals") as raised:
            list(animals)
        assert "'cat'" in str(raised.value)
    sys.modules["wild_cat"].CATS = [replace(animal, id="lynx") for animal in sys.modules["wild_cat"].CATS[1:]]
    assert list(animals) == ["cat", "lynx"] and animals["cat"].legs == 4


def test_what_is_imported_on_demand_is_refused_under_a_taken_name_and_found_under_its_own(zoo):
    zoo(
        {},
        {"cat": "wild_cat:CAT", "lynx": "wild_cat:CAT", "gone": "wild_absent:X"},
        {"wild_cat": "CAT = Animal('lynx')"},
    )
    taken = OnDemand("animal", "zoo_animals", GROUP, {"cat": "cat:CAT"})
    for _ in range(2):
        with pytest.raises(UnetscopeError, match=r"unetscope\.test_animals"):
            list(taken)
    free = OnDemand("animal", "zoo_animals", GROUP, {"dog": "dog:DOG"})
    assert sorted(free) == ["cat", "dog", "gone", "lynx"] and "wild_cat" not in sys.modules
    assert free.imported("lynx").id == "lynx"
    for name in ("gone", "dog"):
        with pytest.raises(UnetscopeError, match=rf"{name}.*ModuleNotFoundError"):
            free.imported(name)
    with pytest.raises(UnetscopeError, match="'lynx'"):
        free.imported("lynxx")
