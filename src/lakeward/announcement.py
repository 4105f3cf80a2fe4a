"""Saying that a stream is being refreshed: a long writer would lose to feeders that are short ones."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lakeward.errors import LakewardError
from lakeward.lake import open_lake
from lakeward.ledger import Ledger
from lakeward.meta import lake_version

if TYPE_CHECKING:
    from lakeward.settings import Settings
    from lakeward.streams import Stream

_RENEW_SECONDS, _LAPSE_SECONDS = 15, 60


@contextmanager
def announced(stream: Stream, settings: Settings) -> Iterator[None]:
    """While inside, feeders leave the stream alone; a killed process is believed for a minute.

    Renewed from a thread with a connection of its own: the work inside may be one long statement. Nothing
    depends on it but patience: the fence alone keeps writers apart.
    """
    owner = f"{socket.gethostname()}, process {os.getpid()}"
    ready, done = threading.Event(), threading.Event()

    def renew() -> None:
        try:
            with open_lake(settings) as lake:
                assert lake is not None
                lake_version(lake)  # refuses one that it does not know
                ledger = Ledger(lake)
                while not done.is_set():
                    ledger.announce(stream, owner, datetime.now(UTC) + timedelta(seconds=_LAPSE_SECONDS))
                    ready.set()
                    done.wait(_RENEW_SECONDS)
                ledger.announce(stream, owner, datetime.now(UTC))
        finally:
            ready.set()

    def renew_or_lapse() -> None:
        with suppress(LakewardError):
            renew()

    renewing = threading.Thread(target=renew_or_lapse, daemon=True)
    renewing.start()
    ready.wait()
    try:
        yield
    finally:
        done.set()
        renewing.join()
