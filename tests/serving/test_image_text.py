"""Images as text: each form of Base64 that callers send, and the image that a model wrote among words."""

from __future__ import annotations

import base64
import textwrap
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compat_rig import grey
from varl.services.serving.image_text import image_file, last_image
from varl.services.serving.scoring import ErrorCode, SampleError

FILE = bytes([0xFB, 0xEF, 0xFF, 0xFE, 0x3E, 0x3F])  # "+" and "/" in Base64
PNG, JPEG, WEBP = grey(9), grey(9, "JPEG"), grey(9, "WEBP")


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wrapped(data: bytes, width: int, end: str = "\n") -> str:
    return end.join(textwrap.wrap(text_of(data), width))


def refusal(found: bytes | SampleError) -> str:
    assert isinstance(found, SampleError)
    assert found.code is ErrorCode.BAD_IMAGE
    return found.detail


@given(st.binary(min_size=1, max_size=400), st.integers(4, 100), st.sampled_from(["\n", "\r\n", " "]))
def test_every_form_of_base64_is_read(data: bytes, width: int, end: str) -> None:
    url_safe = base64.urlsafe_b64encode(data).decode()
    for text in (text_of(data), wrapped(data, width, end), url_safe, url_safe.rstrip("="), text_of(data) + "\n"):
        assert image_file(text, "image") == data
        assert image_file(f"data:image/png;base64,{text}", "image") == data


def test_data_urls_of_all_spellings() -> None:
    for url in (
        f"DATA:image/png;charset=utf-8;BASE64,{text_of(FILE)}",
        f"data:;base64,{quote(text_of(FILE), safe='')}",
        f"data:image;base64,{text_of(FILE)}",
    ):
        assert image_file(url, "image") == FILE


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("data:image/png,abc", "image: a data: URL that is not ;base64"),
        ("a", "image: no Base64"),
        ("ab!d", "image: no Base64"),
        ("http://127.0.0.1/x.png", "image: no Base64"),
        ("ünicode", "image: no Base64"),
    ],
)
def test_what_is_no_base64_is_refused(text: str, detail: str) -> None:
    assert refusal(image_file(text, "image")).startswith(detail)


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP])
@pytest.mark.parametrize(
    "query",
    [
        "{0}",
        "data:image/png;base64,{0}",
        "<|im_start|>user\nA sign that says 'AB+c'<|im_end|>\n<|im_start|>assistant\nHere it is: {0}<|im_end|>",
        "<s>Draw. ![picture](data:image/jpeg;base64,{0}) Done.</s>",
        "first data:image/png;base64,iVBORw0KGgoAAAA= then\n\n{0}\n",
        '{{"image": "{0}", "why": "UklG"}}',
    ],
)
def test_the_last_image_among_words_is_the_one(query: str, data: bytes) -> None:
    assert last_image(query.format(text_of(data)), "query[0]", "A sign") == data
    url_safe = base64.urlsafe_b64encode(data).decode().rstrip("=")
    assert last_image(query.format(url_safe), "query[0]", "A sign") == data


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_wrapped_image_ends_where_its_lines_do(end: str) -> None:
    # 19 bytes of padding more: the last line is a full one, without "=", and what follows cannot be told from Base64
    for data in (PNG, PNG + bytes(57 - len(PNG) % 57)):
        found = last_image(f"Here:\n{wrapped(data, 76, end)}{end}A sign, as asked.", "query[0]")
        assert isinstance(found, bytes)
        assert found.startswith(data)


def test_the_prompts_own_image_is_not_the_models() -> None:
    prompt = f"Make this brighter: data:image/png;base64,{text_of(PNG)}"
    assert "behind the prompt" in refusal(last_image(f"<s>{prompt} I cannot.</s>", "query[0]", prompt))
    assert last_image(f"<s>{prompt} {text_of(JPEG)}</s>", "query[0]", prompt) == JPEG


@pytest.mark.parametrize("text", ["", "What is 2+2? 4", "data:image/gif;base64,R0lGODlhAQ", "xiVBORw0KGgo", "a/9j/b"])
def test_a_text_without_an_image_says_so(text: str) -> None:
    assert refusal(last_image(text, "query[3]")).startswith("query[3]: no image in it")


@given(st.text(alphabet="/9jUklGRiVBO=\n -_", max_size=300))
def test_any_text_is_bytes_or_a_refusal(text: str) -> None:
    assert isinstance(last_image(text, "query[0]"), bytes | SampleError)
