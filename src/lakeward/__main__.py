"""Starts the command line: the `lakeward` script, and `python -m lakeward`."""

from __future__ import annotations

import gc


def main() -> None:
    gc.disable()  # what modules make while they load stays: looking for garbage is a tenth of the start
    from lakeward.cli import main as run

    gc.enable()
    run()


if __name__ == "__main__":
    main()
