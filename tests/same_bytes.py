"""Runs the same merges from two checkouts on one machine and compares what they write, tensor by tensor.

    python tests/same_bytes.py BEFORE AFTER [--speed] [--strict] [--metadata] [--only PATTERN]
        [--meant PATTERN]... [--keep FOLDER]

BEFORE and AFTER are checkouts (folders of any name) or git revisions of this repository: `python tests/same_bytes.py HEAD .`
The inputs are made once, by BEFORE; the jobs stand in `same_bytes_jobs.py`. Of a .safetensors file the names, dtypes, shapes and
bytes of the tensors are compared, of any other file its bytes, of a command that writes none what it prints. Metadata is
compared apart, without versions and dates. It stores no sums: LoRAs and methods on singular values differ by processor.
Ends with code 1 when a job differs that is not `--meant` to, or when fewer than fifty are equal (without `--only`).

`--speed` times a few commands as whole processes as well, nine times from each checkout in alternating pairs, and prints the
medians; only with `--strict` they decide about the code. It is a script and no test module: it needs minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from same_bytes_jobs import CKPTS, DERIVED, INPUTS, LORAS, SPEED, SPEED_INPUTS, Job, all_jobs

ROOT = Path(__file__).resolve().parent.parent
RUNNER = Path(__file__).with_name("same_bytes_runner.py")
ENOUGH, PAIRS, SLOWER = 50, 9, 1.05
# Jobs that are run before their outputs are compared and removed: they take 10 MB each.
BATCH = 60
# What torch calls the dtypes of .safetensors files.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
# Metadata that may differ from run to run.
VARIABLE = re.compile(r"(^|[._])(version|date)$")


# -- checkouts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """A checkout that can be run.

    Attributes:
        name: as the user wrote it.
        parent: the folder on the path, in which the checkout is called `unetscope`.
        cache: of this checkout alone: what one has found out must not reach the other.
    """

    name: str
    parent: Path
    cache: Path

    def environment(self) -> dict[str, str]:
        """Of its processes: no setting of the user's reaches one of them alone, and one thread in libraries.

        Python keeps the compiled byte code, as it does of an installed package: else what is timed is the compiler.
        """
        kept = {key: value for key, value in os.environ.items() if not key.startswith("UNETSCOPE_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        path = os.pathsep.join(filter(None, (str(self.parent), kept.get("PYTHONPATH"))))
        return kept | {
            "PYTHONPATH": path,
            "PYTHONPYCACHEPREFIX": str(self.cache / "byte-code"),
            "UNETSCOPE_CACHE": str(self.cache),
            "OMP_NUM_THREADS": "1",
        }

    def python(self, *words: str | Path, folder: Path, **options) -> subprocess.CompletedProcess:
        """A run of this interpreter with the checkout on its path, and nothing of `folder` or `tests/`."""
        command = [sys.executable, "-P", *map(str, words)]
        return subprocess.run(command, cwd=folder, env=self.environment(), stdin=subprocess.DEVNULL, **options)


@contextlib.contextmanager
def checkout(name: str, folder: Path) -> Iterator[Side]:
    """A checkout or revision, ready to run; `folder` is made for it.

    Exits with a sentence when the name is neither, or when Python finds another `unetscope` in its place.
    """
    folder.mkdir()
    place, cache = folder / "unetscope", folder / "cache"
    revision = None if Path(name).is_dir() else _revision(name)
    if revision is None:
        if not (Path(name) / "cli" / "__init__.py").is_file():
            sys.exit(f"{name}: is not a checkout: it has no cli/__init__.py")
        link_folder(Path(name).resolve(), place)
    else:
        _git("worktree", "add", "--quiet", "--detach", str(place), revision)
    try:
        side = Side(name, folder, cache)
        found = side.python(
            "-c", "import unetscope; print(unetscope.__file__)", folder=folder, capture_output=True, text=True
        )
        if not found.stdout.strip() or Path(found.stdout.strip()).parent.resolve() != place.resolve():
            sys.exit(f"{name}: Python imports {found.stdout.strip() or 'no'} unetscope in its place\n{found.stderr}")
        yield side
    finally:
        if revision is not None:
            _git("worktree", "remove", "--force", str(place))
        else:
            place.rmdir() if sys.platform == "win32" else place.unlink()


def _revision(name: str) -> str:
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
    if found.returncode:
        sys.exit(f"{name}: is neither a folder nor a revision of {ROOT}")
    return found.stdout.strip()


def _git(*words: str, check: bool = True) -> subprocess.CompletedProcess:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if check and done.returncode:
        sys.exit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done


def link_folder(target: Path, link: Path) -> None:
    """A folder under another name; on Windows a junction, which needs no rights."""
    if sys.platform == "win32":
        subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(target)], check=True, stdout=subprocess.DEVNULL)
    else:
        link.symlink_to(target, target_is_directory=True)


# -- files ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is stored."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> np.ndarray:
        """Its numbers, for people: fp64; of a dtype that is not known, its bytes."""
        import torch  # takes seconds, and only what differs needs it

        dtype = getattr(torch, DTYPES.get(self.dtype, "uint8"))
        return torch.frombuffer(bytearray(self.data), dtype=dtype).double().numpy() if self.data else np.empty(0)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file in the order of their names, and its metadata."""
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in sorted(header.items()):
        start, stop = entry["data_offsets"]
        tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]), raw[begin + start : begin + stop])
    return tensors, metadata


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A file of these tensors."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(tensor.data for tensor in tensors.values())


