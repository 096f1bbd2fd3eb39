"""Settings that every reward service and the gateway have; flags over environment over defaults."""

from __future__ import annotations

import ipaddress
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, SettingsConfigDict, SettingsError

from varl.launch.cores import usable_cores
from varl.launch.program import parse
from varl.launch.streams import keep_streams
from varl.launch.waits import DAY_S
from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.credentials import ServerFiles, check_pair
from varl.services.serving.environment import warn_of_unknown

Port = Annotated[int, Field(ge=0, le=65535)]
MOST = 10**6  # of what is counted: more is a slip of the pen
Count = Annotated[int, Field(ge=1, le=MOST)]
Threads = Annotated[int, Field(ge=1, le=4096)]
Bytes = Annotated[int, Field(ge=64, le=2**40)]
Seconds = Annotated[float, Field(ge=0, le=DAY_S)]
T = TypeVar("T", bound="HttpSettings")


class HttpSettings(BaseSettings):
    """The HTTP API and the limits on what it takes in, with a model behind it or other services."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all interfaces.")
    http_port: Port = Field(8080, description="HTTP port; 0 picks a free one.")
    max_samples: Count = Field(256, description="Samples that one request may hold.")
    max_in_flight: Count = Field(
        1024,
        description="Samples taken in at a time over all requests; more are answered 429 / RESOURCE_EXHAUSTED.",
    )
    max_in_flight_bytes: Bytes = Field(
        256 * 2**20,
        ge=1024,
        description="Bytes of image files, and of request bodies, taken in at a time over all requests; more are "
        "answered like max-in-flight.",
    )
    max_connections: Count = Field(
        1024,
        description="Connections of each protocol that are open at a time, fewer where the process may not open as "
        "many files. Over HTTP the one that was silent longest makes room.",
    )
    request_seconds: Seconds = Field(
        300.0, gt=0, description="Longest time that a request may take; clients may set shorter deadlines."
    )
    max_request_bytes: Bytes = Field(32 * 2**20, ge=1024, description="Bytes of a request.")
    max_image_bytes: Bytes = Field(8 * 2**20, description="Bytes of an image file.")
    grace_seconds: Seconds = Field(
        30.0, description="How long requests in flight may take to finish once the service is told to stop."
    )
    token_file: Path | None = Field(
        None,
        description="File of bearer tokens, one a line: requests need one of them, probes and metrics none. "
        "Default: none do.",
    )
    tls_cert_file: Path | None = Field(
        None, description="PEM file of the service's certificate and its chain; default: no TLS."
    )
    tls_key_file: Path | None = Field(None, description="PEM file of its key.")
    otlp_endpoint: str = Field(
        "", description="OpenTelemetry collector for traces: http://HOST:4318/v1/traces; default: none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written to stderr."
    )
    compat_pickle: CliImplicitFlag[bool] = Field(
        False, description="Serve the trainers that send pickles: /compat/flow_grpo and others."
    )
    compat_pickle_any_host: CliImplicitFlag[bool] = Field(
        False, description="Serve them on another host than the loopback as well."
    )
    dry_run: CliImplicitFlag[bool] = Field(False, description="Print the settings as resolved, as JSON, and exit.")

    @model_validator(mode="after")
    def _whole_requests_fit(self) -> Self:
        if self.max_samples > self.max_in_flight:
            raise ValueError("max_samples must not be over max_in_flight: such a request could never be taken")
        if self.max_request_bytes > self.max_in_flight_bytes:
            raise ValueError(
                "max_request_bytes must not be over max_in_flight_bytes: such a request could never be taken"
            )
        return self

    @model_validator(mode="after")
    def _key_and_certificate(self) -> Self:
        check_pair("tls", self.tls_cert_file, self.tls_key_file)
        return self

    @model_validator(mode="after")
    def _pickles_stay_local(self) -> Self:
        check_pickle_host(self.host, self.compat_pickle, self.compat_pickle_any_host)
        return self


class ServingSettings(HttpSettings):
    """Protocols and limits of a reward service."""

    grpc_port: Port = Field(50051, description="gRPC port; 0 picks a free one.")
    tls_client_ca_file: Path | None = Field(
        None,
        description="PEM file of an authority: gRPC clients must show a certificate that it signed. Default: none do.",
    )
    reflection: CliImplicitFlag[bool] = Field(False, description="Offer gRPC server reflection.")
    max_decoded: Count = Field(32, description="Images held decoded at a time; with max-pixels this bounds memory.")
    max_pixels: int = Field(2048 * 2048, ge=64, le=2**30, description="Pixels of an image.")
    max_aspect_ratio: float = Field(
        20.0, ge=1, le=MOST, description="Longer side of an image divided by its shorter side."
    )
    min_side: Count = Field(8, description="Pixels of an image's shorter side.")
    max_prompt_chars: Count = Field(4096, description="Characters of a prompt.")
    max_target_words: Count = Field(64, description="Entries of target_words.")
    decode_threads: Threads = Field(
        min(2, usable_cores()), description="Threads that decode images; 2, or 1 on one core."
    )

    @model_validator(mode="after")
    def _mutual_tls_is_tls(self) -> Self:
        self.grpc_files()
        return self

    def grpc_files(self) -> ServerFiles:
        """Certificates of the gRPC API; raises ValueError where they contradict each other."""
        return ServerFiles(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)

    def batch_limits(
        self, max_items: int = 1, max_cost: float = math.inf, max_wait: float = 0.0, share: float = 1.0
    ) -> BatchLimits:
        """Limits of a batcher whose queue has room for every image that may be held decoded."""
        return BatchLimits(
            max_items, max_cost, max_wait, share, self.max_decoded, 3 * self.max_pixels * self.max_decoded
        )


def check_pickle_host(host: str, compat_pickle: bool, any_host: bool) -> None:
    """Check that trainers that send pickles are served beyond the loopback only if the operator allows it.

    Raises:
        ValueError: they would be, and the operator does not.
    """
    if compat_pickle and not any_host and not _is_loopback(host):
        raise ValueError(
            f"compat_pickle is for the loopback, and host is {host}: "
            "listen on 127.0.0.1, or set compat_pickle_any_host as well"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_settings(cls: type[T], arguments: Sequence[str] | None = None) -> T:
    """Settings from command line and environment; ``arguments`` None takes those of the process.

    The first thing that a service does. A bad value ends the program with code 2 after one line per fault on stderr;
    --dry-run ends it with code 0 after printing the settings. A variable that has the settings' prefix and is none of
    them is told on stderr.
    """
    keep_streams()
    warn_of_unknown(cls, os.environ)
    try:
        settings = parse(cls, arguments)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            sys.stderr.write(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (got {fault['input']!r})\n")
        raise SystemExit(2) from None
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    if settings.dry_run:
        sys.stdout.write(settings.model_dump_json(indent=2, exclude={"dry_run"}) + "\n")
        raise SystemExit(0)
    return settings
