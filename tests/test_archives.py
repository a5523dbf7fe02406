"""An archive is whole or refused: every damage is found, no crash leaves half of one."""

from __future__ import annotations

import json
import math
import pickle
import random

import pytest
import torch

from pyro_vrnn.archives import (
    DamagedArchiveError,
    check_json,
    read_archive,
    read_sealed,
    remove_archive,
    sealed,
    write_archive,
)
from pyro_vrnn.archives.archive import DTYPES
from pyro_vrnn.archives.sealing import sha256

KIND = {"format": "test", "max_version": 2}
FILES = ("facts.json", "manifest.json", "tensors.safetensors")


def write(folder, tensors=None, facts=None, *, version=1, format="test"):
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5)} | (tensors or {})
    facts = {"step": 3, "names": ["a", "é"], "rate": 0.1} | (facts or {})
    return write_archive(folder, tensors, facts, format=format, version=version)


def read(folder):
    return read_archive(folder, **KIND)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view_as(b), b)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


TENSORS = {
    **{str(dtype): torch.tensor([[0, 1], [3, 2]]).to(dtype) for dtype in DTYPES},
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(1e-300, dtype=torch.float64),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "strided": torch.arange(10.0)[::3],
    "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
    "odd-values": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
    "conjugate": torch.tensor([1 + 2j, 3j], dtype=torch.complex64).conj(),
    "negative": torch.tensor([1 + 2j, 3j], dtype=torch.complex64).conj().imag,
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "channels-last": torch.arange(16.0).reshape(1, 2, 2, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensor_round_trip(name, tmp_path):
    value = TENSORS[name]
    found = read(write(tmp_path / "a", {"x": value})).tensors["x"]
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert type(found) is torch.Tensor
    bits = (
        [
            x.detach().resolve_conj().resolve_neg().contiguous().flatten().view(torch.uint8)
            for x in (found, value)
        ]
        if value.numel()
        else []
    )
    assert not bits or torch.equal(*bits)
    found.zero_()  # it can be written to


def test_tensors_on_one_storage_come_back_apart(tmp_path):
    whole = torch.arange(4.0)
    found = read(write(tmp_path / "a", {"whole": whole, "part": whole[:2], "again": whole})).tensors
    found["whole"].zero_()
    assert found["part"].tolist() == [0.0, 1.0]
    assert found["again"].tolist() == whole.tolist()


def test_no_tensors_and_no_facts(tmp_path):
    write_archive(tmp_path / "a", {}, {}, format="test", version=1)
    assert read(tmp_path / "a") == ({}, {}, 1)


def test_facts_come_back_as_json_has_them(tmp_path):
    facts = {"none": None, "tuple": (1, [2.5]), "big": 10**30, "tiny": 5e-324, "text": "\ud800 é\n"}
    found = read(write(tmp_path / "a", facts=facts)).facts
    assert {key: found[key] for key in facts} == facts | {"tuple": [1, [2.5]]}


class Sub(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"x": torch.ones(2).as_subclass(Sub)}, TypeError, "x to be a plain Tensor, got Sub"),
        ({"x": [1.0]}, TypeError, "x to be a plain Tensor, got list"),
        ({"x": torch.ones(2, dtype=torch.complex128)}, TypeError, "got torch.complex128"),
        ({"x": torch.eye(2).to_sparse()}, TypeError, "got torch.float32, torch.sparse_coo"),
        ({"x": torch.empty(2, device="meta")}, TypeError, "on meta"),
        ({"__metadata__": torch.ones(2)}, ValueError, "Expected another name of a tensor"),
    ],
    ids=["subclass", "list", "dtype", "sparse", "meta", "name"],
)
def test_tensors_refused(tensors, error, message, tmp_path):
    with pytest.raises(error, match=message):
        write(tmp_path / "a", tensors)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("fact", "error", "message"),
    [
        ({"a": [math.nan]}, ValueError, r"facts\['x'\]\['a'\]\[0\] to be finite, got nan"),
        (math.inf, ValueError, r"facts\['x'\] to be finite, got inf"),
        ({1: 2}, TypeError, r"the keys of facts\['x'\] to be strings, got 1"),
        (torch.ones(2), TypeError, r"facts\['x'\] to be a number, string.*got Tensor"),
        (print, TypeError, "got builtin_function_or_method"),
    ],
    ids=["nan", "inf", "int-key", "tensor", "function"],
)
def test_facts_refused(fact, error, message, tmp_path):
    with pytest.raises(error, match=message):
        write(tmp_path / "a", facts={"x": fact})
    assert names(tmp_path) == []


