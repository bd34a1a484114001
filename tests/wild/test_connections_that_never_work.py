"""Connections that can't work until somebody changes something: told apart from those that don't work now."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery

from celery_gconc import StoreUnavailable, StoreUnusable
from celery_gconc.connection.failures import Names
from celery_gconc.operations.operations import Operations
from celery_gconc.protocol.keys import NOTICES, Keys
from celery_gconc.protocol.rights import NEEDED, OPTIONAL, Missing, missing_at_broker
from celery_gconc.protocol.session_store import SessionStore
from celery_gconc.worker.session import link
from celery_gconc.worker.session.health import Health
from tests.cluster.conftest import make_cluster, oracle_url  # noqa: F401 - fixtures
from tests.conftest import unavailable
from tests.failures.kit import complaints, joined, warnings
from tests.kit.certificates import make_certificates
from tests.kit.proxy import proxy
from tests.kit.servers import ROOT, RabbitMQServer, RedisServer, free_port, redis_binary, redis_server, wait_until
from tests.kit.topologies import NoValkeyBinary, valkey_binary, valkey_server
from tests.kit.workers import Worker
from tests.worker.session_parts import Parts

#: The password that is right, and one that isn't. Neither must ever be seen.
SECRET, WRONG = "open-sesame", "open-barley"

#: Of a worker that may not start (sysexits.h).
EX_CONFIG = 78

#: The heartbeat settings of workers here, in seconds.
QUICK = {"global_concurrency_heartbeat_interval": 0.5, "global_concurrency_heartbeat_timeout": 2.0}

#: What providers take away from a Redis that they manage; and what we would use, if it were there.
MANAGED = ("INFO", "PUBSUB", "CLIENT", "CONFIG", "ACL", "ROLE", "SCRIPT", "COMMAND", "KEYS", "DEBUG", "SAVE",
           "REPLICAOF", "FLUSHALL", "SHUTDOWN", "MONITOR")  # fmt: skip

REFUSED = "refused at the start, with a line that says how to fix it"


@dataclass
class Servers:
    """All that listens, by the words that URLs have for it."""

    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    admins: dict[str, redis.Redis] = field(default_factory=dict)

    def url(self, pattern: str) -> str:
        """A URL with its ports and files filled in."""
        return pattern.format(pem=self.folder, nowhere=free_port(), **self.ports)

    def user(self, name: str, *words: str, server: str = "plain") -> None:
        """Make a user, with the right password, anew."""
        self.admins[server].execute_command("ACL", "SETUSER", name, "reset", "on", f">{SECRET}", *words)

    def do(self, *command: object, server: str = "plain") -> Any:
        """A command of the operator."""
        return self.admins[server].execute_command(*command)


class _Web(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing."""


class _Refuses(socketserver.BaseRequestHandler):
    """Ends each connection as soon as it comes, as a proxy does that can't reach its server."""


