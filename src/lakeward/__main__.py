"""Starts the command line: the `lakeward` script, and `python -m lakeward`."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run one command; what modules made while they load is never searched for garbage.

    That search is a tenth of a start, and half a second of the end of a command that needed dbt.
    """
    gc.disable()
    try:
        from lakeward.cli import main as run

        gc.enable()
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