def sum_of(folder: Path) -> str:
    """SHA-256 of all that a job made: the tensors of .safetensors files, the bytes of others."""
    digest = hashlib.sha256()
    for name, path in files_in(folder).items():
        digest.update(f"{name}\0".encode())
        if path.suffix != ".safetensors":
            digest.update(path.read_bytes())
            continue
        for key, tensor in read_safetensors(path)[0].items():
            digest.update(f"{key}\0{tensor.dtype}\0{tensor.shape}\0".encode())
            digest.update(tensor.data)
    return digest.hexdigest()


def files_in(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its relative name, in order."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return dict(sorted((path.relative_to(folder).as_posix(), path) for path in files))


def difference(before: Path, after: Path) -> str:
    """What is different in two folders, in words: nothing when they are equal."""
    ours, theirs = files_in(before), files_in(after)
    if ours.keys() != theirs.keys():
        return f"files: only before {_few(ours.keys() - theirs.keys())}, only after {_few(theirs.keys() - ours.keys())}"
    for name, path in ours.items():
        compare = tensor_difference if path.suffix == ".safetensors" else byte_difference
        if found := compare(path, theirs[name]):
            return f"{name}: {found}"
    return ""


def tensor_difference(before: Path, after: Path) -> str:
    """What is different in the tensors of two .safetensors files: the first that differs, and the largest difference of all."""
    ours, theirs = read_safetensors(before)[0], read_safetensors(after)[0]
    if ours.keys() != theirs.keys():
        return (
            f"tensors: only before {_few(ours.keys() - theirs.keys())}, only after {_few(theirs.keys() - ours.keys())}"
        )
    changed = [key for key in ours if ours[key] != theirs[key]]
    if not changed:
        return ""
    first, count = changed[0], f"{len(changed)} of {len(ours)} tensors, first {changed[0]}"
    for key in changed:
        a, b = ours[key], theirs[key]
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"{count}; {key} was {a.dtype} {list(a.shape)} and is {b.dtype} {list(b.shape)}"
    distances = {key: _largest(ours[key], theirs[key]) for key in changed}
    worst = max(distances, key=distances.get)
    return f"{count} by {distances[first]:.3g}; largest difference {distances[worst]:.3g} in {worst}"


def _largest(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors; infinite where one of them is not a number."""
    one, other = a.values(), b.values()
    with np.errstate(invalid="ignore"):
        apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
    return float(np.nan_to_num(apart, nan=math.inf).max(initial=0.0))


def byte_difference(before: Path, after: Path) -> str:
    """The first line of two files that differs."""
    one, other = before.read_bytes(), after.read_bytes()
    if one == other:
        return ""
    lines = [data.decode("utf-8", "replace").splitlines() for data in (one, other)]
    length = max(map(len, lines))
    for number, (a, b) in enumerate(zip(*(x + [""] * (length - len(x)) for x in lines), strict=True), start=1):
        if a != b:
            at = max(
                next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))) - 20, 0
            )
            return f"line {number}: {a[at : at + 70]!r} is now {b[at : at + 70]!r}"
    return "ends of lines"


def metadata_difference(before: Path, after: Path) -> str:
    """The fields of metadata that differ, but for versions and dates."""
    found, theirs = {}, files_in(after)
    for name, path in files_in(before).items():
        if path.suffix == ".safetensors" and name in theirs:
            one, other = read_safetensors(path)[1], read_safetensors(theirs[name])[1]
            fields = [key for key in sorted(one | other) if not VARIABLE.search(key)]
            found |= {key: name for key in fields if one.get(key) != other.get(key)}
    return _few(found) if found else ""


def _few(names) -> str:
    names = sorted(names)
    return f"{', '.join(names[:3]) or 'none'}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


# -- inputs --------------------------------------------------------------------------------------------------------------

# Demo makers that the command line does not have.
MAKER = """
import json, sys
from pathlib import Path
try:
    from unetscope.checkpoints.demo.loras import write_demo_lora
    from unetscope.checkpoints.demo.models import write_demo_ckpt
except ModuleNotFoundError:  # where they stood in earlier versions
    from unetscope.checkpoints.demo import write_demo_ckpt
    from unetscope.checkpoints.lora.demo import write_demo_lora
ckpts, loras = json.loads(sys.argv[1])
for name, (family, seed, dtype) in ckpts.items():
    write_demo_ckpt(Path(f"in/{name}.ckpt"), family, seed=seed, dtype=dtype)
for seed, (name, (family, style, kind, alpha)) in enumerate(loras.items()):
    write_demo_lora(Path(f"in/{name}.lora.safetensors"), family, style=style, kind=kind, alpha=alpha, seed=seed)
"""


def make_inputs(side: Side, folder: Path) -> None:
    """Everything that the jobs read, in `folder/in`."""
    (folder / "in").mkdir()
    job = Job("inputs", tuple(INPUTS))
    codes = run_jobs(side, [job], folder, "making").get("inputs", [None])
    if codes != [0] * len(INPUTS):
        sys.exit(f"{side.name}: the inputs could not be made: {(folder / 'making' / 'inputs.log').read_text('utf-8')}")
    side.python("-c", MAKER, json.dumps([CKPTS, LORAS]), folder=folder, check=True)
    for name, (source, names) in DERIVED.items():
        tensors = read_safetensors(folder / "in" / f"{source}.safetensors")[0]
        stored = {new: tensor for key, tensor in tensors.items() for new in names(key)}
        write_safetensors(folder / "in" / f"{name}.safetensors", stored)
    tensors = read_safetensors(folder / "in" / "sd1-photo.safetensors")[0]
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    tensors[key] = Tensor(tensors[key].dtype, tensors[key].shape, b"\x00\x7e" + tensors[key].data[2:])
    write_safetensors(folder / "in" / "sd1-nan.safetensors", tensors)


def widen(source: Path, target: Path, real: dict[str, list[int]], times: int) -> None:
    """A narrow checkpoint with its numbers repeated until it is `times` as wide, or as wide as a real one."""
    tensors, wide = read_safetensors(source)[0], {}
    for key, tensor in tensors.items():
        shape = [min(n * times, most) for n, most in zip(tensor.shape, real.get(key, tensor.shape), strict=True)]
        array = np.frombuffer(tensor.data, f"V{len(tensor.data) // max(math.prod(tensor.shape), 1)}").reshape(
            tensor.shape
        )
        for axis, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
            array = np.take(array, np.arange(new) % old, axis)
        wide[key] = Tensor(tensor.dtype, tuple(shape), array.tobytes())
    write_safetensors(target, wide)


# -- runs ----------------------------------------------------------------------------------------------------------------


def run_jobs(side: Side, jobs: list[Job], folder: Path, into: str) -> dict[str, list[int | str]]:
    """The exit codes of each job's commands, by the job's name; their outputs are in `folder/into`.

    Both checkouts see the same paths: everything is made in `now`, and moved when it is done.
    """
    now, texts = folder / "now", folder / "texts"
    now.mkdir()
    texts.mkdir(exist_ok=True)
    tasks = []
    for job in jobs:
        commands = [_placed(command, job, texts) for command in job.commands]
        tasks.append({"name": job.name, "folder": f"now/{job.slug}", "printed": job.printed, "commands": commands})
    (folder / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    results = folder / "results.jsonl"
    results.write_bytes(b"")  # a child that does not come to write them must not pass for the last one
    begin = time.perf_counter()
    child = side.python(RUNNER, "tasks.json", results.name, folder=folder, capture_output=True, text=True)
    if child.returncode:
        print(f"{side.name}: ended with {child.returncode}\n{child.stderr[-2000:]}", file=sys.stderr)
    lines = results.read_text(encoding="utf-8").splitlines()
    (folder / into).mkdir(exist_ok=True)
    for made in now.iterdir():
        made.rename(folder / into / made.name)
    now.rmdir()
    took = time.perf_counter() - begin
    print(f"{into}: {len(lines)} of {len(jobs)} jobs in {took:.0f} s", file=sys.stderr, flush=True)
    return {(done := json.loads(line))["name"]: done["codes"] for line in lines}


def _placed(command: str, job: Job, texts: Path) -> list[str]:
    """The words of a command line, with its paths; the job's text is there under the suffix that the command asks for."""
    for suffix in re.findall(r"\{text\}\.(\w+)", command):
        (texts / f"{job.slug}.{suffix}").write_text(job.text, encoding="utf-8")
    return words_of(command.replace("{text}", f"texts/{job.slug}"), f"now/{job.slug}/out")


def words_of(command: str, out: str) -> list[str]:
    """The words of a command line of `same_bytes_jobs.py`, as they are run."""
    command = re.sub(r"@([\w.-]+)", r"in/\1.safetensors", command)
    return shlex.split(command.replace("{file}", "{out}.safetensors").replace("{out}", out))


@dataclass(frozen=True)
class Row:
    """What became of a job."""

    job: str
    codes: tuple[str, str]
    verdict: str
    equal: bool
    differs: bool
    metadata: str = ""


def compared(job: Job, codes: list[dict[str, list]], folder: Path) -> Row:
    """Both runs of a job next to each other."""
    ours, theirs = (found.get(job.name) for found in codes)
    written = tuple(",".join(map(str, x)) if x is not None else "none" for x in (ours, theirs))
    if ours != theirs or ours is None:
        said = [f"; {into} said: {line}" for into in ("before", "after") if (line := _last_line(folder / into, job))]
        return Row(job.name, written, f"DIFFERENT: exit codes{''.join(said)}", False, True)
    if any(ours):
        return Row(job.name, written, "refused by both", False, False)
    before, after = folder / "before" / job.slug, folder / "after" / job.slug
    if not files_in(before) and not files_in(after):
        return Row(job.name, written, "made nothing", False, False)
    if found := difference(before, after):
        return Row(job.name, written, f"DIFFERENT: {found}", False, True)
    return Row(job.name, written, f"equal {sum_of(after)[:16]}", True, False, metadata_difference(before, after))


def _last_line(folder: Path, job: Job) -> str:
    """The end of what a job said."""
    log = folder / f"{job.slug}.log"
    lines = log.read_text(encoding="utf-8").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "")


def show(row: Row, width: int) -> None:
    """A line of the table."""
    print(f"{row.job:{width}}  {row.codes[0]:>4} {row.codes[1]:>4}  {row.verdict}", flush=True)
    if row.metadata:
        print(f"{'':{width}}             metadata differs: {row.metadata}", flush=True)


# -- speed ---------------------------------------------------------------------------------------------------------------


def time_both(sides: tuple[Side, Side], folder: Path) -> float:
    """Time the commands of SPEED, print a table, and give the largest ratio."""
    side = sides[0]
    side.python(
        "-m", "unetscope", "layers", "sdxl", "-o", "layers.json", folder=folder, check=True, capture_output=True
    )
    real = {row["key"]: row["shape"] for row in json.loads((folder / "layers.json").read_text(encoding="utf-8"))}
    for name, (source, times) in SPEED_INPUTS.items():
        widen(folder / "in" / f"{source}.safetensors", folder / "in" / f"{name}.safetensors", real, times)
    print(f"\n{'seconds, medians of ' + str(PAIRS):42} {'before':>8} {'after':>8}   ratio")
    ratios = []
    for name, command in SPEED.items():
        seconds: dict[Side, list[float]] = {side: [] for side in sides}
        for pair in range(-1, PAIRS):  # the first pair only warms up
            for side in sides if pair % 2 else sides[::-1]:
                took = _seconds(side, command, folder)
                if pair >= 0:
                    seconds[side].append(took)
        before, after = (statistics.median(seconds[side]) for side in sides)
        ratios.append(after / before)
        print(f"{name:42} {before:8.3f} {after:8.3f}   {after / before:.3f}", flush=True)
    return max(ratios)


def _seconds(side: Side, command: str, folder: Path) -> float:
    """How long a command takes as a process of its own."""
    out = folder / "timed.safetensors"
    words = words_of(command, "timed")
    begin = time.perf_counter()
    done = side.python("-m", "unetscope", *words, folder=folder, capture_output=True, text=True)
    took = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{side.name}: unetscope {command} ended with {done.returncode}\n{done.stderr}")
    out.unlink(missing_ok=True)
    return took


# -- everything ----------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", help="a checkout, or a git revision of this repository")
    parser.add_argument("after", help="the same")
    parser.add_argument("--only", metavar="PATTERN", help="jobs whose name fits: 'method/*'")
    parser.add_argument(
        "--meant", metavar="PATTERN", action="append", default=[], help="jobs that may differ; they are shown"
    )
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="leave inputs, outputs and logs in this new folder")
    parser.add_argument("--metadata", action="store_true", help="metadata that differs counts as different")
    parser.add_argument("--speed", action="store_true", help="time some commands as well")
    parser.add_argument("--strict", action="store_true", help=f"end with 1 when a ratio is above {SLOWER}")
    return parser.parse_args()


