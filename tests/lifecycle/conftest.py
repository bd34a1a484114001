"""Fixtures: one worker stands for each pool and broker, and most tests use it in turn; a few start their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.servers import RabbitMQServer, RedisServer, redis_server
from tests.kit.tiers import starts
from tests.kit.workers import SHORT_POLLS
from tests.lifecycle.bench import Bench
from tests.lifecycle.matrix import COLUMNS, Column, Feature

_PHASES = pytest.StashKey[dict[str, bool]]()

#: The database of the life-cycle Redis for each standing worker, and the one for workers of a test's own.
DATABASES = {column: number for number, column in enumerate(COLUMNS)}
OWN_DATABASE = len(COLUMNS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("feature")
    if marker is None or "column" not in metafunc.fixturenames:
        return
    feature = Feature.of(marker)
    metafunc.parametrize("column", feature.columns(), ids=str)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker after the other: the tests of one column follow each other, in the places that they have."""
    places = [place for place, item in enumerate(items) if item.get_closest_marker("feature")]
    mine = sorted((items[place] for place in places), key=_column_number)
    for place, item in zip(places, mine, strict=True):
        items[place] = item


def _column_number(item: pytest.Item) -> int:
    callspec = getattr(item, "callspec", None)
    column = callspec.params.get("column") if callspec is not None else None
    return COLUMNS.index(column) if column is not None else len(COLUMNS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash.setdefault(_PHASES, {})[report.when] = report.passed
    return report


@pytest.fixture(scope="package")
@starts("redis")
def oracle_url() -> Iterator[str]:
    """The oracle's own Redis."""
    with redis_server() as server:
        yield server.url


@pytest.fixture(scope="package")
@starts("redis")
def lifecycle_redis(redis_process: RedisServer) -> Iterator[RedisServer]:
    """A Redis for brokers, results and permits, which no test outside empties."""
    with redis_server() as server:
        yield server


MakeBench = Callable[..., Bench]


@pytest.fixture(scope="package")
@starts("process")
def make_bench(
    lifecycle_redis: RedisServer, oracle_url: str, tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> MakeBench:  # fmt: skip
    """Makes a bench in a database of the life-cycle Redis."""

    def make(column: Column, database: int, **options: object) -> Bench:
        redis_url = f"redis://127.0.0.1:{lifecycle_redis.port}/{database}"
        broker = redis_url
        if column.broker == "rabbitmq":
            rabbitmq: RabbitMQServer = request.getfixturevalue("rabbitmq_process")
            broker = rabbitmq.url
        directory: Path = tmp_path_factory.mktemp(str(column))
        return Bench(column, broker=broker, redis_url=redis_url, oracle=oracle_url, directory=directory, **options)  # type: ignore[arg-type]

    return make


class Standing:
    """The worker that stands just now."""

    def __init__(self, make: MakeBench) -> None:
        self._make = make
        self._bench: Bench | None = None

    def at(self, column: Column) -> Bench:
        """The bench of a column; the last column's ends."""
        if self._bench is None or self._bench.column != column:
            self.close()
            self._bench = self._make(column, DATABASES[column], suffix=f"-{column.pool}")
        return self._bench

    def close(self) -> None:
        """End the worker."""
        bench, self._bench = self._bench, None
        if bench is not None:
            bench.close()


@pytest.fixture(scope="package")
def standing(make_bench: MakeBench) -> Iterator[Standing]:
    """The worker that stands just now."""
    made = Standing(make_bench)
    yield made
    made.close()


@pytest.fixture
def bench(standing: Standing, column: Column, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The worker of this column, with nothing to do; afterwards it must have nothing left."""
    made = standing.at(column)
    try:
        made.begin()
        yield made
        if request.node.stash[_PHASES].get("call"):
            made.end()
        else:
            _show(made)
            made.stop()
    except BaseException:
        _show(made)
        made.stop()  # the next test starts afresh
        raise


@pytest.fixture
def own_bench(make_bench: MakeBench, column: Column, request: pytest.FixtureRequest) -> Iterator[Callable[..., Bench]]:
    """Makes a bench for a worker with options of its own; the test starts it."""
    made: list[Bench] = []

    def make(**options: object) -> Bench:
        polls = {"broker_transport_options": SHORT_POLLS} if column.broker == "redis" else {}
        bench = make_bench(column, OWN_DATABASE, suffix=f"-own-{column.pool}", **polls, **options)
        made.append(bench)
        bench.empty()
        return bench

    yield make
    try:
        for bench in made:
            if request.node.stash[_PHASES].get("call") and bench.worker is not None:
                bench.end()
    finally:
        for bench in made:
            _show(bench)
            bench.close()


def _show(bench: Bench) -> None:
    """Have pytest show the worker's log with a failed test."""
    if bench.worker is not None:
        print(bench.worker.output()[-20_000:])
