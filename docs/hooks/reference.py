"""What mkdocs adds to docs/: reference pages made from the code, and pages that lie elsewhere in the repository."""

from __future__ import annotations

import ast
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from varl import cli
from varl.cli.commands import COMMANDS, SERVICES
from varl.services.reward.load import load_reward
from varl.services.reward.settings import RewardSettings
from varl.services.serving.http.app import build_app
from varl.services.serving.plugin import RewardScorer
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import parse_settings

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = "repository"  # folder of the site for pages that lie outside of docs/
PAGES = ("policy/README.md", "policy/nextflow/README.md", "k8s/README.md", "checkpoints/tiny_signs/README.md")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    made = {
        "reference/commands.md": _commands(),
        "reference/http.md": _http(),
        "reference/proto.md": _proto(),
        "reference/prometheus.md": _prometheus(),
    }
    kept = {f"{ELSEWHERE}/{name}": (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    for name, text in (made | kept).items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ at the site's pages; one to a file that is no page stays as its name."""
    own = page.file.src_uri
    source = own.removeprefix(f"{ELSEWHERE}/") if own.startswith(ELSEWHERE) else f"docs/{own}"

    def replaced(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        uri = wanted.removeprefix("docs/") if wanted.startswith("docs/") else f"{ELSEWHERE}/{wanted}"
        if files.get_file_from_path(uri) is None:
            if not (ROOT / wanted).exists():
                return link[0]  # mkdocs warns of it
            return text if text.startswith("`") else f"{text} (`{wanted}`)"
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(own))}{anchor})"

    return _LINK.sub(replaced, markdown)


def _commands() -> str:
    """Every command's ``--help``."""
    services = {f"serve {name}": entry for name, entry in SERVICES.items() if "." not in name}
    services["serve examples/brightness.py:Brightness"] = SERVICES["PATH.py:Class"]
    parts = ["# Commands and settings\n\nWhat `--help` prints. A service's flags are also `VARL_…` in the environment."]
    for name, entry in {**COMMANDS, **services}.items():
        parts.append(f"## varl {name}\n\n{entry.summary}\n\n```text\n{_help(name)}```")
    return "\n\n".join(parts)


def _help(command: str) -> str:
    written = StringIO()
    with redirect_stdout(written), patch.dict(os.environ, COLUMNS="110", NO_COLOR="1"):
        try:
            cli.main([*command.split(), "--help"])
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f"varl {command} --help ended with status {ended.code}") from ended
    return written.getvalue()


def _http() -> str:
    """Routes and bodies of a reward service, from its OpenAPI document."""
    document = _openapi()
    parts = [
        "# HTTP API\n\nThe routes of a reward service, from its OpenAPI document (`/openapi.json`, page `/docs`).",
        "| route | what |\n|---|---|\n"
        + "\n".join(
            f"| `{method.upper()} {path}` | {operation.get('summary', '')} |"
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ),
        *(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())),
    ]
    return "\n\n".join(parts)


def _openapi() -> dict[str, Any]:
    settings = parse_settings(RewardSettings, [str(ROOT / "examples/brightness.py:Brightness")])
    kind = load_reward(settings.reward)
    scorer = RewardScorer(kind, settings.device, settings.scoring_limits(kind.batch_size))
    return build_app(ScoringService(settings, scorer)).openapi()


def _schema(name: str, schema: dict[str, Any]) -> str:
    """A table of one body's fields."""
    required = schema.get("required", ())
    rows = [
        f"| `{field}` | {_type(of)} | {'yes' if field in required else ''} | {_plain(of.get('description', ''))} |"
        for field, of in schema.get("properties", {}).items()
    ]
    text = _plain(schema.get("description", ""))
    table = "| field | type | required | what |\n|---|---|---|---|\n" + "\n".join(rows) if rows else ""
    return "\n\n".join(part for part in (f"## {name}", text, table) if part)


def _type(found: dict[str, Any]) -> str:
    if "$ref" in found:
        name = found["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in found:
        return " or ".join(_type(one) for one in found["anyOf"])
    if found.get("type") == "array":
        return f"list of {_type(found.get('items', {}))}"
    return str(found.get("type", "any"))


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _proto() -> str:
    """The .proto files as they are."""
    parts = ["# gRPC API\n\nThe messages and services, as `proto/varl/v1` has them."]
    files = sorted((ROOT / "proto/varl/v1").glob("*.proto"))
    parts += [f"## {path.name}\n\n```protobuf\n{path.read_text(encoding='utf-8')}```" for path in files]
    return "\n\n".join(parts)


def _prometheus() -> str:
    """A table of the metrics of each kind of service, read from the calls in the code that make them."""
    parts = [
        "# Prometheus metrics\n\nWhat `GET /metrics` has: of a reward service and the gateway on their HTTP port, of a "
        "rollout worker on `--metrics-port`. Metrics of reward services, and `varl_gateway_reward_ready`, have the "
        "label `reward` as well. The trainer has none: [metrics.jsonl](../metrics.md)."
    ]
    for title, folder in (("Reward services", "serving"), ("Gateway", "gateway"), ("Rollout workers", "rollout")):
        found = sorted({row for path in (ROOT / "services" / folder).rglob("*.py") for row in prometheus_metrics(path)})
        rows = "\n".join(f"| `{name}` | {kind} | {labels} | {_plain(text)} |" for name, kind, labels, text in found)
        parts.append(f"## {title}\n\n| metric | kind | labels | what |\n|---|---|---|---|\n{rows}")
    return "\n\n".join(parts)


def prometheus_metrics(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """(name as scraped, kind, labels, help) of every metric that a file makes by Counter(name, help, …) or alike."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match call:
            case ast.Call(
                func=ast.Name(id=maker) | ast.Attribute(attr=maker),
                args=[ast.Constant(value=str(name)), ast.Constant(value=str(text)), *rest],
            ) if name.startswith("varl_"):
                kind = maker.lower().strip("_").removesuffix("s")
                labels = [one.value for part in rest for one in ast.walk(part) if isinstance(one, ast.Constant)]
                ending = "_total" if kind == "counter" else ""
                shown = ", ".join(f"`{label}`" for label in labels if isinstance(label, str))
                yield name.removesuffix(ending) + ending, kind, shown, text
