"""Scores images by a varl reward service or gateway.

One file, to be copied anywhere: it needs Python 3.10 or newer and httpx.

A failure is never a number: each image has a ``Score`` or a ``ScoreError``, and a call that cannot be answered raises.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import random
import ssl
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx

_log = logging.getLogger("varl.client")
_QUIET_SECONDS = 10.0  # after which a call that is not answered says so
_RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
_RETRIED_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.TimeoutException)
T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class RewardError(Exception):
    """Everything that this module raises on its own account."""


class UnavailableError(RewardError):
    """No answer within the attempts and the time; the same call may succeed later.

    ``retry_after``: seconds, as the service said.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RejectedError(RewardError):
    """The service rejects the call as it is.

    ``status`` is the HTTP status, ``code`` that of the problem body, for example "unauthenticated".
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"HTTP {status}, {code}: {detail}")
        self.status, self.code = status, code


class BadAnswerError(RewardError):
    """What answered is no varl reward service."""


class MissingScoreError(RewardError):
    """``require`` met an image without a score."""


@dataclass(frozen=True)
class Word:
    """A word that was read: confidence in [0, 1], corners (x, y) in pixels of the image."""

    text: str
    confidence: float
    polygon: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Region:
    """Where in the image something is that the reward depends on; corners as in ``Word``."""

    polygon: tuple[tuple[float, float], ...]
    label: str


@dataclass(frozen=True)
class Score:
    """One image's reward, finite, and the terms that make it up."""

    value: float
    components: Mapping[str, float]
    words: tuple[Word, ...] = ()
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class ScoreError:
    """Why one image has no score; ``retryable``: it may have one later."""

    code: str
    detail: str
    retryable: bool = False


Outcome = Score | ScoreError


@dataclass(frozen=True)
class Model:
    """Which engine and weights answered."""

    engine: str
    name: str
    revision: str


@dataclass(frozen=True)
class Scores:
    """One reward's outcomes in the order of the images, and the models that gave them.

    Values of two models must not be compared.
    """

    outcomes: tuple[Outcome, ...]
    models: tuple[Model, ...]

    def values(self) -> list[float | None]:
        """A value for each image, None where there is no score."""
        return [outcome.value if isinstance(outcome, Score) else None for outcome in self.outcomes]

    def require(self) -> list[float]:
        """A value for each image; raises MissingScoreError where one has none."""
        for index, outcome in enumerate(self.outcomes):
            if isinstance(outcome, ScoreError):
                raise MissingScoreError(f"image {index}: {outcome.code}: {outcome.detail}")
        return [outcome.value for outcome in self.outcomes if isinstance(outcome, Score)]


@dataclass(frozen=True)
class Info:
    """What the service offers; ``several``: it is a gateway."""

    rewards: tuple[str, ...]
    several: bool
    max_samples: int
    max_image_bytes: int


def read_image(path: str | Path) -> bytes:
    """The bytes of a PNG, JPEG or WebP file."""
    return Path(path).read_bytes()


@dataclass(frozen=True)
class _Call:
    method: str
    path: str
    files: dict[str, tuple[str | None, bytes]] | None = None
    timeout: float = 0.0


@dataclass(frozen=True)
class _Sample:
    index: int
    image: bytes
    head: dict[str, Any]


@dataclass(frozen=True)
class _Answer:
    outcomes: dict[int, Outcome]
    model: Model | None = None
    failure: UnavailableError | None = None  # of the whole reward, where asking again may help


@dataclass(frozen=True)
class _Plan:
    names: tuple[str, ...]
    formulas: Mapping[str, str]
    several: bool
    chunks: list[list[_Sample]]
    refused: Mapping[int, ScoreError]
    images: int
    end: float

    def join(self, parts: Sequence[Mapping[str, _Answer]]) -> dict[str, Scores]:
        return {name: self._scores([part[name] for part in parts]) for name in self.names}

    def _scores(self, answers: Sequence[_Answer]) -> Scores:
        found: dict[int, Outcome] = dict(self.refused)
        for answer in answers:
            found |= answer.outcomes
        models = dict.fromkeys(answer.model for answer in answers if answer.model)
        return Scores(tuple(found[index] for index in range(self.images)), tuple(models))


