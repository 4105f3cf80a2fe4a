"""What tests do to a program before it starts (tests/launcher.py, `before`)."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Any


def limit_file_size(size: int) -> None:
    """Writes beyond `size` bytes fail with EFBIG."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def drop_capabilities() -> None:
    """What lets root read and write everything (capset(2)); other accounts have none to lose."""
    version_3, itself = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version_3, itself)
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; of 32 capabilities and of 32 more
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def strike_sync_at(step: int, checkpoint_seconds: float, number: int) -> None:
    """A signal to the sync before or after the step-th of what it does that lasts."""
    import lakeward.extract
    import lakeward.landing
    import lakeward.spool
    import lakeward.synclog

    lakeward.extract._CHECKPOINT_SECONDS = checkpoint_seconds
    done = 0

    def count() -> None:
        nonlocal done
        if done == step:
            os.kill(os.getpid(), number)
        done += 1

    def stepped(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            count()
            result = original(*args, **options)
            count()
            return result

        setattr(owner, name, wrapped)

    for name in ("stage", "publish", "discard_staged"):
        stepped(lakeward.landing.Landing, name)
    for name in ("_take", "checkpoint", "_insert", "_advance"):
        stepped(lakeward.synclog.SyncLog, name)
    stepped(lakeward.spool.Spool, "write")


def small_files(size: int) -> None:
    """A sync rolls its files at so many bytes of JSON."""
    import lakeward.extract

    lakeward.extract._ROLL_BYTES = size
