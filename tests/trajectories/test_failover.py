"""Servers that refuse for a while, and an address that moves from one server to another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis._parsers.base import BaseParser
from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.trajectory_builders import make_job, make_trajectory
from varl.launch import waits
from varl.launch.private_redis import private_redis
from varl.trajectories.access import RedisAccess, RedisClusterError, require_usable
from varl.trajectories.queue import RunQueue, connect
from varl.trajectories.redis_retry import is_passing

LONG_MS = 60_000
SOON_S = 0.4
PATIENCE_S = 60.0


class Address:
    """A socket path that may be moved to another server, as a name or a virtual address is by a failover."""

    def __init__(self, path: Path, url: str) -> None:
        self._path = path
        self.url = f"unix://{path}"
        self.move(url)

    def move(self, url: str) -> None:
        part = self._path.with_suffix(".part")
        part.symlink_to(url.removeprefix("unix://"))
        part.replace(self._path)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with (
        private_redis(tmp_path_factory.mktemp("one")) as one,
        private_redis(tmp_path_factory.mktemp("other")) as other,
    ):
        yield one, other


@contextmanager
def soon(change: Callable[[], object]) -> Iterator[None]:
    """Make a change while the block waits for it."""
    timer = threading.Timer(SOON_S, change)
    timer.start()
    yield
    timer.join()


def demoted(url: str) -> redis.Redis:
    """The server as a failover leaves it: a replica, of nobody that answers."""
    client = connect(url)
    client.replicaof("127.0.0.1", "1")
    return client


@pytest.fixture
def address(servers: tuple[str, str], tmp_path: Path) -> Iterator[Address]:
    yield Address(tmp_path / "redis.sock", servers[0])
    connect(servers[0]).replicaof("NO", "ONE")


def test_the_trainer_finds_the_new_primary(servers: tuple[str, str], address: Address, run_id: str) -> None:
    trainer = RunQueue(RedisAccess(address.url).connect(patience_s=PATIENCE_S), run_id, "trainer")
    demoted(servers[0])
    with soon(lambda: address.move(servers[1])):
        trainer.submit([make_job(run_id)])
    assert RunQueue(connect(servers[1]), run_id, "other").backlog() == 1


def test_a_worker_finds_the_new_primary_with_its_next_command(
    servers: tuple[str, str], address: Address, run_id: str
) -> None:
    trainer, worker = (RunQueue(connect(address.url), run_id, name) for name in ("trainer", "worker"))
    trainer.submit([make_job(run_id)])
    taken = worker.take_job(0, LONG_MS)
    assert taken is not None
    demoted(servers[0])
    address.move(servers[1])
    with pytest.raises(RedisError) as refused:  # a script: Redis 6.2 quotes the code in the middle of its message
        worker.publish(taken, make_trajectory(taken.message))
    assert is_passing(refused.value)
    with pytest.raises(ReadOnlyError):
        trainer.submit([make_job(run_id)])
    RunQueue(connect(servers[1]), run_id, "trainer").submit([make_job(run_id)])
    assert worker.take_job(0, LONG_MS) is not None


@pytest.mark.parametrize("ask", ["backlog", "position", "leave", "release_all"])
def test_a_server_that_has_nothing_of_the_run_is_asked_all_the_same(
    ask: str, redis_client: redis.Redis, run_id: str
) -> None:
    queue = RunQueue(redis_client, run_id, "trainer")
    redis_client.delete(f"varl:{run_id}:jobs", f"varl:{run_id}:trajectories")
    getattr(queue, ask)()
    queue.heartbeat("1-1")
    assert queue.receive(1, 0) == []


def lacking_replicas(client: redis.Redis, folder: Path) -> Callable[[], object]:
    client.config_set("min-replicas-to-write", 1)
    return lambda: client.config_set("min-replicas-to-write", 0)


def unable_to_save(client: redis.Redis, folder: Path) -> Callable[[], object]:
    gone = folder / "gone"
    gone.mkdir()
    client.config_set("appendonly", "no")
    client.config_set("save", "3600 1")
    client.config_set("dir", str(gone))
    gone.rmdir()
    client.bgsave()
    while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
        pass
    return lambda: client.config_set("save", "")


def out_of_memory(client: redis.Redis, folder: Path) -> Callable[[], object]:
    client.config_set("maxmemory", 1)
    return lambda: client.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("code", "refuse"),
    [("NOREPLICAS", lacking_replicas), ("MISCONF", unable_to_save), ("used memory", out_of_memory)],
)
def test_the_trainer_waits_for_a_server_that_refuses(
    code: str, refuse: Callable[[redis.Redis, Path], Callable[[], object]], tmp_path: Path, run_id: str
) -> None:
    with private_redis(tmp_path / "redis") as url:
        trainer = RunQueue(RedisAccess(url).connect(patience_s=PATIENCE_S), run_id, "trainer")
        hasty = RunQueue(connect(url), run_id, "hasty")
        relieve = refuse(connect(url), tmp_path)
        with pytest.raises(RedisError, match=code):
            hasty.submit([make_job(run_id)])
        with soon(relieve):
            trainer.submit([make_job(run_id)])
        assert trainer.backlog() == 1


def test_the_trainer_waits_for_a_server_that_loads(tmp_path: Path, run_id: str) -> None:
    with private_redis(tmp_path, {"appendonly": "no", "save": "3600 1", "rdbcompression": "no"}) as url:
        trainer = RunQueue(RedisAccess(url).connect(patience_s=PATIENCE_S), run_id, "trainer")
        client = connect(url)
        client.mset({f"key-{index}": "x" * 2**17 for index in range(80)})  # it answers after every 2 MiB
        client.config_set("key-load-delay", 10_000)  # microseconds
        reload = threading.Thread(target=client.execute_command, args=("DEBUG", "RELOAD"))
        reload.start()
        while not is_loading(connect(url)):
            pass
        require_usable(connect(url))
        trainer.submit([make_job(run_id)])
        reload.join()
        assert trainer.backlog() == 1


def is_loading(client: redis.Redis) -> bool:
    try:
        return not client.ping()
    except BusyLoadingError:
        return True


def test_what_no_waiting_mends_is_raised_at_once(servers: tuple[str, str], tmp_path: Path, run_id: str) -> None:
    eternity = 1e9
    wrong = tmp_path / "password"
    wrong.write_text("open sesame")
    with pytest.raises(RedisError, match=r"(?i)password|auth"):
        RedisAccess(servers[1], wrong).connect(patience_s=eternity).ping()
    client = RedisAccess(servers[1]).connect(patience_s=eternity)
    client.set(f"varl:{run_id}:jobs", "no stream")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        RunQueue(client, run_id, "trainer")


def test_patience_has_an_end_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waits, "FIRST_S", 0.1)
    with pytest.raises(RedisConnectionError):
        RedisAccess(f"unix://{tmp_path / 'nobody'}").connect(patience_s=0.5).ping()
    assert "waiting for Redis for 0 s, until 20" in caplog.text and "nobody" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "NOREPLICAS Not enough good replicas to write. script: 0c1b, on @user_script:1.",
        "Error running script (call to f_6b1b): @user_script:1: @user_script: 1: -NOREPLICAS Not enough good replicas.",
        "Command # 1 (XADD varl:a:jobs * m ...) of pipeline caused error: MISCONF Errors writing to the AOF file",
        "Transaction discarded because of: READONLY You can't write against a read only replica.",
    ],
)
def test_passing_answers_are_known_by_their_code(text: str) -> None:
    assert is_passing(ResponseError(text))


@pytest.mark.parametrize(
    ("answer", "passing"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("LOADING Redis is loading the dataset in memory", True),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", True),
        ("OOM command not allowed when used memory > 'maxmemory'.", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("CLUSTERDOWN Hash slot not served", True),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True),
        ("TRYAGAIN Multiple keys request during rehashing of slot", True),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", True),
        ("EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.", True),
        ("EXECABORT Transaction discarded because of previous errors.", False),
        ("NOAUTH Authentication required.", False),
        ("WRONGPASS invalid username-password pair or user is disabled.", False),
        ("NOPERM this user has no permissions to run the 'xadd' command", False),
        ("NOSCRIPT No matching script. Please use EVAL.", False),
        ("ERR unknown command", False),
    ],
)
def test_answers_are_told_apart_as_redis_py_gives_them(answer: str, passing: bool) -> None:
    error = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]
    assert is_passing(error) is passing


def test_a_refusal_inside_a_transaction_is_waited_for(tmp_path: Path, run_id: str) -> None:
    """Full up when the commands are queued, so that EXEC is answered by EXECABORT."""
    with private_redis(tmp_path) as url:
        admin = connect(url)
        patient, hasty = RedisAccess(url).connect(patience_s=PATIENCE_S), connect(url)
        admin.config_set("maxmemory", 1)
        with pytest.raises(RedisError) as refused:
            set_within_transaction(hasty)
        assert is_passing(refused.value)
        with soon(lambda: admin.config_set("maxmemory", 0)):
            assert set_within_transaction(patient) == [True]


def set_within_transaction(client: redis.Redis) -> list[object]:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.set("a", "b")
        return list(pipeline.execute())


@pytest.mark.parametrize("text", ["BUSYGROUP Consumer Group name already exists", "WRONGTYPE a", "NOGROUP b", "c"])
def test_lasting_answers_are_none_of_them(text: str) -> None:
    assert not is_passing(ResponseError(text))


def test_a_cluster_is_refused_at_the_start(tmp_path: Path, servers: tuple[str, str]) -> None:
    require_usable(connect(servers[1]))
    with private_redis(tmp_path, {"cluster-enabled": "yes"}) as url, pytest.raises(RedisClusterError, match="cluster"):
        require_usable(connect(url))


def test_a_user_who_may_not_ask_for_the_mode_is_let_in(servers: tuple[str, str]) -> None:
    admin = connect(servers[1])
    admin.acl_setuser("streams", enabled=True, nopass=True, keys=["*"], commands=["+@stream", "+ping", "+select"])
    require_usable(connect(servers[1].replace("unix://", "unix://streams:x@")))


@pytest.mark.parametrize("options", ["protocol=3", "protocol=3&legacy_responses=no", "decode_responses=1&db=0"])
def test_options_of_the_url_change_no_reply(servers: tuple[str, str], options: str, run_id: str) -> None:
    url = f"{servers[1]}?{options}"
    trainer, worker = RunQueue(connect(url), run_id, "trainer"), RunQueue(connect(url), run_id, "worker")
    trainer.submit([make_job(run_id)])
    taken = worker.take_job(0, LONG_MS)
    assert taken is not None and worker.publish(taken, make_trajectory(taken.message))
    (found,) = trainer.receive(1, 0)
    assert trainer.position()["jobs"] != "0-0" and trainer.backlog() == 0
    trainer.acknowledge([found.entry_id])


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        connect("redis://localhost?nonsense=1")
