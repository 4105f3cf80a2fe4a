"""A made-up shop over weeks, landed as Airbyte's S3 destination would: Shopify and Klaviyo, the same people.

The same options give the same rows in the same files. A day's files do not depend on the days after it, so a
later call with more days adds files and leaves the landed ones alone. `python samples/shop.py --help`.
The story itself is SQL, in the files beside this one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb

_HERE = Path(__file__).parent
START = date(2026, 10, 1)

# Each stream and the table macro of a day's rows, in the order in which they sync.
STREAMS = {
    "shopify/customers": "customer_rows",
    "shopify/orders": "order_rows",
    "shopify/order_refunds": "refund_rows",
    "klaviyo/metrics": "metric_rows",
    "klaviyo/lists": "list_rows",
    "klaviyo/flows": "flow_rows",
    "klaviyo/campaigns": "campaign_rows",
    "klaviyo/profiles": "profile_rows",
    "klaviyo/events": "event_rows",
}

_SYNC_AT = timedelta(hours=23, minutes=40)

# Orders gain a column from this day on, as they do when Airbyte's connector is upgraded.
_NEW_COLUMN_FROM = 7

# Day 2's orders were also read five minutes before the sync, by an attempt whose file reaches the store on
# day 5: by then many of its rows are older than what has landed, and a few exist nowhere else.
_LATE_OF, _LATE_ON = 2, 5


@dataclass(frozen=True)
class Landed:
    """What one call wrote for one stream; files that were there already count as `skipped`."""

    stream: str
    files: int = 0
    rows: int = 0
    bytes: int = 0
    skipped: int = 0

    def __add__(self, other: Landed) -> Landed:
        return Landed(
            self.stream,
            self.files + other.files,
            self.rows + other.rows,
            self.bytes + other.bytes,
            self.skipped + other.skipped,
        )


def land(
    out: Path,
    *,
    seed: int = 7,
    start: date = START,
    days: int = 14,
    orders_per_day: int = 60,
    rows_per_file: int = 50_000,
    streams: Iterable[str] | None = None,
) -> list[Landed]:
    """Write the first `days` days of the shop below `out`: a sync per day and stream that changed.

    `streams` are names as in STREAMS; all by default. A sync whose files exist is not made again. Only `days`
    may differ between calls for one `out`; nothing checks that.
    """
    wanted = list(STREAMS) if streams is None else list(streams)
    if unknown := set(wanted) - set(STREAMS):
        raise ValueError(f"unknown streams {sorted(unknown)}; known: {sorted(STREAMS)}")
    landed = {stream: Landed(stream) for stream in STREAMS if stream in wanted}
    with _connect(seed, start, days, orders_per_day) as con:
        for name in ("story.sql", "klaviyo.sql"):
            con.execute((_HERE / name).read_text())
        for day in range(days):
            for offset, (stream, macro) in enumerate(STREAMS.items()):
                if stream not in landed:
                    continue
                synced = _midnight(start, day) + _SYNC_AT + timedelta(seconds=7 * offset)
                if known := _files(out, stream, synced):
                    landed[stream] += Landed(stream, skipped=known)
                    continue
                rows = f"{macro}({day})"
                if stream == "shopify/orders":
                    con.execute(f"create or replace temp table states as from changed_orders({day})")
                    rows = "order_rows('states')"
                    if day >= _NEW_COLUMN_FROM:
                        po_number = "if(id % 9 = 0, concat('PO-', id % 99991), null) as po_number"
                        rows = f"(select *, {po_number} from {rows})"
                landed[stream] += _sync(con, out, stream, rows, synced, rows_per_file)
            synced = _midnight(start, _LATE_OF) + _SYNC_AT - timedelta(minutes=5)
            if day != _LATE_ON or "shopify/orders" not in landed:
                continue
            if known := _files(out, "shopify/orders", synced):
                landed["shopify/orders"] += Landed("shopify/orders", skipped=known)
            else:
                con.execute(f"create or replace temp table states as from late_orders({_LATE_OF})")
                landed["shopify/orders"] += _sync(
                    con, out, "shopify/orders", "order_rows('states')", synced, rows_per_file
                )
    return list(landed.values())


def land_orders_bulk(
    out: Path,
    *,
    files: int,
    rows_per_file: int,
    seed: int = 7,
    start: date = START,
    update_share: float = 0.3,
) -> Landed:
    """Write `files` files of `rows_per_file` orders, `update_share` of them later versions of older orders.

    They span about a tenth as many partitions as there are files, at most 90. Existing files are not touched.
    Costs 25 to 35 s of one core per million rows (small files cost more) and a file's rows in memory per
    core.
    """
    partitions = max(1, min(90, files // 10))
    span = partitions * 86_400_000_000 // (files * rows_per_file)
    with _connect(seed, start, 0, 0) as con:

        def one(number: int) -> Landed:
            day = number * partitions // files
            synced = _midnight(start, 0) + timedelta(
                microseconds=(number + 1) * rows_per_file * span, minutes=15
            )
            path = _path(out, "shopify/orders", _midnight(start, day).date(), 0, synced)
            if path.exists():
                return Landed("shopify/orders", skipped=1)
            with con.cursor() as cursor:
                slots = f"bulk_slots({number}, {rows_per_file}, {update_share:f}, {span})"
                cursor.execute(f"create temp table slots as from {slots}")
                cursor.execute("create temp view slots_with_baskets as from baskets('slots')")
                cursor.execute("create temp view sync as from order_rows('slots_with_baskets')")
                return _write(cursor, path, "shopify/orders", synced)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            return sum(pool.map(one, range(files)), start=Landed("shopify/orders"))


def _connect(seed: int, start: date, days: int, orders_per_day: int) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute(
        f"create macro seed() as {seed:d}; create macro start_day() as date '{start.isoformat()}';"
        f"create macro days_known() as {days:d}; create macro per_day() as {orders_per_day:d}"
    )
    con.execute((_HERE / "shop.sql").read_text())
    return con


def _sync(
    con: duckdb.DuckDBPyConnection, out: Path, stream: str, rows: str, synced: datetime, rows_per_file: int
) -> Landed:
    """One sync of one stream, cut into parts; a sync without rows writes no file."""
    con.execute(f"create or replace temp table sync_rows as from {rows} order by _at, id")
    (count,) = con.execute("select count(*) from sync_rows").fetchall()[0]
    landed = Landed(stream)
    for part in reversed(range(-(-count // rows_per_file))):  # where part 0 is, all of them are
        path = _path(out, stream, synced.date(), part, synced)
        first = part * rows_per_file
        con.execute(
            f"create or replace temp view sync as "
            f"from sync_rows where rowid between {first} and {first + rows_per_file - 1}"
        )
        landed += _write(con, path, stream, synced + timedelta(seconds=part))
    return landed


def _files(out: Path, stream: str, synced: datetime) -> int:
    """How many files of that sync have landed; 0 also when it was interrupted."""
    first = _path(out, stream, synced.date(), 0, synced)
    return len(list(first.parent.glob(f"part_*_{_millis(synced)}.parquet"))) if first.exists() else 0


def _write(con: duckdb.DuckDBPyConnection, path: Path, stream: str, synced: datetime) -> Landed:
    """Land the view `sync` as one file. It is renamed into place: a listing never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    rows = con.sql(f"from landed_rows('sync', '{stream}', {_millis(synced)})")
    rows.write_parquet(str(unfinished), compression="snappy")
    size = unfinished.stat().st_size
    (count,) = con.execute("select num_rows from parquet_file_metadata(?)", [str(unfinished)]).fetchall()[0]
    unfinished.rename(path)
    return Landed(stream, 1, count, size)


