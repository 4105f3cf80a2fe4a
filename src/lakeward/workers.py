"""Feeding several streams: what is due, and a process each, because dbt is not re-entrant."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING, Any

from lakeward.attempt import FeedReport, Progress, Tools
from lakeward.errors import LakewardError, NothingSelected, TransformError
from lakeward.feed import Found, feed, is_due, pending, settled

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from lakeward.lake import Lake
    from lakeward.manifest import Model
    from lakeward.reading import Job
    from lakeward.settings import Settings
    from lakeward.streams import Stream

_Due = tuple["Stream", Sequence["Model"], Found]

_progress: Connection[Progress | None, Any]


def feed_all(
    jobs: Sequence[Job],
    tools: Tools,
    is_awake: Callable[[Stream, Found], bool] = lambda *_: True,
    *,
    reconcile: bool = False,
) -> Iterator[FeedReport]:
    """Feed what is due of every stream; reports come as streams finish, also for those with nothing to do.

    A stream without a model is an error in its own report and keeps no other from being fed. One that is
    not awake, given what is pending for it, is left alone and has no report.
    reconcile: list everything that landed, also where the newest days would do.
    """
    ready = []
    for stream, models in jobs:
        if models:
            ready.append((stream, models))
        else:
            yield _failed(stream, _no_model(stream))
    found = pending(ready, tools, bounds={stream.id: None for stream, _ in ready} if reconcile else None)
    due = []
    for stream, models in ready:
        known = found[stream.id]
        if not is_awake(stream, known):
            continue
        is_broken = known.error is not None or any(model.unfit for model in models)
        if is_broken or is_due(stream, known):
            due.append((stream, models, known))
        else:
            settled(stream, known, tools)
            yield FeedReport(stream.id)
    if len(due) > 1 and tools.settings.workers > 1:
        yield from _feed_in_processes(due, tools)
    else:
        for stream, models, known in due:
            yield _result(partial(feed, stream, models, tools, known), stream)


def _no_model(stream: Stream) -> NothingSelected:
    return NothingSelected(
        f"no model carries the tag {stream.tag}",
        hint=f"add dag/processed/{stream.source}/int_{stream.tag}.sql "
        f"with tags=['processed', '{stream.tag}']",
    )


def _feed_in_processes(due: Sequence[_Due], tools: Tools) -> Iterator[FeedReport]:
    """Feed each stream in one of `settings.workers` processes; reports come as streams finish.

    Processes come from a server that has imported dbt already (two seconds once, not per process), and
    share the machine's cores and memory limit. When one is killed, all are lost, but not what they loaded:
    the streams that had not finished are fed again, one after the other, each in a process of its own.
    """
    count = min(tools.settings.workers, len(due))
    unfinished: list[_Due] = []
    for job, report in _in_pool(due, count, _share(tools.settings, tools.lake, count), tools):
        if report is None:
            unfinished.append(job)
        else:
            yield report
    for job in unfinished:
        ((_, again),) = _in_pool([job], 1, tools.settings, tools)
        yield again or _failed(
            job[0],
            TransformError(
                f"{job[0].id}: its worker process was killed",
                hint="often memory: lower memory_limit or workers; nothing was lost, feed again",
            ),
        )


def _in_pool(
    due: Sequence[_Due], count: int, settings: Settings, tools: Tools
) -> Iterator[tuple[_Due, FeedReport | None]]:
    """A report per stream, as they finish; None for one whose process was lost."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lakeward.transform"])
    # A pipe takes so short a message whole or not at all: a killed writer leaves neither half a message
    # nor a lock behind.
    reader, writer = context.Pipe(duplex=False)
    teller = threading.Thread(target=_tell, args=(reader, tools.say), daemon=True)
    teller.start()
    pool = ProcessPoolExecutor(count, context, _start, (writer,))
    try:
        waiting: dict[Future[FeedReport], _Due] = {
            pool.submit(_feed_one, stream, models, settings, known, tools.turn): (stream, models, known)
            for stream, models, known in due
        }
        for done in as_completed(waiting):
            job = waiting[done]
            try:
                yield job, _result(done.result, job[0])
            except BrokenProcessPool:
                yield job, None
    except BaseException:  # nobody waits for the rest: a killed worker leaves nothing half-done
        for process in [*pool._processes.values()]:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        writer.send(None)
        teller.join()
        reader.close()
        writer.close()


def _result(run: Callable[[], FeedReport], stream: Stream) -> FeedReport:
    """The report, or one that holds what stopped it: another stream's trouble is not everybody's."""
    try:
        return run()
    except LakewardError as error:
        return _failed(stream, error)
    except BrokenProcessPool:
        raise
    except Exception as error:  # the border between streams: a bug met by one must not stop the others
        return _failed(stream, TransformError(f"{type(error).__name__}: {error}", hint="please report this"))


def _failed(stream: Stream, error: LakewardError) -> FeedReport:
    return FeedReport(stream.id, errors={stream.id: str(error)})


def _feed_one(
    stream: Stream, models: Sequence[Model], settings: Settings, known: Found, turn: float
) -> FeedReport:
    from lakeward.project import open_tools  # not at module level: project starts these workers

    with open_tools(settings, _progress.send, turn=turn) as tools:
        return feed(stream, models, tools, known)


def _start(writer: Connection[Progress | None, Any]) -> None:
    global _progress  # noqa: PLW0603 - a pool's initializer has no other place to leave things
    _progress = writer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, once


def _tell(reader: Connection[Any, Progress | None], say: Callable[[Progress], None]) -> None:
    while (progress := reader.recv()) is not None:
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
