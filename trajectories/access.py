"""How to reach the Redis of a run: address, password and certificates, the last three from files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, ResponseError

from varl.trajectories.redis_retry import PatientRetry, is_passing

# Not for the URL to decide: streams are read as bytes, in the form of RESP2.
FIXED = ("protocol", "legacy_responses", "decode_responses", "encoding", "encoding_errors")


class RedisClusterError(ValueError):
    """The server is a node of a Redis Cluster, where the keys of a run would lie on several nodes."""


@dataclass(frozen=True)
class RedisAccess:
    """Address and credentials of a Redis server.

    url: redis://[USER@]HOST:PORT/DB, rediss:// for TLS, or unix://PATH, with options of redis-py after a question mark;
    those about the form of replies (protocol=3, decode_responses) are skipped. The files: the password alone (white
    space around it is ignored); PEM of the authority that signed the server's certificate (default: the system's); PEM
    of this client's certificate and of its key.
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

    def connect(self, socket_timeout_s: float = 30.0, patience_s: float = 0.0, let_in: bool = False) -> redis.Redis:
        """Open a client whose replies may take longer than any blocking read.

        redis-py's own limit of 5 s is below a long block.

        patience_s: how long a command goes on being tried while Redis is unavailable, loading, out of memory, short of
        replicas, unable to save, or a replica since a failover: by new connections, whose address is resolved again.
        With 0 the connection is dropped all the same, and the next command makes another. A command that was carried
        out before its connection broke is then carried out twice, which every reader here has to bear anyway.
        let_in: another client was let in with these credentials; a refusal is then waited for as well. The password
        file is read for each new connection, so that a password may be changed while a run goes on.

        Raises:
            OSError: the password file cannot be read.
            ValueError: the URL is none or has an unknown option, or the password file is empty.
        """
        client = redis.Redis.from_url(
            _without_fixed(self.url),
            protocol=2,
            retry=PatientRetry(patience_s, let_in),
            socket_timeout=socket_timeout_s,
            socket_connect_timeout=5.0,
            health_check_interval=30,
            **self._certificates(),
        )
        pool = client.connection_pool
        if self.password_file is not None:
            pool.connection_kwargs.pop("password", None)
            password = PasswordFile(self.password_file, pool.connection_kwargs.pop("username", None))
            password.read()
            pool.connection_kwargs["credential_provider"] = password
        try:
            pool.connection_class(**pool.connection_kwargs)  # opens nothing
        except TypeError as error:
            raise ValueError(f"options of the Redis URL: {error}") from error
        return client

    def _certificates(self) -> dict[str, Any]:
        files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        return {name: str(path) for name, path in files.items() if path is not None}


class PasswordFile(CredentialProvider):
    """What a new connection shows: the password that its file has then, and the user of the ACL, if any."""

    def __init__(self, path: Path, user: str | None) -> None:
        self._path, self._user = path, user

    def read(self) -> str:
        """The password; raises OSError, and ValueError where the file is empty or no text."""
        password = self._path.read_text(encoding="utf-8").strip()
        if not password:
            raise ValueError(f"redis_password_file: {self._path} is empty")
        return password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """As redis-py asks for them; AuthenticationError while the file cannot be read, as while it is replaced."""
        try:
            password = self.read()
        except (OSError, ValueError) as error:
            raise AuthenticationError(f"redis_password_file: {error}") from error
        return (self._user, password) if self._user else (password,)


def require_usable(client: redis.Redis) -> None:
    """Ask a server whether it answers and can hold a run; one that merely refuses for a while can.

    Raises:
        RedisClusterError: it is a node of a cluster.
        redis.exceptions.RedisError: it cannot be reached, or does not let this user in.
    """
    try:
        cluster = client.info("cluster")
    except NoPermissionError:  # a user who may not ask may still work with streams
        client.ping()
    except (BusyLoadingError, ResponseError) as error:
        if not is_passing(error):
            raise
    else:
        if cluster.get("cluster_enabled"):
            raise RedisClusterError(
                "this Redis runs in cluster mode, which would spread the streams of a run over several nodes: "
                "give the address of a server or of a primary with replicas"
            )


def _without_fixed(url: str) -> str:
    address, mark, query = url.partition("?")
    kept = [option for option in query.split("&") if option.partition("=")[0] not in FIXED]
    return address + (mark + "&".join(kept) if any(kept) else "")
