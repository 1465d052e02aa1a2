"""Arrays that lie in a temporary file where they are large."""

import threading

import numpy as np
import psutil
import pytest

from sdseg_monai.errors import InputError
from sdseg_monai.io import arrays
from sdseg_monai.io.arrays import chunk_slices, chunks, make_array, put, release, take

MIB = 1 << 20


def test_a_large_array_keeps_its_values_when_its_pages_leave_the_memory():
    array = make_array((512, 512, 300), np.float32)  # 300 MiB
    assert array.flags.f_contiguous and not array[..., -1].any()
    before = psutil.Process().memory_info().rss
    for index in range(array.shape[2]):
        array[..., index] = index
    assert psutil.Process().memory_info().rss > before + 250 * MIB
    release(array[:, 3:5])  # by any part of it
    assert psutil.Process().memory_info().rss < before + 50 * MIB
    np.testing.assert_array_equal(array[7, 9], np.arange(300))


def test_working_on_chunks_needs_little_memory():
    array = make_array((512, 512, 300), np.float32)
    before, most = psutil.Process().memory_info().rss, 0
    for number, part in enumerate(chunks(array)):
        part[...] = number
        most = max(most, psutil.Process().memory_info().rss)
    assert most < before + 60 * MIB and array[..., -1].min() == number


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slab_across_any_axis_needs_little_memory(axis):
    array = make_array((512, 512, 300), np.float32)
    for index, part in enumerate(chunks(array)):
        part[...] = index
    box = [slice(None)] * 3
    box[axis] = slice(100, 108)
    before, most, ended = psutil.Process().memory_info().rss, 0, threading.Event()

    def watch():
        nonlocal most
        while not ended.is_set():
            most = max(most, psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    part = take(array, tuple(box))
    ended.set()
    watcher.join()
    np.testing.assert_array_equal(part, array[tuple(box)])
    assert most < before + 80 * MIB


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (2000, 2000, 2), (3, 4, 5000)])
def test_chunks_are_all_of_an_array_in_order(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(np.concatenate(list(chunks(array)), axis=-1), array)
    assert sum(part.stop - part.start for part in chunk_slices(array)) == shape[-1]


@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 4, 2), (4, 3)])
def test_a_part_is_never_spread_over_a_box(shape):
    with pytest.raises(ValueError, match="for a box of shape"):
        put(make_array((6, 4, 5), np.uint8), (slice(0, 2), slice(None), slice(1, 4)), np.ones(shape, np.uint8))


def test_a_small_array_is_in_memory_and_so_is_one_that_must_be(monkeypatch):
    small, large = make_array((4, 5, 6), np.uint8), make_array((4, 5, 6), np.uint8)
    monkeypatch.setattr(arrays, "IN_MEMORY_BYTES", 0)
    large = make_array((4, 5, 6), np.uint8)
    assert small.base is None and large.base is not None and make_array((4, 5, 6), np.uint8, on_disk=False).base is None
    release(small)


def test_no_file_stays(monkeypatch, tmp_path):
    monkeypatch.setattr(arrays, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(arrays.tempfile, "tempdir", str(tmp_path))
    array = make_array((16, 16, 16), np.float32)
    array[...] = 1
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_anything_is_computed():
    with pytest.raises(InputError, match=r"GiB for a volume of .* do not fit .*: free space, or .* TMPDIR"):
        make_array((1 << 20, 1 << 20, 1 << 8), np.float32)
