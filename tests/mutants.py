"""`python -m tests.mutants`: break the engine in one place at a time, and see a test fail for each.

Works on copies of the repository. A mutant that no test notices is printed, and the exit code is 1.
The tests named here are those that bear the guarantee, not ones written to catch a mutant.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.scratch import REPOSITORY, copy_checkout

_MACROS = "src/lakeward/macros/lakeward.sql"
_F = "tests/functional/"


@dataclass(frozen=True)
class Mutant:
    """what is broken: `old`, which stands once in `path`, becomes `new`."""

    what: str
    path: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant(
        "the fence is not compared", _MACROS,
        "is distinct from {{ plan.fence }}", "is distinct from (select n from {{ fence }})",
        _F + "test_two_writers.py -k overtaken_by_a_feeder_starts",
    ),
    Mutant(
        "the fence is compared, but not bumped", _MACROS,
        "update {{ fence }} set n = n + 1;", "select 1;",
        _F + "test_two_writers.py -k overtaken_by_a_feeder_starts",
    ),
    Mutant(
        "the post-hook records nothing", _MACROS,
        "where invocation = '{{ invocation_id }}' and model =", "where false and model =",
        _F + "test_guarantees.py -k test_1",
    ),
    Mutant(
        "no snapshot is signed", _MACROS,
        "extra_info => '{{ tojson(stamp) | replace(\"'\", \"''\") }}'", "extra_info => '{}'",
        _F + "test_ledger.py -k traced",
    ),
    Mutant(
        "a plan for no table meets one, and nobody looks", _MACROS,
        "{{- lakeward_expect_table(plan) -}}", "",
        _F + "test_misuse.py",
    ),
    Mutant(
        "older rows replace newer ones", _MACROS,
        "{%- set guarded = '_airbyte_extracted_at' in has -%}", "{%- set guarded = false -%}",
        _F + "test_guarantees.py -k test_3",
    ),
    Mutant(
        "ties go to whoever comes last", _MACROS,
        "{%- set ties = guarded and '_source_file' in has -%}", "{%- set ties = false -%}",
        _F + "test_drift.py -k ties",
    ),
    Mutant(
        "null keys pile up", _MACROS,
        "where {% for key in keys %}({{ key }}) is not distinct from lakeward_key_{{ loop.index }} and",
        "where {% for key in keys %}({{ key }}) = lakeward_key_{{ loop.index }} and",
        _F + "test_drift.py -k null_keys",
    ),
    Mutant(
        "a value that does not fit is rounded", _MACROS,
        "given == wanted or wanted in ('VARCHAR', 'JSON')", "true",
        _F + "test_broken_input.py -k retyped",
    ),
    Mutant(
        "milliseconds are not converted", _MACROS,
        "{%- elif column | lower == '_airbyte_extracted_at' and given == 'BIGINT' -%}", "{%- elif false -%}",
        _F + "test_drift.py -k numbers_and_timestamps",
    ),
    Mutant(
        "a model that reads itself is not copied first", _MACROS,
        "and this.identifier not in compiled_code -%}", "-%}",
        _F + "test_misuse.py -k own_table",
    ),
    Mutant(
        "incremental_predicates are let through", _MACROS,
        "{%- elif incremental_predicates -%}", "{%- elif false -%}",
        _F + "test_misuse.py -k predicates",
    ),
    Mutant(
        "append goes dbt's own way", _MACROS,
        "{{ return(default__get_incremental_append_sql(arg_dict)) }}\n  {%- endif -%}",
        "{%- endif -%}\n  {{ return(default__get_incremental_append_sql(arg_dict)) }}",
        _F + "test_broken_input.py -k times_of_every_kind",
    ),
    Mutant(
        "var('files') takes every other variable with it", _MACROS,
        "{{ return(builtins.var(name, *varargs, **kwargs)) }}", "{{ return(builtins.var(name, none)) }}",
        _F + "test_plain_dbt.py -k other_variables",
    ),
    Mutant(
        "a mart does not record what it saw", _MACROS,
        "(select id from lakehouse.current_snapshot()), '{{ model", "(select 0), '{{ model",
        _F + "test_command_line.py -k only_marts_whose",
    ),
    Mutant(
        "a file is its path, whatever is in it", "src/lakeward/reading.py",
        "return identity not in self.applied and identity not in self.quarantined",
        "return file.path not in {path for path, _ in self.applied | self.quarantined}",
        _F + "test_guarantees.py -k test_4",
    ),
    Mutant(
        "quarantined files are tried again and again", "src/lakeward/reading.py",
        "and identity not in self.quarantined", "",
        _F + "test_guarantees.py -k test_5",
    ),
    Mutant(
        "a dropped table goes unnoticed", "src/lakeward/reading.py",
        "is_new = totals.build == 0 or table is None", "is_new = totals.build == 0",
        _F + "test_plain_dbt.py -k dropped_by_hand",
    ),
    Mutant(
        "the lookback is not looked back", "src/lakeward/reading.py",
        "return min([cursor - days,", "return min([cursor,",
        _F + "test_ledger.py -k too_large_to_list",
    ),
    Mutant(
        "what cannot be listed is not there", "src/lakeward/intake.py",
        "troubles.append(error)", "pass",
        _F + "test_broken_input.py -k cannot_be_listed",
    ),
    Mutant(
        "a rewritten file counts as the one that was listed", "src/lakeward/plugin.py",
        "if file is not None and planned.get(file.path, file.etag) != file.etag:", "if False:",
        _F + "test_misuse.py -k rewritten",
    ),
    Mutant(
        "a model that did not run counts as done", "src/lakeward/transform.py",
        "return ModelResult(model.name, 0.0, absent)", "return ModelResult(model.name, 0.0, None)",
        _F + "test_guarantees.py -k test_10",
    ),
    Mutant(
        "every error of a batch is its files' fault", "src/lakeward/transform.py",
        "if not kind or kind in _OF_THE_MODEL:", "if False:",
        _F + "test_costs.py -k fault_of_the_model",
    ),
    Mutant(
        "a file is blamed without proof", "src/lakeward/attempt.py",
        "        if MISFIT in error.message:\n            return True\n", "        return True\n",
        _F + "test_broken_input.py -k 'new_cast or lone_misfit'",
    ),
    Mutant(
        "a batch that exceeds memory is given up", "src/lakeward/attempt.py",
        "elif isinstance(error, MemoryExceeded) and batch:", "elif False:",
        _F + "test_project_faults.py -k exceeds_memory",
    ),
    Mutant(
        "one model's failure stops the other", "src/lakeward/attempt.py",
        "self._stopped.add(model)", "self._stopped |= {*self._states}",
        _F + "test_two_writers.py -k every_other_time",
    ),
    Mutant(
        "files of any schema are read together", "src/lakeward/schemas.py",
        "def compatible(one: str, other: str) -> bool:\n",
        "def compatible(one: str, other: str) -> bool:\n    return True\n",
        _F + "test_broken_input.py -k structs_that_one_statement",
    ),
    Mutant(
        "columns that a batch lacks are not there", "src/lakeward/intake.py",
        "return _shape(lake, missing, landing.url(\"\")) if missing else None", "return None",
        _F + "test_drift.py -k whole_batch",
    ),
    Mutant(
        "feeders pay no heed to a refresh", "src/lakeward/feed.py",
        "if reading.refreshed_by is not None and not beside:", "if False:",
        _F + "test_refresh.py -k leave_an_announced",
    ),
    Mutant(
        "whatever is announced is believed", "src/lakeward/reading.py",
        "if now < until <= now + _ANNOUNCED_AT_MOST else", "if now < until else",
        _F + "test_clock.py -k ahead",
    ),
    Mutant(
        "a list that is cut is an error", "src/lakeward/stores.py",
        'if not left or "list response body" not in str(error):', "if True:",
        _F + 'test_faults.py -k "moment and cut"',
    ),
    Mutant(
        "of what the store says the first line is told", "src/lakeward/landing.py",
        'error.partition("\\n\\nDebug source")[0].split()', "[error.splitlines()[0]]",
        _F + 'test_faults.py -k "lists_nothing and expired"',
    ),
    Mutant(
        "a broken file of which DuckDB says no kind stops its model", "src/lakeward/complaints.py",
        'return "Parquet Error" if _BROKEN', 'return "" if _BROKEN',
        _F + "test_broken_input.py -k no_kind",
    ),
    Mutant(
        "a key that is no path stops its stream", "src/lakeward/stores.py",
        "if self._s3 is None:", "if True:",
        _F + "test_s3.py -k no_path",
    ),
    Mutant(
        "who is shut out counts as an outage", "src/lakeward/complaints.py",
        "if shut_out is not None:", "if False:",
        "tests/unit/test_lake.py -k shuts_us_out",
    ),
    Mutant(
        "DuckDB is impatient", "src/lakeward/attaching.py",
        "http_retries = 5", "http_retries = 3",
        _F + 'test_faults.py -k "moment and 503"',
    ),
    Mutant(
        "a catalog that went away is not named", "src/lakeward/transform.py",
        "if went_away(words):", "if False:",
        _F + 'test_catalog_faults.py -k "within_a_transaction and immediate"',
    ),
    Mutant(
        "a lost race is an error", "src/lakeward/feed.py",
        "report.conflicts += 1", "raise",
        _F + "test_two_writers.py -k overtaken_by_a_feeder_starts",
    ),
    Mutant(
        "a refresh swaps whatever happened meanwhile", "src/lakeward/refresh.py",
        "is distinct from {fence} \"", "is null \"",
        _F + "test_two_writers.py -k a_refresh_",
    ),
    Mutant(
        "a refresh is not tested", "src/lakeward/refresh.py",
        "                if failures:", "                if False:",
        _F + "test_refresh.py -k fails_its_tests",
    ),
    Mutant(
        "what a killed mart left stays", "src/lakeward/build.py",
        'if ("main", name) in existing:', "if False:",
        "tests/chaos/test_kills.py -k mart",
    ),
    Mutant(
        "a later look does not see what happened", "src/lakeward/history.py",
        "self._streams.pop(stream, None)", "pass",
        _F + "test_ledger.py -k looks_again",
    ),
    Mutant(
        "a later look takes another catalog for the same", "src/lakeward/history.py",
        "self._streams.clear()", "pass",
        _F + "test_ledger.py -k looks_again",
    ),
    Mutant(
        "an object store is listed from the day itself", "src/lakeward/stores.py",
        "partition_folder(since - timedelta(days=1))", "partition_folder(since)",
        _F + "test_s3.py -k misses_nothing",
    ),
    Mutant(
        "a turn has no end", "src/lakeward/attempt.py",
        "if left and time.monotonic() >= until:", "if False:",
        _F + "test_workers.py -k turn",
    ),
    Mutant(
        "what a turn leaves is taken for loaded", "src/lakeward/feed.py",
        "not report.failed and not report.left and", "not report.failed and",
        _F + "test_workers.py -k turn_by_turn",
    ),
    Mutant(
        "a killed worker takes its streams with it", "src/lakeward/workers.py",
        "unfinished.append(job)", "pass",
        _F + "test_workers.py",
    ),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants whose description has one of these")
    words = parser.parse_args().words
    chosen = [one for one in MUTANTS if not words or any(word in one.what for word in words)]
    survivors = []
    for mutant in chosen:  # before an hour has gone by
        found = (REPOSITORY / mutant.path).read_text().count(mutant.old)
        assert found == 1, f"{mutant.what}: is {found} times in {mutant.path}"
    for tests in dict.fromkeys(one.tests for one in chosen):
        passed, said = _passes(None, tests)
        assert passed, f"{tests} fails with nothing broken:\n{said[-1500:]}"
    for mutant in chosen:
        started = time.monotonic()
        passed, said = _passes(mutant, mutant.tests)
        noticed = not passed
        print(
            f"{'noticed' if noticed else 'SURVIVED':<9} {time.monotonic() - started:4.0f} s  {mutant.what}",
            flush=True,
        )
        if not noticed:
            survivors.append(mutant.what)
            print(said[-1500:])
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants noticed")
    sys.exit(1 if survivors else 0)


def _passes(mutant: Mutant | None, tests: str) -> tuple[bool, str]:
    """In a copy of the repository, broken by the mutant. That there were no tests to run is an error."""
    with tempfile.TemporaryDirectory(prefix="lakeward-mutant-") as folder:
        copy = Path(folder) / "lakeward"
        copy_checkout(copy)
        if mutant is not None:
            broken = (copy / mutant.path).read_text().replace(mutant.old, mutant.new)
            (copy / mutant.path).write_text(broken)
            shutil.copy(copy / _MACROS, copy / "orchestration/macros/lakeward.sql")
        done = subprocess.run(
            f"{sys.executable} -m pytest -x -q -n0 -m '' -p no:cacheprovider {tests}",
            check=False, shell=True, cwd=copy, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": f"{copy}/src:{copy}"},
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    main()
