"""Makes the pictures of Flower in the documentation: ``python -m tests.flower.screenshots``, in about a minute."""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from celery_gconc.operations.operations import Operations
from tests.flower.kit import Browser, browser, flower
from tests.kit.namespace import empty_namespace
from tests.kit.servers import ROOT, redis_server, wait_until
from tests.kit.workers import Cluster, cluster

IMAGES = ROOT / "docs" / "images"

CONF = {
    "global_concurrency_limits": {"app": 40, "queue:emails": 3, "pool:db-writers": 2},
    "global_concurrency_heartbeat_interval": 1.0,
    "global_concurrency_heartbeat_timeout": 5.0,
}

#: For how long, in seconds, the shop is open before the first picture is taken.
BUSY_SECONDS = 25.0


def main() -> None:
    """Start a small cluster and a Flower, let them work for a while, and take the pictures."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        empty_namespace(redis.url)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shop = stack.enter_context(cluster(redis.url, redis.url, redis.url.replace("/0", "/5"), folder, **CONF))
        shop.module = "tests.flower.shop"
        shop.start("mailer", "backoffice", concurrency=12, queues="emails,shop", options=("-E",))
        here = stack.enter_context(flower(shop, "2.2.0", login=True)).ready()
        wait_until(lambda: here.knows_worker("mailer@test"), 30, "Flower hears the workers")
        work(shop)
        eyes = stack.enter_context(browser())
        eyes.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        eyes.resize(1120, 1000)
        eyes.open(here)
        eyes.click(".gconc-open", "queue:emails")
        eyes.shows("shop.send_mail", 'section[aria-label="Waiting"]', "queue:emails")
        eyes.resize(1120, eyes.driver.execute_script("return document.getElementById('gconc').offsetHeight + 40"))
        save(eyes, "flower-limits")
        eyes.resize(1280, 620)
        eyes.open(here, "/tasks?state=WAITING")
        eyes.shows("WAITING", "#tasks-table")
        save(eyes, "flower-tasks")
        wait_until(lambda: "set by alice" in here.ask("/worker/mailer@test").text, what="the tab Other is new")
        eyes.resize(1280, 740)
        eyes.open(here, "/worker/mailer@test#tab-other")
        eyes.shows("gconc queue:emails", "#tab-other")
        save(eyes, "flower-worker")
        eyes.resize(390, 960)
        eyes.open(here)
        eyes.find(".gconc-raise", "queue:emails")
        save(eyes, "flower-phone")


def work(shop: Cluster) -> None:
    """What happens in the shop: more mails than it may send at once, and somebody who does something about it."""
    app = shop.app()
    app.main, app.conf.task_default_queue = "shop", "shop"
    app.conf.update(CONF)
    operations = Operations(app)
    some = random.Random(5)
    for _ in range(53):
        app.send_task("shop.send_mail", (some.uniform(2, 5),), queue="emails")
    for _ in range(9):
        app.send_task("shop.sync_stock", (some.uniform(15, 60),), queue="shop")
    for _ in range(2):
        app.send_task("shop.monthly_report", (600,), queue="shop")
    operations.set("emails", 6, reason="backlog after the outage", duration=7200, by="alice")
    time.sleep(BUSY_SECONDS)
    operations.pause("task:shop.monthly_report", reason="replica is behind", duration=1800, by="bob")
    operations.close()
    app.close()


def save(eyes: Browser, name: str) -> None:
    """Write what the browser shows to a file of the documentation."""
    eyes.driver.execute_script("window.scrollTo(0, 0)")
    time.sleep(0.5)  # for what moves into its place
    path = IMAGES / f"{name}.png"
    eyes.driver.save_screenshot(str(path))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
