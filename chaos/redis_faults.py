"""Faults of Redis and of the connections to it and to the OCR service."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, cast

import redis.asyncio
from redis.exceptions import RedisError

from chaos.proxy import Link
from chaos.rig import Rig, serving
from chaos.strike import Field, Strike


async def redis_pause(field: Field, strike: Strike) -> None:
    """Have Redis answer nobody for a while."""
    strike.now("redis", f"CLIENT PAUSE for {strike.fault.lasts_s} s")
    await field.rig.redis.client_pause(round(1000 * strike.fault.lasts_s))
    await asyncio.sleep(strike.fault.lasts_s)
    await _redis_back(field, strike)


async def redis_stop(field: Field, strike: Strike) -> None:
    """Stop the process for a while."""
    async with field.rig.redis_part.stopped():
        strike.now("redis", f"stopped for {strike.fault.lasts_s} s")
        await asyncio.sleep(strike.fault.lasts_s)
    await _redis_back(field, strike)


async def redis_kill(field: Field, strike: Strike) -> None:
    """SIGKILL; it comes back on its append-only file."""
    strike.now("redis")
    await field.rig.redis_part.strike(signal.SIGKILL)
    await _redis_back(field, strike)


async def redis_restart(field: Field, strike: Strike) -> None:
    """SIGTERM, as an upgrade would."""
    strike.now("redis")
    await field.rig.redis_part.strike(signal.SIGTERM)
    await _redis_back(field, strike)


async def redis_full(field: Field, strike: Strike) -> None:
    """Allow Redis half of the memory that it uses: every command that adds something is refused."""
    client = field.rig.redis
    used = int(cast(Any, await client.info("memory"))["used_memory"])
    strike.now("redis", f"maxmemory {used // 2} with {used} in use, for {strike.fault.lasts_s} s")
    await client.config_set("maxmemory", used // 2)
    await asyncio.sleep(strike.fault.lasts_s)
    await client.config_set("maxmemory", 0)
    await _redis_back(field, strike)


async def redis_failover(field: Field, strike: Strike) -> None:
    """Make the replica the primary, and let the address follow a while later.

    Redis' own FAILOVER loses nothing. Open connections stay with the old primary, which answers READONLY from then on.
    """
    rig = field.rig
    await _synced(rig)
    strike.now(f"{rig.primary.part.name} to {rig.standby.part.name}", f"address moved after {strike.fault.lasts_s} s")
    await rig.primary.client.execute_command("FAILOVER")  # type: ignore[no-untyped-call]
    while (await _replication(rig.standby.client))["role"] != "master":  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    rig.swap_servers()
    await asyncio.sleep(strike.fault.lasts_s)
    for link in rig.links:
        link.move_to(rig.primary.port)
    await _redis_back(field, strike)


async def redis_readonly(field: Field, strike: Strike) -> None:
    """Have Redis be a replica for a while, of nobody that answers."""
    strike.now("redis", f"READONLY for {strike.fault.lasts_s} s")
    await field.rig.redis.replicaof("127.0.0.1", "1")
    await asyncio.sleep(strike.fault.lasts_s)
    await field.rig.redis.replicaof("NO", "ONE")
    await _redis_back(field, strike)


async def redis_noreplicas(field: Field, strike: Strike) -> None:
    """Ask Redis for more replicas than there are before it takes a write."""
    strike.now("redis", f"NOREPLICAS for {strike.fault.lasts_s} s")
    await field.rig.redis.config_set("min-replicas-to-write", 2)
    await asyncio.sleep(strike.fault.lasts_s)
    await field.rig.redis.config_set("min-replicas-to-write", 0)
    await _redis_back(field, strike)


async def _synced(rig: Rig) -> None:
    """Return once the standby follows the primary, as it does some time after that was started again."""
    while (await _replication(rig.standby.client)).get("master_link_status") != "up":  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def _replication(client: redis.asyncio.Redis) -> dict[str, Any]:
    return await client.info("replication")


async def redis_reset(field: Field, strike: Strike) -> None:
    """Reset every connection to Redis."""
    await asyncio.sleep(strike.fault.delay_s)
    strike.now("redis connections")
    broken = sum(link.reset() for link in field.rig.links)
    await _redis_back(field, strike, f"{broken} connections reset")


async def redis_stall(field: Field, strike: Strike) -> None:
    """Let nothing through to Redis for a while."""
    await _hold_links(field, strike, "stalled", Link.stalled)


async def redis_cut(field: Field, strike: Strike) -> None:
    """Break all connections to Redis and refuse new ones for a while."""
    await _hold_links(field, strike, "refused", Link.refusing)


async def ocr_reset(field: Field, strike: Strike) -> None:
    """Reset every connection to the OCR service, while images are being read if it is there."""
    await asyncio.sleep(strike.fault.delay_s)
    strike.now("ocr connections")
    broken = field.rig.ocr_link.reset()
    await serving(field.rig.ocr_link.port)
    strike.back(hit=broken > 0, detail=f"{broken} connections reset")


async def ocr_stall(field: Field, strike: Strike) -> None:
    """Let nothing through to the OCR service for a while."""
    with field.rig.ocr_link.stalled():
        strike.now("ocr connections", f"stalled for {strike.fault.lasts_s} s")
        await asyncio.sleep(strike.fault.lasts_s)
    await serving(field.rig.ocr_link.port)
    strike.back(hit=True)


async def _hold_links(
    field: Field, strike: Strike, what: str, hold: Callable[[Link], AbstractContextManager[None]]
) -> None:
    with ExitStack() as stack:
        strike.now("redis connections", f"{what} for {strike.fault.lasts_s} s")
        for link in field.rig.links:
            stack.enter_context(hold(link))
        await asyncio.sleep(strike.fault.lasts_s)
    await _redis_back(field, strike)


async def _redis_back(field: Field, strike: Strike, detail: str = "") -> None:
    await answering(field.rig)
    strike.back(hit=True, detail=detail)


async def answering(rig: Rig) -> None:
    """Return once Redis answers through the proxy."""
    while True:
        try:
            async with redis.asyncio.Redis(
                port=rig.trainer_redis.port, socket_timeout=2, socket_connect_timeout=2
            ) as client:
                await client.ping()
                return
        except RedisError:  # not yet
            await asyncio.sleep(0.02)
