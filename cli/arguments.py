"""Options that several commands share, and the two things that click does not do: lists after an option, and globs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperCommand

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Threads = Annotated[
    int | None, typer.Option(help="Number of threads; the result does not depend on it.", show_default="cores")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")]


def known_family(name: str | None) -> str | None:
    """A family's id as typed; refused where there is none."""
    from ..checkpoints.families import FAMILIES

    if name is not None and name not in FAMILIES:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(FAMILIES)}.")
    return name


FamilyArgument = typer.Argument(help="The architecture: sd1, sd2, sdxl...", callback=known_family)
FamilyOption = typer.Option(help="The architecture, where nothing tells it: sd1, sd2, sdxl...", callback=known_family)
WrittenDType = Literal["fp16", "bf16", "fp32", "fp8_e4m3"]
DType = Literal["fp16", "bf16", "fp32", "fp8_e4m3", "keep"]


def _take_in(files: list[str] | None) -> list[str] | None:
    """Run the files that --methods names, so that their methods are there when the command looks for them."""
    if files:
        from ..merge.methods import load_methods

        for file in files:
            load_methods(file)
    return files


Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--methods", metavar="FILE", help="A Python file with merge methods of your own; its code is run.",
        callback=_take_in, show_default=False,
    ),
]  # fmt: skip


class ListCommand(TyperCommand):
    """A command whose list options take several values at once: `--unets A B C` is `--unets A --unets B --unets C`."""

    def parse_args(self, ctx, args):
        lists = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        spread, current, fresh = [], None, False
        for arg in args:
            if arg.startswith("-") and arg != "-":
                current = arg if arg in lists else None
                fresh = current is not None
                spread.append(arg)
            elif current and not fresh:
                spread += [current, arg]
            else:
                spread.append(arg)
                fresh = False
        return super().parse_args(ctx, spread)


def expand(paths: list[str]) -> list[Path]:
    """Files as typed: `*` and `?` are expanded (Windows' shells leave them), `@list.txt` holds one path a line.

    Raises:
        CheckpointError: a pattern fits no file, or a list cannot be read or names another list.
    """
    out: list[Path] = []
    for path in paths:
        out += _listed(path[1:]) if path.startswith("@") else _fitting(path)
    return out


def _listed(name: str) -> list[Path]:
    """The files that a list names; blank lines and lines that begin with # are left out."""
    from ..checkpoints.errors import CheckpointError
    from ..checkpoints.text import unreadable

    try:
        # Windows' editors begin a file with a mark that is not part of the first name.
        lines = Path(name).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name}: the list of files cannot be read ({unreadable(error)})") from None
    out: list[Path] = []
    for line in (line.strip() for line in lines):
        if line.startswith("@"):
            raise CheckpointError(f"{name}: names the list {line}; lists do not hold other lists, write its files here")
        if line and not line.startswith("#"):
            out += _fitting(line)
    return out


def _fitting(path: str) -> list[Path]:
    """The files that a pattern fits; [ and ] are characters like others, as names of models are full of them."""
    import glob

    from ..checkpoints.errors import CheckpointError

    if not any(c in path for c in "*?") or Path(path).exists():
        return [Path(path)]
    found = sorted(glob.glob(path.replace("[", "[[]")))
    if not found:
        raise CheckpointError(f"{path}: no file fits this pattern")
    return [Path(name) for name in found]
