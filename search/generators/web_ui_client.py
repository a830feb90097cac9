"""The HTTP API of the A1111 web UI and of Forge (`--api`), with time-outs, retries and errors in sentences."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import NO_IMAGE, OUT_OF_ORDER, SearchError

if TYPE_CHECKING:
    from PIL.Image import Image

PASSWORD = "UNETSCOPE_WEB_UI_PASSWORD"
# Answers that may be better the next time: overload, a gateway in front of a UI that restarts, and errors inside the UI.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_CONNECT = 10.0
_LONGEST_WAIT = 30.0
_SAID = 300


class WebUi:
    """A web UI.

    Args:
        url: where it listens, `http://127.0.0.1:7860`.
        timeout: seconds that a request may take: loading a model, making an image.
        retries: how often a failed request is sent again, after 1, 2, 4... seconds.
        user: of `--api-auth`; the password is in the environment variable UNETSCOPE_WEB_UI_PASSWORD.
        wait: sleeps; for tests.

    Raises:
        SearchError: requests is not installed.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        retries: int,
        user: str | None = None,
        wait: Callable[[float], None] = time.sleep,
    ):
        try:
            import requests
        except ImportError:
            raise SearchError("the generator web_ui needs requests: pip install 'unetscope[search]'") from None
        self.url, self._timeout, self._retries, self._wait = url.rstrip("/"), timeout, retries, wait
        self._session = requests.Session()
        if user is not None:
            self._session.auth = (user, os.environ.get(PASSWORD, ""))

    # -- what the API offers ------------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """The UI's settings."""
        found = self._call("GET", "options")
        if not isinstance(found, dict):
            raise SearchError(f"{self.url}: answers, but not like a web UI; check the address")
        return found

    def set_options(self, **options: Any) -> None:
        """Change settings; a new `sd_model_checkpoint` is loaded before this returns."""
        self._call("POST", "options", options)

    def refresh_checkpoints(self) -> None:
        """Have the UI look into its model folder again."""
        self._call("POST", "refresh-checkpoints", {})

    def models(self) -> list[dict[str, Any]]:
        """The models that the UI knows: `title`, `model_name`, `filename`..."""
        return self._call("GET", "sd-models")

    def samplers(self) -> set[str]:
        """The names of its samplers, aliases included."""
        found = self._call("GET", "samplers")
        return {name for s in found for name in (s["name"], *s.get("aliases", ()))}

    def txt2img(self, payload: Mapping[str, Any]) -> tuple[Image, dict[str, Any]]:
        """One image and what the UI says about how it was made.

        Raises:
            SearchError (code `NO_IMAGE`): the UI says that the model makes NaN.
            SearchError: it refuses, or fails time and again. An image that arrives damaged is such a failure.
        """
        return self._call("POST", "txt2img", dict(payload), _picture)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    # -- requests -----------------------------------------------------------------------------------------------------

    def _call(
        self,
        verb: str,
        name: str,
        body: dict[str, Any] | None = None,
        read: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Send a request until it is answered, or the retries are used up.

        Args:
            verb, name, body: the request.
            read: makes of the content what is wanted. Where it raises `ValueError`, or the content is not JSON, the request is
                sent again; without it, the content is returned, and what is not JSON comes from something else than a web UI.

        Raises:
            SearchError (code `NO_IMAGE`): the model makes NaN.
            SearchError (code `OUT_OF_ORDER`): nothing answers.
            SearchError: the UI refuses, or fails time and again.
        """
        import requests

        said = code = ""
        for attempt in range(self._retries + 1):
            if attempt:
                self._wait(min(2.0 ** (attempt - 1), _LONGEST_WAIT))
            try:
                answer = self._session.request(
                    verb, f"{self.url}/sdapi/v1/{name}", json=body, timeout=(_CONNECT, self._timeout)
                )
            except requests.exceptions.ReadTimeout:
                code = OUT_OF_ORDER
                said = f"did not answer {name} within {self._timeout:g} s (generator.timeout)"
                self._interrupt()
                continue
            except (
                requests.exceptions.MissingSchema,
                requests.exceptions.InvalidURL,
                requests.exceptions.InvalidSchema,
            ):
                raise SearchError(f"{self.url}: is not an address; write http://127.0.0.1:7860") from None
            except requests.exceptions.RequestException as error:
                code = OUT_OF_ORDER
                said = f"cannot be reached ({_reason(error)}); start the web UI with --api, and check generator.url"
                continue
            if answer.ok:
                try:
                    return self._content(answer, read)
                except ValueError as error:
                    code, said = "", f"sends {error} for {name}"
                continue
            said = self._refused(answer, name)
            # An error inside the UI may be this model's; a gateway's is not.
            code = "" if answer.status_code == 500 else OUT_OF_ORDER
        again = f", after {self._retries + 1} attempts" if self._retries else ""
        raise SearchError(f"{self.url}: {said}{again}", code=code)

    def _content(self, answer: Any, read: Callable[[Any], Any] | None) -> Any:
        """What a successful answer holds; raises a `ValueError` that says what is wrong with it."""
        try:
            content = answer.json() if answer.content else None
        except ValueError:
            if read is None:
                raise SearchError(f"{self.url}: answers, but not like a web UI; check the address") from None
            raise ValueError("half an answer") from None
        return content if read is None else read(content)

    def _refused(self, answer: Any, name: str) -> str:
        """What an answer that is not a success says, when trying again may help.

        Raises:
            SearchError: it will not.
        """
        try:
            content = answer.json()
        except ValueError:
            content = {}
        content = content if isinstance(content, dict) else {}
        details = " ".join(str(content[k]) for k in ("error", "detail", "errors") if content.get(k)) or answer.reason
        details = " ".join(str(details).split())[:_SAID]
        if "NansException" in details:
            raise SearchError(f"{self.url}: {details}", code=NO_IMAGE)
        if answer.status_code in (401, 403):
            raise SearchError(
                f"{self.url}: wants a name and a password ({answer.status_code}): set generator.user to that of --api-auth, and "
                f"the environment variable {PASSWORD}"
            )
        if answer.status_code == 404 and content.get("detail") in (None, "Not Found"):
            raise SearchError(f"{self.url}: has no /sdapi/v1/{name}; start the web UI with --api")
        if answer.status_code not in _PASSING:
            raise SearchError(f"{self.url}: refuses {name} ({answer.status_code}): {details}")
        return f"fails at {name} ({answer.status_code}): {details}"

    def _interrupt(self) -> None:
        """Ask the UI to stop what took too long; what it answers does not matter."""
        import requests

        with contextlib.suppress(requests.exceptions.RequestException):
            self._session.post(f"{self.url}/sdapi/v1/interrupt", timeout=_CONNECT)


def _picture(answer: Any) -> tuple[Image, dict[str, Any]]:
    """The image in an answer of txt2img, and what the UI says about it.

    Raises:
        ValueError: there is none that can be used, in a few words; the next answer may be whole.
    """
    from PIL import Image

    images = answer.get("images") if isinstance(answer, dict) else None
    if not images or not isinstance(images, list) or not isinstance(images[0], str):
        raise ValueError("no image")
    try:
        data = base64.b64decode(images[0].split(",", 1)[-1], validate=True)
        image = Image.open(io.BytesIO(data)).convert("RGB")
    # Pillow raises errors of many types over a file that is damaged, or ends too early.
    except Exception:
        raise ValueError("an image that cannot be read") from None
    try:
        info = json.loads(answer.get("info") or "{}")
    except (TypeError, ValueError):
        info = {}
    return image, info if isinstance(info, dict) else {}


def _reason(error: Exception) -> str:
    """The innermost reason that a connection failed for."""
    text = str(getattr(error.args[0], "reason", error.args[0]) if error.args else error)
    return text.rpartition(": ")[2][:_SAID]
