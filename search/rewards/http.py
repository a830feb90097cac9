"""Scores from a program that listens: images and prompts are posted to it, scores come back."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import SearchError
from .answers import scores_of
from .contract import Reward

if TYPE_CHECKING:
    from PIL.Image import Image

# Answers that may be different a moment later.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0


class Http(Reward):
    """Posts `{"images": [PNG as base64, ...], "prompts": [...]}` as JSON and reads `{"scores": [...]}`, or the bare list.

    Args:
        url: where to post to.
        timeout: seconds for one answer.
        retries: further tries when nothing answers, or it answers 429 or 5xx; the wait between them doubles, from half a second.
        headers: further header lines.
        batch: images at a time.
        higher_is_better: what its scores mean.
    """

    name = "http"
    measures = "what a program answers over HTTP"

    def __init__(
        self,
        url: str,
        timeout: float = 120.0,
        retries: int = 3,
        headers: dict[str, str] | None = None,
        batch: int = 8,
        higher_is_better: bool = True,
    ):
        if not url.startswith(("http://", "https://")):
            raise SearchError(f"reward http: {url}: is no address; it begins with http:// or https://")
        self._url, self._timeout, self._retries, self._batch = url, timeout, max(retries, 0), max(batch, 1)
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self.higher_is_better = higher_is_better

    def score(self, images: Sequence[Image], prompts: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(images), self._batch):
            some = slice(start, start + self._batch)
            asked = {"images": [_png(image) for image in images[some]], "prompts": list(prompts[some])}
            answer = self._post(json.dumps(asked).encode())
            found += scores_of(answer, len(asked["prompts"]), f"reward http: {self._url}")
        return found

    def _post(self, body: bytes) -> Any:
        wait = _FIRST_WAIT
        for left in range(self._retries, -1, -1):
            request = urllib.request.Request(self._url, body, self._headers)
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                    return answer.read().decode("utf-8", "replace")
            except urllib.error.HTTPError as error:
                said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
                problem = f"answered {error.code} {error.reason}" + (f": {said}" if said else "")
                passing = error.code in _PASSING
            except (OSError, ValueError) as error:  # refused, no such host, timed out, cut off
                problem, passing = f"does not answer ({getattr(error, 'reason', error)})", True
            if not passing or not left:
                tries = f" after {self._retries + 1 - left} tries" if passing and self._retries else ""
                raise SearchError(f"reward http: {self._url}: {problem}{tries}; is the program that scores running?")
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError("the last try returns or raises")


def _png(image: Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
