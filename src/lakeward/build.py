"""Which enriched models must be rebuilt, and rebuilding them: judged by DuckLake snapshots, not clocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakeward.errors import WriterConflict
from lakeward.meta import META, Relation, relations
from lakeward.settings import LAKE
from lakeward.sql import quote_identifier

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.ledger import Ledger
    from lakeward.manifest import Manifest, Model
    from lakeward.transform import Transform


@dataclass(frozen=True)
class Mart:
    """One enriched model. `reason` says why it is due; `waits_for` which upstreams have no table yet."""

    name: str
    reason: str | None
    waits_for: tuple[str, ...]
    error: str | None  # of its last build, if that failed

    @property
    def is_due(self) -> bool:
        return self.reason is not None and not self.waits_for


@dataclass(frozen=True)
class _Record:
    read_snapshot: int | None
    code: str | None
    error: str | None


def plan_build(manifest: Manifest, lake: Lake) -> list[Mart]:
    """Every enriched model, upstream first. Read-only, five queries for any number of marts.

    A mart is due when it has no table, its SQL changed, or a table it reads was written after the
    snapshot it was computed from (recorded in its own transaction: a write that commits while the mart
    is being computed counts as after).
    """
    marts: list[Mart] = []
    with lake.transaction():
        existing = {name: found for (schema, name), found in relations(lake).items() if schema == "main"}
        records = _records(lake)
        computed = [record.read_snapshot for record in records.values() if record.read_snapshot is not None]
        changed, oldest = _changes_since(lake, existing, min(computed, default=0))
    due: set[str] = set()
    for model in manifest.enriched():
        upstream = manifest.upstream(model)
        record = records.get(model.name, _Record(None, None, None))
        waits = tuple(
            other.name for other in upstream if other.name not in existing and other.name not in due
        )
        reason = _reason(model, upstream, record, existing, changed, oldest, due)
        if reason and not waits:
            due.add(model.name)
        marts.append(Mart(model.name, reason, waits, record.error))
    return marts


def backup_name(model: Model) -> str:
    """dbt's name for an old table, from the swap until it is dropped."""
    return f"{model.name}__dbt_backup"


def sweep(lake: Lake, models: Iterable[Model]) -> None:
    """Drop old tables after their swap, also those that a process killed before that has left behind.

    dbt's next run of the model would do it too, but a model that is up to date has no next run.
    """
    existing = relations(lake)
    for model in models:
        name = backup_name(model)
        if ("main", name) in existing:
            with suppress(WriterConflict):  # its writer still lives, and was faster
                lake.query(f"drop table if exists {LAKE}.main.{quote_identifier(name)}")


def build(marts: Sequence[Mart], manifest: Manifest, transform: Transform, ledger: Ledger) -> dict[str, str]:
    """Run the marts, upstream first, in one dbt invocation; returns the errors by model."""
    known = {mart.name: mart.error for mart in marts}
    errors = {
        result.model: str(result.error)
        for result in transform.run([model for model in manifest.enriched() if model.name in known])
        if result.error is not None
    }
    for model, error in errors.items():
        if error != known[model]:  # said once, however often it is tried
            ledger.fail_build(model, error)
    return errors


def _reason(
    model: Model,
    upstream: Sequence[Model],
    record: _Record,
    existing: dict[str, Relation],
    changed: dict[str, int],
    oldest: int,
    due: Iterable[str],
) -> str | None:
    is_view = model.materialized == "view"  # always current: only its SQL can make it due
    if record.read_snapshot is None or (model.name not in existing and not is_view):
        return "never built"
    if record.error is not None:
        return "its last build failed"
    if record.code != model.code:
        return "its SQL changed"
    if is_view:
        return None
    if oldest > record.read_snapshot + 1:
        return "the snapshots since its last build have expired"
    for other in upstream:
        if other.name in due or changed.get(other.name, -1) > record.read_snapshot:
            return f"{other.name} changed"
    return None


def _records(lake: Lake) -> dict[str, _Record]:
    rows = lake.query(
        f"""
        select model,
               max_by(read_snapshot, rowid) filter (event = 'built'),
               max_by(code, rowid) filter (event = 'built'),
               case when max_by(event, rowid) = 'failed' then max_by(error, rowid) end
        from {META}.build_log group by model"""
    )
    return {model: _Record(*rest) for model, *rest in rows}


def _changes_since(lake: Lake, existing: dict[str, Relation], since: int) -> tuple[dict[str, int], int]:
    """The newest snapshot after `since` that wrote each table, and the oldest snapshot not expired."""
    rows = lake.query(
        f"select snapshot_id, case when snapshot_id > ? then changes end from {LAKE}.snapshots()", [since]
    )
    names = {str(relation.id): name for name, relation in existing.items()}
    found: dict[str, int] = {}
    for snapshot, changes in rows:
        for kind, subjects in (changes or {}).items():
            for subject in subjects:
                written = _written(kind, subject, names)
                if written is not None:
                    found[written] = max(snapshot, found.get(written, -1))
    return found, min(snapshot for snapshot, _ in rows)


def _written(kind: str, subject: str, names: dict[str, str]) -> str | None:
    if kind == "tables_created":
        schema, _, name = subject.partition(".")
        return name if schema == "main" else None
    if kind.startswith(("tables_inserted", "tables_deleted", "tables_altered", "inlined")):
        return names.get(subject)
    return None  # compaction and the like: same rows
