"""Builds the wheel, checks its exact list of files, and imports every package of it in an empty environment.

Run by `make wheel`. It is a script and no test module: it needs a build environment and a minute.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Folders of the root that hold no part of the package.
OUTSIDE = {"benchmarks", "build", "demo", "dist", "docs", "examples", "notebooks", "tests"}


def rooms() -> set[str]:
    """Every package that the checkout holds, by its `__init__.py`; a folder that pyproject.toml forgets is missing in the wheel."""
    found = {"unetscope"}
    for folder in ROOT.iterdir():
        if folder.is_dir() and folder.name not in OUTSIDE and not folder.name.startswith("."):
            found |= {".".join(("unetscope", *x.parent.relative_to(ROOT).parts)) for x in folder.rglob("__init__.py")}
    return found


def expected(packages: list[str], data: dict[str, list[str]]) -> set[str]:
    """The files that belong into the wheel: every module of the listed packages, and the listed data files."""
    found = set()
    for package in packages:
        folder = ROOT.joinpath(*package.split(".")[1:])
        modules = folder.glob("*.py")
        files = [*modules, *(path for pattern in data.get(package, []) for path in folder.glob(pattern))]
        found |= {("unetscope" / path.relative_to(ROOT)).as_posix() for path in files}
    return found


def build(folder: Path) -> Path:
    """The wheel of this checkout."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def main() -> None:
    """Build, compare, install, import; exits with a message when something is wrong."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    if (listed := set(project["packages"])) != rooms():
        sys.exit(
            f"pyproject.toml's packages differ from the folders: missing {sorted(rooms() - listed)}, "
            f"without a folder {sorted(listed - rooms())}"
        )
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            held = {name for name in archive.namelist() if ".dist-info/" not in name}
        wanted = expected(project["packages"], project.get("package-data", {}))
        if held != wanted:
            sys.exit(f"the wheel's files differ: missing {sorted(wanted - held)}, unexpected {sorted(held - wanted)}")
        place = Path(folder) / "env"
        venv.create(place, with_pip=True)
        python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        constraints = ROOT / "constraints.txt"
        subprocess.run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                "-c",
                str(constraints),
                str(wheel),
            ],
            check=True,
        )
        imports = "; ".join(f"import {name}" for name in project["packages"])
        subprocess.run([str(python), "-c", imports], check=True, cwd=folder)
        subprocess.run([str(python.with_name("unetscope")), "--version"], check=True, cwd=folder)
    print(
        f"{wheel.name}: {len(held)} files as expected; {len(project['packages'])} packages import in an empty environment"
    )


if __name__ == "__main__":
    main()
