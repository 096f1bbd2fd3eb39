"""``POST /chat/completions`` with a picture and a question, as OpenAI, vLLM, sglang and others take it."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from varl.reward import Sample
from varl.services.judge.settings import JudgeSettings

_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class NoAnswerError(Exception):
    """The server gave no answer."""


@dataclass(frozen=True)
class _Failure:
    """Why there is no answer, and whether the same question may have one later."""

    detail: str
    may_pass: bool


class ChatClient:
    """Asks one model. For use by several threads."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Raises OSError where the key cannot be read."""
        self._settings, key = settings, settings.api_key()
        self._http = httpx.Client(
            base_url=settings.url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else None,
            limits=httpx.Limits(max_connections=settings.parallel),
            trust_env=urlsplit(settings.url).hostname not in _LOOPBACK,  # a proxy cannot reach this machine's own ports
        )

    def ask(self, sample: Sample, question: str) -> str:
        """What the model says of the sample's picture.

        Raises:
            NoAnswerError: the server refuses the question, or did not answer it in time, tries included.
        """
        body, end = self._body(sample, question), time.monotonic() + self._settings.seconds
        failure = _Failure("it was never asked", may_pass=False)
        for attempt in range(1, self._settings.tries + 1):
            found = self._once(body, end)
            if isinstance(found, str):
                return found
            failure = found
            pause = min(2.0, 0.25 * 2**attempt)
            if not failure.may_pass or attempt == self._settings.tries or time.monotonic() + pause >= end:
                break
            time.sleep(pause)
        raise NoAnswerError(failure.detail)

    def _once(self, body: dict[str, Any], end: float) -> str | _Failure:
        try:
            answer = self._http.post("chat/completions", json=body, timeout=max(0.001, end - time.monotonic()))
        except httpx.TransportError as error:
            return _Failure(f"{type(error).__name__}: {error}", may_pass=True)
        if answer.is_success:
            return _content(answer)
        return _Failure(f"HTTP {answer.status_code}: {answer.text[:200]}", answer.status_code in _RETRIED)

    def _body(self, sample: Sample, question: str) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(sample.pixels).save(file, "PNG", compress_level=1)
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
        return {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self._settings.max_tokens,
        }


def _content(answer: httpx.Response) -> str:
    try:
        text = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise NoAnswerError(f"no chat completion: {answer.text[:200]}") from error
    if not isinstance(text, str):
        raise NoAnswerError(f"the answer is no text: {answer.text[:200]}")
    return text
