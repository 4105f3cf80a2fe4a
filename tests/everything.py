"""`python -m tests.everything`: every test there is, the slow ones and in every setting too, part by part.

What came of each part goes into result.json beside this file, with the commit it ran on; a part that fails
holds no other back. Parts may be named: `python -m tests.everything s3-network chaos`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.scratch import REPOSITORY
from tests.servers import SETTINGS

RESULT = Path(__file__).parent / "result.json"
_PYTEST = ["pytest", "--hypothesis-profile=all"]
PARTS = {
    "usual": [*_PYTEST, "-m", "not every_setting"],
    **{setting: [*_PYTEST, "-m", "every_setting", f"--settings={setting}"] for setting in SETTINGS},
    "chaos": ["tests.chaos", "--n", "200", "--out", "tests/chaos/result.json"],
    "soak": ["tests.soak", "--minutes", "10", "--out", "tests/soak/result.json"],
    "mutants": ["tests.mutants"],
}
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    chosen = parser.parse_args().parts or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    commit = _git("rev-parse", "--short", "HEAD")
    if _git("status", "--porcelain", "--", ":!*result.json"):  # which other parts have written
        commit += "-dirty"
    good = True
    for part in chosen:
        result = _run(part, PARTS[part]) | {"commit": commit}
        good = good and not result["exit code"]
        results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        RESULT.write_text(json.dumps(results | {part: result}, indent=2) + "\n")
    sys.exit(0 if good else 1)


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def _run(part: str, words: list[str]) -> dict[str, object]:
    """Shows what the part says while it says it. What it told: the file it wrote, or its last line."""
    print(f"=== {part}: python -m {' '.join(words)}", flush=True)
    day, began, said = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic(), ["said nothing"]
    with subprocess.Popen(
        [sys.executable, "-m", *words], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            said.append(line)
    return {
        "began": day,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "exit code": running.returncode,
        "told": words[words.index("--out") + 1] if "--out" in words else said[-1].strip(" =\n"),
        "failed": sorted(set(_FAILED.findall("".join(said)))),
    }


if __name__ == "__main__":
    main()
