"""Optuna by ask and tell: what is proposed, in which order, and how good it gets."""

from __future__ import annotations

import numpy as np
import pytest
from fake_search import DIMENSIONS, Quadratic

from unetscope.search.baselines import Baseline
from unetscope.search.errors import SearchError
from unetscope.search.optimiser import Optimiser
from unetscope.search.parameters import FreeParameter
from unetscope.search.proposals import start_points
from unetscope.search.records import TrialRecord
from unetscope.search.run_folder import RunFolder
from unetscope.search.storage import Workers
from unetscope.search.study_settings import OptimiserSettings

optuna = pytest.importorskip("optuna")
CUBE = [FreeParameter(f"x{i}") for i in range(DIMENSIONS)]


def optimiser(tmp_path, parameters, storage=None, own=True, worker="host-1", **settings):
    storage = storage or optuna.storages.InMemoryStorage()
    workers = Workers(RunFolder(tmp_path), worker)
    workers.enter()
    return Optimiser(
        storage, "study", parameters, OptimiserSettings(**settings), workers, higher_is_better=True, own=own
    )


def evaluate(chosen: Optimiser, score, count: int) -> list[float]:
    """So many trials; their scores."""
    found = []
    for _ in range(count):
        asked = chosen.ask()
        found.append(score(asked.point))
        chosen.tell(asked, TrialRecord(asked.number, "complete", asked.point, found[-1]), found[-1])
    return found


def best_true(tmp_path, name: str, seed: int) -> float:
    """The true value of the trial that looks best after 60 evaluations, baseline 0.5 included."""
    problem = Quadratic(seed)
    chosen = optimiser(tmp_path / name, CUBE, name=name, seed=seed)
    chosen.queue([Baseline("0.5", dict.fromkeys((p.name for p in CUBE), 0.5))], [], scaled=True)
    points = []
    evaluate(chosen, lambda point: points.append(point) or problem(point), 60)
    best = max(points, key=problem)
    return problem.true(np.array(list(best.values()))) / problem.true(np.full(DIMENSIONS, 0.5))


@pytest.mark.long
def test_a_gaussian_process_beats_random_search_in_27_dimensions(tmp_path):
    gp = np.mean([best_true(tmp_path / str(s), "gp", s) for s in range(2)])
    chance = np.mean([best_true(tmp_path / str(s), "random", s) for s in range(2)])
    # Of the loss of the 0.5 merge, what remains: measured about 0.3 against 0.9.
    assert gp < 0.7 * chance