def main() -> None:
    """Run, compare, and end with code 1 when something differs."""
    options = arguments()
    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="same-bytes-")))
        folder = temporary / "work"
        if options.keep:
            folder = options.keep.resolve()
            if folder.exists():
                sys.exit(f"{options.keep}: exists; --keep takes the name of a new folder")
        folder.mkdir(parents=True)
        names = {"before": options.before, "after": options.after}
        sides = tuple(stack.enter_context(checkout(name, temporary / which)) for which, name in names.items())
        # With a cache of its own: what the makers found out is known to neither side.
        make_inputs(replace(sides[0], cache=temporary / "makers-cache"), folder)
        listed = sides[0].python("-m", "unetscope", "methods", "--json", folder=folder, check=True, capture_output=True)
        jobs = [job for job in all_jobs(json.loads(listed.stdout)) if fnmatch(job.name, options.only or "*")]
        width = max((len(job.name) for job in jobs), default=0)
        rows = []
        for some in (jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)):
            codes = [run_jobs(side, some, folder, into) for side, into in zip(sides, names, strict=True)]
            for row in (compared(job, codes, folder) for job in some):
                rows.append(row)
                show(row, width)
            if not options.keep:
                for into in names:
                    shutil.rmtree(folder / into)
        slowest = time_both(sides, folder) if options.speed else 0.0
    equal = sum(row.equal for row in rows)
    strict = [row for row in rows if not any(fnmatch(row.job, pattern) for pattern in options.meant)]
    wrong = any(row.differs or (options.metadata and row.metadata) for row in strict)
    print(f"{equal} of {len(rows)} equal")
    few = equal < ENOUGH and not options.only
    sys.exit(int(wrong or not equal or few or (options.strict and slowest > SLOWER)))


if __name__ == "__main__":
    main()
