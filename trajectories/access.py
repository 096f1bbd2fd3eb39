"""How to reach the Redis of a run: address, password and certificates, the last three from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import BusyLoadingError, OutOfMemoryError
from redis.retry import Retry

LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True)
class RedisAccess:
    """Address and credentials of a Redis server.

    url: redis://[USER@]HOST:PORT/DB, rediss:// for TLS, or unix://PATH. The files: the password alone (white space
    around it is ignored); PEM of the authority that signed the server's certificate (default: the system's); PEM of
    this client's certificate and of its key.
    """

    url: str
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("redis_cert_file and redis_key_file go together")
        if (self.ca_file or self.cert_file) and not self.url.startswith("rediss://"):
            raise ValueError("redis_ca_file and redis_cert_file are for TLS: the URL must begin with rediss://")

    def connect(self, socket_timeout_s: float = 30.0, patience_s: float = 0.0) -> redis.Redis:
        """Open a client whose replies may take longer than any blocking read.

        redis-py's own limit of 5 s is below a long block.

        patience_s: how long commands go on trying, about, while Redis is unavailable, loading its data or out of
        memory. A command that was carried out before its connection broke is then carried out twice, which every reader
        here has to bear anyway.

        Raises:
            OSError: the password file cannot be read.
            ValueError: the URL is none, or the password file is empty.
        """
        return redis.Redis.from_url(
            self.url,
            socket_timeout=socket_timeout_s,
            socket_connect_timeout=5.0,
            health_check_interval=30,
            **_retries(patience_s),
            **self._password(),
            **self._certificates(),
        )

    def _password(self) -> dict[str, Any]:
        if self.password_file is None:
            return {}
        password = self.password_file.read_text(encoding="utf-8").strip()
        if not password:
            raise ValueError(f"redis_password_file: {self.password_file} is empty")
        return {"password": password}

    def _certificates(self) -> dict[str, Any]:
        files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        return {name: str(path) for name, path in files.items() if path is not None}


def _retries(patience_s: float) -> dict[str, Any]:
    if not patience_s:
        return {}
    retry = Retry(ExponentialBackoff(cap=LONGEST_PAUSE_S, base=0.05), max(1, round(patience_s / LONGEST_PAUSE_S)))
    return {"retry": retry, "retry_on_error": [BusyLoadingError, OutOfMemoryError]}
