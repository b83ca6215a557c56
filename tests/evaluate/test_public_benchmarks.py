"""Every benchmark on a few questions in its public format, against scores worked by hand."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import public_formats
import pytest
from tiny import tiny_model

from limner.document.document import Document, Message, Text
from limner.evaluate.benchmark import Benchmark, Outcome
from limner.evaluate.benchmarks.easy_vqa import named_first
from limner.evaluate.benchmarks.mmbench import letter_of
from limner.evaluate.metrics.anls import similarity
from limner.evaluate.tasks import TASKS, open_task, where_from
from limner.generate.engine import Engine
from limner.generate.request import Request

REPLIES = {
    "colour?": "Red",
    "how many?": "one",
    "is it red?": "no",
    "is there a dog?": "No, there is none.",
    "is there a cat?": "yes",
    "is there a wall?": "yes",
    "what?": "wall",
    "Describe": "a red square",
}


OWN = (
    "drawing", "drawing_networks", "naming", "scene_drawing", "scene_pages", "scene_prompts", "scene_reading",
    "stories",
)  # fmt: skip


class Scripted:
    """Says what stands beside the first of its keys that the question holds. What is scored is the scoring."""

    model: Any = None

    def __init__(self, replies: Mapping[str, str]) -> None:
        self.replies = replies

    def run(self, requests: Sequence[Request], /) -> list[Document]:
        return [self._continued(request.document) for request in requests]

    def _continued(self, document: Document) -> Document:
        asked = next(message for message in document.messages if message.role == "user").text
        said = next(reply for text, reply in self.replies.items() if text in asked)
        begun = document.messages[-1]
        if begun.role == "assistant":
            return Document((*document.messages[:-1], Message("assistant", (*begun.parts, Text(said)))))
        return document.followed_by(Message("assistant", (Text(said),)))


def outcome(name: str, folder: Path, **options: Any) -> Outcome:
    public_formats.ALL[name](folder)
    benchmark = open_task(name, folder=folder, **options)
    assert isinstance(benchmark, Benchmark)
    return benchmark.run(Scripted(REPLIES), limit=None, seed=0)


def means(found: Outcome) -> dict[str, float]:
    return {score.name: round(score.value.mean, 6) for score in found.scores}


READ = round(similarity("wall", ["wail"]), 6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # red: 7 of 10 said it, so 1; one: all say 1, nothing is normalised, 0; no: 9 of 10, 1.
        ("vqav2", {"all": round(2 / 3, 6), "other": 1.0, "number": 0.0, "yes/no": 1.0}),
        ("okvqa", {"all": round(2 / 3, 6), "other": 1.0, "number": 0.0, "yes/no": 1.0}),
        ("vizwiz", {"all": 0.5, "other": 1.0, "unanswerable": 0.0}),
        ("textvqa", {"all": 0.5}),
        ("gqa", {"all": 1.0}),
        ("docvqa", {"all": round((1.0 + READ) / 2, 6)}),
        ("infographicvqa", {"all": 0.5}),
        # said: Red, wall, no; right: red, circle, no; named first: red, none of the answers, no.
        ("easy_vqa", {"all": 2 / 3, "what": 0.5, "yes or no": 1.0, "names the answer": 2 / 3}),
        # said: no no yes yes; right: yes no no yes.
        ("pope", {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "F1": 0.5, "yes": 0.5}),
    ],
)
def test_scores_are_those_worked_by_hand(name: str, expected: dict[str, float], tmp_path: Path) -> None:
    assert means(outcome(name, tmp_path)) == pytest.approx(expected, abs=1e-6)


# Said of both pictures: "a red square". "a" is in all references and weighs nothing, other n-grams weigh the same.
# Against itself: one for 1, 2 and 3 words, nothing for 4. Against "a square that is red": 2 / (sqrt(2) sqrt(4)) for
# one word, nothing for more, times the penalty for two pairs of words too few. Against "a blue wall": nothing.
ITSELF = 3 / 4 * 10 * 100
LONGER = 1 / math.sqrt(2) * math.exp(-(2**2) / (2 * 6**2)) / 4 * 10 * 100


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("coco_captions", (ITSELF + LONGER) / 2),
        ("nocaps", (ITSELF + LONGER) / 2),
        ("flickr30k", ITSELF),
        ("image_paragraphs", ITSELF),
    ],
)
def test_captions_score_as_worked_by_hand(name: str, right: float, tmp_path: Path) -> None:
    found = outcome(name, tmp_path)
    assert [item["score"] for item in found.items] == pytest.approx([right, 0.0], abs=1e-6)
    assert means(found)["CIDEr"] == pytest.approx(right / 2, abs=1e-5)
    if name == "nocaps":
        assert means(found)["CIDEr, in-domain"] == pytest.approx(right, abs=1e-5)


def test_domains_of_nocaps_have_scores_of_their_own(tmp_path: Path) -> None:
    assert set(means(outcome("nocaps", tmp_path))) == {"CIDEr", "CIDEr, in-domain", "CIDEr, out-domain"}


def test_a_choice_counts_only_when_it_is_right_in_every_rotation(tmp_path: Path) -> None:
    # "Red" and "wall" are choices, found wherever they stand.
    assert means(outcome("mmbench", tmp_path)) == {"circular": 1.0, "once": 1.0}
    always_a = open_task("mmbench", folder=tmp_path).run(Scripted({"": "A"}), limit=None, seed=0)
    assert means(always_a) == {"circular": 0.0, "once": 1.0}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A", "A"),
        ("(b) blue", "B"),
        ("B. blue", "B"),
        ("it is blue", "B"),
        ("A door", ""),
        ("red or blue", ""),
        ("", ""),
    ],
)
def test_the_letter_that_a_reply_stands_for(reply: str, expected: str) -> None:
    assert letter_of(reply, "colour?\nA. red\nB. blue") == expected


def test_rotations_that_stand_in_the_table_are_asked_as_they_stand(tmp_path: Path) -> None:
    public_formats.mmbench(tmp_path)
    file = tmp_path / "mmbench_dev_en.tsv"
    first = file.read_text().splitlines()[1].split("\t")
    turned = ["1000001", *first[1:3], first[4], first[3], *first[5:7], "B", *first[8:]]
    file.write_text(file.read_text() + "\t".join(turned) + "\n")
    benchmark = open_task("mmbench", folder=tmp_path)
    found = benchmark.run(Scripted(REPLIES), limit=None, seed=0)
    assert means(found) == {"circular": 1.0, "once": 1.0}
    assert [len(item["replies"]) for item in found.items] == [2, 3]
    # The first question in its own rotations by chance 1/4, the second in ours 1/27.
    assert found.scores[0].baseline == pytest.approx((1 / 4 + 1 / 27) / 2)
    rows = [line.split("\t") for line in found.submissions["mmbench.submission.tsv"].splitlines()]
    assert rows[0] == ["index", "question", "hint", "A", "B", "category", "C", "prediction"]
    assert [(row[0], row[-1]) for row in rows[1:]] == [("1", "A"), ("1000001", "B"), ("2", "A")]


def test_mm_vet_leaves_a_file_for_its_judge(tmp_path: Path) -> None:
    found = outcome("mmvet", tmp_path)
    assert found.scores == ()
    assert found.submissions == {"mmvet.submission": {"v1_0": "Red"}}


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("vqav2", {"question_id": 10, "answer": "red"}),
        ("okvqa", {"question_id": 10, "answer": "red"}),
        ("textvqa", {"question_id": 1, "image_id": "x", "answer": "red"}),
        ("vizwiz", {"image": "a.jpg", "answer": "red"}),
        ("gqa", {"questionId": "q1", "prediction": "red"}),
        ("docvqa", {"questionId": 1, "answer": "red"}),
        ("infographicvqa", {"questionId": 1, "answer": "red"}),
        ("coco_captions", {"image_id": 1, "caption": "a red square"}),
        ("nocaps", {"image_id": 1, "caption": "a red square"}),
    ],
)
def test_submissions_have_the_servers_form(name: str, first: dict[str, Any], tmp_path: Path) -> None:
    assert outcome(name, tmp_path).submissions[f"{name}.submission"][0] == first


@pytest.mark.parametrize("preset", ["dreamllm", "lavit"])
def test_ancestors_wordings_are_presets(preset: str, tmp_path: Path) -> None:
    found = outcome("vqav2", tmp_path, preset=preset)
    assert found.settings["preset"] == preset
    assert means(found)["other"] == 1.0  # what the reply was begun with is not part of the answer


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("Red", 1.0), ("It is a red circle.", 1.0), ("The circle is red.", 0.0), ("Green, like that?", 0.0), ("", 0.0)],
)
def test_the_answer_that_a_reply_names_first(reply: str, expected: float) -> None:
    assert named_first(reply, ("red",), among={"red", "blue", "circle"}) == expected


def test_a_constant_reply_is_no_better_than_the_baseline_says(tmp_path: Path) -> None:
    public_formats.easy_vqa(tmp_path)
    found = open_task("easy_vqa", folder=tmp_path).run(Scripted({"": "red"}), limit=None, seed=0)
    for score in found.scores:
        if score.name != "yes or no":
            assert score.value.mean == pytest.approx(score.baseline)


@pytest.mark.parametrize("name", [name for name in public_formats.ALL if not name.endswith("_drawing")])
def test_a_real_model_runs_through_every_benchmark(name: str, tmp_path: Path) -> None:
    public_formats.ALL[name](tmp_path)
    engine = Engine(tiny_model(), context_length=1024)
    found = open_task(name, folder=tmp_path).run(engine, limit=1, seed=0)
    assert len(found.items) == 1
    assert where_from(name)


def test_benchmarks_know_where_their_files_come_from() -> None:
    for name in TASKS:
        told = where_from(name)
        assert told.count("https://") == (name in public_formats.ALL and name != "easy_vqa")
        assert "Files" in told or "no files" in told or name in public_formats.ALL


def test_every_public_benchmark_is_under_test_here() -> None:
    assert {*public_formats.ALL, *OWN} == {*TASKS}
    assert {name for name, *_ in MISSING} | {"easy_vqa"} == {*public_formats.ALL}


MISSING = [
    ("vqav2", "v2_OpenEnded_mscoco_val2014_questions.json", "question_id", 4),
    ("vqav2", "v2_mscoco_val2014_annotations.json", "answers", 4),
    ("okvqa", "OpenEnded_mscoco_val2014_questions.json", "image_id", 4),
    ("okvqa", "mscoco_val2014_annotations.json", "question_id", 4),
    ("vizwiz", "Annotations/val.json", "question", 2),
    ("textvqa", "TextVQA_0.5.1_val.json", "image_id", 4),
    ("gqa", "testdev_balanced_questions.json", "answer", 2),
    ("docvqa", "val_v1.0_withQT.json", "image", 3),
    ("infographicvqa", "infographicsVQA_val_v1.0_withQT.json", "image_local_name", 3),
    ("pope", "coco_pope_random.json", "label", 1),
    ("coco_captions", "captions_karpathy_test.json", "caption", 13),
    ("nocaps", "nocaps_val_4500_captions.json", "file_name", 3),
    ("flickr30k", "dataset_flickr30k.json", "split", 3),
    ("image_paragraphs", "paragraphs_v1.json", "paragraph", 2),
    ("mmvet", "mm-vet.json", "imagename", 2),
    ("mmbench", "mmbench_dev_en.tsv", "question", 2),
    ("coco_drawing", "captions_val2014.json", "caption", 17),
    ("ln_coco_drawing", "coco_val_localized_narratives.jsonl", "caption", 1),
]
"""Where a field's name is misspelt for the first time, and the line of the record that then lacks it."""


