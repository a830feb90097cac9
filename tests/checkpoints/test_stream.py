"""Pieces of tensors, and the pass over them."""

from __future__ import annotations

import threading
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.checkpoints.stream import PIECE, Cancelled, Pass, Span, default_threads, piece_length, spans


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 17))
def test_spans_cut_every_element_once_and_in_order(sizes, length):
    cut = list(spans(sizes, length))
    assert [(s.index, i) for s in cut for i in range(s.start, s.stop)] == [
        (index, i) for index, size in enumerate(sizes) for i in range(size)
    ]
    assert all(0 < s.elements <= length for s in cut)


@given(st.integers(1, 500), st.sampled_from([1, 2, 4, 8]))
def test_pieces_get_shorter_with_more_inputs_so_that_buffers_stay_bounded(inputs, itemsize):
    length = piece_length(inputs, itemsize)
    assert length & (length - 1) == 0
    assert length <= PIECE
    assert length * inputs * itemsize <= 48 << 20 or length == 1 << 12
    assert piece_length(inputs + 1, itemsize) <= length


PIECES = [Span(i, 0, i + 1) for i in range(100)]


@pytest.mark.parametrize("threads", [1, 2, 7, None])
def test_every_piece_is_worked_on_once_and_each_thread_has_its_own_worker(threads):
    seen, made, lock = [], [], threading.Lock()

    def worker():
        mine = threading.get_ident()
        made.append(mine)

        def work(piece):
            assert threading.get_ident() == mine
            with lock:
                seen.append(piece)

        return work

    Pass(threads).run(PIECES, worker)
    assert sorted(seen, key=lambda p: p.index) == PIECES
    assert len(made) == (threads or default_threads())


def test_one_thread_takes_the_pieces_in_order():
    seen = []
    Pass(1).run(PIECES, lambda: seen.append)
    assert seen == PIECES


def test_progress_comes_on_the_calling_thread_and_ends_with_the_total():
    calls, here = [], threading.get_ident()

    def progress(done, total, key):
        assert threading.get_ident() == here
        calls.append((done, total, key))

    total = sum(p.elements for p in PIECES)
    Pass(3, progress).run(PIECES, lambda: lambda piece: None, total=total, key=lambda p: f"t{p.index}")
    assert calls[-1][:2] == (total, total)
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    assert all(c[1] == total for c in calls)


@pytest.mark.parametrize("where", ["worker", "piece"])
def test_a_failure_on_a_thread_stops_the_others_and_reaches_the_caller(where):
    worked = []

    def worker():
        if where == "worker":
            raise OSError("no buffers")

        def work(piece):
            if piece.index == 5:
                raise OSError("bad disk")
            worked.append(piece)
            time.sleep(0.001)

        return work

    with pytest.raises(OSError, match="no buffers" if where == "worker" else "bad disk"):
        Pass(3).run(PIECES, worker)
    assert len(worked) < len(PIECES)


def test_a_progress_callback_that_fails_stops_the_pass():
    def progress(done, total, key):
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        Pass(2, progress).run(PIECES, lambda: lambda piece: time.sleep(0.01))
    assert set(threading.enumerate()) <= before


def test_setting_the_event_stops_it_between_pieces():
    cancel, worked = threading.Event(), []

    def work(piece):
        worked.append(piece)
        cancel.set()
        time.sleep(0.05)

    with pytest.raises(Cancelled):
        Pass(2, cancel=cancel).run(PIECES, lambda: work)
    assert len(worked) < len(PIECES)


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_threads_than_one_are_refused(threads):
    with pytest.raises(UnetscopeError, match=f"1.*{threads}"):
        Pass(threads)


def test_no_pieces_are_no_work():
    Pass(2, lambda *_: None).run([], lambda: None)


def test_ctrl_c_while_threads_are_begun_is_no_other_error(monkeypatch):
    start, begun = threading.Thread.start, []

    def interrupted(thread):
        if begun:
            raise KeyboardInterrupt
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Pass(3).run(spans([100], 1), lambda: lambda piece: None)
    begun[0].join(10)
    assert not begun[0].is_alive()
