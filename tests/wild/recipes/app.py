"""A small app, with the settings that the test gives it, and the two lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

from celery import Celery
from kombu.transport import filesystem
from kombu.utils.json import dumps

from celery_gconc import GlobalConcurrency


class WholeFiles(filesystem.Channel):
    """Gives the file of a message its name once it is written.

    kombu 5.4-5.7 writes it under its name: a worker that looks in between takes an empty message, and ends.
    """

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:
        file = Path(self.data_folder_out) / f"{round(monotonic() * 1000)}_{uuid4()}.{queue}.msg"
        part = file.with_suffix(".part")
        part.write_text(dumps(payload))
        part.rename(file)


filesystem.Transport.Channel = WholeFiles

app = Celery("proj", broker="memory://", backend="cache+memory://")
app.conf.update(json.loads(os.environ.get("TEST_CONF", "{}")))
GlobalConcurrency(app)


@app.task(global_concurrency=json.loads(os.environ.get("TEST_OPTION", "null")))
def add(x: int, y: int) -> int:
    return x + y
