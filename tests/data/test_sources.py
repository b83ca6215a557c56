"""Sources: what lies on disk or at an address becomes Documents; what does not fit says which row and what to do."""

import io
import json
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy
import pytest
from fsspec.core import url_to_fs
from tiny import picture

from limner.data.sources import json_rows, tar_shards
from limner.data.sources.arrow_rows import ArrowRows
from limner.data.sources.folder import CaptionedFolder
from limner.data.sources.json_rows import JsonRows
from limner.data.sources.opening import index, open_source
from limner.data.sources.tar_shards import TarShards

RED, BLUE = picture("red").png_bytes(), picture("blue").png_bytes()
ROW = {"image": "fox.png", "caption": "a fox"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["path", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder: a path, or an address."""
    folder = tmp_path / "data"
    folder.mkdir()
    if request.param == "memory":
        return f"memory:/{tmp_path}/data"
    return str(folder) if request.param == "path" else f"file://{folder}"


def put(place: str, files: Mapping[str, bytes | str]) -> str:
    """Write files below a place."""
    for name, data in files.items():
        system, path = url_to_fs(f"{place}/{name}")
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(path, data.encode() if isinstance(data, str) else data)
    return place


def tar(members: Mapping[str, bytes | str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members.items():
            content = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n\n" for row in rows)


def colours(source) -> list[str]:
    """The colour of each document's first picture."""
    found = (next(source[number].media())[1].content.pil().getpixel((0, 0)) for number in range(len(source)))
    return ["red" if pixel == (255, 0, 0) else "blue" for pixel in found]


def words(source) -> list[str]:
    return [source[number].messages[0].text for number in range(len(source))]


# JSON


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_of_json_files_are_read_at_any_place(place: str, name: str) -> None:
    rows = [ROW | {"caption": 'ein Füchslein \U0001f98a [{"}\\ ', "more": {"a": [1, {"b": "]"}]}}, ROW, ROW]
    text = lines(*rows) if name.endswith("l") else json.dumps(rows, indent=1, ensure_ascii=False)
    put(place, {name: "\ufeff" + text, "fox.png": RED})
    source = JsonRows(f"{place}/{name}", format="caption")
    assert words(source) == ['ein Füchslein \U0001f98a [{"}\\', "a fox", "a fox"]
    assert colours(source) == ["red"] * 3
    assert source[-1] == source[2]
    with pytest.raises(IndexError):
        source[3]


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_a_list_is_found_whole_wherever_its_blocks_end(tmp_path: Path, monkeypatch, block: int) -> None:
    monkeypatch.setattr(json_rows, "BLOCK", block)
    rows = [{"n": n, "text": '[]{}\\"ü,' * n} for n in range(9)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
    length, tables = json_rows.scan(str(path))
    data = path.read_bytes()
    assert length == 9
    assert [json.loads(data[start : start + size]) for start, size in tables["rows"]] == rows


def test_several_files_are_one_sequence_by_pattern_and_by_count(place: str) -> None:
    files = {f"part-{n:02d}.jsonl": lines(*[ROW | {"caption": f"{n}{m}"} for m in range(n)]) for n in range(4)}
    put(place, files | {"fox.png": RED})
    expected = ["10", "20", "21", "30", "31", "32"]
    assert words(JsonRows(f"{place}/part-*.jsonl", format="caption")) == expected
    assert words(JsonRows(f"{place}/part-{{00..03}}.jsonl", format="caption")) == expected
    assert words(JsonRows([f"{place}/part-03.jsonl", f"{place}/part-01.jsonl"], format="caption")) == [
        *expected[3:],
        "10",
    ]


def test_files_of_rows_lie_below_the_root_in_either_case(place: str) -> None:
    put(
        place,
        {"rows.jsonl": lines(ROW | {"image": "a/FOX.JPG"}, ROW | {"image": "a/fox.PNG"}), "pictures/a/FOX.jpg": RED},
    )
    put(place, {"pictures/a/fox.png": BLUE})
    assert colours(JsonRows(f"{place}/rows.jsonl", format="caption", root=f"{place}/pictures")) == ["red", "blue"]


def test_columns_are_renamed_or_made_from_others(tmp_path: Path) -> None:
    put(str(tmp_path), {"rows.jsonl": lines({"name": "a fox", "dir": "f", "id": 7}), "f/7.png": RED})
    path = tmp_path / "rows.jsonl"
    assert words(JsonRows(path, format="caption", columns={"caption": "name", "image": "{dir}/{id}.png"})) == ["a fox"]
    for columns in ({"caption": "title"}, {"caption": "{title}"}):
        with pytest.raises(ValueError, match=r"row has no column 'title'; it has name, dir, id\nhint: "):
            JsonRows(path, format="caption", columns=columns)[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"image": 1}\n{broken\n', r"row 1 of `rows\.json` is no JSON"),
        ("{}\n5\n", r"row 1 of `rows\.json` is 5; expected an object"),
        ("[5, 6]", r"row 1 of `rows\.json` is 6; expected an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=says + r"[^\n]*\nhint: "):
        JsonRows(path, format="caption")[1]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'[{"a": 1}, {"b": ', r"`rows\.json` is no whole list: row 1 cannot be read"),
        (b'[{"a": 1}, nonsense]', r"`rows\.json` is no whole list: row 1 cannot be read"),
        (b"a,b\n1,2\n", r"`rows\.json` holds neither a list nor a row per line"),
        (b"\x1f\x8b\x08", r"`rows\.json` is compressed"),
    ],
)
def test_a_file_that_cannot_be_indexed_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says + r"[^\n]*\nhint: "):
        JsonRows(path, format="caption")


@pytest.mark.parametrize("name", ["none.png", "http://x/fox.png", "../none/fox.png", "x" * 300 + ".png"])
def test_a_file_that_a_row_names_in_vain_is_refused(tmp_path: Path, name: str) -> None:
    put(str(tmp_path), {"rows.jsonl": lines(ROW | {"image": name})})
    with pytest.raises(ValueError, match=r"^[^\n]+\nhint: ") as caught:
        JsonRows(tmp_path / "rows.jsonl", format="caption")[0]
    assert caught.value.__notes__ == ["row 0 of `rows.jsonl`"]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    for name, text in (("a.jsonl", ""), ("b.json", "[]"), ("c.json", " [ \n]")):
        (tmp_path / name).write_text(text)
        assert len(JsonRows(tmp_path / name, format="caption")) == 0


@pytest.mark.parametrize("name", ["../fox.png", "a/../../fox.png", "/etc/hostname", "{folder}x/fox.png", ".."])
def test_no_name_leads_out_of_the_root(place: str, name: str) -> None:
    name = name.format(folder=url_to_fs(place)[1])
    put(place, {"rows/rows.jsonl": lines(ROW | {"image": name}), "fox.png": RED})
    with pytest.raises(
        ValueError, match=r"^row names [^\n]*, which lies outside of [^\n]*/rows`\nhint: give the source a"
    ):
        JsonRows(f"{place}/rows/rows.jsonl", format="caption")[0]


@pytest.mark.parametrize("name", ["./a/fox.png", "a/../a/fox.png", "{folder}/a/fox.png"])
def test_whatever_way_a_file_below_the_root_is_named_it_is_read(place: str, name: str) -> None:
    put(place, {"rows.jsonl": lines(ROW | {"image": name.format(folder=url_to_fs(place)[1])}), "a/fox.png": RED})
    assert colours(JsonRows(f"{place}/rows.jsonl", format="caption")) == ["red"]


# The index


def test_an_index_is_built_once_and_anew_when_the_file_changes(place: str, monkeypatch, cache: Path) -> None:
    put(place, {"rows.jsonl": lines(ROW), "fox.png": RED})
    assert len(JsonRows(f"{place}/rows.jsonl", format="caption")) == 1
    built = list((cache / "index").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(json_rows, "scan", lambda url: pytest.fail("scanned again"))
        assert colours(JsonRows(f"{place}/rows.jsonl", format="creation")) == ["red"]
    assert list((cache / "index").iterdir()) == built
    put(place, {"rows.jsonl": lines(ROW, ROW)})
    assert len(JsonRows(f"{place}/rows.jsonl", format="caption")) == 2


def test_a_damaged_index_is_built_again(tmp_path: Path, cache: Path) -> None:
    put(str(tmp_path), {"rows.jsonl": lines(ROW), "fox.png": RED})
    index(str(tmp_path / "rows.jsonl"))
    (kept,) = (cache / "index").iterdir()
    kept.write_bytes(b"nonsense")
    from limner.data.sources import index as indices

    indices._length.cache_clear()
    assert colours(JsonRows(tmp_path / "rows.jsonl", format="caption")) == ["red"]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch) -> None:
    put(str(tmp_path), {"rows.jsonl": lines(ROW), "taken": "x"})
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "taken"))
    with pytest.raises(
        ValueError, match=r"cannot write the index of [^\n]*\nhint: free some space there, or set LIMNER"
    ):
        JsonRows(tmp_path / "rows.jsonl", format="caption")


