"""`unetscope app`: the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import Methods


def app(
    models: Annotated[Path | None, typer.Option(help="The models folder; else the one chosen before.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where merges are written; else the models folder.")] = None,
    methods: Methods = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the server.")] = 8501,
    address: Annotated[str, typer.Option(help="Other machines can reach any address but localhost.")] = "localhost",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
) -> None:
    """Open the dashboard in the browser: the diagram is the control surface."""
    import importlib.util

    from ..checkpoints.errors import UnetscopeError

    missing = [name for name in ("streamlit", "altair") if importlib.util.find_spec(name) is None]
    if missing:
        raise UnetscopeError(f"the dashboard needs {' and '.join(missing)}: pip install 'unetscope[app]'")
    from ..dashboard.address import refuse_used_port
    from ..dashboard.launch import launch

    refuse_used_port(address, port)
    code = launch(models, output, methods=methods or (), port=port, address=address, browser=browser)
    if code:
        raise typer.Exit(code)
