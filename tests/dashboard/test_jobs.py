"""Jobs are found on disk by whoever looks, one runs at a time, and each ends in a way that can be told."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from tiny import leftovers, load, raw

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.checkpoints.stream import Cancelled
from unetscope.dashboard import jobs, page, worker
from unetscope.dashboard.launch import launch
from unetscope.dashboard.measuring import STATISTICS
from unetscope.dashboard.own_methods import METHODS_VARIABLE
from unetscope.dashboard.results import kept, key_of
from unetscope.dashboard.scanning import SCAN
from unetscope.merge import Recipe, merge

# Seconds until something is taken for hung.
PATIENCE = 600.0


def wait_for(own: str) -> jobs.Job:
    deadline = time.monotonic() + PATIENCE
    while not jobs.get(own).ended:
        assert time.monotonic() < deadline, jobs.get(own)
        time.sleep(0.05)
    return jobs.get(own)


@pytest.fixture
def task(monkeypatch, no_workers):
    """Lets a test say what jobs of the kind `scan` do; `worker.work` runs them in this process."""
    scan = page.task_named("scan")

    def set_to(function) -> None:
        def found(kind):
            return replace(scan, run=function) if kind == "scan" else page.task_named(kind)

        monkeypatch.setattr(jobs, "task_named", found)

    return set_to


def test_a_merge_runs_in_another_process_and_gives_the_engines_bytes(models, tmp_path):
    recipe = {
        "models": {"a": str(models / "base.safetensors"), "b": str(models / "tuned.safetensors")},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.3}},
    }
    job = jobs.submit(
        "merge", "Merge x", {"recipe": recipe, "output": str(models / "x.safetensors"), "overwrite": False}
    )
    job = wait_for(job.id)
    assert (job.status, job.error) == ("done", "")
    assert job.share == 1 and job.done == job.total >= job.result["bytes_written"]
    merge(Recipe.parse(recipe), tmp_path / "same.safetensors")
    made, same = load(models / "x.safetensors"), load(tmp_path / "same.safetensors")
    assert {k: raw(t) for k, t in made.items()} == {k: raw(t) for k, t in same.items()}
    again = wait_for(jobs.submit("merge", "Again", job.arguments).id)
    assert again.status == "failed" and "exists already" in again.error


def test_a_merge_by_a_method_of_the_users_own_runs_where_the_app_was_started_with_its_file(
    models, tmp_path, monkeypatch
):
    file = tmp_path / "mine.py"
    file.write_text(
        "from unetscope.merge import linear\n\n@linear\ndef own_mix(a, b):\n    'a / 4 + 3 b / 4.'\n    return 0.25, 0.75\n",
        encoding="utf-8",
    )
    named = {"a": str(models / "base.safetensors"), "b": str(models / "tuned.safetensors")}
    recipe = {"models": named, "steps": {"mix": {"method": "own_mix", "inputs": ["a", "b"]}}, "methods": [str(file)]}
    arguments = {"recipe": recipe, "output": str(models / "own.safetensors"), "overwrite": False}
    refused = wait_for(jobs.submit("merge", "Merge own", arguments).id)
    assert refused.status == "failed" and "--methods mine.py" in refused.error
    assert not (models / "own.safetensors").exists()

    for process in jobs._children:  # one that still looks for more would take the next job without the methods
        process.wait(PATIENCE)
    environments = []
    monkeypatch.setattr(subprocess, "call", lambda words, env: environments.append(env) or 0)
    assert launch(methods=[file]) == 0
    monkeypatch.setenv(METHODS_VARIABLE, environments[0][METHODS_VARIABLE])
    assert wait_for(jobs.submit("merge", "Merge own", arguments).id).status == "done"
    weights = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.75}
    merge(Recipe.parse({"models": named, "steps": {"mix": weights}}), tmp_path / "same.safetensors")
    made, same = load(models / "own.safetensors"), load(tmp_path / "same.safetensors")
    assert {k: raw(t) for k, t in made.items()} == {k: raw(t) for k, t in same.items()}


def test_jobs_run_in_order_one_at_a_time(task):
    order, running = [], []

    def run(arguments, progress, cancel):
        running.append(1)
        assert len(running) == 1
        order.append(arguments["n"])
        running.pop()
        return {"n": arguments["n"]}

    task(run)
    made = [jobs.submit("scan", f"job {n}", {"n": n}) for n in range(4)]
    assert [job.status for job in jobs.listed()] == ["queued"] * 4
    threads = [threading.Thread(target=worker.work, args=("background",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3]
    assert [jobs.get(job.id).result for job in made] == [{"n": n} for n in range(4)]
    assert [job.title for job in jobs.listed()] == ["job 3", "job 2", "job 1", "job 0"]


def test_lanes_do_not_wait_for_each_other(task):
    task(lambda arguments, progress, cancel: {})
    scan = jobs.submit("scan", "scan", {})
    other = jobs.submit("gram", "gram", {"files": []})
    worker.work("background")
    assert (jobs.get(scan.id).status, jobs.get(other.id).status) == ("done", "queued")


def test_progress_is_on_disk_with_rate_and_time_left(task):
    seen = []

    def run(arguments, progress, cancel):
        progress(0, 1000, "first")
        time.sleep(0.5)
        progress(400, 1000, "second")
        seen.append(jobs.listed()[0])
        return {}

    task(run)
    jobs.submit("scan", "scan", {})
    worker.work("background")
    (job,) = seen
    assert (job.status, job.done, job.total, job.doing, job.share) == ("running", 400, 1000, "second", 0.4)
    assert job.left == pytest.approx(600 / job.rate)


def test_a_running_job_stops_when_asked_and_a_waiting_one_never_starts(task):
    started = threading.Event()

    def run(arguments, progress, cancel):
        started.set()
        assert cancel.wait(PATIENCE)
        raise Cancelled("cancelled")

    task(run)
    first, second = jobs.submit("scan", "first", {"n": 1}), jobs.submit("scan", "second", {"n": 2})
    thread = threading.Thread(target=worker.work, args=("background",))
    thread.start()
    assert started.wait(PATIENCE)
    jobs.cancel(second.id)
    assert jobs.get(second.id).status == "cancelled"
    jobs.cancel(first.id)
    assert jobs.get(first.id).stopping or jobs.get(first.id).ended
    thread.join(PATIENCE)
    assert jobs.get(first.id).status == jobs.get(second.id).status == "cancelled"


def test_failures_are_sentences_and_faults_of_the_program_keep_their_traceback(task):
    def mistake(arguments, progress, cancel):
        raise UnetscopeError("x.safetensors: is not a checkpoint; choose another")

    def fault(arguments, progress, cancel):
        raise ZeroDivisionError("oops")

    task(mistake)
    first = jobs.submit("scan", "first", {})
    worker.work("background")
    task(fault)
    second = jobs.submit("scan", "second", {})
    worker.work("background")
    assert jobs.get(first.id).error == "x.safetensors: is not a checkpoint; choose another"
    assert "ZeroDivisionError: oops" in jobs.get(second.id).error
    assert "Traceback" in (jobs.get(second.id).folder / "log.txt").read_text()


def test_a_job_whose_process_was_killed_is_marked_and_the_next_one_runs(task, monkeypatch):
    job = jobs.submit("scan", "dies", {})
    waits = jobs.submit("scan", "waits", {"n": 2})
    code = (
        "import time\n"
        "from unetscope.dashboard import jobs, worker\n"
        f"lock = jobs.lane_lock('background'); assert lock.acquire()\n"
        f"jobs.record_state(jobs.get({job.id!r}).folder, status='running', started=time.time())\n"
        "print('ready', flush=True); time.sleep(3600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    jobs.tend()
    assert jobs.get(job.id).status == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    started = []
    monkeypatch.setattr(jobs, "start_worker", lambda lane, force=False: started.append(lane))
    jobs.tend()
    assert jobs.get(job.id).status == "failed" and jobs.get(job.id).error == jobs.DIED
    assert started == ["background"]
    task(lambda arguments, progress, cancel: {})
    worker.work("background")
    assert jobs.get(waits.id).status == "done"


@pytest.mark.long
def test_a_worker_that_is_told_to_end_leaves_no_partial_file_and_the_rest_of_the_queue(models, no_workers):
    recipe = {
        "models": {"a": str(models / "base.safetensors"), "b": str(models / "tuned.safetensors")},
        "steps": {"mix 0": {"method": "slerp", "inputs": ["a", "b"]}}
        | {f"mix {n}": {"method": "slerp", "inputs": [f"mix {n - 1}", "b"]} for n in range(1, 60)},
        "result": "mix 59",
    }
    wanted = [{"recipe": recipe, "output": str(models / f"{name}.safetensors")} for name in "xy"]
    first, second = (jobs.submit("merge", "Merge", arguments) for arguments in wanted)
    process = subprocess.Popen([sys.executable, "-m", "unetscope.dashboard.worker", "merge"])
    deadline = time.monotonic() + PATIENCE
    while not leftovers(models) and not jobs.get(first.id).ended and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(PATIENCE) == 0
    if jobs.get(first.id).status != "done":  # it was through already
        assert jobs.get(first.id).status == "failed" and "told to end" in jobs.get(first.id).error
    assert jobs.get(second.id).status == "queued" and leftovers(models) == []


def test_a_worker_starts_without_streamlit_and_finds_its_tasks(models, no_workers):
    recipe = {"models": {"a": str(models / "base.safetensors")}, "steps": {"x": {"method": "copy", "inputs": ["a"]}}}
    job = jobs.submit("merge", "Merge", {"recipe": recipe, "output": str(models / "x.safetensors")})
    code = "import sys\nfrom unetscope.dashboard import worker\nworker.work('merge')\nprint('streamlit' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (said, jobs.get(job.id).status) == ("False\n", "done")


def test_a_record_names_no_module_to_be_imported_and_those_that_did_are_still_read(no_workers):
    job = jobs.submit("scan", "Scan", {"files": []})
    record = json.loads((job.folder / "job.json").read_text())
    for module in ("unetscope.dashboard.scanning", "antigravity", "unetscope.dashboard..scanning", None, 3):
        (job.folder / "job.json").write_text(json.dumps(record | {"module": module, "identity": "a|b"}))
        assert jobs.get(job.id).task is SCAN
    assert "antigravity" not in sys.modules
    (job.folder / "job.json").write_text(json.dumps(record | {"kind": ["scan"]}))
    assert jobs.listed() == []


def test_the_same_work_is_not_queued_twice(models, no_workers):
    asked = {"files": [str(models / "base.safetensors"), str(models / "tuned.safetensors")]}
    for kind in ("gram", "scan"):
        first = jobs.submit(kind, "measure", asked)
        assert jobs.submit(kind, "measure", asked).id == first.id
        assert jobs.submit(kind, "measure", {"files": asked["files"][:1]}).id != first.id
        jobs.cancel(first.id)
        assert jobs.submit(kind, "measure", asked).id != first.id


def test_what_was_measured_is_found_under_its_files_until_one_changes(models, no_workers):
    file = models / "base.safetensors"
    arguments = {"file": str(file)}
    job = jobs.submit("statistics", "measure", arguments)
    worker.work("analysis")
    key = key_of(STATISTICS, arguments)
    # As it has been named since the first version, so that nobody measures anew.
    named = f"statistics\n1\n{file.resolve()}|{file.stat().st_size}|{file.stat().st_mtime_ns}"
    assert key == jobs.get(job.id).result["identity"] == hashlib.sha256(named.encode()).hexdigest()[:32]
    assert kept("statistics", key)["name"] == "base"
    assert jobs.newest("statistics", arguments).id == job.id
    os.utime(file, ns=(1, 1))
    assert kept("statistics", key_of(STATISTICS, arguments)) is None
    assert jobs.newest("statistics", arguments) is None


def test_a_measurement_that_cannot_be_kept_is_a_sentence(models, tmp_path, no_workers):
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "statistics").write_text("no folder")
    job = jobs.submit("statistics", "measure", {"file": str(models / "base.safetensors")})
    worker.work("analysis")
    assert jobs.get(job.id).status == "failed" and str(tmp_path / "cache") in jobs.get(job.id).error
    assert not (job.folder / "log.txt").exists()


def test_records_of_others_and_damaged_ones_are_passed_over(no_workers, tmp_path):
    job = jobs.submit("scan", "scan", {})
    (jobs.jobs_folder() / "notes").mkdir()
    damaged = jobs.jobs_folder() / "20200101-000000-abcdef123"
    damaged.mkdir()
    (damaged / "job.json").write_text('{"kind": "sc')
    (job.folder / "state.json").write_text("[]")
    assert [one.id for one in jobs.listed()] == [job.id]
    assert jobs.get("../../etc") is None and jobs.get("") is None
    jobs.forget(job.id)
    assert jobs.get(job.id).status == "queued"
    jobs.cancel(job.id)
    jobs.forget(job.id)
    assert jobs.listed() == []


def test_a_cancelled_merge_leaves_nothing_behind(models, no_workers):
    recipe = {
        "models": {"a": str(models / "base.safetensors"), "b": str(models / "tuned.safetensors")},
        "steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"]}},
    }
    before = sorted(path.name for path in models.iterdir())
    job = jobs.submit("merge", "Merge x", {"recipe": recipe, "output": str(models / "x.safetensors")})
    jobs.record_state(job.folder, status="running")
    jobs.cancel(job.id)
    worker.run(jobs.get(job.id))
    assert jobs.get(job.id).status in ("cancelled", "done")
    if jobs.get(job.id).status == "cancelled":
        assert sorted(path.name for path in models.iterdir()) == before
    assert leftovers(models) == []
