"""How the program ends, and what it can print where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from unetscope.cli import main
from unetscope.cli.exit_codes import stop_code, stopped_by_signals
from unetscope.search.interrupts import Interrupts

COMMAND = [sys.executable, "-c", "from unetscope.cli import main; main()"]


def replaced(monkeypatch, error):
    def raises(*given, **named):
        raise error

    monkeypatch.setattr("unetscope.library.inspection.inspect", raises)


def test_a_stop_is_one_line_and_130(here, run, monkeypatch):
    replaced(monkeypatch, KeyboardInterrupt())
    assert run("inspect", "a.safetensors") == (130, "", "unetscope: stopped; nothing was left behind\n")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_search_that_is_told_twice_to_stop_ends_with_the_code_of_the_signal(number, code):
    with pytest.raises(KeyboardInterrupt) as stop, stopped_by_signals(), Interrupts() as interrupts:
        signal.raise_signal(number)
        assert interrupts.asked
        signal.raise_signal(number)
    assert stop_code(stop.value) == code


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_exit_code_that_a_command_asks_for_is_kept(code, here, run, monkeypatch):
    replaced(monkeypatch, typer.Exit(code))
    assert run("inspect", "a.safetensors") == (code, "", "")


def test_a_disk_that_fails_is_one_line_and_2(here, run, monkeypatch):
    replaced(monkeypatch, OSError(5, "Input/output error", "a.safetensors"))
    assert run("inspect", "a.safetensors") == (2, "", "unetscope: a.safetensors: Input/output error\n")


def test_wrong_usage_is_explained_and_2(here, run):
    for wrong, said in ((["inspect", "--nope"], "--nope"), (["nope"], "nope"), (["inspect"], "Missing argument")):
        code, out, err = run(*wrong)
        assert (code, out) == (2, "") and said in err and "Usage" in err


def test_a_reader_that_is_gone_is_no_error(here):
    for arguments in (["presets"], ["merge", "--help"], ["inspect", "a.safetensors", "--json"]):
        started = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here, text=True
        )
        started.stdout.close()
        assert (started.stderr.read(), started.wait()) == ("", 0), arguments
        started.stderr.close()


def test_names_that_the_outputs_encoding_lacks_are_printed_as_numbers(here):
    os.rename("a.safetensors", "日本.safetensors")
    settings = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}

    def output(*arguments):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, cwd=here, env=settings)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode("cp1252")

    assert output("inspect", "日本.safetensors").startswith("\\u65e5\\u672c.safetensors: SD1 checkpoint")
    found = output("inspect", "日本.safetensors", "--json")
    assert found.isascii() and Path(json.loads(found)["path"]).name == "日本.safetensors"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("resumable", [False, True])
def test_a_signal_ends_a_merge_as_ctrl_c_does(number, resumable, make_checkpoint, tmp_path, monkeypatch, capsys):
    from unetscope.checkpoints.checkpoint import Checkpoint

    (a, _), (b, _) = make_checkpoint("a", seed=1), make_checkpoint("b", seed=2)
    monkeypatch.setattr("unetscope.checkpoints.files.resumable._EVERY", 0.0)
    monkeypatch.setattr("unetscope.checkpoints.stream._BUFFER_BYTES", 1 << 15)
    number, before, read, seen = getattr(signal, number), os.listdir(tmp_path), Checkpoint.read_raw, []

    def reading(*arguments):
        seen.append(1)
        if len(seen) == 200:
            os.kill(os.getpid(), number)
            time.sleep(0.3)  # the main thread hears of it while this one is at work
        read(*arguments)

    monkeypatch.setattr(Checkpoint, "read_raw", reading)
    target = tmp_path / "o.safetensors"
    with pytest.raises(SystemExit) as end:
        main(["merge", "uniform", str(a), str(b), "-o", str(target), *(["--resumable"] if resumable else [])])
    assert end.value.code == 128 + number
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    left = sorted(set(os.listdir(tmp_path)) - set(before) - {"cache"})
    assert left == (
        [f"{target.name}{end}" for end in (".unetscope-journal", ".unetscope-resumable")] if resumable else []
    )
    assert signal.getsignal(number) is signal.SIG_DFL
