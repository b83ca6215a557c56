"""Tensors on disk: found again bit by bit, whoever wrote them, however it ended."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from limner.data import feature_store
from limner.data.feature_store import RECORD_SIZE, DiskStore, MemoryStore, features_root


def _value(number: int, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return (100 * torch.randn(number % 5 + 1, 3, generator=generator)).to(dtype)


def _fill(folder: Path, numbers: range) -> None:
    store = DiskStore(folder)
    for number in numbers:
        store.put(str(number), _value(number))


def _fill_for_ever(folder: Path) -> None:
    store, number = DiskStore(folder), 0
    while True:
        store.put(str(number), _value(number))
        number += 1


@pytest.mark.parametrize("dtype", feature_store._DTYPES)
def test_what_is_put_is_got_back_in_its_own_type(tmp_path: Path, dtype: torch.dtype) -> None:
    DiskStore(tmp_path).put("a", _value(3, dtype=dtype))
    found = DiskStore(tmp_path).get("a")
    assert found is not None
    assert found.dtype == dtype
    assert torch.equal(found, _value(3, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (0, 4), (1, 2, 3, 4, 5, 6)])
def test_any_shape_of_up_to_six_dimensions_is_kept(tmp_path: Path, shape: tuple[int, ...]) -> None:
    value = torch.full(shape, 2.5)
    DiskStore(tmp_path).put("a", value)
    found = DiskStore(tmp_path).get("a")
    assert found is not None
    assert found.shape == shape
    assert torch.equal(found, value)


def test_a_reader_finds_what_another_process_has_added_since(tmp_path: Path) -> None:
    reader = DiskStore(tmp_path)
    assert not reader.holds("1")
    assert reader.get("1") is None
    _fill(tmp_path, range(3))
    assert reader.holds("1")
    _fill(tmp_path, range(3, 6))
    assert torch.equal(reader.get("5"), _value(5))
    assert not reader.holds("6")


def test_several_processes_write_at_once_and_all_is_found(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_fill, args=(tmp_path, range(20 * n, 20 * n + 30))) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store = DiskStore(tmp_path)
    assert len(store) == 70
    assert all(torch.equal(store.get(str(number)), _value(number)) for number in range(70))


def test_a_forked_child_reads_on_and_writes_to_files_of_its_own(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.put("0", _value(0))

    def _child() -> None:
        assert store.holds("0")
        assert torch.equal(store.get("0"), _value(0))
        store.put("1", _value(1))
        assert torch.equal(store.get("1"), _value(1))

    child = multiprocessing.get_context("fork").Process(target=_child)
    child.start()
    child.join()
    assert child.exitcode == 0
    store.put("2", _value(2))
    assert len(list(tmp_path.glob("*.data"))) == 2
    assert all(torch.equal(store.get(str(number)), _value(number)) for number in range(3))


def test_a_writer_that_is_killed_leaves_whole_tensors_only(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("fork").Process(target=_fill_for_ever, args=(tmp_path,))
    writer.start()
    while len(DiskStore(tmp_path)) < 50:
        pass
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    store = DiskStore(tmp_path)
    assert len(store) >= 50
    assert all(torch.equal(store.get(str(number)), _value(number)) for number in range(len(store)))


@pytest.mark.parametrize("lost", [1, RECORD_SIZE - 1, RECORD_SIZE])
def test_a_torn_tail_costs_the_last_tensor(tmp_path: Path, lost: int) -> None:
    _fill(tmp_path, range(3))
    (index,) = tmp_path.glob("*.index")
    os.truncate(index, index.stat().st_size - lost)
    store = DiskStore(tmp_path)
    assert store.holds("1")
    assert not store.holds("2")
    store.put("2", _value(2))
    assert torch.equal(DiskStore(tmp_path).get("2"), _value(2))


def test_damaged_bytes_are_not_given_out_and_can_be_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _fill(tmp_path, range(2))
    (data,) = tmp_path.glob("*.data")
    raw = bytearray(data.read_bytes())
    raw[0] ^= 1
    data.write_bytes(raw)
    store = DiskStore(tmp_path)
    assert store.get("0") is None
    assert "damaged" in caplog.text
    assert torch.equal(store.get("1"), _value(1))
    store.put("0", _value(0))
    assert torch.equal(store.get("0"), _value(0))
    assert torch.equal(DiskStore(tmp_path).get("0"), _value(0))


def test_a_damaged_record_is_passed_over(tmp_path: Path) -> None:
    _fill(tmp_path, range(3))
    (index,) = tmp_path.glob("*.index")
    raw = bytearray(index.read_bytes())
    raw[RECORD_SIZE + 20] ^= 1
    index.write_bytes(raw)
    store = DiskStore(tmp_path)
    assert [store.holds(str(number)) for number in range(3)] == [True, False, True]


def test_a_full_disk_is_said_once_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path)
    store.put("0", _value(0))

    def _full(stream: object, raw: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_store, "_write", _full)
    for number in (1, 2):
        store.put(str(number), _value(number))
    assert caplog.text.count("No space left") == 1
    assert all(torch.equal(store.get(str(number)), _value(number)) for number in range(3))
    assert store.holds("2")
    assert not DiskStore(tmp_path).holds("1")


def test_a_folder_that_cannot_be_made_is_like_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = DiskStore(tmp_path / "file" / "folder")
    store.put("0", _value(0))
    assert torch.equal(store.get("0"), _value(0))


def test_a_limit_holds_for_all_folders_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feature_store, "SLICE", 1)
    size = _value(9).nbytes + RECORD_SIZE
    first, second = (DiskStore(tmp_path / name, limit=3 * size) for name in "ab")
    for number, store in enumerate((first, second, first)):
        store.put(str(number), _value(9))
    assert feature_store.bytes_below(tmp_path) == 3 * size
    second.put("3", _value(9))
    assert "LIMNER_FEATURES_LIMIT allows" in caplog.text
    assert torch.equal(second.get("3"), _value(9))
    assert not DiskStore(tmp_path / "b").holds("3")
    assert feature_store.bytes_below(tmp_path) == 3 * size


@pytest.mark.parametrize(
    ("given", "limit"), [("", None), ("1500", 1500), ("200G", 200 * 10**9), ("1.5 tb", 15 * 10**11)]
)
def test_a_limit_is_written_as_people_write_bytes(
    monkeypatch: pytest.MonkeyPatch, given: str, limit: int | None
) -> None:
    monkeypatch.setenv("LIMNER_FEATURES_LIMIT", given)
    assert feature_store.features_limit() == limit


def test_a_limit_that_is_no_number_of_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_FEATURES_LIMIT", "much")
    with pytest.raises(ValueError, match=r"LIMNER_FEATURES_LIMIT is `much`.*\nhint: "):
        feature_store.features_limit()


def test_memory_is_kept_to_its_limit() -> None:
    store = MemoryStore(limit=2 * _value(4).nbytes)
    for number in (4, 9, 14):
        store.put(str(number), _value(number))
    assert [store.holds(str(number)) for number in (4, 9, 14)] == [True, True, False]


def test_the_folder_says_what_it_holds(tmp_path: Path) -> None:
    DiskStore(tmp_path / "f", about=["image in", "a tower"]).put("0", _value(0))
    assert (tmp_path / "f" / "about.txt").read_text() == "image in\na tower\n"


def test_features_lie_beside_the_weights_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMNER_FEATURES")
    monkeypatch.setenv("LIMNER_CACHE", "/somewhere")
    assert features_root() == Path("/somewhere/features")
    monkeypatch.setenv("LIMNER_FEATURES", "/elsewhere")
    assert features_root() == Path("/elsewhere")
