"""
A folder of tensors and facts that is either whole or refused.

An archive holds ``tensors.safetensors``, ``facts.json`` and ``manifest.json``, which keeps size and
SHA-256 of the other two and a SHA-256 of itself. Nothing in it is unpickled.
"""

from pyro_vrnn.archives.archive import (
    Archive,
    check_plain_tensor,
    read_archive,
    remove_archive,
    write_archive,
)
from pyro_vrnn.archives.aside import archive_names, clear_leftovers
from pyro_vrnn.archives.sealing import DamagedArchiveError, check_json, read_sealed, sealed

__all__ = [
    "Archive",
    "DamagedArchiveError",
    "archive_names",
    "check_json",
    "check_plain_tensor",
    "clear_leftovers",
    "read_archive",
    "read_sealed",
    "remove_archive",
    "sealed",
    "write_archive",
]