def test_a_file_that_shrank_is_named_and_never_misread(tmp_path: Path) -> None:
    put(str(tmp_path), {"rows.jsonl": lines(ROW, ROW), "fox.png": RED})
    source = JsonRows(tmp_path / "rows.jsonl", format="caption")
    (tmp_path / "rows.jsonl").write_text(lines(ROW)[:-9])
    with pytest.raises(ValueError, match=r"ends before byte \d+; it was longer when it was indexed\nhint: "):
        source[1]


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    put(str(tmp_path), {"rows.jsonl": lines(ROW), "fox.png": RED})
    source = JsonRows(tmp_path / "rows.jsonl", format="caption")
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(ValueError, match=r"cannot read [^\n]*\nhint: "):
        source[0]


def test_a_source_travels_to_another_process(tmp_path: Path) -> None:
    put(str(tmp_path), {"rows.jsonl": lines(ROW), "fox.png": RED})
    put(str(tmp_path), {"a.tar": tar({"1.txt": "a fox", "1.png": RED})})
    for source in (
        JsonRows(tmp_path / "rows.jsonl", format="caption"),
        TarShards(tmp_path / "a.tar", format="caption"),
    ):
        assert pickle.loads(pickle.dumps(source))[0] == source[0]


@pytest.mark.parametrize("name", ["none.jsonl", "none*.tar", "none.parquet", "none", "rows.txt"])
def test_what_is_not_there_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(ValueError, match=r"^(no such data file|no file matches|no source reads)[^\n]*\nhint: "):
        open_source(tmp_path / name, format="caption")


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot open `nowhere://a/b\.tar`[^\n]*\nhint: install the fsspec package"):
        open_source("nowhere://a/b.tar", format="caption")


