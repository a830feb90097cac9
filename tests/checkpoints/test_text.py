"""How counts, sizes, times, numbers, lists and names are said."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetscope.checkpoints.text import (
    amount,
    counted,
    duration,
    file_size,
    free_name,
    listed,
    percent,
    printable,
    shown,
    some,
)


def test_one_is_singular_and_everything_else_is_not():
    assert [counted(n, "tensor") for n in (0, 1, 2, 2048)] == ["0 tensors", "1 tensor", "2 tensors", "2,048 tensors"]
    assert [counted(n, "is", "are") for n in (1, 2)] == ["1 is", "2 are"]


@pytest.mark.parametrize(
    ("write", "values", "texts"),
    [
        (file_size, (0, 999, 1000, 5000, 12_345_678, 2.13e9, 1.2e13), "0 B|999 B|1 kB|5 kB|12.35 MB|2.13 GB|12,000.00 GB"),
        (amount, (0, 640, 12_345, 999_600, 859_520_964, 2_567_463_684), "0|640|12.3 k|1.00 M|859.5 M|2.57 B"),
        (duration, (0, 4.24, 9.99, 42, 59.6, 125, 3599.7, 3780, 90_000),
         "0.0 s|4.2 s|10 s|42 s|1 min 0 s|2 min 5 s|1 h 0 min|1 h 3 min|25 h 0 min"),
        (percent, (0, 0.09, 0.00012, 1.5, math.nan), "0 %|9.0 %|0.012 %|150 %|undefined"),
    ],
)  # fmt: skip
def test_quantities_have_one_form_and_go_over_to_the_next_unit_where_they_round_to_it(write, values, texts):
    assert "|".join(map(write, values)) == texts


@given(st.integers(0, 10**13))
def test_a_size_is_near_what_it_is_of(count):
    text, unit = file_size(count).split()
    told = float(text.replace(",", "")) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert told == pytest.approx(count, rel=0.006)


def test_lists_say_that_there_is_more_or_how_much():
    names = list("abcdef")
    assert [some(names), some(names, 6), some([])] == ["a, b, c, ...", "a, b, c, d, e, f", ""]
    assert [listed(names, 2), listed(names, 6), listed(names, 5, "tensor")] == [
        "a, b and 4 more", "a, b, c, d, e, f", "a, b, c, d, e and 1 more tensor",
    ]  # fmt: skip


def test_the_first_free_number_is_taken():
    taken = {"base", "base.2", "Base-2"}
    assert free_name("base", taken.__contains__) == "base.3"
    assert free_name("other", taken.__contains__) == "other"
    assert free_name("Base", lambda name: name == "Base" or name in taken, "{}-{}") == "Base-3"


def test_values_and_names_are_shown_on_one_screen_whatever_they_hold():
    assert shown("x" * 10_000).startswith("'xxx") and len(shown("x" * 10_000)) < 90
    assert shown(10**10_000).startswith("a huge int") and shown([1.5, None]) == "[1.5, None]"
    assert printable("a\x1b[31m\nb\udce8") == "a\N{REPLACEMENT CHARACTER}[31m\nb\\udce8"
