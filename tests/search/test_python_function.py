"""Functions of users as generators."""

from __future__ import annotations

import pytest
from tiny import load

from unetscope.merge import Recipe, merge
from unetscope.search.errors import NO_IMAGE, SearchError
from unetscope.search.generators import make_generator
from unetscope.search.image_requests import ImageRequest

KEY = "model.diffusion_model.middle_block.0.in_layers.2.weight"
CODE = """
from dataclasses import dataclass
from PIL import Image

KEY = "model.diffusion_model.middle_block.0.in_layers.2.weight"
seen = []

@dataclass
class Paint:
    grey: int

def paint(model, requests):
    seen.append(model)
    value = Paint(int(abs(float(model[KEY].flatten()[0])) * 1000) % 256)
    return [Image.new("L", (8, 8), value.grey + request.seed) for request in requests]

def sized(model, requests):
    seen.append(model.read_bytes())
    return [Image.new("RGB", (8, 8))] * len(requests)

def titled(model, requests):
    return [Image.new("RGB", (8, 8), model.title)] * len(requests)

def few(model, requests):
    return [Image.new("RGB", (8, 8))]

def numbers(model, requests):
    return [1.0 for _ in requests]

def fails(model, requests):
    raise ValueError("out of paint")

def one(model):
    return []
"""
REQUESTS = [ImageRequest("a-1", "a", 1), ImageRequest("a-2", "a", 2)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


@pytest.fixture
def recipe(make_checkpoint):
    models = {f"m{i}": str(make_checkpoint(f"m{i}", seed=i + 1)[0]) for i in range(2)}

    def made(alpha) -> Recipe:
        step = {"method": "weighted_sum", "inputs": list(models), "alpha": alpha}
        return Recipe.parse({"models": models, "steps": {"out": step}, "title": "red"})

    return made


def seen_by(generator) -> list:
    return generator._function.__globals__["seen"]


def test_a_function_gets_the_merged_weights_and_every_shot(folder, recipe):
    generator = make_generator({"kind": "python", "function": "mine.py:paint"}, folder)
    generator.check(recipe(0.5), REQUESTS)
    for alpha in (0.2, 0.7):
        generator.prepare(recipe(alpha))
        images = generator.images(REQUESTS)
        path = folder / f"{alpha}.safetensors"
        merge(recipe(alpha), path)
        saved = load(path)
        grey = int(abs(float(saved[KEY].flatten()[0])) * 1000) % 256
        assert [image.getpixel((0, 0)) for image in images] == [(grey + seed,) * 3 for seed in (1, 2)]
        assert all((seen_by(generator)[-1][key] == tensor).all() for key, tensor in saved.items())
    generator.close()


def test_a_function_may_take_the_file_or_the_recipe(folder, recipe):
    generator = make_generator({"kind": "python", "function": "mine.py:sized", "takes": "file"}, folder)
    generator.prepare(recipe(0.3))
    generator.images(REQUESTS)
    place = generator._model
    merge(recipe(0.3), folder / "out.safetensors")
    assert seen_by(generator)[0][-10_000:] == (folder / "out.safetensors").read_bytes()[-10_000:]
    generator.close()
    assert not place.exists()
    generator = make_generator({"kind": "python", "function": "mine.py:titled", "takes": "recipe"}, folder)
    generator.prepare(recipe(0.3))
    assert generator.images(REQUESTS)[1].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        ("few", "", r"returned 1 image for 2 requests"),
        ("numbers", "", r"returned float in its list; images are PIL"),
        ("fails", NO_IMAGE, r"failed with ValueError: out of paint \(mine\.py, line 31\)"),
    ],
)
def test_what_a_function_does_wrong_is_said(function, code, said, folder, recipe):
    generator = make_generator({"kind": "python", "function": f"mine.py:{function}", "takes": "recipe"}, folder)
    generator.prepare(recipe(0.3))
    with pytest.raises(SearchError, match=said) as raised:
        generator.images(REQUESTS)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("mine.py", "write module:function or file.py:function"),
        ("other.py:paint", r"there is no file .*other\.py"),
        ("mine.py:pain", r"has no function 'pain'.*paint"),
        ("mine.py:one", "must take two arguments"),
        ("no_such_module:f", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_before_the_search(function, said, folder, recipe):
    with pytest.raises(SearchError, match=said):
        make_generator({"kind": "python", "function": function}, folder).check(recipe(0.5), REQUESTS)


def test_a_file_that_fails_on_import_is_named_with_its_line(folder, recipe):
    (folder / "broken.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(SearchError, match=r"ZeroDivisionError: division by zero \(broken\.py, line 2\)"):
        make_generator({"kind": "python", "function": "broken.py:f"}, folder).check(recipe(0.5), REQUESTS)
