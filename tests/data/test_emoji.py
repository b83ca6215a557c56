"""The emoji builder on a tiny package made here, and the promises of the shards that ship."""

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from limner.data.builders import emoji
from limner.data.builders.emoji_clusters import MAX_KEYWORDS, caption, cluster_of, keywords

SHIPPED = Path(__file__).parents[2] / "data" / "emoji"
SPLITS = ("train", "heldout-concept", "heldout-style")
GROUPS = {
    "groups": {"1": "people-body", "4": "food-drink", "5": "travel-places", "8": "symbols"},
    "subgroups": {"0": "any"},
}
EMOJI = {
    "1F34E": ("red apple", 4),
    "1F34F": ("green apple", 4),
    "1F6B6-200D-27A1-FE0F": ("person walking: facing right", 1),
    "1F468-200D-1F9B0": ("man: red hair", 1),
    "1F550": ("one o\u2019clock", 5),
    "1F551": ("two o\u2019clock", 5),
    "2B50": ("only in noto", 5),
    "2764": ("a symbol", 8),
}


def write_package(folder: Path, package: emoji.Package, files: dict[str, Any]) -> emoji.Package:
    """Write an npm tarball of JSON files and return the package with its true checksum."""
    path = folder / package.filename
    with tarfile.open(path, "w:gz") as tar:
        for name, value in files.items():
            content = json.dumps(value).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return emoji.Package(**{**vars(package), "sha256": emoji.sha256_of(path)})


def icon_set(package: emoji.Package) -> dict[str, Any]:
    """Half a square per emoji, in a colour of its own; the walker is the mirrored alias."""
    names = {code.lower(): f"drawing-{index}" for index, code in enumerate(EMOJI)}
    if package.style != "noto":
        del names["2b50"]
    icons = {
        name: {"body": f'<path fill="#{index * 30:02x}0000" d="M0 0h16v32H0z"/>'}
        for index, name in enumerate(names.values())
    }
    icons["mirrored"] = icons.pop("drawing-2")
    aliases = {"drawing-2": {"parent": "mirrored", "hFlip": True}}
    drawn = {"icons": icons, "aliases": aliases, "width": 32, "height": 32}
    return {"icons.json": drawn, "chars.json": names}


@pytest.fixture
def packages(tmp_path: Path) -> tuple[emoji.Package, ...]:
    labels = [
        {"hexcode": code, "label": label, "emoji": "x", "tags": [label, "tag"]} | {"group": group, "subgroup": 0}
        for code, (label, group) in EMOJI.items()
    ]
    label_files = {"en/data.json": labels, "meta/groups.json": GROUPS}
    return tuple(
        write_package(tmp_path, package, icon_set(package) if package.style else label_files)
        for package in emoji.PACKAGES
    )


def read_shard(path: Path) -> dict[str, dict[str, Any]]:
    """Key -> the JSON fields and the decoded picture."""
    samples: dict[str, dict[str, Any]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, extension = member.name.split(".")
            file = tar.extractfile(member)
            assert file is not None
            content = file.read()
            value = json.loads(content) if extension == "json" else Image.open(io.BytesIO(content))
            samples.setdefault(key, {})[extension] = value
    return samples


def read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    return [s for path in sorted(folder.glob(f"{split}*.tar")) for s in read_shard(path).values()]


@pytest.fixture(scope="module")
def shipped() -> dict[str, list[dict[str, Any]]]:
    return {split: read_split(SHIPPED, split) for split in SPLITS}


def test_building_twice_writes_the_same_bytes(tmp_path: Path, packages: tuple) -> None:
    pytest.importorskip("resvg_py")
    for name in ("first", "second"):
        emoji.build(tmp_path / name, source=tmp_path, packages=packages, samples_per_shard=7)
    first = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    second = {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    assert first == second
    assert "manifest.json" in first


def test_build_replaces_the_shards_of_an_earlier_build(tmp_path: Path, packages: tuple) -> None:
    pytest.importorskip("resvg_py")
    output = tmp_path / "output"
    many = emoji.build(output, source=tmp_path, packages=packages, samples_per_shard=3)
    few = emoji.build(output, source=tmp_path, packages=packages)
    assert len(few["shards"]) < len(many["shards"])
    assert {path.name for path in output.glob("*.tar")} == set(few["shards"])


def test_build_leaves_out_symbols_other_clock_faces_and_what_fluent_lacks(tmp_path: Path, packages: tuple) -> None:
    pytest.importorskip("resvg_py")
    emoji.build(tmp_path / "output", source=tmp_path, packages=packages, size=32)
    samples = [s for split in SPLITS for s in read_split(tmp_path / "output", split)]
    names = {sample["json"]["name"] for sample in samples}
    assert names == {
        "red apple",
        "green apple",
        "person walking facing right",
        "man with red hair",
        "clock",
    }
    assert len(samples) == 4 * len(names)
    assert {sample["webp"].size for sample in samples} == {(32, 32)}


def test_a_mirrored_alias_is_drawn_mirrored_over_white(tmp_path: Path, packages: tuple) -> None:
    pytest.importorskip("resvg_py")
    paths = {package: emoji.locate(package, source=tmp_path) for package in packages}
    drawings = {sample.key: sample.svg for sample in emoji.collect(paths)}
    mirrored = emoji.rasterise(drawings["1f6b6-200d-27a1-noto"], size=32)
    plain = emoji.rasterise(drawings["1f34e-noto"], size=32)
    assert mirrored.getpixel((4, 4)) == (255, 255, 255)
    assert mirrored.getpixel((28, 4)) == (60, 0, 0)
    assert plain.getpixel((4, 4)) == (0, 0, 0)


def test_a_missing_tarball_is_named_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"emojibase-data-17\.0\.0\.tgz.*\nhint: run `npm pack"):
        emoji.build(tmp_path / "output", source=tmp_path)


def test_a_tarball_with_another_checksum_is_refused(tmp_path: Path) -> None:
    (tmp_path / emoji.PACKAGES[0].filename).write_bytes(b"truncated")
    with pytest.raises(ValueError, match=rf"expected {emoji.PACKAGES[0].sha256}\nhint"):
        emoji.build(tmp_path / "output", source=tmp_path)


def test_without_a_source_and_without_npm_one_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"npm was not found.*\nhint: install Node"):
        emoji.build(tmp_path / "output")


