"""Tokens, certificates and keys out of files, as gRPC takes them; for servers and for clients."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc


@dataclass(frozen=True)
class ClientFiles:
    """Files of a client: bearer token, PEM of the servers' certificate authority, its own certificate and key."""

    token: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        check_pair("client", self.cert, self.key)
        if self.cert is not None and self.ca is None:
            raise ValueError(
                "a client's certificate is for TLS: name the authority of the servers' certificates as well"
            )

    def read(self) -> Credentials:
        """What the files hold; raises OSError."""
        pair = (self.key.read_bytes(), self.cert.read_bytes()) if self.key and self.cert else None
        return Credentials(
            self.token.read_text().strip() if self.token else None, self.ca.read_bytes() if self.ca else None, pair
        )


@dataclass(frozen=True)
class Credentials:
    """What a client presents and whom it trusts.

    ``ca`` None: no TLS. ``pair``: PEM of its own key and certificate, for mutual TLS.
    """

    token: str | None = None
    ca: bytes | None = None
    pair: tuple[bytes, bytes] | None = None

    def channel(self) -> grpc.ChannelCredentials | None:
        """Credentials of a channel; None for one without TLS."""
        return None if self.ca is None else grpc.ssl_channel_credentials(self.ca, *(self.pair or ()))


@dataclass(frozen=True)
class ServerFiles:
    """PEM files of a server: its certificate with chain, its key, and the authority of its clients.

    Only clients that this authority signed are admitted; without one, every client is.
    """

    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    def __post_init__(self) -> None:
        check_pair("tls", self.cert, self.key)
        if self.client_ca is not None and self.cert is None:
            raise ValueError("tls_client_ca_file asks for TLS: set tls_cert_file and tls_key_file as well")

    def add_port(self, server: grpc.aio.Server, host: str, port: int) -> int:
        """Listen, with TLS where there is a certificate; the port.

        Raises OSError for a file and RuntimeError for the address.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if self.cert is None or self.key is None:
            return server.add_insecure_port(address)
        authority = self.client_ca.read_bytes() if self.client_ca else None
        pair = (self.key.read_bytes(), self.cert.read_bytes())
        return server.add_secure_port(address, grpc.ssl_server_credentials([pair], authority, authority is not None))


def channel_options(target: str) -> tuple[tuple[str, int], ...]:
    """Options of a channel to ``target``: what stays on this machine goes through no proxy, http_proxy or not."""
    return (("grpc.enable_http_proxy", 0),) if is_loopback(target) else ()


def is_loopback(target: str) -> bool:
    """Whether HOST:PORT, a URL or a gRPC target names this machine."""
    place = target.rpartition("/")[2] if "://" not in target or ":///" in target else urlsplit(target).netloc
    host = urlsplit(f"//{place}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or target.startswith("unix:")


def check_pair(name: str, cert: Path | None, key: Path | None) -> None:
    """Raises ValueError where one of a certificate and its key is missing."""
    if (cert is None) != (key is None):
        raise ValueError(f"{name}_cert_file and {name}_key_file go together")
