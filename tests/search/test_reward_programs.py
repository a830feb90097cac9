"""Rewards that ask somebody else: a program, a person; and plain features."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import convolve

from unetscope.search.errors import SearchError
from unetscope.search.rewards import make_reward

IMAGES = [Image.new("RGB", (8, 6), (level, 0, 0)) for level in (10, 20, 30)]
PROMPTS = ["one", "twø", "three"]


# -- a program --------------------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
from PIL import Image
asked = json.load(sys.stdin)
reds = [Image.open(path).getpixel((0, 0))[0] + len(prompt) for path, prompt in zip(asked["images"], asked["prompts"])]
print(json.dumps({"scores": reds}) if sys.argv[1] == "json" else "\\n".join(map(str, reds)))
print("a word on the way", file=sys.stderr)
"""


@pytest.mark.parametrize("form", ["json", "lines"])
def test_a_program_reads_paths_and_prompts_and_prints_scores(tmp_path, form):
    (tmp_path / "score.py").write_text(PROGRAM)
    reward = make_reward({"kind": "command", "command": [sys.executable, "score.py", form]}, tmp_path)
    reward.check()
    assert reward.score(IMAGES, PROMPTS) == [13, 23, 35]


def test_a_program_that_fails_hangs_or_does_not_exist_gets_a_sentence(tmp_path):
    def run(*words, **more):
        reward = make_reward({"kind": "command", "command": list(words), **more}, tmp_path)
        reward.check()
        return reward.score(IMAGES, PROMPTS)

    for words, more, said in [
        (("no-such-program",), {}, "there is no program 'no-such-program'"),
        ((sys.executable, "-c", "raise SystemExit('bad day')"), {}, "ended with code 1: bad day"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), {"timeout": 0.5}, "no scores after 0.5 s"),
        ((sys.executable, "-c", "print('hello')"), {}, "said 'hello'; expected"),
        ((sys.executable, "-c", "print([1, 2])"), {}, "gave 2 scores for 3 images"),
        ((sys.executable, "-c", 'print(\'{"scores": ["a"]}\')'), {}, "expected"),
    ]:
        with pytest.raises(SearchError) as raised:
            run(*words, **more)
        assert said in str(raised.value)


def test_null_is_no_score(tmp_path):
    reward = make_reward({"kind": "command", "command": [sys.executable, "-c", "print('[1, null, 3]')"]}, tmp_path)
    scores = reward.score(IMAGES, PROMPTS)
    assert scores[::2] == [1, 3] and math.isnan(scores[1])


# -- a person ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def answers(monkeypatch):
    said = []

    def ask(question):
        if not said:
            raise EOFError
        return said.pop(0)

    monkeypatch.setattr("builtins.input", ask)
    return said


def test_a_person_is_asked_with_the_path_of_the_image_until_the_answer_is_a_number(tmp_path, answers, capsys):
    answers += ["7", "great", "12", "3,5", "-"]
    scores = make_reward("manual", tmp_path).score(IMAGES, PROMPTS)
    assert scores[:2] == [7, 3.5] and math.isnan(scores[2])
    shown = capsys.readouterr().out
    paths = [line.partition(": ")[2] for line in shown.splitlines() if line.startswith("image ")]
    assert [Image.open(path).getpixel((0, 0))[0] for path in paths] == [10, 20, 30]
    assert "prompt: twø" in shown
    assert "'great' is not a number from 0 to 10" in shown


def test_nothing_is_asked_twice_not_even_by_a_search_that_was_killed_while_it_wrote(tmp_path, answers):
    answers += ["1", "2", "-"]
    make_reward("manual", tmp_path).score(IMAGES, PROMPTS)
    with open(tmp_path / "manual-scores" / "answers.jsonl", "a") as file:
        file.write('{"image": "half a li')
    again = make_reward("manual", tmp_path).score([*IMAGES[:2], IMAGES[0]], [*PROMPTS[:2], PROMPTS[0]])
    assert again == [1, 2, 1]


def test_another_prompt_makes_it_another_question(tmp_path, answers):
    answers += ["1", "2"]
    assert make_reward("manual", tmp_path).score([IMAGES[0], IMAGES[0]], ["a", "b"]) == [1, 2]


def test_without_a_terminal_there_is_nobody_to_ask(tmp_path, answers):
    with pytest.raises(SearchError, match="no terminal to ask in"):
        make_reward("manual", tmp_path).score(IMAGES, PROMPTS)


# -- plain features -----------------------------------------------------------------------------------------------------


def test_features_are_the_published_formulas(tmp_path):
    rng = np.random.default_rng(4)
    rgb = rng.integers(0, 256, (12, 17, 3)).astype(np.uint8)
    plain = rgb.astype(float)
    luma = 0.299 * plain[..., 0] + 0.587 * plain[..., 1] + 0.114 * plain[..., 2]
    inside = (slice(1, -1), slice(1, -1))
    laplacian = convolve(luma, [[0, 1, 0], [1, -4, 1], [0, 1, 0]])[inside]
    mask = convolve(luma, [[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[inside]
    rg, yb = plain[..., 0] - plain[..., 1], plain[..., :2].mean(-1) - plain[..., 2]
    expected = {
        "sharpness": math.log10(1 + laplacian.var()) / 4,
        "exposure": 1 - 2 * abs(luma.mean() / 255 - 0.5),
        "colourfulness": (math.sqrt(rg.var() + yb.var()) + 0.3 * math.hypot(rg.mean(), yb.mean())) / 100,
        # Immerkaer: sigma = sqrt(pi/2) / (6 (W-2) (H-2)) * sum |mask|
        "noise": math.sqrt(math.pi / 2) / (6 * 15 * 10) * np.abs(mask).sum() / 25,
    }
    image = Image.fromarray(rgb)
    for name, value in expected.items():
        reward = make_reward({"kind": "features", "weights": {name: 1}}, tmp_path)
        assert reward.score([image], [""])[0] == pytest.approx(value, rel=1e-9)
    whole = make_reward("features", tmp_path)
    assert whole.score([image], [""])[0] == pytest.approx(sum(expected.values()) - 2 * expected["noise"])
    assert not whole.is_preference


def test_a_tiny_image_has_features_too(tmp_path):
    assert math.isfinite(make_reward("features", tmp_path).score([Image.new("RGB", (2, 1))], [""])[0])
