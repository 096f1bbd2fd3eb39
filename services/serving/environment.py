"""Environment variables that look like a service's settings and are none."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from pydantic_settings import BaseSettings

# Kubernetes tells each container of every Service: of varl-ocr as VARL_OCR_PORT, VARL_OCR_SERVICE_HOST and so on.
_HOST = "_SERVICE_HOST"
_OF_SERVICE = r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"


def warn_of_unknown(cls: type[BaseSettings], environment: Mapping[str, str]) -> None:
    """Say on stderr which variables have the prefix of these settings and are none of them: misspelt, say."""
    for name, meant in unknown_variables(cls, environment):
        sys.stderr.write(f"{name}: no such setting, ignored{meant}\n")


def unknown_variables(cls: type[BaseSettings], environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each such variable, and which one may be meant ("; did you mean …?" or ""); not those that Kubernetes sets."""
    prefix, delimiter = cls.model_config.get("env_prefix", ""), cls.model_config.get("env_nested_delimiter")
    known = {f"{prefix}{field}".upper() for field in cls.model_fields}
    services = {prefix.removesuffix("_"), *(name.removesuffix(_HOST) for name in environment if name.endswith(_HOST))}
    injected = re.compile(f"({'|'.join(map(re.escape, sorted(services)))}){_OF_SERVICE}")
    for name in sorted(environment):
        field = prefix + name[len(prefix) :].split(delimiter)[0] if delimiter else name
        if name.upper().startswith(prefix) and field.upper() not in known and not injected.fullmatch(name):
            yield name, _meant(name, prefix, cls.model_fields)


def _meant(name: str, prefix: str, fields: Iterable[str]) -> str:
    """Without the prefix, in which all of them are alike."""
    near = get_close_matches(name[len(prefix) :].lower(), list(fields), n=1)
    return f"; did you mean {prefix}{near[0].upper()}?" if near else ""
