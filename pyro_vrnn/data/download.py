"""Files from an address that the user gives, checked by their SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit
from urllib.response import addinfourl

from tqdm.auto import tqdm

from pyro_vrnn.shapes import check_instance, check_path

Response = HTTPResponse | addinfourl

SCHEMES = ("http", "https", "file")
_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte


def download(url: str, path: str | Path, *, sha256: str, progress: bool = True) -> Path:
    """
    Download a file, unless it is there already.

    What has arrived is kept beside ``path`` as ``NAME.part``, and the next call goes on from there
    if the server can. The file gets its name only when all of it is there and its checksum is
    right; a whole file with a wrong one is removed.

    :param url: an ``http``, ``https`` or ``file`` address.
    :param path: where the file shall stand; folders are made.
    :param sha256: its checksum, 64 hexadecimal digits.
    :param progress: whether to show a bar.
    :returns: ``path``.
    :raises ConnectionError: if the server cannot be reached, refuses, or stops before the end.
    :raises FileNotFoundError: if a ``file`` address has no file.
    :raises ValueError: if an argument is none of that, the checksum is wrong, or another file
        stands at ``path``.
    """
    path = check_path("path", path)
    check_instance("url", url, str)
    check_instance("sha256", sha256, str, " (64 hexadecimal digits)")
    scheme = urlsplit(url).scheme.lower()
    if scheme not in SCHEMES:
        raise ValueError(f"Expected an address with {', '.join(SCHEMES)}, got {url!r}.")
    if not re.fullmatch(r"[!-~]+", url):
        raise ValueError(
            f"Expected an address of ASCII characters without spaces, got {url!r}: write the "
            "others as %XX."
        )
    wanted = sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise ValueError(f"Expected sha256 of 64 hexadecimal digits, got {sha256!r}.")
    if path.exists():
        found = file_sha256(path)
        if found != wanted:
            raise ValueError(
                f"Expected {path} to have SHA-256 {wanted}, got {found}: remove the file to "
                "download it again."
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _fetch(url, part, progress)
    found = file_sha256(part)
    if found != wanted:
        part.unlink()
        raise ValueError(
            f"Expected {url} to have SHA-256 {wanted}, got {found}: what came is not kept."
        )
    part.replace(path)
    return path


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(url: str, part: Path, progress: bool) -> None:
    """Append to ``part`` what is missing, or write it anew where the server cannot go on."""
    done = part.stat().st_size if part.exists() else 0
    response = _open(url, done)
    if response is None:  # the part is as long as the file or longer: its checksum will tell
        return
    with response:
        done = _first_byte(response, done, url)
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        with (
            part.open("ab" if done else "wb") as stream,
            tqdm(
                total=total,
                initial=done,
                desc=part.stem,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            for block in _blocks(response, url, part):
                stream.write(block)
                bar.update(len(block))
            stream.flush()
            os.fsync(stream.fileno())
    size = part.stat().st_size
    if total is not None and size < total:
        raise ConnectionError(
            f"Expected {total} bytes from {url}, got {size}: run it again to go on ({part})."
        )


def _open(url: str, done: int) -> Response | None:
    """Open an address from byte ``done`` on; None if there is nothing from there on."""
    headers = {"User-Agent": "pyro-vrnn", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        return _opener().open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and done:
            return None
        raise ConnectionError(
            f"Expected a file at {url}, got HTTP {error.code} {error.reason}."
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, FileNotFoundError) or "No such file" in str(reason):
            raise FileNotFoundError(f"Expected a file at {url}, got none.") from None
        raise ConnectionError(f"Expected to reach {url}, got: {reason}.") from None


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener that follows no address out of ``SCHEMES``."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.FileHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _first_byte(response: Response, done: int, url: str) -> int:
    """Return the byte that an answer begins at: ``done``, or 0 if all is sent again."""
    if response.status != 206:
        return 0
    span = response.headers.get("Content-Range", "")
    if not re.match(rf"bytes {done}-", span):
        raise ConnectionError(f"Expected {url} from byte {done} on, got {span or 'no range'}.")
    return done


def _blocks(response: Response, url: str, part: Path) -> Iterator[bytes]:
    """Give what arrives."""
    while True:
        try:
            block = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(
                f"Expected the rest of {url}, got: {error}: run it again to go on ({part})."
            ) from None
        if not block:
            return
        yield block
