"""Real Flowers, of each version that is supported, and a real browser."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from celery_gconc.operations.operations import Operations
from celery_gconc.protocol.status import LimitStatus
from tests.kit.processes import celery, launch
from tests.kit.servers import ROOT, end, free_port, wait_until
from tests.kit.workers import Cluster

#: The newest of each series that is supported.
VERSIONS = ("2.0.1", "2.1.0", "2.2.0")

#: Where they are kept from one run to the next, without what they depend on.
CACHE = ROOT / ".cache" / "flower"

#: Who may log in where Flower asks for it.
USER, PASSWORD = "alice", "secret:with colon"

#: Flower's own requests take milliseconds; a machine that is busy is not.
REQUEST_TIMEOUT = 20.0


class NoBrowser(Exception):
    """No Chromium, or no driver for it, on this machine."""


class NoFlower(Exception):
    """A version of Flower is neither here nor to be had."""


def flower_folder(version: str) -> Path:
    """Where a version of Flower is: installed if it isn't yet.

    Raises:
        NoFlower: pip can't get it.
    """
    folder = CACHE / version
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
            done = subprocess.run(
                [*pip, "--target", f"{made}/flower", f"flower=={version}"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
            )  # fmt: skip
            if done.returncode:
                raise NoFlower(f"pip can't install flower {version}: {done.stderr.strip()[-500:]}")
            if not folder.exists():  # another process may have been faster
                Path(made, "flower").rename(folder)
    return folder


@dataclass
class Answer:
    """What Flower answered to a request."""

    code: int
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Flower:
    """One ``celery flower`` process."""

    version: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    prefix: str = ""
    has_login: bool = False
    _opener: urllib.request.OpenerDirector = field(
        default_factory=lambda: urllib.request.build_opener(urllib.request.ProxyHandler({}))
    )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def ask(self, path: str, data: str | None = None, *, logged_in: bool = True, **headers: str) -> Answer:
        """GET a path, or POST *data* to it, as the user who may log in."""
        if self.has_login and logged_in:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            self.url + path,
            None if data is None else data.encode(),
            {name.replace("_", "-"): value for name, value in headers.items()},
        )
        try:
            with self._opener.open(request, timeout=REQUEST_TIMEOUT) as response:
                return Answer(response.status, response.read().decode(), dict(response.headers))
        except urllib.error.HTTPError as exc:
            return Answer(exc.code, exc.read().decode(), dict(exc.headers))

    def answers(self) -> bool:
        assert self.process.poll() is None, self.output()
        try:
            return self.ask("/healthcheck").code == 200
        except OSError:
            return False

    def ready(self) -> Flower:
        wait_until(self.answers, 60, f"Flower {self.version} answers")
        return self

    def knows_worker(self, node: str) -> bool:
        """Whether events of this worker have come: it shows what the worker does from now on."""
        return any(worker["hostname"] == node for worker in self.ask("/workers?json=1").json["data"])

    def state_of(self, task_id: str) -> str | None:
        """The state of a task, as its page shows it."""
        answer = self.ask(f"/api/task/info/{task_id}")
        return answer.json["state"] if answer.code == 200 else None

    def stop(self) -> None:
        end(self.process)


@contextmanager
def flower(
    cluster: Cluster, version: str, *options: str, module: str = "", prefix: str = "", login: bool = False, **env: str
) -> Iterator[Flower]:
    """Start a Flower beside a cluster; :meth:`Flower.ready` waits for it."""
    port = free_port()
    log = Path(tempfile.mkstemp(prefix=f"flower-{version}-", suffix=".log", dir=cluster.directory)[1])
    command = celery(module or cluster.module, "flower", f"--port={port}", "--address=127.0.0.1", *options)
    if prefix:
        command.append(f"--url-prefix={prefix.strip('/')}")
    if login:
        command.append(f"--basic-auth={USER}:{PASSWORD}")
    path = f"{flower_folder(version)}:{ROOT}"
    process = launch(command, log, cwd=cluster.directory, env={**cluster.env, "PYTHONPATH": path, **env})
    made = Flower(version, port, process, log, prefix, login)
    try:
        yield made
    finally:
        made.stop()


@dataclass
class Browser:
    """A headless Chromium, and Flower's page /gconc in it."""

    driver: webdriver.Chrome

    def open(self, flower: Flower, path: str = "/gconc") -> None:
        """Go to a page of a Flower, with the password in the address where it asks for one."""
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self.driver.execute_cdp_cmd("Network.enable", {})
        headers = {"Authorization": f"Basic {token}"} if flower.has_login else {}
        self.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": headers})
        self.errors()  # of the page before
        self.driver.get(flower.url + path)

    def find(self, selector: str, within: str = "") -> WebElement:
        """The element, as soon as it is there and seen. *within* names a limit."""
        place = f'tbody[data-limit="{within}"] ' if within else ""

        def seen() -> WebElement | None:
            for found in self.driver.find_elements(By.CSS_SELECTOR, place + selector):
                if found.is_displayed():
                    return found
            return None

        found: WebElement = wait_until(seen, 20, f"{place}{selector} is seen on {self.driver.current_url}")
        return found

    def click(self, selector: str, within: str = "") -> None:
        """Click in the middle of an element, as a person would: it has to be on the screen, and nothing over it."""
        element = self.find(selector, within)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def shows(self, text: str, selector: str, within: str = "") -> None:
        """Wait until an element has this text in it."""
        wait_until(
            lambda: text in self.find(selector, within).text, 20,
            f"{within} {selector} shows {text!r}; it shows {self.find(selector, within).text!r}",
        )  # fmt: skip

    def resize(self, width: int, height: int) -> None:
        """Give the page this size on the screen, in CSS pixels; a phone's below 500."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def cut_off(self) -> list[str]:
        """The buttons of limits that are seen in part, or not at all, at the sides of their card."""
        found: list[str] = self.driver.execute_script("""
            const card = document.getElementById("gconc-limits").parentElement.getBoundingClientRect();
            return Array.from(document.querySelectorAll("#gconc-limits tbody button")).filter((button) => {
              const its = button.getBoundingClientRect();
              return its.left < card.left || its.right > Math.min(card.right, window.innerWidth);
            }).map((button) => button.textContent);
        """)
        return found

    def indents(self, limit: str) -> tuple[list[float], float]:
        """Where each line of a limit's name begins, and where the note below it does."""
        lines, note = self.driver.execute_script(
            """
            const [name, note] = arguments, text = document.createRange();
            text.selectNodeContents(name);
            const parts = Array.from(text.getClientRects()).filter((part) => part.width);
            const lines = parts.filter((part, at) => !at || part.top !== parts[at - 1].top);
            return [lines.map((line) => line.left), note.getBoundingClientRect().left];
            """,
            self.find(".gconc-open", limit), self.find(".gconc-note", limit),
        )  # fmt: skip
        return lines, note

    def errors(self) -> list[str]:
        """What its console has shown since the last page was opened, as far as it is an error."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a Chromium with nothing in it; it ends with its driver.

    Raises:
        NoBrowser: there is none.
    """
    binary, driver_binary = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver_binary is None:
        raise NoBrowser("no chromium and chromedriver on the path")
    with tempfile.TemporaryDirectory(prefix="gconc-chromium-", ignore_cleanup_errors=True) as folder:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for name in (
            "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
            "disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={folder}",
        ):  # fmt: skip
            options.add_argument(f"--{name}")
        driver = webdriver.Chrome(options=options, service=Service(driver_binary))
        try:
            driver.set_page_load_timeout(60)
            yield Browser(driver)
        finally:
            driver.quit()


@dataclass
class Bench:
    """A cluster with one worker, and what Redis has of it: by the package's own operations, in this process."""

    cluster: Cluster
    operations: Operations

    def send(self, task: str = "nap", *args: object, queue: str = "emails") -> str:
        """Send a task; returns its id."""
        app = self.operations.app
        return str(app.send_task(f"tests.cluster.app.{task}", (1, *args), queue=queue).id)

    def limit(self, name: str = "queue:emails") -> LimitStatus:
        return self.operations.status(name)[name]

    def wait_for(self, running: int, waiting: int, name: str = "queue:emails") -> None:
        """Wait until so many tasks run, and so many wait in line."""

        def counts() -> bool:
            found = self.limit(name)
            return (found.running, found.waiting + found.parked) == (running, waiting)

        wait_until(counts, 30, f"{name}: {running} running, {waiting} waiting")

    def end(self, *task_ids: str) -> None:
        """End tasks, whether they run or wait."""
        self.operations.app.control.revoke(list(task_ids), terminate=True, signal="SIGKILL")