# What a call does, apart from I/O: it yields requests, or seconds to wait, and is sent the response or why there is
# none.
_Flow = Generator[_Call | float, httpx.Response | Exception | None, T]


class _Budget:
    """Attempts and seconds that are left of a call; a wait of ten seconds is said in the log, with its reason."""

    def __init__(self, url: str, attempts: int, end: float) -> None:
        self._url, self._tries, self._attempts, self._end = url, 0, attempts, end
        self._said = time.monotonic()

    def left(self) -> float:
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise UnavailableError("the deadline passed")
        return seconds

    def pause(self, failure: UnavailableError) -> float:
        """Seconds to wait before the next attempt; raises the failure where there is to be none."""
        self._tries += 1
        backoff = min(8.0, 0.1 * 2.0**self._tries) * random.uniform(0.5, 1.0)
        seconds = max(backoff, failure.retry_after * random.uniform(1.0, 1.25))
        if self._tries >= self._attempts or seconds >= self._end - time.monotonic():
            raise failure
        if time.monotonic() + seconds - self._said > _QUIET_SECONDS:
            self._said = time.monotonic()
            _log.warning("waiting for %s: %s", self._url, failure)
        return seconds


def _address(url: str) -> httpx.URL:
    """The service's address; raises ValueError, which says what is wrong, where it can be none."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"url: {url!r}: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"url: {url!r} does not begin with http:// or https:// and a host")
    return parsed


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Core(Generic[Http]):
    """Everything but I/O."""

    _kind: Callable[..., Http]

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca_file: str | Path | None = None,
        deadline: float = 120.0,
        attempts: int = 8,
        batch_samples: int = 32,
        batch_bytes: int = 16 * 2**20,
        concurrency: int = 8,
    ) -> None:
        """Talk to the service at ``url``.

        Args:
            url: "http://host:port" or "https://host:port", without a path.
            token: sent as bearer token.
            ca_file: PEM file of the authority that signed the service's certificate; default: the usual authorities.
            deadline: seconds that a call may take, retries included.
            attempts: how often a request is sent at most.
            batch_samples: images of one request; fewer where the service takes fewer.
            batch_bytes: bytes of the images of one request.
            concurrency: requests of one call that are in flight together.

        Raises:
            ValueError: no service can be asked so, by the argument that is wrong.

        """
        if min(attempts, batch_samples, concurrency) < 1 or deadline <= 0:
            raise ValueError("attempts, batch_samples and concurrency must be at least 1, deadline above 0")
        self._deadline, self._attempts, self._concurrency = deadline, attempts, concurrency
        self._batch_samples, self._batch_bytes = batch_samples, batch_bytes
        self._info: Info | None = None
        verify: bool | ssl.SSLContext = ssl.create_default_context(cafile=ca_file) if ca_file else True
        address = _address(url)
        self._http: Http = self._kind(
            base_url=address,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            verify=verify,
            trust_env=not _is_loopback(address.host),  # what stays on this machine goes through no proxy
        )
        self._url = url

    def _ask_info(self, end: float) -> _Flow[Info]:
        if self._info is None:
            self._info = _read_info(
                (yield from _request(_Call("GET", "/v1/info"), _Budget(self._url, self._attempts, end)))
            )
        return self._info

    def _plan(
        self,
        images: Sequence[bytes],
        prompts: Sequence[str],
        target_words: Sequence[Sequence[str]] | None,
        metadata: Sequence[Mapping[str, Any]] | None,
        rewards: Sequence[str] | None,
        formulas: Mapping[str, str] | None,
    ) -> _Flow[_Plan]:
        end = time.monotonic() + self._deadline
        samples = _samples(images, prompts, target_words, metadata)
        info = yield from self._ask_info(end)
        names: tuple[str, ...] = info.rewards if rewards is None else tuple(dict.fromkeys(rewards))
        for name in (*names, *(formulas or {})):
            if name not in info.rewards:
                raise RejectedError(404, "no_such_reward", f"{name!r} is not on offer, only {', '.join(info.rewards)}")
        chosen = {name: formula for name, formula in (formulas or {}).items() if name in names}
        too_large = ScoreError("image_too_large", f"image: at most {info.max_image_bytes} bytes are taken")
        refused = {sample.index: too_large for sample in samples if len(sample.image) > info.max_image_bytes}
        taken = [sample for sample in samples if sample.index not in refused] if names else []
        chunks = _chunks(taken, min(self._batch_samples, info.max_samples), self._batch_bytes)
        return _Plan(names, chosen, info.several, chunks, refused, len(samples), end)

    def _score_chunk(self, plan: _Plan, chunk: list[_Sample]) -> _Flow[dict[str, _Answer]]:
        answers: dict[str, _Answer] = {}
        try:
            yield from self._fill(answers, plan, chunk)
        except UnavailableError:
            if not answers:
                raise
        return answers

    def _fill(self, answers: dict[str, _Answer], plan: _Plan, chunk: list[_Sample]) -> _Flow[None]:
        """Ask for all rewards, then again for those that failed and may come back."""
        budget, wanted = _Budget(self._url, self._attempts, plan.end), plan.names
        while True:
            answers |= _read_answers((yield from _request(_score_call(plan, chunk, wanted), budget)), wanted, chunk)
            failures = {name: answer.failure for name, answer in answers.items() if answer.failure}
            if not failures:
                return
            wanted = tuple(failures)
            yield budget.pause(max(failures.values(), key=lambda failure: failure.retry_after))


class RewardClient(_Core[httpx.Client]):
    """Scores images; for use from any thread. In a ``with`` block, or to be closed."""

    _kind = httpx.Client

    def score(
        self,
        images: Sequence[bytes],
        prompts: Sequence[str],
        *,
        target_words: Sequence[Sequence[str]] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        rewards: Sequence[str] | None = None,
        formulas: Mapping[str, str] | None = None,
    ) -> dict[str, Scores]:
        """Score images by one reward or several; large calls are split and sent together.

        Args:
            images: whole PNG, JPEG or WebP files.
            prompts: one for each image.
            target_words: OCR: the words wanted in each image; default, also for an empty entry: the quoted parts of its
                prompt.
            metadata: what a reward needs of each image beside its prompt, a JSON object of at most 16 KiB.
            rewards: names out of ``info``; default: all.
            formulas: name of the formula by name of the reward; default: the service's own.

        Returns:
            The scores by the reward's name. A reward that stayed away while others answered has a retryable ScoreError
            for each image.

        Raises:
            TypeError: a str in place of a list, or a path in place of a file.
            ValueError: the lists are not equally long.
            RejectedError: the service refuses the call as it is, for example without a valid token.
            UnavailableError: no answer, or overload, until the attempts or the time were used up.
            BadAnswerError: what answered is no varl service.

        """
        plan = self._run(self._plan(images, prompts, target_words, metadata, rewards, formulas))
        if len(plan.chunks) < 2:
            return plan.join([self._run(self._score_chunk(plan, chunk)) for chunk in plan.chunks])
        with ThreadPoolExecutor(min(self._concurrency, len(plan.chunks))) as pool:
            return plan.join(list(pool.map(lambda chunk: self._run(self._score_chunk(plan, chunk)), plan.chunks)))

    def info(self) -> Info:
        """What the service offers, asked for once; raises as ``score`` does."""
        return self._run(self._ask_info(time.monotonic() + self._deadline))

    def _run(self, flow: _Flow[T]) -> T:
        answer: httpx.Response | Exception | None = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = self._do(step)

    def _do(self, step: _Call | float) -> httpx.Response | Exception | None:
        if isinstance(step, float):
            time.sleep(step)
            return None
        try:
            return self._http.request(step.method, step.path, files=step.files, timeout=step.timeout)
        except _RETRIED_ERRORS as error:
            return error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> RewardClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncRewardClient(_Core[httpx.AsyncClient]):
    """``RewardClient`` for one asyncio event loop. In an ``async with`` block, or to be closed."""

    _kind = httpx.AsyncClient

    async def score(
        self,
        images: Sequence[bytes],
        prompts: Sequence[str],
        *,
        target_words: Sequence[Sequence[str]] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        rewards: Sequence[str] | None = None,
        formulas: Mapping[str, str] | None = None,
    ) -> dict[str, Scores]:
        """As ``RewardClient.score``."""
        plan = await self._run(self._plan(images, prompts, target_words, metadata, rewards, formulas))
        room = asyncio.Semaphore(self._concurrency)

        async def score_chunk(chunk: list[_Sample]) -> dict[str, _Answer]:
            async with room:
                return await self._run(self._score_chunk(plan, chunk))

        tasks = [asyncio.create_task(score_chunk(chunk)) for chunk in plan.chunks]
        try:
            return plan.join(await asyncio.gather(*tasks))
        finally:  # the first failure ends the others
            for task in tasks:
                task.cancel()

    async def info(self) -> Info:
        """As ``RewardClient.info``."""
        return await self._run(self._ask_info(time.monotonic() + self._deadline))

    async def _run(self, flow: _Flow[T]) -> T:
        answer: httpx.Response | Exception | None = None
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = await self._do(step)

    async def _do(self, step: _Call | float) -> httpx.Response | Exception | None:
        if isinstance(step, float):
            return await asyncio.sleep(step, None)
        request = self._http.request(step.method, step.path, files=step.files, timeout=step.timeout)
        try:
            return await asyncio.wait_for(request, step.timeout)  # httpx bounds each read, not the whole
        except (TimeoutError, *_RETRIED_ERRORS) as error:
            return error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncRewardClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _request(call: _Call, budget: _Budget) -> _Flow[httpx.Response]:
    while True:
        answer = yield replace(call, timeout=budget.left())
        if isinstance(answer, httpx.Response) and answer.status_code == httpx.codes.OK:
            return answer
        yield budget.pause(_failure(answer))


def _failure(answer: httpx.Response | Exception | None) -> UnavailableError:
    """Why to ask again; raises RejectedError where that is of no use."""
    if not isinstance(answer, httpx.Response):
        return UnavailableError(f"no answer: {type(answer).__name__}: {answer}")
    code, detail = _problem(answer)
    if answer.status_code not in _RETRIED_STATUSES:
        raise RejectedError(answer.status_code, code, detail)
    return UnavailableError(
        f"HTTP {answer.status_code}, {code}: {detail}", _seconds(answer.headers.get("Retry-After", ""))
    )


def _problem(answer: httpx.Response) -> tuple[str, str]:
    try:
        problem = answer.json()
        return str(problem["code"]), str(problem["detail"])
    except (KeyError, TypeError, ValueError):  # from a proxy on the way
        return answer.reason_phrase, answer.text[:200]


def _seconds(header: str) -> float:
    """Retry-After as seconds from now."""
    if header.isdecimal():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _samples(
    images: Sequence[bytes],
    prompts: Sequence[str],
    target_words: Sequence[Sequence[str]] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
) -> list[_Sample]:
    words: Sequence[Sequence[str]] = [()] * len(images) if target_words is None else target_words
    _check_types(images, prompts, words)
    if not len(images) == len(prompts) == len(words):
        raise ValueError(
            f"{len(images)} images, {len(prompts)} prompts and {len(words)} target_words: as many of each are wanted"
        )
    if metadata is not None and len(metadata) != len(images):
        raise ValueError(f"{len(images)} images and {len(metadata)} metadata: as many of each are wanted")
    rows = enumerate(zip(images, prompts, words))  # noqa: B905
    samples = [
        _Sample(i, image, {"id": str(i), "prompt": prompt, "target_words": list(row)})
        for i, (image, prompt, row) in rows
    ]
    for sample, extra in zip(samples, metadata or ()):  # noqa: B905
        if extra:
            sample.head["metadata"] = dict(extra)
    return samples


def _check_types(images: Sequence[bytes], prompts: Sequence[str], words: Sequence[Sequence[str]]) -> None:
    """Raises TypeError for a path in place of a file, and for a str in place of a list: that is a list of letters."""
    for field, given in (("prompts", prompts), ("target_words", words)):
        if isinstance(given, str):
            raise TypeError(f"{field} is a str; a list with an entry for each image is wanted")
    for index, row in enumerate(words):
        if isinstance(row, str):
            raise TypeError(f"target_words[{index}] is a str; a list of words is wanted")
    for index, image in enumerate(images):
        if not isinstance(image, bytes):
            raise TypeError(
                f"images[{index}] is a {type(image).__name__}; "
                "the bytes of a file are wanted, read_image gives those of a path"
            )


def _chunks(samples: Sequence[_Sample], most: int, most_bytes: int) -> list[list[_Sample]]:
    """Neighbours together, up to ``most`` and ``most_bytes``; a sample over ``most_bytes`` alone."""
    chunks: list[list[_Sample]] = []
    size = 0
    for sample in samples:
        size += len(sample.image)
        if not chunks or len(chunks[-1]) == most or size > most_bytes:
            chunks.append([])
            size = len(sample.image)
        chunks[-1].append(sample)
    return chunks


def _score_call(plan: _Plan, chunk: Sequence[_Sample], wanted: Sequence[str]) -> _Call:
    """Multipart with the files as they are: Base64 in JSON costs the service several times as much."""
    formulas = {name: plan.formulas[name] for name in wanted if name in plan.formulas}
    choice = (
        {"rewards": list(wanted), "formulas": formulas}
        if plan.several
        else {"formula": formulas.get(plan.names[0], "")}
    )
    request = json.dumps({"samples": [sample.head for sample in chunk], **choice}).encode()
    return _Call(
        "POST",
        "/v1/score",
        {"request": (None, request), **{str(sample.index): (str(sample.index), sample.image) for sample in chunk}},
    )


def _read_info(answer: httpx.Response) -> Info:
    try:
        body = answer.json()
        several = "rewards" in body
        return Info(
            tuple(body["rewards"]) if several else (body["reward"],),
            several,
            body["max_samples"],
            body["max_image_bytes"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswerError(f"GET {answer.url}: no answer of a varl service: {answer.text[:200]!r}") from error


def _read_answers(answer: httpx.Response, wanted: Sequence[str], chunk: Sequence[_Sample]) -> dict[str, _Answer]:
    try:
        body = answer.json()
        entries = body["rewards"] if "rewards" in body else {body["reward"]: body}
        return {name: _read_answer(entries[name], chunk) for name in wanted}
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswerError(f"POST {answer.url}: no answer of a varl service: {answer.text[:200]!r}") from error


def _read_answer(entry: Mapping[str, Any], chunk: Sequence[_Sample]) -> _Answer:
    if "error" not in entry:
        model, outcomes = entry["model"], {result["id"]: _read_outcome(result) for result in entry["results"]}
        found = {sample.index: outcomes[str(sample.index)] for sample in chunk}
        return _Answer(found, Model(model["engine"], model["name"], model["revision"]))
    problem = entry["error"]
    outcome = ScoreError(problem["code"], problem["detail"], problem["retryable"])
    failure = UnavailableError(outcome.detail, problem.get("retry_after") or 0.0) if outcome.retryable else None
    return _Answer(dict.fromkeys([sample.index for sample in chunk], outcome), None, failure)


def _read_outcome(result: Mapping[str, Any]) -> Outcome:
    if "error" in result:
        return ScoreError(result["error"]["code"], result["error"]["detail"])
    if not all(map(math.isfinite, (result["value"], *result["components"].values()))):
        return ScoreError("not_finite", "the service answered NaN or infinity")
    words = [Word(word["text"], word["confidence"], _corners(word)) for word in result.get("words", ())]
    regions = [Region(_corners(region), region["label"]) for region in result.get("regions", ())]
    return Score(result["value"], result["components"], tuple(words), tuple(regions))


def _corners(place: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in place["polygon"])