# Shards


def test_a_sample_is_its_json_or_text_and_its_pictures(place: str) -> None:
    named = json.dumps({"image": "second.png", "caption": "a whale"})
    pair = json.dumps({"input_ids": [7, 7, 1], "labels": [0, 0, 1]})
    members = {
        "a.txt": "a fox\n",
        "a.png": RED,
        "b.json": named,
        "b-second.png": BLUE,
        "c.JSON": pair,
        "c.txt": "a cat",
    }
    put(
        place,
        {
            "0.tar": tar(
                members | {"c.PNG": BLUE, "x/d.e.png": RED, "x/d.json": '{"caption": "a dog", "image": "e.png"}'}
            )
        },
    )
    source = TarShards(f"{place}/0.tar", format="caption")
    assert words(source) == ["a fox", "a whale", "a cat", "a dog"]
    assert colours(source) == ["red", "blue", "blue", "red"]
    (tokenized,) = [TarShards(f"{place}/0.tar", format="tokenized_caption")[2]]
    assert tokenized.messages[0].parts[1].train


def test_an_interleaved_document_is_its_json_and_the_pictures_named_after_it(place: str) -> None:
    info = [{"image_name": "X1.png", "matched_text_index": 0}, {"image_name": "y.2.webp", "matched_text_index": 1}]
    page = json.dumps({"text_list": ["One.", "Two."], "image_info": info})
    for order in (["doc.json", "doc-x1.jpg", "doc-y.jpg"], ["doc-y.jpg", "doc-x1.jpg", "doc.json"]):
        members = {name: page if name == "doc.json" else RED if "x1" in name else BLUE for name in order}
        other = {"doc-2.json": json.dumps({"text_list": ["Three."], "image_info": info[:1]}), "doc-2-x1.jpg": BLUE}
        put(place, {"a.tar": tar(members | other)})
        source = TarShards(f"{place}/a.tar", format="interleaved")
        pictures = [[m.content.pil().getpixel((0, 0)) for _, m in source[n].media()] for n in range(2)]
        assert pictures == [[(255, 0, 0), (0, 0, 255)], [(0, 0, 255)]]