@pytest.mark.parametrize(
    ("labels", "cluster"),
    [
        (("man farmer", "woman farmer", "farmer"), "farmer"),
        (("person running", "woman running: facing right"), "running"),
        (("closed book", "green book", "books"), "book"),
        (("cat", "cat face", "black cat", "weary cat"), "cat"),
        (("neutral face", "kissing face"), "plain-face"),
        (("man: bald", "older person", "girl"), "person"),
        (("woman\u2019s boot",), "womans-boot"),
    ],
)
def test_variants_of_one_concept_share_a_cluster(labels: tuple[str, ...], cluster: str) -> None:
    assert {cluster_of(label) for label in labels} == {cluster}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("man: red hair", "man with red hair"),
        ("woman: bald", "bald woman"),
        ("man: beard", "man with a beard"),
        ("woman kneeling: facing right", "woman kneeling facing right"),
        ("rescue worker\u2019s helmet", "rescue worker's helmet"),
        ("Santa Claus", "Santa Claus"),
    ],
)
def test_captions_read_like_words(label: str, expected: str) -> None:
    assert caption(label) == expected


def test_keywords_leave_out_the_name_and_repeats() -> None:
    tags = ["fruit", "Red apple", "fruit", *(f"tag {index}" for index in range(20))]
    found = keywords(tags, name="red apple")
    assert found[:2] == ["fruit", "tag 0"]
    assert len(found) == MAX_KEYWORDS


def test_shipped_shards_match_the_manifest() -> None:
    manifest = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    for name, shard in manifest["shards"].items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == shard["sha256"], name
        assert len(read_shard(SHIPPED / name)) == shard["samples"], name
    assert {path.name for path in SHIPPED.glob("*.tar")} == set(manifest["shards"])
    assert [source["sha256"] for source in manifest["sources"]] == [package.sha256 for package in emoji.PACKAGES]


def test_shipped_shards_stay_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.tar")) <= 18_000_000


def test_no_shipped_concept_is_in_two_splits(shipped: dict) -> None:
    concepts = {split: {s["json"]["concept"] for s in shipped[split]} for split in SPLITS}
    assert not concepts["heldout-concept"] & (concepts["train"] | concepts["heldout-style"])
    # The style split asks for known concepts, in a style family that training never shows for them.
    assert concepts["heldout-style"] <= concepts["train"]
    trained = {
        sample["json"]["concept"] for sample in shipped["train"] if sample["json"]["style"] in emoji.FLUENT_STYLES
    }
    assert not trained & concepts["heldout-style"]
    assert {s["json"]["style"] for s in shipped["heldout-style"]} == emoji.FLUENT_STYLES


def test_shipped_splits_and_clusters_are_those_of_the_code(shipped: dict) -> None:
    for split, samples in shipped.items():
        for sample in samples:
            fields = sample["json"]
            assert emoji.split_of(fields["concept"], style=fields["style"]) == split, fields


def test_no_shipped_heldout_picture_is_nearly_a_training_picture(shipped: dict) -> None:
    def thumbnails(split: str) -> numpy.ndarray:
        pictures = (s["webp"].convert("RGB").resize((16, 16), Image.BOX) for s in shipped[split])
        return numpy.stack([numpy.asarray(p, dtype=numpy.float32).ravel() for p in pictures])

    train = thumbnails("train")
    for split in ("heldout-style", "heldout-concept"):
        heldout = thumbnails(split)
        # |a - b|^2 = |a|^2 - 2 ab + |b|^2: one matrix product for all pairs.
        squares = (heldout**2).sum(axis=1)[:, None] + (train**2).sum(axis=1)
        distance = (squares - 2 * heldout @ train.T) / train.shape[1]
        assert distance.min() > 13**2, split


def test_shipped_samples_name_the_licence_of_their_picture(shipped: dict) -> None:
    licences = {package.style: package.licence for package in emoji.PACKAGES}
    for samples in shipped.values():
        for sample in samples:
            assert sample["json"]["licence"] == licences[sample["json"]["style"]]
    notice = (SHIPPED / "NOTICE").read_text(encoding="utf-8")
    for package in emoji.PACKAGES:
        assert f"{package.name} {package.version}" in " ".join(notice.split())
    for path in re.findall(r"licences/\S+\.txt", notice):
        assert (SHIPPED / path).stat().st_size > 500


def test_shipped_samples_have_names_keywords_and_square_pictures(shipped: dict) -> None:
    for samples in shipped.values():
        for sample in samples:
            fields = sample["json"]
            assert sample["webp"].size == (128, 128)
            assert fields["name"]
            assert fields["name"] == fields["name"].strip()
            assert len(fields["keywords"]) <= MAX_KEYWORDS
            assert fields["name"] not in fields["keywords"]
            assert fields["group"] not in emoji.EXCLUDED_GROUPS
