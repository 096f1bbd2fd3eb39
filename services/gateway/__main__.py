"""``python -m varl.services.gateway``: one URL for several rewards, over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from varl.services.gateway.gateway import Gateway
from varl.services.gateway.http_app import build_gateway_app
from varl.services.gateway.settings import GatewaySettings
from varl.services.serving.access import read_tokens
from varl.services.serving.http.server import listen
from varl.services.serving.lifecycle import announce, http_server, live, run_process, stop_event
from varl.services.serving.service import State
from varl.services.serving.settings import parse_settings

_log = logging.getLogger("varl.gateway")


async def serve(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code: 0, or 1 where it could not start or the server ended by itself.

    Prints one line on stdout, {"event": "ready", "http_port": …}, once a reward can score. Everything else goes to
    stderr.
    """
    stopping = asyncio.create_task(stop_event().wait())
    try:
        gateway = Gateway(settings)
        tokens = read_tokens(settings.token_file)
        listener = listen(settings.host, settings.http_port)
    except (OSError, ValueError) as error:
        _log.error("cannot start on %s, port %d: %s", settings.host, settings.http_port, error)
        return 1
    http = http_server(build_gateway_app(gateway), listener, settings, tokens, gateway.metrics)

    async def serving() -> None:
        announce(http_port=http.port)

    try:
        return await live(gateway.start(), serving, {stopping: 0, http.task: 1})
    finally:
        gateway.state = State.DRAINING
        await http.close()
        await gateway.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; the exit code. ``arguments``: flags, default those of the process."""
    settings = parse_settings(GatewaySettings, arguments)
    return run_process(settings, "varl-gateway", partial(serve, settings))


if __name__ == "__main__":
    raise SystemExit(main())
