"""Files that are whole or absent: atomic writes, and the folder where caches live."""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from resurge.errors import ResurgeError


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` so that a reader, or a kill at any moment, sees the old file or the new one.

    The bytes go to a temporary file in the same folder, reach the disk (fsync), and then take the name in
    one rename. A full disk leaves the old file as it was.

    Raises:
        ResurgeError: the folder cannot be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ResurgeError(f"cannot write {path}: {error.strerror or error}; what was there is unchanged") from error
    finally:
        with suppress(OSError):  # there is none if all went well, nor a folder it could be in if that went wrong
            temporary.unlink()


def cache_dir() -> Path:
    """The folder for what can be made again: `$XDG_CACHE_HOME/resurge`, by default `~/.cache/resurge`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resurge"
