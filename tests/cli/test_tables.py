import io
import json
import tarfile
import urllib.error

import PIL.Image
import pytest

from limner import zoo
from limner.cli import doctor, models


def test_models_lists_every_name_with_its_licence(limner):
    lines = limner("models").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(zoo.ENTRIES)
    for line, entry in zip(lines[1:], zoo.ENTRIES.values(), strict=True):
        assert entry.kind in line
        assert entry.licence in line


def test_the_origin_of_a_model_follows_the_order_of_locate(monkeypatch, tmp_path):
    name = "smollm2-135m-instruct"
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    assert models.origin(name).startswith("hub: ")
    (tmp_path / name).mkdir()
    (tmp_path / name / "source.json").write_text('{"kind": "wheel", "origin": "a==1"}')
    assert models.origin(name) == "the cache (a==1)"
    monkeypatch.setenv(zoo.environment_variable(name), "there")
    assert models.origin(name) == f"there (${zoo.environment_variable(name)})"


def test_the_doctor_reports_and_opens_no_connection(limner, monkeypatch, tmp_path):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "not" / "made"))
    monkeypatch.setattr(doctor.urllib.request, "urlopen", lambda *a, **k: pytest.fail("opened"))
    report = dict(line.split(maxsplit=1) for line in limner("doctor").out.splitlines())
    assert {"limner", "python", "torch", "device", "threads", "cache", "limner-tiny"} <= set(report)
    assert "GB free, not made yet" in report["cache"]
    assert not (tmp_path / "not").exists()


def test_the_doctor_asks_the_network_only_when_told(limner, monkeypatch):
    def refuse(*values, **settings):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(doctor.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(doctor, "_pip", lambda: "answers")
    report = limner("doctor", "--network").out
    assert "does not answer (no route)" in report
    assert report.rstrip().endswith("answers")


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "a.tar"
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(stream, "WEBP")
    with tarfile.open(path, "w") as tar:
        for key in ("one", "two"):
            for name, content in (
                (f"{key}.json", json.dumps({"name": f"the {key}"}).encode()),
                (f"{key}.webp", stream.getvalue()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def test_data_show_lists_a_shard(limner, shard):
    lines = limner("data", "show", shard, "--limit", "1").out.splitlines()
    assert lines[0] == "a.tar: 2 samples"
    assert lines[1].startswith("one\tthe one\tjson ")
    assert lines[2] == "... 1 more"


def test_data_show_reads_a_manifest_and_its_directory(limner, tmp_path):
    manifest = {"name": "x", "samples": {"train": 2}, "shards": {"a.tar": {"samples": 2}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    shown = limner("data", "show", "manifest.json").out
    assert shown == "x: 2 samples\nsplit\ttrain\t2\nshard\ta.tar\t2\n"
    assert limner("data", "show", ".").out == shown


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.tar", "error: no such file: `none.tar`"),
        ("text.tar", "error: `text.tar` is no readable shard"),
        ("text.json", "error: `text.json` is no manifest"),
        ("list.json", "error: `list.json` is no manifest"),
    ],
)
def test_what_is_no_data_is_refused(limner, tmp_path, path, message):
    (tmp_path / "text.tar").write_text("x" * 600)
    (tmp_path / "text.json").write_text("x")
    (tmp_path / "list.json").write_text("[]")
    result = limner("data", "show", path)
    assert result.code == 1
    assert result.err.startswith(message)


def test_data_build_hands_over_to_the_builder(limner, tmp_path, monkeypatch):
    from limner.data.builders import emoji

    def build(output, **settings):
        assert settings == {"source": None, "size": 64}
        return {"samples": {"train": 3}}

    monkeypatch.setattr(emoji, "build", build)
    assert limner("data", "build", "emoji", "--output", "d", "--size", "64").out == "train\t3\n"


def test_a_source_without_packages_is_an_error(limner, tmp_path):
    result = limner("data", "build", "emoji", "--output", "d", "--source", tmp_path)
    assert result.code == 1
    assert result.err.startswith("error: source=")
