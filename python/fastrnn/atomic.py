"""A file is written whole or not at all."""

from __future__ import annotations

import os


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` so that a crash at any moment leaves the old file or the new one,
    never a part.

    The content goes to `.<name>.part` beside it first; a part that a killed process left is
    overwritten by the next write. Raises OSError.
    """
    target = os.path.realpath(path)  # of a symbolic link, what it points to
    folder, name = os.path.split(target)
    part = os.path.join(folder, f".{name}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """Make the new name last; systems that cannot open a folder (Windows) need no such step."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