@pytest.mark.parametrize(("name", "file", "field", "line"), MISSING)
def test_a_record_without_one_of_its_fields_is_refused_with_its_line(
    name: str, file: str, field: str, line: int, tmp_path: Path
) -> None:
    public_formats.ALL[name](tmp_path)
    text = (tmp_path / file).read_text()
    key = field if name == "mmbench" else f'"{field}"'
    assert key in text
    (tmp_path / file).write_text(text.replace(key, key.replace(field, field + "s"), 1))
    with pytest.raises(ValueError, match=rf"{Path(file).name}`, line \d+: no `{field}`\nhint: ") as raised:
        open_task(name, folder=tmp_path)
    assert f"line {line}:" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [(name, file) for name, file, _, _ in MISSING if name != "mmbench"]
    + [("easy_vqa", "test/questions.json"), ("image_paragraphs", "test_split.json")],
)
def test_a_file_that_was_cut_off_is_refused_with_its_line(name: str, file: str, tmp_path: Path) -> None:
    public_formats.ALL[name](tmp_path)
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text[: -len(text) // 3 - 7])
    with pytest.raises(ValueError, match=rf"{Path(file).name}`, line \d+: .*\nhint: "):
        open_task(name, folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "damage", "mended", "message"),
    [
        ("easy_vqa", "test/questions.json", '"circle",', "", r"line 7: expected \[question, answer, picture\]"),
        ("pope", "coco_pope_random.json", '"no"', '"maybe"', r"line 2: the label is `maybe`"),
        ("mmbench", "mmbench_dev_en.tsv", "\tthing", "", r"line 3: 9 cells for 10 columns"),
        ("mmbench", "mmbench_dev_en.tsv", "\tA\tcolour", "\tC\tcolour", r"line 2: the answer is `C`"),
        ("textvqa", "TextVQA_0.5.1_val.json", '"data"', '"other"', r"no `data`"),
        (
            "vqav2",
            "v2_mscoco_val2014_annotations.json",
            '"question_id": 12',
            '"question_id": 13',
            r"line 14: question 12",
        ),
        (
            "ln_coco_drawing",
            "coco_val_localized_narratives.jsonl",
            '"8"',
            '"x8"',
            r"line 2: the picture's number is `x8`",
        ),
    ],
)
def test_what_does_not_make_sense_is_refused_with_its_line(
    name: str, file: str, damage: str, mended: str, message: str, tmp_path: Path
) -> None:
    public_formats.ALL[name](tmp_path)
    text = (tmp_path / file).read_text()
    assert damage in text
    (tmp_path / file).write_text(text.replace(damage, mended, 1))
    with pytest.raises(ValueError, match=message):
        open_task(name, folder=tmp_path)


