"""Files of weights: what is read is what was written, and nothing bad gets further than a `WeightsError`."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from minifcn.random import stream
from minifcn.weights import WeightsError, read

ARRAYS = {
    "conv1.weight": stream(0, "w").standard_normal((4, 3, 3, 3)).astype(np.float32),
    "conv1.bias": stream(0, "b").standard_normal(4),  # float64
    "half": stream(0, "h").standard_normal((2, 5)).astype(np.float16),
    "scalar": np.array(1.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
SAFETENSORS = safetensors.numpy.save(ARRAYS, metadata={"format": "pt"})


def same(read_arrays):
    assert read_arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read_arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(read_arrays[name], array)


def test_safetensors_are_read_as_the_library_wrote_them(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(SAFETENSORS)
    same(read(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_as_numpy_wrote_it(tmp_path, save):
    path = tmp_path / "weights.safetensors"  # the first bytes tell the format, not the name
    with path.open("wb") as file:
        save(file, **ARRAYS)
    same(read(path))


@pytest.mark.parametrize("length", [0, 5, 8, 9, 60, len(SAFETENSORS) - 1])
def test_a_file_that_is_cut_off_is_refused(tmp_path, length):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(SAFETENSORS[:length])
    with pytest.raises(WeightsError, match=r"weights\.safetensors"):
        read(path)


@given(position=st.integers(0, len(SAFETENSORS) - 1), value=st.integers(0, 255))
def test_a_byte_of_another_value_gives_arrays_or_a_weights_error(tmp_path_factory, position, value):
    damaged = bytearray(SAFETENSORS)
    damaged[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(damaged)
    try:
        arrays = read(path)
    except WeightsError as error:
        assert "damaged.safetensors" in str(error)  # noqa: PT017  # either outcome is right
    else:
        assert all(array.dtype.kind == "f" for array in arrays.values())


@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_damaged_npz_gives_arrays_or_a_weights_error(tmp_path_factory, position, value):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **ARRAYS)
    damaged = bytearray(buffer.getvalue())
    damaged[position % len(damaged)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(damaged)
    try:
        read(path)
    except WeightsError as error:
        assert "damaged.npz" in str(error)  # noqa: PT017  # either outcome is right


def entry(**changes):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (entry(dtype="BF16", shape=[4]), "w is of dtype BF16; only F16, F32, F64 are read"),
        (entry(dtype="I64", shape=[1]), "w is of dtype I64; only F16, F32, F64 are read"),
        (entry(dtype="F8_E4M3", shape=[8]), "w is of dtype F8_E4M3; only F16, F32, F64 are read"),
        (entry(shape=[3]), r"is cut off or damaged \(.*invalid shape, data type, or offset"),
        (entry(data_offsets=[4, 12]), r"is cut off or damaged \(.*invalid offset for tensor `w`"),
        (entry(data_offsets=[-8, 0]), "is cut off or damaged"),
        (entry(shape=[-2]), "is cut off or damaged"),
        (entry(shape="2"), "is cut off or damaged"),
        ("F32", "is cut off or damaged"),
    ],
)
def test_a_header_that_says_something_wrong_is_refused_by_name(tmp_path, changed, message):
    header = json.dumps({"w": changed}).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(WeightsError, match=message):
        read(path)


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def pickled(path, trap):
    path.write_bytes(pickle.dumps(Malicious(trap)))


def torch_zip(path, trap):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Malicious(trap)))


def object_array(path, trap):
    with path.open("wb") as file:
        np.savez(file, w=np.array([Malicious(trap)], object))


@pytest.mark.parametrize("write", [pickled, torch_zip, object_array])
def test_nothing_is_unpickled(tmp_path, write):
    path, trap = tmp_path / "weights.pth", tmp_path / "trap"
    write(path, trap)
    with pytest.raises(WeightsError, match=r"weights\.pth: (is neither safetensors nor|is a zip that|.*no plain)"):
        read(path)
    assert not trap.exists()


def test_weights_that_are_no_floats_are_refused_by_name(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, steps=np.arange(3))
    with pytest.raises(WeightsError, match="steps must hold floats, got int64"):
        read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(WeightsError, match=r"cannot be read \("):
            read(path)
