"""All the peers on one app."""

from __future__ import annotations

from fastapi import FastAPI

from varl.services.serving.compat import (
    cosmos_rl,
    deepgen_rl,
    flow_factory,
    flow_grpo,
    openrlhf,
    slime,
    unirl,
    verl_omni,
)
from varl.services.serving.compat.peer import CompatSettings, SampleFailedError, sample_problem
from varl.services.serving.reward_source import RewardSource

_JSON_PEERS = (unirl, flow_factory, openrlhf, slime, cosmos_rl)
_PICKLE_PEERS = (flow_grpo, deepgen_rl, verl_omni)


def mount_compat(app: FastAPI, source: RewardSource, settings: CompatSettings) -> None:
    """Serve ``/compat/<peer>/…`` from a service or a gateway.

    The peers that send pickles only where the settings say so.
    """
    app.add_exception_handler(SampleFailedError, sample_problem)
    for peer in (*_JSON_PEERS, *(_PICKLE_PEERS if settings.compat_pickle else ())):
        app.include_router(peer.routes(source, settings))
