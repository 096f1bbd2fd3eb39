"""Which reward, by which formula: named in the path, in the query, or the only one there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request

from varl.services.serving.http.bodies import check_query
from varl.services.serving.reward_source import RewardSource
from varl.services.serving.status import FieldFault, RejectionCode, RequestRejectedError, invalid, shown

NAMES = ("reward", "formula")
_PLACES = ("", "/{reward}", "/{reward}/{formula}")
_TEXTS = {
    "reward": "The reward wanted, where several are on offer. It may stand in the path behind the trainer's name.",
    "formula": "One of the reward's formulas; default: the service's own. It may stand in the path behind the reward.",
}
_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string"}, "description": _TEXTS[name]} for name in NAMES
]
Endpoint = Callable[..., Any]


@dataclass(frozen=True)
class Choice:
    """A reward on offer, and the name of a formula; "" is the service's default."""

    reward: str
    formula: str = ""


@dataclass(frozen=True)
class Scope:
    """What a URL offers to a peer that names rewards in its requests: these, and one formula for all of them."""

    rewards: tuple[str, ...]
    formula: str = ""


def chosen(source: RewardSource, request: Request) -> Choice:
    """The reward and the formula that a URL names; without a name the only reward, and its service's default.

    Raises:
        RequestRejectedError: NO_SUCH_REWARD for an unknown reward; INVALID_REQUEST where several are on offer and none
            is named, where path and query both name one, or for any other parameter in the query.

    """
    scope = scope_of(source, request)
    if len(scope.rewards) == 1:
        return Choice(scope.rewards[0], scope.formula)
    names = ", ".join(source.rewards)
    detail = f"name one in the path, as in …/{source.rewards[0]}, or as ?reward={source.rewards[0]}; on offer: {names}"
    raise invalid(FieldFault("reward", detail))


def scope_of(source: RewardSource, request: Request) -> Scope:
    """The reward that a URL names, or all of them; raises as ``chosen`` does, and where a formula has no reward."""
    named = dict(_named(request))
    if "reward" in named:
        check_offered(source.rewards, (named["reward"],))
        return Scope((named["reward"],), named.get("formula", ""))
    if "formula" in named and len(source.rewards) > 1:
        raise invalid(FieldFault("reward", f"formula {shown(named['formula'])} is of which reward? Name it"))
    return Scope(source.rewards, named.get("formula", ""))


def _named(request: Request) -> Iterator[tuple[str, str]]:
    check_query(request, NAMES)
    for name in NAMES:
        places = [where[name] for where in (request.path_params, request.query_params) if name in where]
        if len(places) > 1:
            raise invalid(FieldFault(name, "named both in the path and in the query"))
        yield from ((name, place) for place in places)


def check_offered(offered: Sequence[str], names: Sequence[str]) -> None:
    """Raises RequestRejectedError (NO_SUCH_REWARD) for a name that is not on offer."""
    for name in names:
        if name not in offered:
            raise RequestRejectedError(
                RejectionCode.NO_SUCH_REWARD, f"reward {shown(name)} is not on offer, only {', '.join(offered)}"
            )


def serve(router: APIRouter, method: str, ending: str, **options: Any) -> Callable[[Endpoint], Endpoint]:  # noqa: ANN401
    """Register an endpoint at ``[/<reward>[/<formula>]]<ending>``, with and without a slash at the end.

    Of these paths the API pages show the first alone. The endpoint takes the request alone, and reads from it what was
    named (``chosen``, ``scope_of``).
    """
    extra = {**options.pop("openapi_extra", {}), "parameters": _PARAMETERS}

    def register(endpoint: Endpoint) -> Endpoint:
        router.add_api_route(ending, endpoint, methods=[method], openapi_extra=extra, **options)
        for path in [f"{place}{ending}{slash}" for place in _PLACES for slash in ("", "/")][1:]:
            router.add_api_route(path, endpoint, methods=[method], include_in_schema=False, **options)
        return endpoint

    return register
