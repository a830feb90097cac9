"""Packages of other people, as they are installed: modules in a folder, and the entry points that their metadata names."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, name: str, modules: dict[str, str], points: dict[str, dict[str, str]]) -> Path:
    """A distribution in a folder that is put on the path by who calls.

    Args:
        folder: where it is put.
        name: of the distribution.
        modules: name -> code.
        points: entry point group -> name -> `module:object`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for module, code in modules.items():
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
    told = folder / f"{name}-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in named.items()) for group, named in points.items()]
    (told / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder
