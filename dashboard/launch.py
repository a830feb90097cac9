"""Starts the app's server: what `unetscope app` calls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .folders import MODELS_VARIABLE, OUTPUT_VARIABLE, Folders, folder_at
from .own_methods import METHODS_VARIABLE

APP = Path(__file__).resolve().parent.parent / "app.py"
# As in .streamlit/config.toml, which only `streamlit run` in the repository finds.
SETTINGS = {
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "browser.gatherUsageStats": "false",
    # Below that, Streamlit tells of every view of a running job that was still asked for when it had ended.
    "logger.level": "warning",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "theme.light.primaryColor": "#2563c9",
    "theme.dark.primaryColor": "#6ea8ff",
    "theme.dark.backgroundColor": "#0d1117",
    "theme.dark.secondaryBackgroundColor": "#151b23",
}


def launch(
    models: Path | str | None = None,
    output: Path | str | None = None,
    *,
    methods: Sequence[Path | str] = (),
    port: int = 8501,
    address: str = "localhost",
    browser: bool = True,
) -> int:
    """Serve the app until it is stopped; returns the server's exit code.

    Args:
        models: the models folder; None for the one of the environment or the one that was chosen before.
        output: where merges are written; None for the one of the environment, else the models folder, also one that is chosen in
            the app.
        methods: Python files of merge methods, which the app and its merges run.
        port: of the server.
        address: other machines can reach the app under any address but `localhost`.
        browser: open a browser window.

    Raises:
        UnetscopeError: a folder that was given is none.
    """
    environment = dict(os.environ)
    models, output = models or environment.get(MODELS_VARIABLE), output or environment.get(OUTPUT_VARIABLE)
    if models:
        folders = Folders.at(models, output)
        environment |= {MODELS_VARIABLE: str(folders.models), OUTPUT_VARIABLE: str(folders.output)}
    elif output:  # the models folder is chosen in the app
        environment[OUTPUT_VARIABLE] = str(folder_at(output, "output"))
    if methods:
        environment[METHODS_VARIABLE] = os.pathsep.join(str(Path(file).resolve()) for file in methods)
    try:
        return subprocess.call(command(port, address, browser), env=environment)
    except KeyboardInterrupt:  # Ctrl-C reaches the server as well, which ends by itself
        return 0


def command(port: int, address: str, browser: bool) -> list[str]:
    """The server's command line."""
    settings = SETTINGS | {"server.address": address, "server.port": port, "server.headless": str(not browser).lower()}
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *options]
