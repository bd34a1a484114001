"""A Django project as they are in the wild starts from its own settings file, with the two lines added."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.kit import warm
from tests.kit.certificates import make_certificates
from tests.kit.oracle import Oracle
from tests.kit.processes import celery, launch
from tests.kit.servers import ROOT, RedisServer, free_port, redis_server, wait_until
from tests.kit.tiers import starts

PROJECT = Path(__file__).parent / "market"

#: How many tasks each team sends, and how long one takes, in seconds.
TASKS, SECONDS = 6, 0.1


class Market:
    """The project, its Redis over TLS, and a plain one for the oracle."""

    def __init__(self, server: RedisServer, tls_port: int, oracle: Oracle, folder: Path) -> None:
        self.oracle, self.folder = oracle, folder
        self.admin = redis.Redis.from_url(server.url, decode_responses=True)
        self.env = {
            **os.environ,
            "PYTHONPATH": f"{PROJECT}{os.pathsep}{ROOT}",
            "MARKET_REDIS_HOST": f"127.0.0.1:{tls_port}",
            "MARKET_CA": str(folder / "ca.pem"),
            "MARKET_ORACLE": oracle.url,
            "C_FORCE_ROOT": "1",
            "COLUMNS": "200",
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, *arguments: str) -> str:
        """A command of the project, as a person at a shell would give it."""
        done = warm.run([sys.executable, *arguments], cwd=self.folder, env=self.env, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def spawn(self, app: str, name: str) -> tuple[subprocess.Popen[bytes], Path]:
        """A worker of one of the two apps."""
        log = self.folder / f"{name}.log"
        command = celery(app, "worker", "-n", f"{name}@test", "-c", "3", "-l", "INFO")
        return launch(command, log, cwd=self.folder, env=self.env), log


@pytest.fixture
@starts("process")
def market(redis_url: str, tmp_path: Path) -> Iterator[Market]:
    make_certificates(tmp_path)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(tmp_path / "ca.pem")]
    options += ["--tls-cert-file", str(tmp_path / "server.pem"), "--tls-key-file", str(tmp_path / "server.key")]
    with redis_server(None, *options) as server:
        oracle = Oracle(redis_url)
        oracle.client.flushdb()
        made = Market(server, port, oracle, tmp_path)
        for user, password in (("shop", "p@ss/word"), ("billing", "secret")):
            # Celery's own PSUBSCRIBE needs its patterns by the letter (Redis 7.0); all the rest has the prefix.
            patterns = [f"&{user}:/0.celery.pidbox", f"&{user}:/0.celeryev/worker.*"]
            rights = ["on", f">{password}", f"~{user}:*", f"&{user}:*", *patterns, "+@all", "-@dangerous"]
            made.admin.execute_command("ACL", "SETUSER", user, "reset", *rights)
        yield made
        made.admin.close()
        oracle.client.close()


@pytest.mark.wild("deploys", "Django: TLS, a prefix and an ACL user for each of two apps in one settings module")
def test_a_django_project_with_tls_prefixes_acl_users_and_two_apps_runs_from_its_own_settings(market: Market):
    workers = [market.spawn("market:app", "shop"), market.spawn("market:billing", "billing")]
    try:
        for process, log in workers:
            wait_until(
                lambda log=log, process=process: b"ready." in log.read_bytes() or process.poll() is not None,
                60,
                lambda log=log: f"a worker is ready: {log.read_text()}",
            )
            assert process.poll() is None, log.read_text()
        send = (
            "import market; from mail.tasks import send;"
            "[getattr(market, app).send_task('mail.tasks.send', (app, n, seconds))"
            f" for app in ('app', 'billing') for n in range({TASKS}) for seconds in [{SECONDS}]]"
        )
        market.run("-c", send)
        wait_until(
            lambda: market.oracle.count("e") == 2 * TASKS,
            60,
            lambda: f"all have run; {[log.read_text()[-2000:] for _, log in workers]}",
        )
        assert market.oracle.peak("app") == 2
        assert market.oracle.peak("billing") == 1
        keys = {key.split("}")[0] for key in market.admin.scan_iter("*{*}*")}
        assert keys == {"shop:{gconc", "billing:{gconc"}, "each has a namespace of its own"
        status = json.loads(market.run("-m", "celery", "-A", "market:billing", "gconc", "status", "--json"))
        assert [(limit["limit"], limit["max"]) for limit in status["limits"]] == [("queue:emails", 1)]
        for _, log in workers:
            assert "CRAWLER" not in log.read_text().upper()
    finally:
        for process, _ in workers:
            process.terminate()
        for process, log in workers:
            assert process.wait(30) == 0, log.read_text()
