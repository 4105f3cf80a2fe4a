"""The seed's feeder: a `dbt run` per ten files, then its cursor. `seed.py ATTACH PROJECT FILES`.

FILES is a JSON list. Every step is a process of its own, as the seed's asset starts them; the project
(lakes.py makes it) holds the same model and nothing of lakeward.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BATCH = 10  # the seed's number
_DBT = Path(sys.executable).with_name("dbt")
_RAW = Path(__file__).with_name("raw.py")
_CURSOR = """
create schema if not exists lakehouse.meta;
create table if not exists lakehouse.meta.feeder_cursors
    (source varchar, stream varchar, cursor_path varchar, updated_at timestamptz);
delete from lakehouse.meta.feeder_cursors where source = 'shopify' and stream = 'orders';
insert into lakehouse.meta.feeder_cursors values ('shopify', 'orders', '{path}', now());
"""


def main(attach: str, project: str, listing: str) -> None:
    files: list[str] = json.loads(Path(listing).read_text())
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        _run(
            str(_DBT), "run", "--project-dir", project, "--profiles-dir", project,
            "--select", "tag:shopify__orders", "--vars", json.dumps({"files": batch}),
        )  # fmt: skip
        _run(sys.executable, str(_RAW), attach, _CURSOR.format(path=batch[-1].replace("'", "''")))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[:2]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
