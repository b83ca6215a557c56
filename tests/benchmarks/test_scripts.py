"""Benchmark scripts run at tiny sizes, on the code that they measure, and print what they promise."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What a peer says of its own dependencies is not ours to fail on.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.syspath_prepend(str(ROOT))
    # The scripts set both; here they are put back.
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    monkeypatch.setenv("LIMNER_FEATURES", str(tmp_path))

    def script(name: str, *arguments: str) -> str:
        importlib.import_module(f"benchmarks.{name}").main(list(arguments))
        return capsys.readouterr().out

    return script


def test_gpu_training_runs_dry_through_training_and_generation(run):
    printed = run("gpu_training", "--dry-run", "--steps", "2")
    for figure in ("tokens/s", "MFU", "peak memory", "text to image, 2 at once", "interleaved page"):
        assert figure in printed


def test_a_resumed_run_decodes_nothing_twice_and_goes_on_as_if_uninterrupted(run):
    pytest.importorskip("accelerate")
    printed = run("resume", "--steps", "0", "2", "4", "--compared", "4", "--rounds", "1")
    rows = re.findall(r"\| (\d+) \| [\d.]+ \| (\d+) \| (\d+) \| (\w+) \|", printed)
    assert rows == [(step, "8", "0", "yes") for step in ("0", "2", "4")]
    assert "32 pictures decoded twice" in printed  # the peer's


def test_image_loading_gives_every_picture_and_names_who_is_missing(run):
    printed = run("image_loading", "--images", "5", "--batch-size", "2", "--workers", "0", "--rounds", "1")
    assert "limner shards + DataLoader" in printed
    assert "limner Loader (with captions)" in printed
    for peer in ("litdata", "mosaicml-streaming", "webdataset"):
        assert peer in printed


def test_transfusion_without_the_peer_says_so_in_one_line(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transfusion_pytorch", None)
    printed = run("transfusion")
    assert printed.count("\n") == 1
    assert "transfusion-pytorch is not installed" in printed


def test_transfusion_compares_both_at_equal_parameters(run):
    pytest.importorskip("transfusion_pytorch")
    sizes = ("--d-model", "64", "--layers", "2", "--grid", "2", "--median", "16", "--longest", "64")
    printed = run("transfusion", *sizes, "--rounds", "1", "--steps", "1", "--batch", "2")
    ours, peers = (int(found.replace(",", "")) for found in re.findall(r": ([\d,]+) parameters", printed))
    assert abs(ours - peers) < 0.15 * peers
    for text in ("uniform", "ragged"):
        assert re.search(rf"ratio of real tokens/s, {text}: [\d.]+ \(target", printed)


def test_frozen_prefix_compares_the_same_gradients(run):
    sizes = ("--d-model", "32", "--layers", "1", "--documents", "2", "--queries", "4", "--rounds", "1")
    printed = run("frozen_prefix", *sizes, "--captions", "16")
    ratio, difference = re.search(r"\| 16 tokens \| ([\d.]+) x .* \| ([\d.e+-]+) \|", printed).groups()
    assert float(ratio) > 1.0
    assert float(difference) <= 1e-6


def test_interleaved_without_the_peer_says_so_in_one_line(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transfusion_pytorch", None)
    printed = run("interleaved")
    assert printed.count("\n") == 1
    assert "transfusion-pytorch is not installed" in printed


def test_interleaved_writes_the_same_documents_with_both(run):
    pytest.importorskip("transfusion_pytorch")
    sizes = ("--d-model", "64", "--layers", "2", "--grid", "2", "--prompt", "4", "--text", "3", "--pictures", "2")
    printed = run("interleaved", *sizes, "--rounds", "1", "--steps", "2", "--streams", "2")
    ours, peers = (int(found.replace(",", "")) for found in re.findall(r": ([\d,]+) parameters", printed))
    assert abs(ours - peers) < 0.2 * peers
    assert len(re.findall(r"^ratio to sample_\w+, .*: [\d.]+", printed, re.MULTILINE)) == 3


def test_a_mixed_batch_gives_what_the_loop_over_its_rows_gives(run):
    sizes = ("--d-model", "64", "--layers", "1", "--vocabulary", "300", "--image-size", "28")
    towers = ("--tower-width", "64", "--tower-layers", "2", "--audio-frames", "100", "--rounds", "1")
    printed = run("mixed_batch", *sizes, *towers)
    for peer in ("padded", "row by row"):
        assert re.search(rf"^apart from {peer}: loss [\d.e+-]+, projected rows [\d.e+-]+", printed, re.MULTILINE)
        assert re.search(rf"^ratio to {peer}: [\d.]+ \(processor time [\d.]+; target: 2.0\)$", printed, re.MULTILINE)
