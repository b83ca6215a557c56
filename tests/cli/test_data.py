"""`limner data list`, `show NAME` and `index`."""

import io
import json
import tarfile

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))


def test_list_names_every_data_set_and_where_it_belongs(limner):
    lines = limner("data", "list").out.splitlines()
    assert len(lines) == 21
    assert " ".join(lines[1].split()) == "laion_coco image-text pair 104.9M caption no $LIMNER_DATA/laion_coco/*.tar"


def test_list_says_what_is_there_and_knows_ones_own(limner, tmp_path, monkeypatch):
    (tmp_path / "gqa").mkdir()
    (tmp_path / "gqa" / "train.json").write_text("[]")
    own = {"name": "mine", "kind": "interleaved", "files": "mine.tar", "size": "12K"}
    (tmp_path / "datasets.jsonl").write_text(json.dumps(own))
    monkeypatch.setenv("LIMNER_DATA", str(tmp_path))
    lines = {line.split()[0]: line for line in limner("data", "list").out.splitlines()}
    assert lines["gqa"].split()[-2:] == ["yes", f"{tmp_path}/gqa/*.json"]
    assert lines["mine"].split()[1:] == ["interleaved", "12K", "interleaved", "no", f"{tmp_path}/mine.tar"]


def test_show_tells_of_a_data_set_by_name(limner):
    assert limner("data", "show", "webvid").out.splitlines() == [
        "webvid: Stock films with their captions.",
        "kind\tvideo-text pair",
        "size\t10.7M (10700000 documents)",
        "format\tvideo_caption",
        "licence\town terms, research only; withdrawn",
        "files\t$LIMNER_DATA/webvid/*.jsonl",
        "media\t$LIMNER_DATA/webvid/videos",
        "there\tno",
    ]


def test_show_suggests_a_name(limner):
    result = limner("data", "show", "llavav1.5_instrukt")
    assert result.code == 1
    assert result.err == "error: no data set named `llavav1.5_instrukt`\nhint: did you mean `llavav1.5_instruct`?\n"


def test_index_counts_the_rows_of_files_of_every_kind(limner, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    (tmp_path / "b.json").write_text('[{"n": 1}]')
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        for name in ("1.txt", "1.png", "2.txt"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    result = limner("data", "index", "*.json*", "c.tar")
    assert result.out == f"2\t{tmp_path}/a.jsonl\n1\t{tmp_path}/b.json\n2\t{tmp_path}/c.tar\n"
    assert limner("data", "index", "a.jsonl").err == ""


def test_index_names_what_it_cannot_read(limner, tmp_path):
    (tmp_path / "c.tar").write_bytes(b"x" * 700)
    for path, message in (
        ("c.tar", "shard `c.tar` is no whole"),
        ("none.tar", "no such data file"),
        ("c", "no such data"),
    ):
        result = limner("data", "index", path)
        assert result.code == 1
        assert result.err.startswith(f"error: {message}")
        assert len(result.err.splitlines()) == 2


def test_show_knows_a_data_set_beside_a_folder_of_its_name(limner, tmp_path):
    for name in ("gqa", "other"):
        (tmp_path / name).mkdir()
    assert limner("data", "show", "gqa").out.startswith("gqa: ")
    assert limner("data", "show", "other").err.startswith("error: no such file: `other/manifest.json`\nhint: ")
    (tmp_path / "gqa" / "manifest.json").write_text('{"name": "ours", "samples": {"train": 3}, "shards": {}}')
    assert limner("data", "show", "gqa").out.startswith("ours: 3 samples\n")
