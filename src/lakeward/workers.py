"""Feeding several streams: what is due, and a process each, because dbt is not re-entrant."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING

from lakeward.errors import LakewardError, NothingSelected, TransformError
from lakeward.feed import FeedReport, Found, Job, Progress, Tools, feed, is_due, pending, settled

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from lakeward.lake import Lake
    from lakeward.manifest import Model
    from lakeward.settings import Settings
    from lakeward.streams import Stream

_progress: SimpleQueue[Progress | None]


def feed_all(jobs: Sequence[Job], tools: Tools) -> Iterator[FeedReport]:
    """Feed what is due of every stream; reports come as streams finish, also for those with nothing to do.

    A stream without a model is an error in its own report and keeps no other from being fed.
    """
    ready = []
    for stream, models in jobs:
        if models:
            ready.append((stream, models))
        else:
            yield FeedReport(stream.id, errors={stream.id: str(_no_model(stream))})
    found = pending(ready, tools)
    due = []
    for stream, models in ready:
        if is_due(stream, found[stream.id].reading, found[stream.id].files):
            due.append((stream, models, found[stream.id]))
        else:
            settled(stream, found[stream.id], tools)
            yield FeedReport(stream.id)
    if len(due) > 1 and tools.settings.workers > 1:
        yield from _feed_in_processes(due, tools.settings, tools.lake, tools.say)
    else:
        for stream, models, known in due:
            yield _result(partial(feed, stream, models, tools, known), stream)


def _no_model(stream: Stream) -> NothingSelected:
    return NothingSelected(
        f"{stream.id} has no model: nothing carries the tag {stream.tag}",
        hint=f"add dag/processed/{stream.source}/int_{stream.tag}.sql "
        f"with tags=['processed', '{stream.tag}']",
    )


def _feed_in_processes(
    due: Sequence[tuple[Stream, Sequence[Model], Found]],
    settings: Settings,
    lake: Lake,
    say: Callable[[Progress], None],
) -> Iterator[FeedReport]:
    """Feed each stream in one of `settings.workers` processes; reports come as streams finish.

    Processes come from a server that has imported dbt already (two seconds once, not per process), and
    share the machine's cores and memory limit.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lakeward.transform"])
    channel: SimpleQueue[Progress | None] = context.SimpleQueue()
    teller = threading.Thread(target=_tell, args=(channel, say), daemon=True)
    teller.start()
    count = min(settings.workers, len(due))
    pool = ProcessPoolExecutor(count, context, _start, (channel,))
    try:
        share = _share(settings, lake, count)
        waiting: dict[Future[FeedReport], Stream] = {
            pool.submit(_feed_one, stream, models, share, known): stream for stream, models, known in due
        }
        for done in as_completed(waiting):
            yield _result(done.result, waiting[done])
    finally:
        pool.shutdown(cancel_futures=True)
        channel.put(None)
        teller.join()


def _result(run: Callable[[], FeedReport], stream: Stream) -> FeedReport:
    """The report, or one that holds what stopped it: another stream's trouble is not everybody's."""
    try:
        return run()
    except LakewardError as error:
        return FeedReport(stream.id, errors={stream.id: str(error)})
    except BrokenProcessPool:
        killed = TransformError(
            f"{stream.id}: its worker process was killed",
            hint="often memory: lower memory_limit or workers; nothing was lost, feed again",
        )
        return FeedReport(stream.id, errors={stream.id: str(killed)})


def _feed_one(stream: Stream, models: Sequence[Model], settings: Settings, known: Found) -> FeedReport:
    from lakeward.project import open_tools  # not at module level: project starts these workers

    with open_tools(settings, _progress.put) as tools:
        return feed(stream, models, tools, known)


def _start(channel: SimpleQueue[Progress | None]) -> None:
    global _progress  # noqa: PLW0603 - a pool's initializer has no other place to leave things
    _progress = channel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, once


def _tell(channel: SimpleQueue[Progress | None], say: Callable[[Progress], None]) -> None:
    while (progress := channel.get()) is not None:
        say(progress)


def _share(settings: Settings, lake: Lake, count: int) -> Settings:
    """What DuckDB would take alone (it knows of container limits), divided between the processes."""
    if count == 1:
        return settings
    ((threads, memory),) = lake.query("select current_setting('threads'), current_setting('memory_limit')")
    amount, unit = memory.split()
    return settings.model_copy(
        update={
            "threads": max(1, threads // count),
            "memory_limit": f"{float(amount) / count:.2f} {unit}",
        }
    )
