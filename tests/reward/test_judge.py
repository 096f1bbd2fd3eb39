"""A judge behind a real HTTP server that takes what OpenAI's clients send."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Request, Response
from PIL import Image

from tests.support.client_rig import serving
from varl.reward import ErrorCode, Sample, SampleError, Score
from varl.services.judge.answers import NoQuestionError, NoScoreError, question, score
from varl.services.judge.reward import Judge
from varl.services.judge.settings import JudgeSettings
from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.plugin import RewardScorer
from varl.services.serving.scoring import StartError

RED = np.zeros((20, 24, 3), np.uint8)
RED[..., 0] = 200


def red_in(picture: Image.Image, text: str) -> str:
    """A judge with eyes: the red in the picture, where the text asks for it."""
    pixels = np.asarray(picture.convert("RGB"), np.float64).mean((0, 1))
    wanted = "red" in text
    level = pixels[0] / max(1.0, pixels.sum()) if wanted else 0.0
    return f'I look closely. {{"why": "red"}}\n```json\n{{"score": {10 * level:.3f}}}\n```'


@dataclass
class Server:
    """What to answer, and what was asked."""

    judge: Callable[[Image.Image, str], str] = red_in
    statuses: list[int] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            body = await request.json()
            self.asked.append(body)
            self.keys.append(request.headers.get("authorization"))
            if self.statuses and (status := self.statuses.pop(0)) != 200:
                return Response('{"error": {"message": "on purpose"}}', status, media_type="application/json")
            (message,) = body["messages"]
            picture, text = message["content"]
            data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"))
            answer = self.judge(Image.open(io.BytesIO(data)), text["text"])
            choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
            return Response(
                json.dumps({"object": "chat.completion", "choices": [choice]}), media_type="application/json"
            )

        return app


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server()
    with serving(found.app()) as url:
        monkeypatch.setenv("VARL_JUDGE_URL", f"{url}/v1")
        monkeypatch.setenv("VARL_JUDGE_MODEL", "eyes")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which must not be asked for this machine's own ports
        yield found


def judge() -> Judge:
    reward = Judge()
    reward.load("cpu")
    return reward


def test_a_picture_and_its_question_become_a_number(server: Server) -> None:
    reward = judge()
    server.asked.clear()
    red, blue = reward.score([Sample("something red", RED, ()), Sample("red", RED[..., ::-1].copy(), ())])
    assert (red, blue) == (Score(1.0), Score(0.0))
    assert {body["model"] for body in server.asked} == {"eyes"}
    assert all(body["temperature"] == 0 for body in server.asked)
    assert any("something red" in body["messages"][0]["content"][1]["text"] for body in server.asked)
    assert set(server.keys) == {None}


def test_the_key_is_sent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("secret\n")
    monkeypatch.setenv("VARL_JUDGE_KEY_FILE", str(tmp_path / "key"))
    judge()
    assert set(server.keys) == {"Bearer secret"}


@pytest.mark.parametrize(
    "careless",
    [
        lambda picture, text: '{"score": 7}',  # says the same to everything
        lambda picture, text: red_in(picture, "red"),  # looks at the picture alone
        lambda picture, text: '{"score": 9}' if "cats" in text else '{"score": 1}',  # has it the wrong way round
    ],
)
async def test_a_judge_whom_the_canary_does_not_move_is_refused(
    server: Server, careless: Callable[[Image.Image, str], str]
) -> None:
    server.judge = careless
    with pytest.raises(StartError, match="looks at the picture or at the question"):
        await RewardScorer(Judge, "cpu", BatchLimits(8)).start()


async def test_a_server_that_refuses_is_no_judge(server: Server) -> None:
    server.statuses += [401, 401]
    with pytest.raises(StartError, match="HTTP 401"):
        await RewardScorer(Judge, "cpu", BatchLimits(8)).start()


def test_a_busy_server_is_asked_again_and_a_failure_is_no_number(server: Server) -> None:
    reward = judge()
    sample = Sample("red", RED, ())
    server.statuses += [503, 429]
    assert reward.score([sample]) == [Score(1.0)]
    before = len(server.asked)
    server.statuses += [400]
    (refused,) = reward.score([sample])
    assert isinstance(refused, SampleError)
    assert (refused.code, len(server.asked)) == (ErrorCode.ENGINE_FAILED, before + 1)
    for answer in (
        "very good",
        '{"score": "9"}',
        '{"score": 11}',
        '{"score": true}',
        '{"points": 3}',
        '{"score": NaN}',
    ):
        server.judge = lambda picture, text, answer=answer: answer  # type: ignore[misc]
        (found,) = reward.score([sample])
        assert isinstance(found, SampleError), answer
        assert found.code is ErrorCode.ENGINE_FAILED


def test_a_template_takes_metadata_and_says_what_is_missing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "question.txt").write_text('Is $count of it $tone in "$prompt"? {"points": N} for $$5')
    monkeypatch.setenv("VARL_JUDGE_QUESTION_FILE", str(tmp_path / "question.txt"))
    monkeypatch.setenv("VARL_JUDGE_KEY", "points")
    server.judge = lambda picture, text: json.dumps({"points": 8 if "red" in text else 2})

    class Counting(Judge):
        def canary(self) -> tuple[Sample, Sample]:
            right, wrong = super().canary()
            facts = {"count": 1, "tone": "bright"}
            return tuple(Sample(each.prompt, each.pixels, (), metadata=facts) for each in (right, wrong))  # type: ignore[return-value]

    reward = Counting()
    reward.load("cpu")
    told, untold = reward.score(
        [Sample("red", RED, (), metadata={"count": 2, "tone": "dark"}), Sample("red", RED, (), metadata={"count": 2})]
    )
    assert told == Score(0.8)
    assert server.asked[-1]["messages"][0]["content"][1]["text"] == 'Is 2 of it dark in "red"? {"points": N} for $5'
    assert isinstance(untold, SampleError)
    assert (untold.code, untold.detail.split(":")[0]) == (ErrorCode.INVALID_FIELD, "metadata.tone")


def test_questions() -> None:
    sample = Sample("a sign", RED, ("open", "late"), metadata={"prompt": "not this", "boxes": [1, 2]})
    assert question("$prompt/$target_words/$boxes", sample) == 'a sign/"open", "late"/[1, 2]'
    for template, named in (("$target_words", "target_words"), ("$size", "metadata.size"), ("costs 5$", "template")):
        with pytest.raises(NoQuestionError, match=named):
            question(template, Sample("a", RED, ()))
    with pytest.raises(NoQuestionError, match="template"):
        question("${prompt.__class__}", sample)


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_a_blank_prompt_is_none(blank: str) -> None:
    sample = Sample(blank, RED, (), metadata={"prompt": "not this", "count": 2})
    with pytest.raises(NoQuestionError, match=r"^prompt: the question asks for it"):
        question("Is it $prompt?", sample)
    assert question("Are there $count?", sample) == "Are there 2?"


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"score": 5}', 0.5),
        ('first {"score": 1}, no: {"score": 2.5} {"other": {"score": 9}}', 0.25),
        ('{"a": {"score": 3}, "score": 10}', 1.0),
        ('{{{"score": 0}', 0.0),
    ],
)
def test_the_last_object_with_a_score_counts(answer: str, value: float) -> None:
    assert score(answer, "score", 0, 10) == value


@pytest.mark.parametrize("answer", ["", "{", '{"score": null}', '{"score": -1}', '{"score": 1e400}', "{" * 10_000])
def test_an_answer_without_one_is_none(answer: str) -> None:
    with pytest.raises(NoScoreError):
        score(answer, "score", 0, 10)


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARL_JUDGE_URL", "http://x")
    with pytest.raises(ValueError, match="model"):
        JudgeSettings()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="low must be below high"):
        JudgeSettings.model_validate({"url": "http://x", "model": "m", "low": 1, "high": 1})
