"""What a lake wants done from time to time. Thin: it takes away what killed processes have left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakeward.build import sweep
from lakeward.meta import lake_version
from lakeward.settings import LAKE

if TYPE_CHECKING:
    from lakeward.lake import Lake
    from lakeward.manifest import Manifest

# A statement still at work has written files that no snapshot knows yet.
_OLDER_THAN = "now() - interval 1 day"


def maintain(manifest: Manifest, lake: Lake) -> list[str]:
    """Drop left-over backup tables, delete data files of killed statements; returns those files' paths.

    Only files under `data_url` that no snapshot knows and that are a day old; the landing zone lies elsewhere
    (settings.py refuses anything else).
    """
    lake_version(lake)  # refuses one that it does not know
    sweep(lake, manifest.models)
    rows = lake.query(f"call ducklake_delete_orphaned_files('{LAKE}', older_than => {_OLDER_THAN})")
    return [path for (path, *_) in rows]
