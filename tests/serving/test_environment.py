"""Misspelt variables of a service are told; those that Kubernetes sets are not."""

from __future__ import annotations

import json

import pytest

from varl.services.ocr.settings import OCRSettings
from varl.services.rollout.settings import RolloutServiceSettings
from varl.services.serving.environment import unknown_variables
from varl.services.serving.settings import parse_settings

KUBERNETES = {
    "VARL_OCR_PORT": "tcp://10.0.0.1:8080",
    "VARL_OCR_SERVICE_HOST": "10.0.0.1",
    "VARL_OCR_SERVICE_PORT": "8080",
    "VARL_OCR_SERVICE_PORT_GRPC": "50051",
    "VARL_OCR_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "VARL_OCR_PORT_8080_TCP_PROTO": "tcp",
    "VARL_OCR_PORT_8080_TCP_PORT": "8080",
    "VARL_OCR_PORT_8080_TCP_ADDR": "10.0.0.1",
    "VARL_OCR_CANARY_SERVICE_HOST": "10.0.0.2",
    "VARL_OCR_CANARY_PORT": "tcp://10.0.0.2:8080",
}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("VARL_OCR_TOKEN_FLE", "; did you mean VARL_OCR_TOKEN_FILE?"),
        ("VARL_OCR_HTTP_PROT", "; did you mean VARL_OCR_HTTP_PORT?"),
        ("VARL_OCR_HTPP_PORT", "; did you mean VARL_OCR_HTTP_PORT?"),
        ("varl_ocr_workes", "; did you mean VARL_OCR_WORKERS?"),
        ("VARL_OCR_QQQQQ", ""),
    ],
)
def test_a_misspelt_variable_is_told(name: str, meant: str) -> None:
    assert list(unknown_variables(OCRSettings, {name: "x", **KUBERNETES})) == [(name, meant)]


def test_settings_and_what_kubernetes_sets_are_not() -> None:
    fine = {"VARL_OCR_WORKERS": "1", "varl_ocr_http_port": "0", "VARL_OCRX": "x", "VARL_GATEWAY_HOST": "x", "PATH": "/"}
    assert not list(unknown_variables(OCRSettings, fine | KUBERNETES))
    assert not list(unknown_variables(RolloutServiceSettings, {"VARL_ROLLOUT_SAMPLING__TOP_K": "3"}))


def test_it_is_told_on_stderr_and_the_service_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VARL_OCR_TOKEN_FLE", "/tokens")
    with pytest.raises(SystemExit) as end:
        parse_settings(OCRSettings, ["--dry-run"])
    out, err = capsys.readouterr()
    assert (end.value.code, json.loads(out)["token_file"]) == (0, None)
    assert err == "VARL_OCR_TOKEN_FLE: no such setting, ignored; did you mean VARL_OCR_TOKEN_FILE?\n"
