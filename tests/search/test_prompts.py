"""The web UI's prompts: emphasis, chunks and CLIP's tokens."""

from __future__ import annotations

import math

import pytest

from unetscope.search.errors import SearchError
from unetscope.search.generators.conditioning import chunks
from unetscope.search.generators.prompts import check_prompt, weighted
from unetscope.search.generators.tokenizer import SIZE, load_tokenizer, vocabulary, write_tokenizer

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (cat) x", [("a ", 1), ("cat", 1.1), (" x", 1)]),
        ("((a))", [("a", 1.21)]),
        ("[a]", [("a", 1 / 1.1)]),
        ("(a (b:1.5) c:0.5)", [("a ", 0.5), ("b", 0.75), (" c", 0.5)]),
        ("\\(a\\) :) (x: 1.2 )", [("(a) :) ", 1), ("x", 1.2)]),
        ("(a, b", [("a, b", 1.1)]),
        ("a) b]", [("a) b]", 1)]),
        ("a BREAK b BREAKFAST", [("a ", 1), (None, 1), (" b BREAKFAST", 1)]),
        ("3:2 ratio, Bob: (a:b)", [("3:2 ratio, Bob: ", 1), ("a:b", 1.1)]),
        ("", [("", 1)]),
    ],
)
def test_emphasis_is_read_as_the_web_ui_documents_it(prompt, expected):
    found = weighted(prompt)
    assert [w.text for w in found] == [text for text, _ in expected]
    assert all(math.isclose(w.weight, weight) for w, (_, weight) in zip(found, expected, strict=True))


@pytest.mark.parametrize("prompt", ["a [cat:dog:0.5] b", "[cat|dog]", "a AND b", "x <lora:ink:0.8>", "[cat:10]"])
def test_what_only_the_web_ui_does_with_a_prompt_is_refused(prompt):
    with pytest.raises(SearchError, match=r"castle: the prompt"):
        check_prompt(prompt, "castle")
    check_prompt("a [cat], \\[a|b\\], (x:1.2), sand AND-gate".replace("AND", "and"), "castle")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer"), "clip_l"))


def test_tokens_have_the_numbers_that_clip_gave_them(tokenizer):
    words = vocabulary()
    assert len(words) == len(tokenizer) == SIZE == 49408
    # From the published vocab.json of openai/clip-vit-large-patch14.
    known = {"!": 0, "a</w>": 320, "of</w>": 539, "photo</w>": 1125, "cat</w>": 2368, "<|startoftext|>": 49406}
    assert {word: words[word] for word in known} == known
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("A PHOTO  of a cat").input_ids == tokenizer("a photo of a cat").input_ids


@pytest.mark.parametrize(("encoder", "pad"), [("clip_l", 49407), ("clip_h", 0), ("clip_g", 0)])
def test_each_encoder_fills_up_as_it_was_trained(encoder, pad, tmp_path):
    (row,) = chunks("a cat", load_tokenizer(write_tokenizer(tmp_path, encoder)))
    assert row.tokens == (49406, 320, 2368, 49407, *[pad] * 73)


def test_a_tokenizer_without_its_vocabulary_is_refused(tmp_path):
    write_tokenizer(tmp_path, "clip_l")
    (tmp_path / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(SearchError, match=r"CLIP's has 49,408"):
        load_tokenizer(tmp_path)


def test_long_prompts_are_cut_into_chunks_with_their_weights(tokenizer):
    rows = chunks("cat " * 70 + "(dog:1.5) " * 10, tokenizer)
    assert [len(row.tokens) for row in rows] == [77, 77]
    assert rows[0].tokens[70:77] == (2368, 1929, 1929, 1929, 1929, 1929, 49407)
    assert rows[0].weights[70:77] == (1, 1.5, 1.5, 1.5, 1.5, 1.5, 1)
    assert rows[1].tokens[:7] == (49406, 1929, 1929, 1929, 1929, 1929, 49407)
    first, second = chunks("a BREAK b", tokenizer)
    assert first.tokens[:3] == (49406, 320, 49407) and second.tokens[2] == 49407
    (empty,) = chunks("", tokenizer)
    assert empty.tokens[:2] == (49406, 49407)
