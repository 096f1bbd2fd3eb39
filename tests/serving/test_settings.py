from __future__ import annotations

import json
from typing import Any

import pytest

from varl.services.gateway.settings import GatewaySettings
from varl.services.ocr.settings import OCRSettings
from varl.services.rollout.settings import RolloutServiceSettings
from varl.services.serving.settings import parse_settings


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARL_OCR_WORKERS", "3")
    monkeypatch.setenv("VARL_OCR_HTTP_PORT", "9000")
    settings = parse_settings(OCRSettings, ["--http-port", "0", "--reflection"])
    assert (settings.workers, settings.http_port, settings.reflection) == (3, 0, True)


def test_dry_run_prints_the_settings_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_settings(OCRSettings, ["--dry-run", "--engine", "paddle"])
    assert end.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["engine"] == "paddle"
    assert printed.keys() == OCRSettings.model_fields.keys() - {"dry_run"}


def test_dry_run_of_the_worker_shows_what_it_would_compute_with(capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--redis-url", "redis://127.0.0.1", "--run-id", "r", "--model-dir", "m", "--reward", "ocr=127.0.0.1:1"]
    for flags, expected in (([], 1), (["--threads", "3"], 3)):
        with pytest.raises(SystemExit) as end:
            parse_settings(RolloutServiceSettings, [*needed, *flags, "--dry-run"])  # type: ignore[type-var]
        assert end.value.code == 0
        assert json.loads(capsys.readouterr().out)["threads"] == expected
    with pytest.raises(SystemExit) as end:
        parse_settings(RolloutServiceSettings, [*needed, "--threads", "0"])  # type: ignore[type-var]
    assert end.value.code == 2
    assert "threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "prefix"),
    [(OCRSettings, "VARL_OCR_"), (RolloutServiceSettings, "VARL_ROLLOUT_"), (GatewaySettings, "VARL_GATEWAY_")],
)
def test_help_names_every_setting_with_its_meaning(
    settings: Any,  # noqa: ANN401
    prefix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_settings(settings, ["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert f"{prefix}{name.upper()}" in text
        assert field.description
        assert field.description.split(".")[0] in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--http-port", "70000"], "http_port"),
        (["--workers", "none"], "workers"),
        (["--engine", "tesseract"], "engine"),
        (["--no-such-flag", "1"], "--no-such-flag"),
        (["--max-samples", "9", "--max-in-flight", "8"], "max_samples"),
    ],
)
def test_a_bad_value_ends_with_code_2_and_names_the_setting(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_settings(OCRSettings, arguments)
    assert end.value.code == 2
    assert named in capsys.readouterr().err
