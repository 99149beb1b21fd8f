"""Folders of vectors: what is written is what is read, and a damaged folder is refused."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from common_moon2.cli import UserError
from common_moon2.files import staged, write_json
from evaluation.vectors.store import (
    MANIFEST,
    SHARDS,
    Vectors,
    as_float32,
    as_stored,
    join_shards,
    open_vectors,
    read_shard,
    write_shard,
)


def vectors(count: int = 7, dimension: int = 5) -> np.ndarray:
    array = np.random.default_rng(0).normal(size=(count, dimension))
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def folder_of(path, dtype="float32"):
    stored, ids = as_stored(vectors(), dtype), [f"p{row}" for row in range(6)] + ["红"]
    files = [path / SHARDS / f"{number:05d}.parquet" for number in range(3)]
    for number, file in enumerate(files):
        part = slice(3 * number, 3 * number + 3)
        write_shard(file, ids[part], stored[part])
    join_shards(path, files)
    write_json(path / MANIFEST, {"vectors": 7})
    return path


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3), ("int8", 1e-2)])
def test_what_was_written_is_read(tmp_path, dtype, tolerance):
    opened = open_vectors(folder_of(tmp_path / "v", dtype))
    assert opened.array.dtype == dtype and len(opened) == 7 and opened.dimension == 5
    assert opened.ids.tolist() == ["p0", "p1", "p2", "p3", "p4", "p5", "红"]
    np.testing.assert_allclose(opened.read(2, 6), vectors()[2:6], atol=tolerance)
    np.testing.assert_array_equal(opened.take(np.array([5, 2])), opened.read(2, 6)[[3, 0]])
    assert opened.read(0, 7).dtype == np.float32
    if dtype == "int8":
        np.testing.assert_allclose(np.linalg.norm(opened.read(0, 7), axis=1), 1, rtol=1e-6)
    schema = pq.read_schema(tmp_path / "v" / SHARDS / "00000.parquet")
    assert str(schema.field("vector").type) == f"fixed_size_list<element: {as_arrow(dtype)}>[5]"
    ids, rows = read_shard(tmp_path / "v" / SHARDS / "00002.parquet")
    assert ids == ["红"] and rows.dtype == dtype


def as_arrow(dtype: str) -> str:
    return {"float32": "float", "float16": "halffloat", "int8": "int8"}[dtype]


def test_zero_vectors_stay_zero():
    zero = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(as_float32(as_stored(zero, "int8")), zero)


def test_any_npy_file_has_row_numbers_for_ids(tmp_path):
    np.save(tmp_path / "v.npy", vectors())
    opened = open_vectors(tmp_path / "v.npy")
    assert opened.ids.tolist() == list("0123456")
    np.testing.assert_array_equal(opened.read(3, 5), vectors()[3:5])


def test_a_memory_mapped_file_is_read_at_its_place(tmp_path):
    np.save(tmp_path / "v.npy", vectors(50, 3))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    np.testing.assert_array_equal(Vectors(mapped, range(50)).read(11, 31), mapped[11:31])


def test_a_file_is_whole_or_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert not (tmp_path / "a.json").exists()
    with staged(tmp_path / "a.json") as temporary:
        temporary.write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_holds_no_vectors_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read as vectors: .*No such file"):
        open_vectors(tmp_path / "none.npy")
    with pytest.raises(UserError, match="has no manifest.json: .*run the same `embed` again"):
        open_vectors(tmp_path)
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2), np.float32))
    with pytest.raises(UserError, match=r"float32 \(2, 2, 2\); vectors are"):
        open_vectors(tmp_path / "cube.npy")
    np.save(tmp_path / "number.npy", np.float32(1))
    with pytest.raises(UserError, match=r"number.npy holds float32 \(\); vectors are"):
        open_vectors(tmp_path / "number.npy")
    np.save(tmp_path / "fortran.npy", np.asfortranarray(vectors()))
    with pytest.raises(UserError, match="is in Fortran order, .*numpy.ascontiguousarray"):
        open_vectors(tmp_path / "fortran.npy")
    np.savez(tmp_path / "many.npz", vectors())
    (tmp_path / "empty.npy").touch()
    for name in ("many.npz", "empty.npy"):
        with pytest.raises(UserError, match=f"{name} cannot be read as vectors: .* one array as .npy"):
            open_vectors(tmp_path / name)
    folder = folder_of(tmp_path / "v")
    (folder / "ids.npy").write_bytes(b"")
    with pytest.raises(UserError, match="ids.npy cannot be read"):
        open_vectors(folder)
    np.save(folder / "ids.npy", np.array(["a"]))
    with pytest.raises(UserError, match="7 vectors but 1 ids"):
        open_vectors(folder)
    (folder / "vectors.npy").write_bytes(b"\x93NUMPY" + b"0" * 40)
    with pytest.raises(UserError, match="cannot be read as vectors"):
        open_vectors(folder)
    assert json.loads((folder / MANIFEST).read_text()) == {"vectors": 7}