def test_missing_files_pictures_tasks_and_presets_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"questions\.json` is missing"):
        open_task("vqav2", folder=tmp_path)
    public_formats.gqa(tmp_path)
    (tmp_path / "images" / "5.jpg").unlink()
    with pytest.raises(ValueError, match=r"5\.jpg` is missing \(question q1\)"):
        open_task("gqa", folder=tmp_path).run(Scripted(REPLIES), limit=None, seed=0)
    with pytest.raises(ValueError, match="did you mean `vqav2`"):
        open_task("vqa2", folder=tmp_path)
    with pytest.raises(ValueError, match="`gqa` has no preset `mine`"):
        open_task("gqa", folder=tmp_path, preset="mine")


def test_records_under_each_form_have_their_lines(tmp_path: Path) -> None:
    from limner.evaluate.annotations import read_json

    file = tmp_path / "rows.json"
    file.write_text('{"info": {"rows": 1},\n"rows": [\n{"a": 1},\n\n{"a": "x"}]}\n')
    assert [(row.line, row.value) for row in read_json(file, under="rows")] == [(3, {"a": 1}), (5, {"a": "x"})]
    file.write_text(json.dumps({"k": {"a": 1}}))
    assert [(row.key, row.text("a")) for row in read_json(file)] == [("k", "1")]