def test_a_target_beside_a_picture_is_found_by_its_ending(tmp_path: Path) -> None:
    put(str(tmp_path), {"a.tar": tar({"1.target.png": BLUE, "1.png": RED, "1.json": "{}"})})
    media = [
        m.content.pil().getpixel((0, 0)) for _, m in TarShards(tmp_path / "a.tar", format="image_image")[0].media()
    ]
    assert media == [(255, 0, 0), (0, 0, 255)]


def test_a_film_of_a_sample_is_its_video(tmp_path: Path) -> None:
    put(str(tmp_path), {"a.tar": tar({"1.mp4": b"film", "1.txt": "a fox runs"})})
    ((_, media),) = TarShards(tmp_path / "a.tar", format="video_caption")[0].media()
    assert media.payload.data == b"film"


def test_members_of_a_sample_may_lie_apart(tmp_path: Path) -> None:
    members = {"1.png": RED, "2.png": BLUE, "filler.bin": b"\1" * 900_000, "1.txt": "one", "2.txt": "two"}
    put(str(tmp_path), {"a.tar": tar(members)})
    source = TarShards(tmp_path / "a.tar", format="caption")
    assert [source[0].messages[0].text, source[1].messages[0].text] == ["one", "two"]
    with pytest.raises(ValueError, match=r"row key `caption` is None"):
        source[2]


def test_a_list_of_shards_stands_for_them(place: str) -> None:
    put(place, {f"s/{n}.tar": tar({"1.txt": n, "1.png": RED}) for n in "ab"})
    put(place, {"shards.json": json.dumps(["s/b.tar", "s/a.tar"]), "wrong.json": '{"a": 1}', "broken.json": "["})
    assert words(TarShards(f"{place}/shards.json", format="caption")) == ["b", "a"]
    for name in ("wrong", "broken"):
        with pytest.raises(ValueError, match=rf"{name}\.json` is no list of shards[^\n]*\nhint: "):
            TarShards(f"{place}/{name}.json", format="caption")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"c.json": '{"image": "b.png", "caption": "x"}'}, r"sample `c` names `b\.png`, which is not in 0\.tar"),
        ({"c.json": "{"}, r"`c\.json` is no JSON"),
        ({"c.json": "[]"}, r"`c\.json` holds \[\]; expected an object"),
        ({"c.txt": "a fox"}, r"row key `image` is None"),
        ({"c.png": RED}, r"row key `caption` is None"),
    ],
)
def test_a_bad_sample_is_named(tmp_path: Path, members: dict, says: str) -> None:
    put(str(tmp_path), {"0.tar": tar(members)})
    with pytest.raises(ValueError, match=says + r"[^\n]*\nhint: ") as caught:
        TarShards(tmp_path / "0.tar", format="caption")[0]
    assert caught.value.__notes__ == ["sample `c` of `0.tar`"]


def test_a_damaged_shard_is_refused_whole(tmp_path: Path) -> None:
    whole = tar({f"{n}.{kind}": "x" * 700 for n in range(4) for kind in ("txt", "json")})
    # Member n begins at 1536 n: in a header, in data, between two blocks, in the length of a header.
    damaged = {"header": whole[:1700], "data": whole[:2300], "noise": whole[:3072] + b"\7" * 512 + whole[3584:]}
    for name, data in damaged.items():
        put(str(tmp_path), {f"{name}.tar": data})
        with pytest.raises(ValueError, match=rf"shard `{name}\.tar` is no whole uncompressed tar [^\n]*\nhint: "):
            TarShards(tmp_path / f"{name}.tar", format="caption")
    # A writer that was stopped between two members leaves whole samples.
    put(str(tmp_path), {"unended.tar": whole[:3072]})
    assert tar_shards.scan(str(tmp_path / "unended.tar"))[0] == 1


# Folders


def test_pictures_of_a_folder_are_read_with_the_texts_beside_them(place: str) -> None:
    put(place, {"b.PNG": BLUE, "b.txt": "a whale\n", "a/fox.jpg": RED, "a/fox.txt": "a fox", "notes.txt": "x"})
    source = CaptionedFolder(place)
    assert words(source) == ["a fox", "a whale"]
    assert colours(source) == ["red", "blue"]
    put(place, {"a/cat.png": RED})
    again = CaptionedFolder(place)
    assert len(again) == 3
    with pytest.raises(ValueError, match=r"row names `a/cat\.txt`[^\n]*\nhint: ") as caught:
        again[0]
    assert caught.value.__notes__ == ["picture `a/cat.png`"]


