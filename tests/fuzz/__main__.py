"""`python -m tests.fuzz [TARGET]... --seconds 60`: each target for that long, two at a time.

Needs atheris (`make fuzz` installs it). Prints what was run, and every input that is a finding; then the exit
code is 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

_DONE = re.compile(r"DONE +cov: (\d+) ft: (\d+) corp: (\d+)/\S+.*exec/s: (\d+)")
_RUNS = re.compile(r"Done (\d+) runs")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", help="default: all")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="default: another one each time")
    options = parser.parse_args()
    from tests.fuzz.targets import TARGETS

    known = [target.__name__ for target in TARGETS]
    if unknown := set(options.targets) - set(known):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    print(f"{'target':14}{'runs':>12}{'exec/s':>9}{'edges':>7}{'corpus':>8}")
    with ThreadPoolExecutor(2) as pool:
        chosen = options.targets or known
        results = pool.map(lambda name: _run(name, options.seconds, options.seed), chosen)
        return int(not all(list(results)))


def _run(name: str, seconds: int, seed: int) -> bool:
    """Was nothing found?"""
    with tempfile.TemporaryDirectory(prefix="lakeward-corpus-") as folder:
        corpus, findings = Path(folder, "corpus"), Path(folder, "findings")
        corpus.mkdir()
        findings.mkdir()
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz", "--one", name, str(corpus), f"-max_total_time={seconds}",
                f"-artifact_prefix={findings}/", f"-seed={seed}", "-max_len=2000", "-timeout=20",
                "-rss_limit_mb=2000",
            ],
            check=False, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        counted, runs = _DONE.search(done.stderr), _RUNS.search(done.stderr)
        if done.returncode == 0 and counted and runs:
            edges, _, size, speed = (int(number) for number in counted.groups())
            print(f"{name:14}{int(runs[1]):12,}{speed:9,}{edges:7,}{size:8,}", flush=True)
            return True
        print(f"{name}: a finding, or it did not run")
        for path in findings.iterdir():
            print(f"  {path.read_bytes()!r}")
        said = done.stdout + done.stderr
        lines = said[said.find("Uncaught Python exception") :].splitlines()
        print("\n".join([line for line in lines if not line.startswith("INFO: ")][:40]), flush=True)
        return False


def _fuzz(name: str, arguments: list[str]) -> NoReturn:
    """What libFuzzer is told; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["lakeward", "yaml", "tomllib", "tests.fuzz.targets"]):
        from tests.fuzz.targets import TARGETS
    ((target, seeds),) = ((target, seeds) for target, seeds in TARGETS.items() if target.__name__ == name)
    for number, seed in enumerate(seeds):
        Path(arguments[0], f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()
    raise AssertionError("libFuzzer has returned")


if __name__ == "__main__":
    sys.exit(_fuzz(sys.argv[2], sys.argv[3:]) if sys.argv[1:2] == ["--one"] else main())
