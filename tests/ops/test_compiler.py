"""Compiled code: how it is built, kept and found again, and what happens where it cannot be."""

from __future__ import annotations

import itertools
import logging
import shutil
import stat
import subprocess
import sys

import pytest
import torch

from pyro_vrnn.ops import compiled, compiler
from tests.ops.test_recurrent_paths import Case, assert_equal

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


REMEMBERED = (compiler.load_library, compiler._private, compiled.functions, compiled.why_not)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A machine on which nothing was built; returns its cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(compiler.SWITCH, raising=False)
    for function in REMEMBERED:
        function.cache_clear()
    yield tmp_path / "cache" / "pyro_vrnn"
    monkeypatch.undo()
    for function in REMEMBERED:
        function.cache_clear()


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_it_is_built_once(fresh, caplog):
    with caplog.at_level(logging.INFO, logger=compiler.__name__):
        assert compiled.why_not("cpu", torch.float32) is None
        (path,) = fresh.iterdir()  # no scraps
        made = path.stat().st_mtime_ns
        compiler.load_library.cache_clear()
        compiler.load_library()
    assert path.stat().st_mtime_ns == made
    (message,) = (r.getMessage() for r in caplog.records)
    assert message.startswith(f"compiled {path} with ")
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700


def test_two_processes_may_build_at_once(fresh):
    script = (
        "import torch; from pyro_vrnn.ops.compiled import why_not; "
        "assert why_not('cpu', torch.float32) is None"
    )
    runs = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert len(list(fresh.iterdir())) == 1


def test_a_folder_that_cannot_be_written(fresh, monkeypatch):
    fresh.parent.write_text("a file where the folder should be")
    assert compiled.why_not("cpu", torch.float32) is None


def test_a_compiler_of_several_words(fresh, monkeypatch):
    monkeypatch.setenv("CC", "env cc")
    assert compiled.why_not("cpu", torch.float32) is None


def test_a_library_that_cannot_be_loaded(fresh, monkeypatch):
    monkeypatch.setattr(compiler, "_build", lambda command, defines, path: path.write_text("no"))
    assert "file too short" in compiled.why_not("cpu", torch.float32)


def test_a_damaged_library_is_made_again(fresh, caplog):
    fresh.mkdir(parents=True, mode=0o700)
    library = fresh / f"steps-{compiler._digest(compiler._compiler(), ())}.so"
    library.write_text("no")
    library.chmod(0o700)
    with caplog.at_level(logging.INFO, logger=compiler.__name__):
        compiler.load_library()
    assert "file too short" in caplog.messages[0]
    assert library.stat().st_size > 1000


def test_a_folder_that_others_can_write_to_is_not_used(fresh, caplog):
    fresh.mkdir(parents=True)
    fresh.chmod(0o777)
    with caplog.at_level(logging.INFO, logger=compiler.__name__):
        assert compiled.why_not("cpu", torch.float32) is None
    assert str(fresh) not in caplog.messages[0]
    assert list(fresh.iterdir()) == []


def test_a_library_that_others_can_write_to_is_made_again(fresh, caplog):
    assert compiled.why_not("cpu", torch.float32) is None
    (library,) = fresh.iterdir()
    library.chmod(0o777)
    compiler.load_library.cache_clear()
    with caplog.at_level(logging.INFO, logger=compiler.__name__):
        compiler.load_library()
    assert "writable by this user only" in caplog.messages[0]
    assert stat.S_IMODE(library.stat().st_mode) == 0o700


@pytest.mark.parametrize("command", ['"gcc', "/", "nonexistent", "nonexistent -O3"])
def test_a_compiler_that_was_asked_for_and_is_none(fresh, monkeypatch, command):
    monkeypatch.setenv("CC", command)
    assert compiled.why_not("cpu", torch.float32).startswith(f"CC={command} cannot be run")
    assert not fresh.exists()


@pytest.mark.parametrize("command", ["", " "], ids=["empty", "blank"])
def test_no_compiler_that_was_asked_for(fresh, monkeypatch, command):
    monkeypatch.setenv("CC", command)
    assert compiled.why_not("cpu", torch.float32) is None


def test_without_any_folder(fresh, monkeypatch):
    fresh.parent.write_text("a file where the folder should be")
    monkeypatch.setattr(compiler.tempfile, "tempdir", "/nonexistent")
    assert "/nonexistent" in compiled.why_not("cpu", torch.float32)


@pytest.mark.parametrize("off", ["0", "False", "no"])
def test_it_can_be_switched_off(fresh, monkeypatch, off):
    monkeypatch.setenv(compiler.SWITCH, off)
    assert compiled.why_not("cpu", torch.float32) == f"PYRO_VRNN_COMPILE={off}"
    assert not fresh.exists()


def test_without_a_compiler(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert compiled.why_not("cpu", torch.float32).startswith("found no C compiler (CC")


def test_a_compiler_that_fails(fresh, monkeypatch, tmp_path):
    broken = program(tmp_path / "broken", "echo no such luck >&2; exit 1")
    monkeypatch.setenv("CC", str(broken))
    reason = compiled.why_not("cpu", torch.float32)
    assert "the compiler failed" in reason
    assert "no such luck" in reason
    assert list(fresh.iterdir()) == []


def test_options_that_a_compiler_does_not_know_are_left_out(fresh, monkeypatch, tmp_path):
    """As Apple's compiler does not know -fopenmp; then one thread does all."""
    plain = program(
        tmp_path / "plain",
        'case "$*" in *-fopenmp*|*-march*) exit 1;; esac; exec cc "$@"',
    )
    monkeypatch.setenv("CC", str(plain))
    assert compiled.why_not("cpu", torch.float32) is None
    case = Case("LSTM", "untied", torch.float32, sizes=(3, 13, 35, 33, 2), noise=True)
    values, grads = case.run("compiled")
    expected, expected_grads = case.run("reference")
    assert_equal(values, expected, torch.float32)
    assert_equal(grads, expected_grads, torch.float32)


def test_another_compiler_or_machine_is_another_name(monkeypatch):
    names = set()
    parts = itertools.product([(), ("DOUBLE",)], [b"a", b"b"], [["cc"], ["cc", "-m64"]])
    for defines, machine, command in parts:
        monkeypatch.setattr(compiler, "_machine", lambda machine=machine: machine)
        names.add(compiler._digest(command, defines))
    assert len(names) == 8


def test_what_it_cannot_do_is_said(fresh):
    assert compiled.why_not("cuda", torch.float32) == "it runs on the CPU, not on cuda"
    assert "not torch.float16" in compiled.why_not("cpu", torch.float16)
    assert not fresh.exists()


def test_the_sources_go_with_the_package():
    names = {path.name for path in compiler._SOURCES}
    assert {"steps.c", "products.c", "cells.h", "tiles.h", "vectors.h", "functions.h"} == names
