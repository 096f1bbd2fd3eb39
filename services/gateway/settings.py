"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from varl.services.serving.credentials import ClientFiles
from varl.services.serving.settings import Bytes, HttpSettings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class GatewaySettings(HttpSettings):
    """One URL for several rewards.

    Takes what a reward service takes over HTTP, and asks the services behind it over gRPC.
    """

    model_config = SettingsConfigDict(env_prefix="VARL_GATEWAY_", cli_prog_name="python -m varl.services.gateway")

    reward: dict[Name, str] = Field(
        min_length=1, description="Reward services by name: ocr=dns:///HOST:PORT (gRPC). Can be given several times."
    )
    backend_token_file: Path | None = Field(
        None, description="File with the bearer token that the services want; default: none."
    )
    backend_ca_file: Path | None = Field(
        None, description="PEM file of the authority that signed the services' certificates; default: no TLS."
    )
    backend_cert_file: Path | None = Field(
        None, description="PEM file of the gateway's own certificate, where the services ask for one."
    )
    backend_key_file: Path | None = Field(None, description="PEM file of its key.")
    max_request_bytes: Bytes = Field(
        64 * 2**20,
        ge=1024,
        description="Bytes of a request; services are sent it in parts of the size that each of them takes.",
    )

    @model_validator(mode="after")
    def _credentials_fit(self) -> Self:
        self.backend_files()
        return self

    def backend_files(self) -> ClientFiles:
        """What the services behind are shown; raises ValueError where it contradicts itself."""
        return ClientFiles(self.backend_token_file, self.backend_ca_file, self.backend_cert_file, self.backend_key_file)
