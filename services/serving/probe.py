"""``python -m varl.services.serving.probe URL``: asks a process for its health, for containers that have no curl.

http://HOST:PORT/PATH wants a 2xx answer, grpc://HOST:PORT the status SERVING of grpc.health.v1. Exit status 0 for
healthy, 1 with a line on stderr for anything else, 2 for a URL of another kind. Neither protocol asks for a token.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

TIMEOUT_S = 3.0


def main(arguments: Sequence[str]) -> int:
    """Probe the one URL in ``arguments``; returns the exit status."""
    probes = {"http": _http, "grpc": _grpc}
    url = urlsplit(arguments[0]) if len(arguments) == 1 else SplitResult("", "", "", "", "")
    if url.scheme not in probes or not url.netloc:
        sys.stderr.write("usage: python -m varl.services.serving.probe http://HOST:PORT/readyz | grpc://HOST:PORT\n")
        return 2
    fault = probes[url.scheme](url)
    if fault:
        sys.stderr.write(f"{arguments[0]}: {fault}\n")
    return 1 if fault else 0


def _http(url: SplitResult) -> str:
    connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", url.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return "" if 200 <= status < 300 else f"status {status}"


def _grpc(url: SplitResult) -> str:
    import grpc  # not for the HTTP half, whose start it would triple
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from varl.services.serving.credentials import channel_options

    with grpc.insecure_channel(url.netloc, options=channel_options(url.netloc)) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S, wait_for_ready=True
            )
        except grpc.RpcError as error:
            return str(error.code() if isinstance(error, grpc.Call) else error)
    serving = health_pb2.HealthCheckResponse.SERVING
    return "" if answer.status == serving else health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