def _path(out: Path, stream: str, day: date, part: int, synced: datetime) -> Path:
    folder = out / "raw" / stream / f"year={day:%Y}" / f"month={day:%m}" / f"day={day:%d}"
    return folder / f"part_{part}_{_millis(synced)}.parquet"


def _midnight(start: date, day: int) -> datetime:
    return datetime(start.year, start.month, start.day, tzinfo=UTC) + timedelta(days=day)


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description="Land a made-up shop: Shopify and Klaviyo over some weeks.")
    parser.add_argument("--out", type=Path, default=Path(".lake/landing"), help="the landing zone's root")
    parser.add_argument("--days", type=int, default=14, help="how many days the shop lives")
    parser.add_argument(
        "--until-day", type=int, metavar="K", help="land the first K days; call again for more"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--start", type=date.fromisoformat, default=START, metavar="YYYY-MM-DD")
    parser.add_argument("--orders-per-day", type=int, default=60)
    parser.add_argument("--rows-per-file", type=int, default=50_000)
    options = parser.parse_args()
    for landed in land(
        options.out,
        seed=options.seed,
        start=options.start,
        days=options.days if options.until_day is None else min(options.until_day, options.days),
        orders_per_day=options.orders_per_day,
        rows_per_file=options.rows_per_file,
    ):
        print(
            f"{landed.stream:<22} {landed.files:>5} files {landed.rows:>9} rows {landed.bytes:>11} bytes"
            + (f"  ({landed.skipped} files were there)" if landed.skipped else "")
        )


if __name__ == "__main__":
    main()