def test_json_values_are_plain():
    found = check_json("x", [torch.float64.itemsize, True, math.pi])
    assert [type(value) for value in found] == [int, bool, float]


def test_replaces_an_archive_and_leaves_nothing_else(tmp_path):
    folder = write(tmp_path / "a")
    assert write(str(folder), facts={"step": 4}) == folder
    assert read(folder).facts["step"] == 4
    assert names(tmp_path) == ["a"]


def test_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/a")
    for step in (1, 2):
        write(tmp_path / "link", facts={"step": step})
    assert read(tmp_path / "link").facts["step"] == read(tmp_path / "real" / "a").facts["step"] == 2
    assert (tmp_path / "link").is_symlink()


def test_folders_above_are_made(tmp_path):
    assert read(write(tmp_path / "x" / "y" / "a"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_archive_is_not_replaced(kind, tmp_path):
    place = tmp_path / "a"
    if kind == "file":
        place.write_text("mine")
    else:
        write(place)
        (place / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for change in (write, remove_archive):
        with pytest.raises(FileExistsError, match=f"{place}, got a {kind}"):
            change(place)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"an archive at {tmp_path / 'a'}, got nothing"):
        read(tmp_path / "a")


def test_removed(tmp_path):
    remove_archive(write(tmp_path / "a"))
    assert names(tmp_path) == []


def cut(path, twentieth):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * twentieth // 20])


@pytest.mark.parametrize("twentieth", range(20))
@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_found(name, twentieth, tmp_path):
    folder = write(tmp_path / "a")
    cut(folder / name, twentieth)
    with pytest.raises(DamagedArchiveError, match=rf"Expected '{name}' in {folder} .*, got "):
        read(folder)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


BITS = [(random.Random(f"{i}").random(), FILES[i % 3]) for i in range(300)]


@pytest.mark.parametrize(("where", "name"), BITS, ids=range(300))
def test_a_flipped_bit_is_found(where, name, whole_archive):
    path = whole_archive / name
    bit = int(where * path.stat().st_size * 8)
    flip(path, bit)
    try:
        with pytest.raises(DamagedArchiveError, match=f"Expected '{name}' in"):
            read(whole_archive)
    finally:
        flip(path, bit)


@pytest.fixture(scope="module")
def whole_archive(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("whole") / "a")
    yield folder
    read(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["gone", "a-folder", "a-link"])
def test_a_file_that_is_none(name, what, tmp_path):
    folder = write(tmp_path / "a")
    kept = (folder / name).rename(tmp_path / "kept")
    if what == "a-folder":
        (folder / name).mkdir()
    elif what == "a-link":
        (folder / name).symlink_to(kept)
    got = "none" if what == "gone" else "something else"
    with pytest.raises(DamagedArchiveError, match=f"'{name}' in {folder} to be a file, got {got}"):
        read(folder)


def test_one_file_too_many(tmp_path):
    folder = write(tmp_path / "a")
    (folder / "model.pkl").touch()
    with pytest.raises(DamagedArchiveError, match=r"'model.pkl' in .* to be absent"):
        read(folder)


def test_another_format(tmp_path):
    with pytest.raises(DamagedArchiveError, match=r"'manifest.json' .*format 'test', got 'other'"):
        read(write(tmp_path / "a", format="other"))


def test_a_newer_version(tmp_path):
    assert read(write(tmp_path / "a", version=2)).version == 2
    with pytest.raises(DamagedArchiveError, match=r"of version 1\.\.2 of 'test', got 3"):
        read(write(tmp_path / "a", version=3))


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def bombs(marker):
    """Ten pickles and torch files that would make the marker."""
    folder = marker.parent
    torch.save({"w": Bomb(marker)}, folder / "new.pt")
    torch.save([Bomb(marker)], folder / "old.pt", _use_new_zipfile_serialization=False)
    made = [pickle.dumps(Bomb(marker), protocol=protocol) for protocol in range(6)]
    made += [(folder / file).read_bytes() for file in ("new.pt", "old.pt")]
    made += [b"{}" + made[5], len(made[5]).to_bytes(8, "little") + made[5]]
    for file in ("new.pt", "old.pt"):
        (folder / file).unlink()
    return made


def forge(folder):
    """Make the manifest fit the files that are there."""
    files = {}
    for name in ("tensors.safetensors", "facts.json"):
        data = (folder / name).read_bytes()
        files[name] = {"sha256": sha256(data), "bytes": len(data)}
    manifest = sealed({"format": "test", "version": 1, "files": files})
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def test_the_bombs_go_off_if_unpickled(tmp_path):
    marker = tmp_path / "marker"
    for index, bomb in enumerate(bombs(marker)[:6]):
        pickle.loads(bomb).close()
        assert marker.exists(), index
        marker.unlink()


@pytest.mark.parametrize("forged", [False, True], ids=["as-is", "forged-manifest"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("index", range(10))
def test_a_pickle_in_a_file_s_place_is_refused(index, name, forged, tmp_path):
    marker = tmp_path / "marker"
    folder = write(tmp_path / "a")
    (folder / name).write_bytes(bombs(marker)[index])
    if forged and name != "manifest.json":
        forge(folder)
    with pytest.raises(DamagedArchiveError, match=f"Expected '{name}' in"):
        read(folder)
    assert not marker.exists()


def test_a_forged_manifest_of_good_files_is_read(tmp_path):
    """So the test above has its errors from the parsers, not from a bad forgery."""
    folder = write(tmp_path / "a")
    (folder / "facts.json").write_text('{"n": 1}')
    forge(folder)
    assert read(folder).facts == {"n": 1}


@pytest.mark.parametrize("index", range(10))
def test_a_pickle_in_the_folder_s_place_is_refused(index, tmp_path):
    marker, folder = tmp_path / "marker", tmp_path / "a"
    folder.write_bytes(bombs(marker)[index])
    with pytest.raises(DamagedArchiveError, match=f"got the file {folder}"):
        read(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "[" * 100_000, '{"a":' * 400 + "1" + "}" * 400, '{"a": NaN}', "1" * 5000, "\udce9"],
    ids=["list", "half", "deep", "nested", "nan", "long-number", "no-utf8"],
)
def test_sealed_file_that_is_other_json(text, tmp_path):
    path = tmp_path / "best.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(DamagedArchiveError, match=r"Expected 'best.json' in"):
        read_sealed(path)


@pytest.mark.parametrize("depth", [900, 960, 1000, 1100, 1200, 1300, 1400, 5000])
def test_sealed_file_that_is_nested_deep(depth, tmp_path):
    """From Python 3.12 what can be read may be too deep to be written for a comparison."""
    path = tmp_path / "best.json"
    path.write_text('{"a":' * depth + "1" + "}" * depth)
    with pytest.raises(DamagedArchiveError, match=r"Expected 'best.json' in"):
        read_sealed(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + " ",
        lambda text: text.replace(": ", ":"),
        lambda text: text.replace('"format"', '"format": "other", "format"'),
        lambda text: text.replace("facts", "\\u0066acts"),
    ],
    ids=["space", "no-space", "repeated-key", "escape"],
)
def test_a_manifest_of_the_same_values_in_another_text(change, tmp_path):
    path = write(tmp_path / "a") / "manifest.json"
    text = path.read_text()
    path.write_text(change(text))
    assert json.loads(path.read_text()) == json.loads(text)
    with pytest.raises(DamagedArchiveError, match="whose SHA-256 is the one it holds"):
        read(tmp_path / "a")


def test_sealed_file_too_long(tmp_path):
    path = tmp_path / "best.json"
    path.write_text(" " * (1 << 21))
    with pytest.raises(DamagedArchiveError, match="of at most 1048576 bytes, got more"):
        read_sealed(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("files"), "to name tensors.safetensors and facts.json, got None"),
        (lambda m: m["files"].update(x={}), "to name tensors.safetensors and facts.json"),
        (lambda m: m["files"].update({"facts.json": {}}), "size and SHA-256 of facts.json"),
        (lambda m: m.update(version=True), "of version 1..2 of 'test', got True"),
        (lambda m: m.update(version=0), "of version 1..2 of 'test', got 0"),
    ],
    ids=["no-files", "more-files", "no-hash", "bool-version", "version-0"],
)
def test_a_sealed_manifest_of_other_content(change, message, tmp_path):
    path = write(tmp_path / "a") / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    change(manifest)
    path.write_text(json.dumps(sealed(manifest), indent=2) + "\n")
    with pytest.raises(DamagedArchiveError, match=message):
        read(tmp_path / "a")