@pytest.mark.parametrize("name", ["gp", "cmaes", "tpe", "qmc", "random"])
def test_every_optimiser_keeps_to_the_grid_and_the_ends(tmp_path, name):
    parameters = [FreeParameter("a", 0.2, 0.7, 0.1), FreeParameter("b", -1.0, 2.0), FreeParameter("c", 0, 1, 0.25)]
    chosen = optimiser(tmp_path, parameters, name=name, start=4)
    chosen.queue([], [], scaled=True)
    points = []
    evaluate(chosen, lambda point: points.append(point) or -(point["a"] ** 2) - point["b"] ** 2, 14)
    assert {p["a"] for p in points} <= {0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
    assert all(-1 <= p["b"] <= 2 for p in points) and {p["c"] for p in points} <= {0, 0.25, 0.5, 0.75, 1}
    assert len({p["b"] for p in points}) > 10


@pytest.mark.parametrize("name", ["gp", "tpe", "qmc", "random"])
def test_choices_are_proposed_by_name(tmp_path, name):
    chosen = optimiser(tmp_path, [FreeParameter("a"), FreeParameter("m", choices=("p", "q", "r"))], name=name, start=3)
    chosen.queue([], [], scaled=True)
    points = []
    evaluate(chosen, lambda point: points.append(point) or (point["m"] == "q") + point["a"], 12)
    assert {p["m"] for p in points} <= {"p", "q", "r"} and len({p["m"] for p in points}) > 1


def test_baselines_come_first_then_the_start_points(tmp_path):
    chosen = optimiser(tmp_path, CUBE, start=5)
    zeros, ones = dict.fromkeys((p.name for p in CUBE), 0.0), dict.fromkeys((p.name for p in CUBE), 1.0)
    chosen.queue([Baseline("all A", zeros), Baseline("all B", ones)], [], scaled=True)
    asked = [chosen.ask() for _ in range(7)]
    assert [a.baseline for a in asked[:3]] == ["all A", "all B", ""]
    assert asked[0].point == zeros and asked[1].point == ones
    assert [a.point for a in asked[2:]] == start_points(CUBE, OptimiserSettings(start=5))


def test_a_latin_hypercube_has_one_start_point_in_each_slice():
    points = start_points(CUBE, OptimiserSettings(start=8))
    for p in CUBE:
        assert sorted(int(point[p.name] * 8) for point in points) == list(range(8))


def test_the_same_seed_gives_the_same_proposals_and_a_resumed_run_does_not_repeat_them(tmp_path):
    def proposals(storage, count):
        chosen = optimiser(tmp_path, CUBE, storage, name="random", seed=3, start=0)
        points = []
        evaluate(chosen, lambda point: points.append(tuple(point.values())) or 0.0, count)
        return points

    first = proposals(one := optuna.storages.InMemoryStorage(), 4)
    assert proposals(optuna.storages.InMemoryStorage(), 4) == first
    assert not set(proposals(one, 4)) & set(first)


def test_workers_that_begin_at_the_same_moment_propose_different_points(tmp_path):
    storages = [optuna.storages.InMemoryStorage() for _ in range(3)]
    alive = [Workers(RunFolder(tmp_path), name) for name in ("host-1", "host-2", "host-3")]
    for workers in alive:
        workers.enter()
    points = set()
    for workers, storage in zip(alive, storages, strict=True):
        settings = OptimiserSettings(name="random")
        chosen = Optimiser(storage, "study", CUBE, settings, workers, higher_is_better=True, own=True)
        points.add(tuple(chosen.ask().point.values()))
    assert len(points) == 3


def test_workers_with_folders_of_their_own_propose_different_points(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    makers = [
        optimiser(tmp_path / name, CUBE, storage, own=False, worker=name, name="random")
        for name in ("h-1", "h-2", "h-3")
    ]
    assert len({tuple(one.ask().point.values()) for one in makers}) == 3


def test_another_search_of_the_same_name_in_a_shared_storage_is_refused(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    optimiser(tmp_path, CUBE, storage)
    with pytest.raises(SearchError, match="give this one another title"):
        optimiser(tmp_path, CUBE[:3], storage)


def test_a_trial_of_a_dead_worker_is_asked_again(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    dead = optimiser(tmp_path, CUBE, storage, worker="host-1")
    lost = dead.ask()
    dead.workers.leave()
    heir = optimiser(tmp_path, CUBE, storage, worker="host-2")
    (record,) = heir.sync()
    assert record.number == lost.number and record.state == "failed" and record.score is None
    assert heir.ask().point == lost.point
    assert heir.study.trials[lost.number].state == optuna.trial.TrialState.FAIL


def test_a_trial_of_a_living_worker_is_left_alone(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    busy = optimiser(tmp_path, CUBE, storage, worker="host-1")
    busy.ask()
    assert optimiser(tmp_path, CUBE, storage, worker="host-2").sync() == []


def test_a_worker_that_dies_between_writing_and_telling_loses_nothing(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    dead = optimiser(tmp_path, CUBE, storage, worker="host-1")
    asked = dead.ask()
    dead.tell(asked, TrialRecord(asked.number, "complete", asked.point, 0.5), 0.5, hold=True)
    dead.workers.leave()
    heir = optimiser(tmp_path, CUBE, storage, worker="host-2")
    assert [r.score for r in heir.sync()] == [0.5]
    assert heir.study.best_value == 0.5


def test_machines_that_share_a_storage_but_no_folder_go_by_the_heartbeat(tmp_path, monkeypatch):
    storage = optuna.storages.InMemoryStorage()
    far = optimiser(tmp_path / "far", CUBE, storage, own=False, worker="far-1")
    far.ask()
    near = optimiser(tmp_path / "near", CUBE, storage, own=False, worker="near-1")
    assert near.sync() == []
    monkeypatch.setattr("unetscope.search.storage.SILENCE_SECONDS", -1.0)
    assert [r.state for r in near.sync()] == ["failed"]
