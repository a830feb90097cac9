"""A small server that speaks the A1111 web UI's API as its /docs page describes it, with failures on demand."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from safetensors import safe_open

SAMPLERS = [
    {"name": "Euler a", "aliases": ["k_euler_a"], "options": {}},
    {"name": "DPM++ 2M", "aliases": ["k_dpmpp_2m"]},
]


class FakeWebUi:
    """The server.

    Attributes:
        requests: (verb, path, body) of everything that came.
        failures: what the next requests to a path get instead of an answer: a status with JSON, `slow`, or `close`.
        pixel: the colour of every image; None for one that tells the model and the seed.
        says: the name of the model that it says it used; empty for the true one.
        spoilt: what happens to the next images, encoded, before they are sent: a list of functions.
        stuck: whether it goes on painting with the model that it painted with last, without saying so.
    """

    def __init__(self, folder: Path, auth: str | None = None):
        self.folder, self.auth = folder, auth
        self.options = {"sd_model_checkpoint": "base.safetensors [0123456789]", "CLIP_stop_at_last_layers": 1}
        self.known: list[str] = []
        self.requests: list[tuple[str, str, dict | None]] = []
        self.failures: dict[str, deque] = {}
        self.pixel: tuple[int, int, int] | None = None
        self.says = ""
        self.spoilt: list[Callable[[str], str]] = []
        self.stuck = False
        self._painted: tuple[int, int, int] | None = None
        self.refresh()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                outer._handle(self, "GET")

            def do_POST(self):
                outer._handle(self, "POST")

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fail(self, name: str, *failures) -> None:
        self.failures[name] = deque(failures)

    def refresh(self) -> None:
        self.known = sorted(path.name for path in self.folder.glob("*.safetensors"))

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def bodies(self, name: str) -> list[dict | None]:
        return [body for _, path, body in self.requests if path == name]

    # -- the API --------------------------------------------------------------------------------------------------------

    def _handle(self, handler: BaseHTTPRequestHandler, verb: str) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        raw = handler.rfile.read(length)
        body = json.loads(raw) if raw else None
        name = handler.path.removeprefix("/sdapi/v1/")
        self.requests.append((verb, name, body))
        if (
            self.auth
            and handler.headers.get("Authorization") != "Basic " + base64.b64encode(self.auth.encode()).decode()
        ):
            return self._answer(handler, 401, {"detail": "Incorrect username or password"})
        if self.failures.get(name):
            failure = self.failures[name].popleft()
            if failure == "slow":
                time.sleep(9.0)
            elif failure == "close":
                handler.connection.close()
                return None
            else:
                return self._answer(handler, *failure)
        answer = getattr(self, f"_{verb.lower()}_{name.replace('-', '_')}", None)
        if answer is None:
            return self._answer(handler, 404, {"detail": "Not Found"})
        return self._answer(handler, *answer(body))

    def _answer(self, handler: BaseHTTPRequestHandler, status: int, content) -> None:
        data = json.dumps(content).encode()
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        except OSError:
            pass  # whoever asked has gone

    def _get_options(self, _):
        return 200, self.options

    def _post_options(self, body):
        if not self._exists(body.get("sd_model_checkpoint")):
            return 500, {
                "error": "RuntimeError",
                "detail": "",
                "errors": f"model {body['sd_model_checkpoint']!r} not found",
            }
        self.options |= body
        return 200, None

    def _exists(self, title: str | None) -> bool:
        return title is None or title.startswith("base") or title.split(" [")[0] in self.known

    def _post_refresh_checkpoints(self, _):
        self.refresh()
        return 200, None

    def _get_sd_models(self, _):
        return 200, [
            {
                "title": f"{name} [abcdef0123]",
                "model_name": Path(name).stem,
                "filename": f"D:\\models\\{name}",
                "hash": None,
            }
            for name in self.known
        ]

    def _get_samplers(self, _):
        return 200, SAMPLERS

    def _post_interrupt(self, _):
        return 200, {}

    def _post_txt2img(self, body):
        overrides = body.get("override_settings") or {}
        title = overrides.get("sd_model_checkpoint", self.options["sd_model_checkpoint"])
        if not self._exists(title):
            return 500, {"error": "RuntimeError", "detail": "", "errors": f"model {title!r} not found"}
        name = title.split(" [")[0]
        if self._painted is None or not self.stuck:
            self._painted = self.pixel or self._colour(name, 0)
        colour = self.pixel or (self._painted[0], body["seed"] % 256, 9)
        image = Image.new("RGB", (body["width"], body["height"]), colour)
        data = io.BytesIO()
        image.save(data, "PNG")
        info = {"seed": body["seed"], "all_seeds": [body["seed"]], "sd_model_name": self.says or Path(name).stem}
        encoded = base64.b64encode(data.getvalue()).decode()
        return 200, {
            "images": [self.spoilt.pop(0)(encoded) if self.spoilt else encoded],
            "parameters": body,
            "info": json.dumps(info),
        }

    def _colour(self, name: str, seed: int) -> tuple[int, int, int]:
        """A colour that tells the model and the seed."""
        with safe_open(self.folder / name, "pt") as file:
            weight = file.get_tensor("model.diffusion_model.middle_block.0.in_layers.2.weight")
        return int(abs(float(weight.flatten()[0])) * 1000) % 256, seed % 256, 9
