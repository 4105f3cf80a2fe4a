"""What tests do to a program before it starts (tests/launcher.py, `before`)."""

from __future__ import annotations

import ctypes
import resource
import signal


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
