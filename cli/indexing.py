"""`unetscope index`: which file has this hash?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoints.text import file_size
from .arguments import Json, Threads
from .screen import progress, say, show_json, show_table, warn

if TYPE_CHECKING:
    from ..library.hash_index import HashIndex, IndexedFile


def index(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of models; all below them is read.", show_default=False)
    ],
    find: Annotated[
        str | None,
        typer.Option(help="Print the file that has this SHA-256, AutoV2, old short hash, fingerprint or name."),
    ] = None,
    compute: Annotated[
        bool, typer.Option("--compute", help="Read files whose SHA-256 or fingerprints are not known yet.")
    ] = False,
    webui_cache: Annotated[
        Path | None, typer.Option(help="The cache.json of an A1111 web UI, for the hashes in it.", show_default=False)
    ] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """List models with their hashes, or find the model that a hash or name means."""
    from ..library.hash_index import HashIndex

    with progress("hashing") as moved:
        found = HashIndex.load(folders, compute=compute, progress=moved, threads=threads, webui_cache=webui_cache)
    if find is not None:
        _find(found, find, json)
        return
    if json:
        show_json(found.to_plain())
        return
    show_table(
        "Models",
        ["file", "size", "AutoV2", "sha256 from", "old hash", "fingerprint of its blocks"],
        [_row(file) for file in found.files],
    )
    for problem in found.problems:
        warn(problem)


def _row(file: IndexedFile) -> list[str]:
    return [
        str(file.path),
        file_size(file.size) if file.size else "",
        file.sha256[:10] if file.sha256 else "",
        f"claimed by {file.sha256_from}" if file.claimed else file.sha256_from,
        file.legacy or "",
        _of_denoiser(file.fingerprints),
    ]


def _of_denoiser(fingerprints: dict[str, str]) -> str:
    """The denoiser's fingerprint, whatever its family calls it."""
    from ..checkpoints.families import FAMILIES

    cores = {family.core for family in FAMILIES.values()}
    return next((digest for component, digest in fingerprints.items() if component in cores), "")


def _find(found: HashIndex, text: str, json: bool) -> None:
    from ..checkpoints.errors import CheckpointError

    path = found.find(text)
    if path is None:
        unknown = sum(file.sha256 is None and file.legacy is not None for file in found.files)
        hint = f"; {unknown} of them were never hashed: --compute reads them" if unknown else ""
        raise CheckpointError(f"{text}: none of {len(found.files)} models has this hash or name{hint}")
    if json:
        show_json(next(file for file in found.files if file.path == path).to_plain())
    else:
        say(str(path))
