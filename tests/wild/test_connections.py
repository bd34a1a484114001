"""What URLs and options say of a Redis, the broker's, the backend's and our own: we connect with the same."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kombu
import pytest
import redis
from celery import Celery

from tests.kit.certificates import make_certificates
from tests.kit.servers import RedisServer, free_port, redis_server
from tests.kit.tiers import starts
from tests.wild.reach import works

#: Everything that has a meaning in a URL, and some of what isn't ASCII.
ODD = "p@ss:w/o?r#d%25;&=+ ü漢"


FILES = {"ca": "ca.pem", "cert": "server.pem", "key": "server.key"}


class Provider(redis.CredentialProvider):
    """What an app gives as the path of a class: it is made without arguments."""

    def get_credentials(self) -> tuple[str, str]:
        return "shop", ODD


@dataclass
class Servers:
    """A Redis by TCP, by TLS (with client certificates too), by a socket; the password of ``shop`` is odd."""

    plain: RedisServer
    tls: int
    mutual: int
    socket: Path
    folder: Path
    admin: redis.Redis

    def filled(self, text: str) -> str:
        """A URL with what is known of the servers in it."""
        files = {name: self.folder / file for name, file in FILES.items()}
        ports = {"port": self.plain.port, "tls": self.tls, "mutual": self.mutual, "away": free_port()}
        return text.format(**files, **ports, socket=self.socket, pw=quote(ODD, safe=""))


@pytest.fixture(scope="module")
@starts("redis")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    tls, mutual, socket = free_port(), free_port(), folder / "r.sock"
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    options = [word for kind, name in files.items() for word in (f"--tls-{kind}-file", str(folder / name))]
    with (
        redis_server(
            None, "--tls-port", str(tls), "--tls-auth-clients", "no", "--unixsocket", str(socket), *options
        ) as plain,
        redis_server(None, "--tls-port", str(mutual), "--tls-auth-clients", "yes", *options) as other,
        redis.Redis(port=plain.port) as admin, redis.Redis(port=other.port) as second,
    ):  # fmt: skip
        for client in (admin, second):
            client.acl_setuser(
                "shop", enabled=True, passwords=[f"+{ODD}"], categories=["+@all"], keys=["*"], channels=["*"]
            )
        yield Servers(plain, tls, mutual, socket, folder, admin)


def app_of(broker: str = "memory://", backend: str | None = None, **conf: Any) -> Celery:
    made = Celery("wild", broker=broker, backend=backend, set_as_current=False)
    made.conf.update(conf)
    return made


def case(name: str, *values: Any) -> Any:
    """One row of the table."""
    return pytest.param(*values, id=name, marks=pytest.mark.wild("connections", name))


@pytest.mark.parametrize(
    ("broker", "conf"),
    [
        case("rediss://...?ssl_cert_reqs=CERT_NONE", "rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=CERT_NONE", {}),
        case("rediss://...?ssl_cert_reqs=none", "rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=none", {}),
        case(
            "rediss://...?ssl_cert_reqs=CERT_REQUIRED with a private CA",
            "rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}",
            {},
        ),
        case("a plain rediss:// to a self-signed server, which kombu doesn't verify", "rediss://127.0.0.1:{tls}/0", {}),
        case(
            "redis://...?ssl_cert_reqs=none, which uses TLS in kombu",
            "redis://127.0.0.1:{tls}/0?ssl_cert_reqs=none",
            {},
        ),
        case(
            "redis:// and broker_use_ssl without verification",
            "redis://127.0.0.1:{tls}/0",
            {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_NONE}},
        ),
        case(
            "rediss:// and broker_use_ssl with a private CA",
            "rediss://127.0.0.1:{tls}/0",
            {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "{ca}"}},
        ),
        case(
            "a client certificate in broker_use_ssl",
            "rediss://127.0.0.1:{mutual}/0",
            {
                "broker_use_ssl": {
                    "ssl_cert_reqs": ssl.CERT_REQUIRED,
                    "ssl_ca_certs": "{ca}",
                    "ssl_certfile": "{cert}",
                    "ssl_keyfile": "{key}",
                }
            },
        ),
        case(
            "a client certificate in the broker's URL",
            "rediss://127.0.0.1:{mutual}/0?ssl_cert_reqs=required&ssl_ca_certs={ca}&ssl_certfile={cert}&ssl_keyfile={key}",
            {},
        ),
        case("a user whose password has every odd character", "redis://shop:{pw}@127.0.0.1:{port}/2", {}),
        case("redis+socket:// with virtual_host", "redis+socket://{socket}?virtual_host=3", {}),
        case("redis+socket:// with a user and an odd password", "redis+socket://shop:{pw}@{socket}?virtual_host=3", {}),
        case(
            "credential_provider in the broker's URL",
            "redis://127.0.0.1:{port}/0?credential_provider=tests.wild.test_connections.Provider",
            {},
        ),
        case(
            "a broker URL with alternatives, the first of which is down",
            "redis://127.0.0.1:{away}/0;redis://127.0.0.1:{port}/0",
            {},
        ),
        case("a list of broker URLs", ["redis://127.0.0.1:{port}/0", "redis://127.0.0.1:{away}/0"], {}),
        case(
            "broker_read_url and broker_write_url",
            "memory://",
            {"broker_read_url": "redis://127.0.0.1:{port}/0", "broker_write_url": "redis://127.0.0.1:{port}/0"},
        ),
        case(
            "broker_transport_options for kombu's own work",
            "redis://127.0.0.1:{port}/0",
            {
                "broker_transport_options": {
                    "visibility_timeout": 60,
                    "socket_timeout": 30,
                    "socket_keepalive": True,
                    "health_check_interval": 5,
                    "client_name": "kombu",
                    "queue_order_strategy": "priority",
                    "max_connections": 1,
                    "retry_on_timeout": True,
                    "fanout_prefix": True,
                    "priority_steps": [0, 5],
                }
            },
        ),
    ],
)
def test_the_brokers_redis_is_reached_as_kombu_reaches_it(servers: Servers, broker: Any, conf: dict[str, Any]):
    if "credential_provider" in broker and kombu.VERSION < (5, 6):
        pytest.skip("kombu has credential providers since 5.6")
    app = made_of(servers, broker, None, conf)
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=3, interval_start=0, interval_step=0.1)
        connection.default_channel.client.ping()
    works(app)


@pytest.mark.parametrize(
    ("backend", "conf"),
    [
        case(
            "result backend rediss://...?ssl_cert_reqs=CERT_REQUIRED with a private CA",
            "rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}",
            {},
        ),
        case(
            "result backend rediss://...?ssl_cert_reqs=CERT_NONE",
            "rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=CERT_NONE",
            {},
        ),
        case(
            "redis_backend_use_ssl with a client certificate",
            "rediss://127.0.0.1:{mutual}/0",
            {
                "redis_backend_use_ssl": {
                    "ssl_cert_reqs": ssl.CERT_REQUIRED,
                    "ssl_ca_certs": "{ca}",
                    "ssl_certfile": "{cert}",
                    "ssl_keyfile": "{key}",
                }
            },
        ),
        case("result backend redis+socket:// with virtual_host", "redis+socket://{socket}?virtual_host=3", {}),
        case("result backend with an odd password", "redis://shop:{pw}@127.0.0.1:{port}/2", {}),
        case(
            "redis_backend_credential_provider",
            "redis://127.0.0.1:{port}/0",
            {"redis_backend_credential_provider": "tests.wild.test_connections.Provider"},
        ),
        case(
            "redis_socket_timeout, redis_retry_on_timeout and the like",
            "redis://127.0.0.1:{port}/0?socket_keepalive=1",
            {
                "redis_socket_timeout": 120,
                "redis_retry_on_timeout": True,
                "redis_max_connections": 1,
                "redis_client_name": "results",
            },
        ),
    ],
)
def test_the_backends_redis_is_reached_as_celery_reaches_it(servers: Servers, backend: str, conf: dict[str, Any]):
    app = made_of(servers, "memory://", backend, conf)
    app.backend.client.ping()
    works(app)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        case(
            "our own URL in Celery's spelling: ssl_cert_reqs=CERT_NONE",
            "rediss://127.0.0.1:{tls}/0?ssl_cert_reqs=CERT_NONE",
            {},
        ),
        case("our own options as broker_use_ssl", "redis://127.0.0.1:{tls}/0", {"ssl_cert_reqs": ssl.CERT_NONE}),
        case(
            "our own options as broker_use_ssl, under ssl",
            "redis://127.0.0.1:{tls}/0",
            {"ssl": {"ssl_cert_reqs": "CERT_NONE"}},
        ),
        case(
            "our own options with a client certificate",
            "rediss://127.0.0.1:{mutual}/0",
            {
                "ssl_cert_reqs": "CERT_REQUIRED",
                "ssl_ca_certs": "{ca}",
                "ssl_certfile": "{cert}",
                "ssl_keyfile": "{key}",
            },
        ),
        case("our own URL redis+socket:// with virtual_host", "redis+socket://shop:{pw}@{socket}?virtual_host=3", {}),
        case("our own URL unix:// with db", "unix://shop:{pw}@{socket}?db=3", {}),
        case("our own URL with an odd password", "redis://shop:{pw}@127.0.0.1:{port}/0", {}),
        case(
            "our own credential_provider as a path",
            "redis://127.0.0.1:{port}/0",
            {"credential_provider": "tests.wild.test_connections.Provider"},
        ),
        case(
            "our own credential_provider as an object",
            "redis://x:y@127.0.0.1:{port}/0",
            {"credential_provider": Provider()},
        ),
        case("our own URL with alternatives", "redis://127.0.0.1:{away}/0;redis://127.0.0.1:{port}/0", {}),
        case("a list of URLs of our own", ["redis://127.0.0.1:{away}/0", "redis://127.0.0.1:{port}/0"], {}),
        case(
            "options of redis-py that would change how replies are read",
            "redis://127.0.0.1:{port}/0",
            {
                "decode_responses": True,
                "encoding": "utf-16",
                "encoding_errors": "ignore",
                "protocol": 3,
                "single_connection_client": True,
                "retry_on_timeout": True,
                "retry_on_error": [ConnectionError],
                "max_connections": 1,
                "health_check_interval": 1,
                "socket_timeout": 0,
            },
        ),
    ],
)
def test_our_own_settings_take_celerys_spellings(servers: Servers, url: Any, options: dict[str, Any]):
    works(made_of(servers, "memory://", None, {
        "global_concurrency_redis_url": url, "global_concurrency_redis_options": options
    }))  # fmt: skip


def made_of(servers: Servers, broker: Any, backend: str | None, conf: dict[str, Any]) -> Celery:
    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(one) for name, one in value.items()}
        if isinstance(value, list):
            return [filled(one) for one in value]
        return servers.filled(value) if isinstance(value, str) and "{" in value else value

    return app_of(filled(broker), filled(backend), **filled(conf))