@pytest.fixture(scope="module")
def servers(redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Redis of several kinds, and what is none."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    made = Servers(folder)
    files = ("--tls-ca-cert-file", f"{folder}/ca.pem", "--tls-cert-file", f"{folder}/server.pem",
             "--tls-key-file", f"{folder}/server.key")  # fmt: skip
    kinds: dict[str, tuple[str, ...]] = {
        "plain": (),
        "guarded": (),
        "renamed": tuple(word for name in MANAGED for word in ("--rename-command", name, "")),
        "scriptless": ("--rename-command", "EVAL", "", "--rename-command", "EVALSHA", ""),
        "cluster": ("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
    }
    with ExitStack() as stack:
        for kind, options in kinds.items():
            server = stack.enter_context(redis_server(None, *options))
            made.ports[kind] = server.port
            made.admins[kind] = stack.enter_context(redis.Redis(port=server.port))
        made.do("CONFIG", "SET", "requirepass", SECRET, server="guarded")
        for kind, wants in (("tls", "no"), ("mutual", "yes")):
            made.ports[kind] = free_port()
            options = ("--tls-port", str(made.ports[kind]), "--tls-auth-clients", wants, *files)
            stack.enter_context(redis_server(None, *options))
        for kind, server_of in (("web", http.server.ThreadingHTTPServer), ("closing", socketserver.TCPServer)):
            handler = _Web if kind == "web" else _Refuses
            listener = stack.enter_context(server_of(("127.0.0.1", 0), handler))
            threading.Thread(target=listener.serve_forever, daemon=True).start()
            stack.callback(listener.shutdown)
            made.ports[kind] = listener.server_address[1]
        yield made


def app_of(url: str, setting: str, **conf: object) -> Celery:
    """An app whose coordination Redis is the one of that setting."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.update({setting: url, **conf})
    return app


def error_of(app: Celery, seconds: float = 2.0) -> StoreUnavailable:
    """What a command at a shell says; a server has so long for each answer."""
    operations = Operations(app, call_timeout=seconds)
    try:
        with pytest.raises(StoreUnavailable) as raised:
            operations.status()
    finally:
        operations.close()
    said = str(raised.value)
    assert "\n" not in said
    assert SECRET not in said and WRONG not in said
    return raised.value


def never(case: str, url: str, *says: str) -> Any:
    """A connection that can never work, and what is said of it. In *says*, {url} and {tls} are settings."""
    mark = pytest.mark.wild("connections", case, result=REFUSED)
    return pytest.param(url, says, marks=mark, id=case)


NEVER = (
    never(
        "a wrong password",
        f"redis://:{WRONG}@127.0.0.1:{{guarded}}/0",
        "rejects the user or the password", "correct them in {url}",
    ),
    never(
        "a user that doesn't exist, or is switched off",
        f"redis://nobody:{SECRET}@127.0.0.1:{{guarded}}/0",
        "rejects the user or the password", "correct them in {url}",
    ),
    never(
        "a missing password",
        "redis://127.0.0.1:{guarded}/0",
        "requires a password", "set it in {url}: redis://:<password>@<host>",
    ),
    never(
        "TLS, and a server that doesn't use it",
        "rediss://127.0.0.1:{plain}/0?ssl_cert_reqs=none",
        "doesn't use TLS", "use redis:// instead of rediss:// in {url}",
    ),
    never(
        "no TLS, and a server that requires it",
        "redis://127.0.0.1:{tls}/0",
        "uses TLS, and we connected without it", "use rediss:// instead of redis:// in {url}",
    ),
    never(
        "TLS, and a certificate from an unknown authority",
        "rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=required",
        "has a certificate from an unknown authority", "ssl_ca_certs in {tls}",
    ),
    never(
        "TLS, and a certificate for another name",
        "rediss://localhost:{tls}/0?ssl_cert_reqs=required&ssl_ca_certs={pem}/ca.pem&ssl_check_hostname=true",
        "has a certificate for another name", "in {url}",
    ),
    never(
        "TLS, and a missing certificate file",
        "rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=required&ssl_ca_certs={pem}/none.pem",
        "a certificate file is missing", "name in {tls}",
    ),
    never(
        "TLS, and a certificate file with something else in it",
        "rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=required&ssl_ca_certs=" + __file__,
        "can't be reached over TLS with these certificates", "name in {tls}",
    ),
    never(
        "a missing client certificate",
        "rediss://127.0.0.1:{mutual}/0?ssl_cert_reqs=required&ssl_ca_certs={pem}/ca.pem",
        "requires a client certificate", "set ssl_certfile and ssl_keyfile in {tls}",
    ),
    never(
        "a client certificate that the server doesn't trust",
        "rediss://127.0.0.1:{mutual}/0?ssl_cert_reqs=required&ssl_ca_certs={pem}/ca.pem"
        "&ssl_certfile={pem}/other.pem&ssl_keyfile={pem}/other.key",
        "requires a client certificate", "set ssl_certfile and ssl_keyfile in {tls}",
    ),
    never(
        "a web server on that port",
        "redis://127.0.0.1:{web}/0",
        "isn't at that address; something else answers", "correct the host and port in {url}",
    ),
    never(
        "a database number that doesn't exist",
        "redis://127.0.0.1:{plain}/99",
        "has no database with that number", "choose another in {url}",
    ),
    never(
        "a database number other than 0 on a Redis Cluster",
        "redis://127.0.0.1:{cluster}/1",
        "only has database 0", "end {url} with /0",
    ),
    never(
        "a Redis that runs no scripts (EVAL renamed or forbidden)",
        "redis://127.0.0.1:{scriptless}/0",
        "lacks EVALSHA, EVAL", "rename-command", "global_concurrency_redis_url",
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "tls"),
    [
        ("global_concurrency_redis_url", "global_concurrency_redis_options"),
        ("broker_url", "broker_use_ssl"),
        ("result_backend", "redis_backend_use_ssl"),
    ],
)
@pytest.mark.parametrize(("url", "says"), NEVER)
def test_what_can_never_work_is_told_with_the_setting_that_the_user_made(servers, setting, tls, url, says):
    is_silent = url.startswith("rediss://127.0.0.1:{plain}")  # a Redis without TLS doesn't answer a handshake
    error = error_of(app_of(servers.url(url), setting), 0.5 if is_silent else 2.0)
    assert isinstance(error, StoreUnusable)
    for words in says:
        assert words.format(url=setting, tls=tls) in str(error)


@pytest.mark.wild("connections", "a password for a Redis that has none")
def test_a_password_that_nobody_wants_is_left_out_until_somebody_does(redis_process):
    with redis_server() as server, redis.Redis(port=server.port) as admin:
        store = SessionStore(f"redis://:{SECRET}@127.0.0.1:{server.port}/0", "gconc")
        before = store.ticket()
        admin.execute_command("CONFIG", "SET", "requirepass", SECRET)
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with contextlib.suppress(StoreUnavailable):  # where the lost connection is noticed
            store.ticket()
        assert store.ticket() > before
        store.close()


@pytest.mark.wild("connections", "a port on which RabbitMQ listens", result=REFUSED)
def test_a_rabbitmq_is_told_from_a_redis(rabbitmq_process: RabbitMQServer):
    url = f"redis://127.0.0.1:{rabbitmq_process.port}/0"
    error = error_of(app_of(url, "global_concurrency_redis_url"))
    assert isinstance(error, StoreUnusable)
    assert "isn't at that address; something else answers (it said 'AMQP" in str(error)


@pytest.mark.wild("connections", "a sentinel:// URL that names no Sentinel, a rediscluster:// URL of a single Redis",
                  result=REFUSED)  # fmt: skip
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://127.0.0.1:{plain}?master_name=m", "name Sentinels in global_concurrency_redis_url"),
        ("rediscluster://127.0.0.1:{plain}", "use a redis:// or rediss:// URL in global_concurrency_redis_url"),
        ("rediscluster://127.0.0.1:{tls}", "use rediss:// instead of redis://"),
        (f"rediscluster://:{WRONG}@127.0.0.1:{{guarded}}", "correct them in global_concurrency_redis_url"),
    ],
)
def test_servers_that_are_found_by_others_are_told_apart_too(servers, url, says):
    error = error_of(app_of(servers.url(url), "global_concurrency_redis_url"))
    assert isinstance(error, StoreUnusable)
    assert says in str(error)


@pytest.mark.wild("connections", "Sentinels with a password or TLS of their own, and a master that they don't know",
                  result=REFUSED)  # fmt: skip
@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("global_concurrency_redis_url", "global_concurrency_redis_options"),
        ("broker_url", "broker_transport_options"),
        ("result_backend", "result_backend_transport_options"),
    ],
)
def test_what_sentinels_refuse_is_told_with_the_options_that_are_theirs(servers, tmp_path, setting, options):
    port, tls_port = free_port(), free_port()
    pem = servers.folder
    (tmp_path / "sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\nrequirepass {SECRET}\n"
        f"tls-port {tls_port}\ntls-auth-clients no\ntls-ca-cert-file {pem}/ca.pem\n"
        f"tls-cert-file {pem}/server.pem\ntls-key-file {pem}/server.key\n"
    )
    server = subprocess.Popen(
        [redis_binary(), str(tmp_path / "sentinel.conf"), "--sentinel"], stdout=subprocess.DEVNULL, cwd=tmp_path
    )

    def said(port: int, **sentinel_kwargs: object) -> str:
        given = {"master_name": "mine", "sentinel_kwargs": sentinel_kwargs}
        error = error_of(app_of(f"sentinel://127.0.0.1:{port}", setting, **{options: given}))
        assert isinstance(error, StoreUnusable)
        return str(error)

    try:
        wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)), what="the Sentinel takes connections")
        assert f"set it in sentinel_kwargs in {options}: password=..." in said(port)
        assert f"correct them in sentinel_kwargs in {options}" in said(port, password=WRONG)
        assert f"set ssl=True in sentinel_kwargs in {options}" in said(tls_port, password=SECRET)
        assert "know no master of that name" in said(port, password=SECRET)
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://127.0.0.1:{nowhere}/0", "connection refused"),
        ("redis://127.0.0.1:{closing}/0", "unavailable"),
        ("rediss://127.0.0.1:{closing}/0?ssl_cert_reqs=none", "unavailable"),
        ("redis+socket://{pem}/none.sock", "isn't there"),
        ("redis://127.0.0.1:{cluster}/0", "Hash slot not served"),
        ("redis://no.such.host.invalid/0", "if this persists, correct the host name in broker_url"),
    ],
)
@pytest.mark.wild("connections", "a server that is down, or a host or socket that is not there yet",
                  result="waits for it, and says what to correct if it persists")  # fmt: skip
def test_what_only_does_not_work_now_is_waited_for(servers, url, says):
    error = error_of(app_of(servers.url(url), "broker_url"))
    assert type(error) is StoreUnavailable
    assert says in str(error)


@pytest.mark.parametrize(
    ("breaks", "heals", "says"),
    [
        (("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0), "raise its maxmemory"),
        (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"), "name its master in global_concurrency_redis_url"),
        (("CONFIG", "SET", "min-replicas-to-write", 1), ("CONFIG", "SET", "min-replicas-to-write", 0), "its replicas"),
    ],
)
def test_a_server_that_takes_no_writes_is_waited_for_with_what_to_do_if_that_lasts(servers, breaks, heals, says):
    store = SessionStore(servers.url("redis://127.0.0.1:{plain}/0"), "gconc")
    try:
        servers.do(*breaks)
        with pytest.raises(StoreUnavailable) as raised:
            store.ticket()
    finally:
        servers.do(*heals)
        store.close()
    assert type(raised.value) is StoreUnavailable
    assert says in str(raised.value)


@pytest.mark.wild("connections", "a Unix socket that the worker's user can't open", result=REFUSED)
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_a_socket_that_may_not_be_opened_is_told(redis_process, tmp_path):
    path = tmp_path / "redis.sock"
    with redis_server(None, "--unixsocket", str(path), "--unixsocketperm", "700"):
        app = app_of(f"redis+socket://{path}", "broker_url")
        assert Operations(app).server_time()  # so that all is imported that is
        os.seteuid(65534)
        try:
            error = error_of(app)
        finally:
            os.seteuid(0)
    assert isinstance(error, StoreUnusable)
    assert "can't be opened by this process" in str(error)


@pytest.mark.wild("connections", "a Redis in protected mode, on another machine", result=REFUSED)
def test_protected_mode_is_told(redis_process):
    addresses = [
        one.address for many in psutil.net_if_addrs().values() for one in many
        if one.family == socket.AF_INET and not one.address.startswith("127.")
    ]  # fmt: skip
    if not addresses:
        pytest.skip("this machine has no address but the loopback's")
    with redis_server(None, "--bind", "*", "--protected-mode", "yes") as server:
        error = error_of(app_of(f"redis://{addresses[0]}:{server.port}/0", "broker_url"))
    assert isinstance(error, StoreUnusable)
    assert "set a password there (requirepass), and in broker_url" in str(error)


# -- Rights --------------------------------------------------------------------------------------------------

ALL = ("+@all", "~*", "&*")

KEYS = Keys("gconc")
CHANNELS = f"{KEYS.prefix}{NOTICES}:*"  # of all databases
PATTERNS = f"~{KEYS.prefix}* &{CHANNELS}"


def missing(servers: Servers, *words: str) -> str:
    """What is said to be missing to a user with these rights."""
    servers.user("shop", *words)
    store = SessionStore(servers.url(f"redis://shop:{SECRET}@127.0.0.1:{{plain}}/0"), "gconc")
    try:
        with pytest.raises(StoreUnusable) as raised:
            store.check_rights()
    finally:
        store.close()
    said = str(raised.value)
    assert SECRET not in said
    found = re.search(r"run ACL SETUSER shop (.*) there, or name another user in global_concurrency_redis_url", said)
    assert found is not None, said
    return found[1]


@pytest.mark.wild("connections", "an ACL user with `~shop:* &shop:*`, or any other without the required rights",
                  result=REFUSED)  # fmt: skip
def test_all_that_a_user_lacks_is_told_in_one_go_as_the_line_to_run(servers):
    assert missing(servers, "+@all", "~shop:*", "&shop:*") == PATTERNS
    assert missing(servers, "+@all", "~*", "&shop:*") == f"&{CHANNELS}"
    assert missing(servers, "+@all", "~shop:*", "&*") == f"~{KEYS.prefix}*"
    assert missing(servers, "+@all", f"%R~{KEYS.prefix}*", "&*") == f"~{KEYS.prefix}*"
    assert missing(servers, *ALL, "-zadd", "-subscribe", "-publish") == "+subscribe +publish +zadd"
    assert missing(servers, *ALL, "-@scripting") == "+evalsha +eval"
    assert set(missing(servers, "~*", "&*").split()) == {f"+{name}" for name in NEEDED}


def test_the_right_to_select_a_database_is_told_by_its_name(servers):
    servers.user("shop", *ALL, "-select")
    error = error_of(app_of(servers.url(f"redis://shop:{SECRET}@127.0.0.1:{{plain}}/3"), "broker_url"))
    assert isinstance(error, StoreUnusable)
    assert "run ACL SETUSER <user> +select" in str(error)


@pytest.mark.redis
def test_valkey_s_refusals_are_understood_as_redis_s():
    try:
        valkey_binary()
    except NoValkeyBinary as exc:
        unavailable(str(exc))
    with valkey_server() as valkey, redis.Redis.from_url(valkey.url.replace("valkey:", "redis:")) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "shop", "on", f">{SECRET}", "resetchannels", "+@all", "-zadd", "~shop:*", "&shop:*"
        )
        store = SessionStore(valkey.url.replace("://", f"://shop:{SECRET}@"), "gconc")
        with pytest.raises(StoreUnusable, match=re.escape(f"ACL SETUSER shop {PATTERNS} +zadd there, or")):
            store.check_rights()
        store.close()


def test_the_line_that_is_told_suffices(servers):
    servers.do("ACL", "SETUSER", "shop", *missing(servers, "+@read", "~shop:*", "&shop:*").split())
    again = SessionStore(servers.url(f"redis://shop:{SECRET}@127.0.0.1:{{plain}}/0"), "gconc")
    words = missing_now(again)
    if words:  # where no command on keys was allowed, nothing could be told of keys yet
        servers.do("ACL", "SETUSER", "shop", *words.split())
    assert len(again.check_rights()) == len(OPTIONAL)
    again.close()


def missing_now(store: SessionStore) -> str:
    try:
        store.check_rights()
    except StoreUnusable as exc:
        found = re.search(r"SETUSER shop (.*) there, or name", str(exc))
        return found[1] if found else ""
    return ""


@pytest.mark.parametrize("name", NEEDED)
def test_each_command_that_a_worker_needs_is_tried(servers, name):
    assert missing(servers, *ALL, f"-{name}") == f"+{name}"


def test_what_is_tried_is_what_the_page_of_rights_has():
    (ours, _) = re.findall(r"^ACL SETUSER .*$", (ROOT / "docs/explanation/security.md").read_text(), re.MULTILINE)
    assert {*NEEDED, *OPTIONAL} == set(re.findall(r"\+(\S+)", ours))


def test_trying_the_rights_changes_nothing_and_is_no_sign_of_life(servers):
    admin = servers.admins["plain"]
    admin.flushall()
    store = SessionStore(servers.url("redis://127.0.0.1:{plain}/0"), "gconc")
    assert store.check_rights() == ()
    assert admin.keys("*") == []
    with admin.pubsub() as listener:
        listener.subscribe(KEYS.channel("tried"))
        assert listener.get_message(timeout=5) is not None
        opened = store.open("a", interval=1.0, timeout=30.0, info={}, config={}, room=0)
    store.close()
    assert opened.shut < 5, "nobody lives here whom it would have to wait for"


@pytest.mark.wild("connections", "commands on keys renamed on a managed Redis", result=REFUSED)
def test_a_command_that_was_renamed_away_is_told_by_its_name(redis_process):
    with redis_server(None, "--rename-command", "HSCAN", "", "--rename-command", "XADD", "hidden") as server:
        store = SessionStore(server.url, "gconc")
        with pytest.raises(StoreUnusable, match="lacks HSCAN, XADD:"):
            store.check_rights()
        store.close()


def test_the_settings_that_are_named_follow_from_where_the_url_comes_from():
    assert [Names(url).tls for url in ("broker_read_url", "result_backend", "global_concurrency_redis_url")] == [
        "broker_use_ssl", "redis_backend_use_ssl", "global_concurrency_redis_options",
    ]  # fmt: skip


# -- Workers -------------------------------------------------------------------------------------------------

Clusters = Callable[..., Any]


def stopped(cluster: Any, worker: Worker) -> str:
    """The one line of a worker that may not start; it has run nothing, and never said that it was ready."""
    assert worker.process.wait(30) == EX_CONFIG
    output = worker.output()
    (line,) = complaints(worker)
    assert line.startswith("celery-gconc: refusing to run: the coordination Redis ")
    assert "ready." not in output
    assert "Traceback" not in output
    assert SECRET not in output and WRONG not in output
    assert cluster.oracle.events() == []
    return line


@pytest.mark.wild("connections", "a worker with limits, and a wrong password, TLS where there is none, or no rights",
                  result="refuses to start, with exit code 78 and one line")  # fmt: skip
@pytest.mark.parametrize(
    ("url", "says", "commands"),
    [
        (f"redis://:{WRONG}@127.0.0.1:{{guarded}}/0", "correct them in global_concurrency_redis_url", ("status",)),
        ("rediss://127.0.0.1:{plain}/0?ssl_cert_reqs=none", "use redis:// instead of rediss://", ("status",)),
        (f"redis://shop:{SECRET}@127.0.0.1:{{plain}}/0", f"run ACL SETUSER shop {PATTERNS}", ("status", "doctor")),
    ],
)
def test_a_worker_with_limits_ends_at_its_start_with_one_line(servers, make_cluster, url, says, commands):  # noqa: F811
    servers.user("shop", "+@all", "~shop:*", "&shop:*")
    cluster = make_cluster(
        **QUICK, global_concurrency_redis_url=servers.url(url), global_concurrency_limits={"emails": 1}
    )
    cluster.send("nap", 1)
    worker = cluster.spawn("w1")
    answers = [cluster.celery("gconc", command) for command in commands]
    assert says in stopped(cluster, worker)
    for done in answers:
        assert done.returncode == 69
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: the coordination Redis ")
        assert says in line
        assert SECRET not in line and WRONG not in line


@pytest.mark.wild("connections", "rights that are withdrawn while workers run, and granted again",
                  result="keeps running; reported in the log, `inspect stats`, `status` and `doctor`")  # fmt: skip
def test_a_worker_that_runs_goes_on_and_tells_what_was_taken_from_it(servers, make_cluster):  # noqa: F811
    servers.admins["plain"].flushall()
    servers.user("shop", *ALL)
    url = servers.url(f"redis://shop:{SECRET}@127.0.0.1:{{plain}}/0")
    cluster = make_cluster(**QUICK, global_concurrency_redis_url=url, global_concurrency_limits={"emails": 1})
    (worker,) = cluster.start("w1")
    cluster.send("nap", 1, 0.01)
    cluster.done(1)
    servers.do("ACL", "SETUSER", "shop", "-zadd", "-evalsha")
    wait_until(lambda: complaints(worker), what="the worker notices")
    cluster.send("nap", 1, 0.01, first=1)
    cluster.send("late", 1, 0.01, first=2, queue="celery")
    cluster.done(1, name="late")
    (line,) = complaints(worker)
    advice = "run ACL SETUSER shop +evalsha +zadd there, or name another user in global_concurrency_redis_url"
    assert advice in line
    assert line.endswith("tasks under limits wait until this is fixed")
    app = cluster.app()
    own = app.control.inspect([worker.node], timeout=5.0).stats()[worker.node]["global_concurrency"]
    app.close()
    assert (own["connected"], own["redis_error_is_permanent"]) == (False, True)
    assert advice in own["redis_error"]
    cluster.conf["global_concurrency_redis_url"] = servers.url("redis://127.0.0.1:{plain}/0")  # another user's shell
    for command in ("status", "doctor"):
        said = wait_until(lambda command=command: told(cluster, command), what=f"{command} shows it")
        assert advice in said
        assert SECRET not in said
    servers.do("ACL", "SETUSER", "shop", "+zadd", "+evalsha")
    cluster.done(3)
    wait_until(lambda: joined(worker) == 2, what="the worker is back")
    assert SECRET not in worker.output()


def told(cluster: Any, command: str) -> str:
    """What a command says of a worker that can't use Redis; nothing while it is still believed to live."""
    said = " ".join(cluster.celery("gconc", command).stdout.split())  # as wide as one likes
    return said if "w1@test can't use the coordination Redis" in said else ""


@pytest.fixture
def start() -> Iterator[Callable[[str], Health]]:
    """Starts a link to the Redis of a URL, and gives its health."""
    with ExitStack() as stack:

        def start(url: str) -> Health:
            parts = Parts(url, **QUICK)
            link = parts.link()
            link.start()
            stack.callback(link.stop)
            return parts.health

        yield start


def times_told(caplog: pytest.LogCaptureFixture) -> int:
    return sum("correct them in global_concurrency_redis_url" in said for said in caplog.messages)


def test_what_lasts_is_told_again_now_and_then(servers, caplog, monkeypatch, start):
    monkeypatch.setattr(link, "REMINDER_SECONDS", 0.5)
    servers.admins["plain"].flushall()
    servers.user("shop", *ALL)
    health = start(servers.url(f"redis://shop:{SECRET}@127.0.0.1:{{plain}}/0"))
    wait_until(lambda: health.connected, what="it is connected")
    assert health.trouble is None
    servers.do("ACL", "SETUSER", "shop", "resetpass")
    servers.do("CLIENT", "KILL", "USER", "shop")
    wait_until(lambda: times_told(caplog) >= 3, what="it is told again and again")
    assert health.is_unusable
    servers.user("shop", *ALL)
    wait_until(lambda: health.connected and not health.is_unusable, what="it is connected again")
    assert health.trouble is None


def test_what_lasts_is_told_once_though_redis_does_not_answer_now_and_then(servers, caplog, start):
    servers.admins["plain"].flushall()
    servers.user("shop", *ALL)
    with proxy(int(servers.url("{plain}"))) as front:
        health = start(f"redis://shop:{SECRET}@127.0.0.1:{front.port}/0")
        wait_until(lambda: health.connected, what="it is connected")
        for _ in range(2):
            caplog.clear()
            servers.do("ACL", "SETUSER", "shop", "resetpass")
            servers.do("CLIENT", "KILL", "USER", "shop")
            for _ in range(2):
                wait_until(lambda: health.is_unusable, what="its password is wrong")
                front.silence()
                wait_until(lambda: not health.is_unusable, what="it has no answer")
                front.heal()
            wait_until(lambda: health.is_unusable, what="its password is wrong, still")
            assert times_told(caplog) == 1
            servers.user("shop", *ALL)
            wait_until(lambda: health.connected, what="it is connected again")


@pytest.mark.wild("connections", "a Redis whose `INFO` is renamed, and everything else that providers remove")
def test_a_worker_runs_without_info_and_says_once_what_it_can_not_see(servers, make_cluster):  # noqa: F811
    url = servers.url("redis://127.0.0.1:{renamed}/0")
    cluster = make_cluster(**QUICK, global_concurrency_redis_url=url, global_concurrency_limits={"emails": 1})
    (worker,) = cluster.start("w1")
    cluster.send("nap", 2, 0.01)
    cluster.done(2)
    assert complaints(worker) == []
    said = [line for line in warnings(worker) if ": without " in line]
    assert len(said) == 2
    assert "without INFO, a Redis restart is noticed only if" in said[0]
    assert "without PUBSUB CHANNELS, the first worker" in said[1]
    doctor = cluster.celery("gconc", "doctor")
    assert "without INFO, " in doctor.stdout
    assert "Traceback" not in doctor.stderr


@pytest.mark.wild("connections", "a Redis broker whose user lacks rights that only celery-gconc needs",
                  result=REFUSED)  # fmt: skip
def test_what_is_missing_at_the_broker_is_told_at_the_start_too(servers, make_cluster):  # noqa: F811
    servers.user("kombu", *ALL, "-eval", "-lrange", "-client|unblock")
    broker = servers.url(f"redis://kombu:{SECRET}@127.0.0.1:{{plain}}/0")
    coordination = servers.url("redis://127.0.0.1:{renamed}/0")
    cluster = make_cluster(
        broker, **QUICK, global_concurrency_redis_url=coordination, global_concurrency_limits={"emails": 1}
    )
    worker = cluster.spawn("w1")
    assert worker.process.wait(30) == EX_CONFIG
    (line,) = complaints(worker)
    assert line == (
        "celery-gconc: refusing to run: the broker denies its user 'kombu' rights that celery-gconc needs: "
        "run ACL SETUSER kombu +eval +lrange there, or name another user in broker_url"
    )
    servers.do("ACL", "SETUSER", "kombu", "+eval", "+lrange")
    (worker,) = cluster.start("w2")
    assert [said for said in warnings(worker) if "the broker: without CLIENT UNBLOCK, " in said]
    assert complaints(worker) == []


def test_trying_the_rights_at_the_broker_changes_nothing(servers):
    admin = servers.admins["plain"]
    admin.flushall()
    assert missing_at_broker(admin, "unacked_index") == Missing(user="default")
    assert admin.keys("*") == []


def test_what_is_tried_at_the_broker_is_what_the_page_of_rights_has(servers):
    servers.user("kombu", "~*", "&*")
    with redis.Redis(port=servers.ports["plain"], username="kombu", password=SECRET) as client:
        lacking = missing_at_broker(client, "unacked_index")
    page = (ROOT / "docs/reference/acl.md").read_text().replace("\\|", "|")
    (table,) = re.findall(r"^## Commands for Redis as the broker$(.*)^Workers need all", page, re.MULTILINE | re.DOTALL)
    told = set(re.findall(r"`\+([a-z|]+)`", table))
    assert {*lacking.commands, *lacking.optional} == told - {"rpush"} | {"eval"}, "RPUSH can't be tried; kombu needs it"


@pytest.mark.wild("connections", "a worker without limits, and a wrong password",
                  result="runs; an error says how to fix it")  # fmt: skip
def test_a_worker_without_limits_runs_and_tells(servers, make_cluster):  # noqa: F811
    url = servers.url(f"redis://:{WRONG}@127.0.0.1:{{guarded}}/0")
    cluster = make_cluster(**QUICK, global_concurrency_redis_url=url)
    cluster.module = "tests.wild.no_limits"
    (worker,) = cluster.start("w1")
    wait_until(lambda: complaints(worker), what="the worker tells")
    (line,) = complaints(worker)
    assert "correct them in global_concurrency_redis_url" in line
