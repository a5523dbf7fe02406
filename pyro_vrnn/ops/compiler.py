"""
Build the C code of a folder's kernels once a machine, with its own compiler, and load it.

Nothing is built when the package is installed: there is no wheel for each platform, and a machine
without a compiler runs torch's operations. The library lies in a folder of the user's cache under a
name that says what it was made from: source, flags, compiler and processor.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)

_SOURCES = sorted((Path(__file__).parent / "csrc").glob("*.[ch]"))
_FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fwrapv", "-shared", "-fPIC")
# Tried in turn: compilers differ in what they call this processor, and whether they know threads.
_OPTIONS = (
    # The parameter keeps gcc from rounding the sums of some tiles otherwise, as it does for Zen.
    ("-march=native", "--param=avoid-fma-max-bits=0", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native",),
    ("-mcpu=native",),
    (),
)
SWITCH = "PYRO_VRNN_COMPILE"
_PATIENCE = 300  # seconds


class CannotCompileError(RuntimeError):
    """There is no compiled library, and why."""


def switched_off() -> str | None:
    """Say so if the environment wants no generated code, ``PYRO_VRNN_COMPILE=0``; else None."""
    value = os.environ.get(SWITCH, "1")
    return f"{SWITCH}={value}" if value.lower() in ("0", "no", "false", "off") else None


@functools.cache
def load_library(*defines: str) -> ctypes.CDLL:
    """
    Return the library, built if this is the first time on this machine.

    :raises CannotCompileError: if there is no compiler, or it fails, or the environment variable
        ``PYRO_VRNN_COMPILE`` is 0 (it is read once a process).
    """
    if reason := switched_off():
        raise CannotCompileError(reason)
    errors = []
    try:
        compiler = _compiler()
        name = f"steps-{_digest(compiler, defines)}.so"
        for make_folder in (_in_cache, _private):
            try:
                return _load_or_build(compiler, defines, make_folder() / name)
            except OSError as error:  # a folder that cannot be written, or runs no code
                errors.append(str(error))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:  # no working compiler
        errors.append(str(error))
    raise CannotCompileError("; ".join(errors))


def _load_or_build(compiler: list[str], defines: tuple[str, ...], path: Path) -> ctypes.CDLL:
    if path.exists():
        try:
            return ctypes.CDLL(str(_checked(path)))
        except OSError as error:  # damaged, or somebody else's
            _log.info("compiling again: %s", error)
    _build(compiler, defines, path)
    return ctypes.CDLL(str(path))


def _compiler() -> list[str]:
    """Return the command, which may be several words, such as ``ccache gcc``; no other than CC."""
    wanted = os.environ.get("CC", "").strip()
    usual = (sysconfig.get_config_var("CC") or "", "cc", "gcc", "clang")
    for command in (wanted,) if wanted else usual:
        try:
            words = shlex.split(command)
        except ValueError:  # a quote that does not end
            continue
        if words and shutil.which(words[0]):
            return words
    found_none = "found no C compiler (CC, cc, gcc or clang)"
    raise CannotCompileError(f"CC={wanted} cannot be run" if wanted else found_none)


def _digest(compiler: list[str], defines: tuple[str, ...]) -> str:
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout
    options = repr((compiler, _FLAGS, _OPTIONS, defines)).encode()
    parts = (*(path.read_bytes() for path in _SOURCES), version, options, _machine())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _machine() -> bytes:
    """Return what the processor is and can do: a home folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    keys = ("model name", "flags", "Features", "CPU part")
    known = sorted({line for line in lines if line.startswith(keys)})
    names = (platform.platform(), platform.machine(), platform.processor())
    return "\n".join([*names, *known]).encode()


def _in_cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(cache) / "pyro_vrnn"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return _checked(folder)


def _checked(path: Path) -> Path:
    """Return a path that nobody else can write to: what lies there is run."""
    status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"Expected {path} to be writable by this user only.")
    return path


@functools.cache
def _private() -> Path:
    path = tempfile.mkdtemp(prefix="pyro_vrnn-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def _build(compiler: list[str], defines: tuple[str, ...], path: Path) -> None:
    """Compile to a name of its own and move it in place: two processes may be at it."""
    message, sources = "", [str(path) for path in _SOURCES if path.suffix == ".c"]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        for options in _OPTIONS:
            define = [f"-D{name}" for name in defines]
            command = [*compiler, *_FLAGS, *options, *define, *sources, "-o", str(made)]
            run = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_PATIENCE
            )
            if run.returncode == 0:
                made.chmod(0o700)
                os.replace(made, path)
                _log.info("compiled %s with %s", path, " ".join(options))
                return
            message = message or f"{' '.join(command)}\n{run.stderr}"
    raise CannotCompileError(f"the compiler failed: {message}")