def test_a_folder_is_listed_once_while_nothing_changes(tmp_path: Path, monkeypatch) -> None:
    put(str(tmp_path), {"d/a.png": RED, "d/a.txt": "a fox"})
    assert index(str(tmp_path / "d")) == 1
    monkeypatch.setattr("limner.data.sources.folder.scan", lambda url: pytest.fail("listed again"))
    assert words(CaptionedFolder(tmp_path / "d", format="creation")) == ["a fox"]


def test_an_empty_folder_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert len(CaptionedFolder(tmp_path / "d")) == 0
    with pytest.raises(ValueError, match=r"no such data file: [^\n]*\nhint: "):
        CaptionedFolder(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"no such folder: [^\n]*\nhint: "):
        CaptionedFolder(tmp_path / "file")


def test_several_folders_are_one_sequence(place: str) -> None:
    put(place, {"a/1.png": RED, "a/1.txt": "a fox", "b/1.png": BLUE, "b/1.txt": "a whale"})
    source = open_source([f"{place}/b", f"{place}/a"], format="caption")
    assert (words(source), colours(source)) == (["a whale", "a fox"], ["blue", "red"])


# Options


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("a", {"columns": {"caption": "text"}}, r"`columns` is given for `.*/a`: rows of a folder"),
        ("a", {"root": "."}, r"`root` is given for `.*/a`: pictures and texts"),
        ("a.tar", {"root": "."}, r"`root` is given for `.*/a\.tar`: a shard holds"),
        (["a", "a.tar"], {}, r"`.*/a` stands beside `.*/a\.tar`, which is of another kind"),
        ([], {}, "a source without files"),
    ],
)
def test_what_would_not_be_read_or_not_be_heeded_is_refused(tmp_path: Path, name, options: dict, says: str) -> None:
    put(str(tmp_path), {"a/1.png": RED, "a/1.txt": "a fox", "a.tar": tar({"1.png": RED, "1.txt": "a fox"})})
    names = [name] if isinstance(name, str) else name
    with pytest.raises(ValueError, match=says + r"[^\n]*\nhint: "):
        open_source([tmp_path / one for one in names], format="caption", **options)
    assert len(open_source(tmp_path / "a.tar", format="caption", columns={})) == 1


# Tables


@pytest.fixture(scope="module")
def table():
    datasets = pytest.importorskip("datasets")
    rows = [
        {"image": {"bytes": data, "path": None}, "text": text} for data, text in ((RED, "a fox"), (BLUE, "a whale"))
    ]
    return datasets.Dataset.from_list(
        rows, features=datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    )


def test_a_saved_folder_is_read_with_its_pictures_as_stored(tmp_path: Path, table) -> None:
    table.save_to_disk(str(tmp_path / "saved"))
    source = open_source(tmp_path / "saved", format="caption", columns={"caption": "text"})
    assert (words(source), colours(source)) == (["a fox", "a whale"], ["red", "blue"])
    assert next(source[0].media())[1].content.data == RED
    assert source[-1] == source[1]
    with pytest.raises(IndexError):
        source[2]
    arrow = open_source(str(tmp_path / "saved" / "*.arrow"), format="caption", columns={"caption": "text"})
    assert arrow[0] == source[0]


def test_a_saved_folder_of_splits_wants_one(tmp_path: Path, table) -> None:
    from datasets import DatasetDict

    DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "saved"))
    assert len(ArrowRows(tmp_path / "saved", format="caption", split="test")) == 2
    with pytest.raises(ValueError, match=r"has the splits train, test; got None\nhint: "):
        ArrowRows(tmp_path / "saved", format="caption")


def test_parquet_is_read_at_any_place(place: str, table) -> None:
    stream = io.BytesIO()
    table.to_parquet(stream)
    put(place, {"0.parquet": stream.getvalue()})
    source = open_source(f"{place}/*.parquet", format="caption", columns={"caption": "text"})
    assert (words(source), colours(source)) == (["a fox", "a whale"], ["red", "blue"])
    assert index(f"{place}/0.parquet") == 2
    with pytest.raises(ValueError, match=r"row key `caption` is None") as caught:
        open_source(f"{place}/0.parquet", format="caption")[1]
    assert caught.value.__notes__ == ["row 1 of `0.parquet`"]


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(numpy.random.default_rng(0).bytes(100))
        with pytest.raises(ValueError, match=r"cannot be read as a table [^\n]*\nhint: "):
            open_source(tmp_path / name, format="caption")
