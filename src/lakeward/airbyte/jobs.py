"""Triggers a sync on the server and follows it to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lakeward.errors import AirbyteError
from lakeward.sql import escape_glob, quote_list

if TYPE_CHECKING:
    from lakeward.airbyte.client import Airbyte
    from lakeward.lake import Lake
    from lakeward.landing import Landing
    from lakeward.streams import Stream

Json = dict[str, Any]

_LOOK_SECONDS = 5.0
_ENDED = ("succeeded", "failed", "cancelled")


def sync(connection: Json, airbyte: Airbyte, progress: Callable[[Json], None]) -> Json:
    """The connection's job, ended well. One that runs already is followed instead.

    Raises AirbyteError when it failed.
    """
    key = connection["connectionId"]
    job = _running(airbyte, key) or airbyte.call("POST", "/jobs", {"connectionId": key, "jobType": "sync"})
    while job["status"] not in _ENDED:
        progress(job)
        time.sleep(_LOOK_SECONDS)
        job = airbyte.call("GET", f"/jobs/{job['jobId']}")
    progress(job)
    if job["status"] != "succeeded":
        raise AirbyteError(
            f"job {job['jobId']} of {connection['name']} {job['status']}",
            hint="its log is on the connection's page in Airbyte; what it landed is fed all the same",
        )
    return dict(job)


def landed(job: Json, streams: Sequence[Stream], landing: Landing, lake: Lake) -> int | None:
    """Rows in the files that the job wrote, by its number in their names; None where there is no such file.

    Costs a listing of each stream's newest days, and the files' footers.
    """
    day = datetime.fromisoformat(job["startTime"].replace("Z", "+00:00")).date() - timedelta(days=1)
    mine = [
        landing.url(file.path)
        for stream in streams
        for file in landing.list(stream, since=day)
        if file.path.rpartition("/")[2].startswith(f"{job['jobId']}_")
    ]
    if not mine:
        return None
    urls = quote_list(escape_glob(url) for url in mine)
    ((rows,),) = lake.query(f"select sum(num_rows)::bigint from parquet_file_metadata({urls})")
    return int(rows)


def _running(airbyte: Airbyte, connection: str) -> Json | None:
    for status in ("running", "pending"):
        query = {
            "connectionId": connection, "jobType": "sync", "status": status, "orderBy": "createdAt|DESC",
        }  # fmt: skip
        for job in airbyte.call("GET", "/jobs", query=query)["data"]:
            return dict(job)
    return None
