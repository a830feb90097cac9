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
DType = Literal["fp16", "bf16", "fp32", "fp8_e4m3", "keep"]


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
        CheckpointError: a pattern fits no file, or the list cannot be read.
    """
    import glob

    from ..checkpoints.errors import CheckpointError

    out: list[Path] = []
    for path in paths:
        if path.startswith("@"):
            try:
                lines = Path(path[1:]).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or error
                raise CheckpointError(f"{path[1:]}: the list of files cannot be read ({reason})") from None
            out += expand([line.strip() for line in lines if line.strip() and not line.startswith("#")])
        elif any(c in path for c in "*?") and not Path(path).exists():
            found = sorted(glob.glob(path))
            if not found:
                raise CheckpointError(f"{path}: no file fits this pattern")
            out += map(Path, found)
        else:
            out.append(Path(path))
    return out
