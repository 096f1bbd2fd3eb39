"""docs/serving.md against the code."""

from __future__ import annotations

import re

from tests.support.paths import ROOT
from varl.services.serving.scoring import ErrorCode
from varl.services.serving.status import STATUS

TEXT = (ROOT / "docs" / "serving.md").read_text()


def test_the_table_of_statuses_is_the_codes() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\d+) \| (\w+) \| (yes|no) \|$", TEXT, re.MULTILINE)
    assert rows == [
        (str(code), str(status.http.value), status.grpc.name, "yes" if status.retryable else "no")
        for code, status in STATUS.items()
    ]


def test_every_error_of_a_sample_is_named() -> None:
    assert all(f"`{code}`" in TEXT for code in ErrorCode)
