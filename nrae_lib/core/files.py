"""Files that are whole or absent: atomic writes, and a checksum that tells every damaged file."""

import hashlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that any reader, at any time, finds the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's owner-only mode would keep others from reading shared results
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def seal(content: bytes) -> bytes:
    """``content`` followed by its SHA-256, so that :func:`unseal` tells every damaged file."""
    return content + hashlib.sha256(content).digest()


def unseal(sealed: bytes) -> bytes:
    """What :func:`seal` was given; ValueError if the file is damaged."""
    content, digest = sealed[:-32], sealed[-32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its checksum does not match")
    return content
