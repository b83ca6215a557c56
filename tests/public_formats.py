"""Benchmarks of two to four questions in their public formats, written into a folder."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny import picture

PICTURES = {"one": "red", "two": "blue"}


def pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        colour = ("red", "blue")[number % 2]
        picture(colour).pil().save(folder / name)


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=1))


def vqav2(folder: Path) -> None:
    names = [f"COCO_val2014_{number:012d}.jpg" for number in (7, 8)]
    pictures(folder / "val2014", names)
    asked = [(10, 7, "colour?", "other"), (11, 7, "how many?", "number"), (12, 8, "is it red?", "yes/no")]
    questions = [{"question_id": q, "image_id": i, "question": text} for q, i, text, _ in asked]
    given = {10: ["red"] * 7 + ["dark red"] * 3, 11: ["1"] * 10, 12: ["no"] * 9 + ["yes"]}
    annotations = [
        {
            "question_id": q,
            "answer_type": kind,
            "answers": [{"answer": a, "answer_id": n} for n, a in enumerate(given[q])],
        }
        for q, _, _, kind in asked
    ]
    write(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"info": {}, "questions": questions})
    write(folder / "v2_mscoco_val2014_annotations.json", {"info": {}, "annotations": annotations})


def okvqa(folder: Path) -> None:
    vqav2(folder)
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").rename(folder / "OpenEnded_mscoco_val2014_questions.json")
    (folder / "v2_mscoco_val2014_annotations.json").rename(folder / "mscoco_val2014_annotations.json")


def vizwiz(folder: Path) -> None:
    pictures(folder / "val", ["a.jpg", "b.jpg"])
    rows = [
        {"image": "a.jpg", "question": "colour?", "answer_type": "other", "answers": [{"answer": "red"}] * 10},
        {
            "image": "b.jpg",
            "question": "what?",
            "answer_type": "unanswerable",
            "answers": [{"answer": "unanswerable"}] * 10,
        },
    ]
    write(folder / "Annotations" / "val.json", rows)


def textvqa(folder: Path) -> None:
    pictures(folder / "train_images", ["x.jpg", "y.jpg"])
    rows = [
        {"question_id": 1, "image_id": "x", "question": "colour?", "answers": ["red"] * 10},
        {"question_id": 2, "image_id": "y", "question": "what?", "answers": ["stop", "stop sign"] * 5},
    ]
    write(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})


def gqa(folder: Path) -> None:
    pictures(folder / "images", ["5.jpg"])
    rows = {
        "q1": {"imageId": "5", "question": "colour?", "answer": "red"},
        "q2": {"imageId": "5", "question": "what?", "answer": "wall"},
    }
    write(folder / "testdev_balanced_questions.json", rows)


def docvqa(folder: Path) -> None:
    pictures(folder / "documents", ["d.png"])
    rows = [
        {"questionId": 1, "image": "documents/d.png", "question": "colour?", "answers": ["red", "Red"]},
        {"questionId": 2, "image": "documents/d.png", "question": "what?", "answers": ["wail"]},
    ]
    write(folder / "val_v1.0_withQT.json", {"data": rows})


def infographicvqa(folder: Path) -> None:
    pictures(folder / "images", ["d.jpeg"])
    rows = [
        {"questionId": 1, "image_local_name": "d.jpeg", "question": "colour?", "answers": ["red"]},
        {"questionId": 2, "image_local_name": "d.jpeg", "question": "what?", "answers": ["nothing like it"]},
    ]
    write(folder / "infographicsVQA_val_v1.0_withQT.json", {"data": rows})


def easy_vqa(folder: Path) -> None:
    pictures(folder / "test" / "images", ["0.png", "1.png"])
    rows = [["colour?", "red", 0], ["what?", "circle", 0], ["is it red?", "no", 1]]
    write(folder / "test" / "questions.json", rows)


def pope(folder: Path) -> None:
    pictures(folder / "val2014", ["p.jpg", "q.jpg"])
    rows = [
        {"question_id": 1, "image": "p.jpg", "text": "is it red?", "label": "yes"},
        {"question_id": 2, "image": "p.jpg", "text": "is there a dog?", "label": "no"},
        {"question_id": 3, "image": "q.jpg", "text": "is there a cat?", "label": "no"},
        {"question_id": 4, "image": "q.jpg", "text": "is there a wall?", "label": "yes"},
    ]
    (folder / "coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def coco_captions(folder: Path) -> None:
    pictures(folder / "images", ["1.jpg", "2.jpg"])
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    said = {1: ["a red square", "a square that is red"], 2: ["a blue wall"]}
    rows = [{"image_id": key, "caption": text} for key, texts in said.items() for text in texts]
    write(folder / "captions_karpathy_test.json", {"images": images, "annotations": rows})


def nocaps(folder: Path) -> None:
    coco_captions(folder)
    old = folder / "captions_karpathy_test.json"
    data = json.loads(old.read_text())
    for image, domain in zip(data["images"], ("in-domain", "out-domain"), strict=True):
        image["domain"] = domain
    write(folder / "nocaps_val_4500_captions.json", data)
    old.unlink()


def flickr30k(folder: Path) -> None:
    pictures(folder / "flickr30k-images", ["1.jpg", "2.jpg", "3.jpg"])
    rows = [
        {"imgid": number, "filename": f"{number}.jpg", "split": split, "sentences": [{"raw": text}]}
        for number, split, text in [(1, "test", "a red square"), (2, "test", "a blue wall"), (3, "train", "a dog")]
    ]
    write(folder / "dataset_flickr30k.json", {"images": rows, "dataset": "flickr30k"})


def image_paragraphs(folder: Path) -> None:
    pictures(folder / "images", ["1.jpg", "2.jpg", "3.jpg"])
    rows = [(1, "a red square"), (2, "a blue wall"), (3, "a dog")]
    write(folder / "paragraphs_v1.json", [{"image_id": key, "paragraph": text} for key, text in rows])
    write(folder / "test_split.json", [1, 2])


def mmvet(folder: Path) -> None:
    pictures(folder / "images", ["v.png"])
    write(
        folder / "mm-vet.json",
        {"v1_0": {"imagename": "v.png", "question": "colour?", "answer": "red", "capability": ["rec"]}},
    )


def mmbench(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shown = base64.b64encode(picture("red").data).decode()
    head = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
    rows = [
        ["1", "colour?", "look", "red", "blue", "", "", "A", "colour", shown],
        ["2", "what?", "", "wall", "door", "tree", "", "A", "thing", shown],
    ]
    (folder / "mmbench_dev_en.tsv").write_text("".join("\t".join(row) + "\n" for row in [head, *rows]))


def coco_drawing(folder: Path) -> None:
    pictures(folder / "val2014", ["1.jpg", "2.jpg", "3.jpg"])
    images = [{"id": key, "file_name": f"{key}.jpg"} for key in (1, 2, 3)]
    said = [(1, "a red square"), (1, " "), (2, "a blue wall"), (3, "a red door")]
    rows = [{"image_id": key, "caption": text} for key, text in said]
    write(folder / "captions_val2014.json", {"images": images, "annotations": rows})


def ln_coco_drawing(folder: Path) -> None:
    pictures(folder / "val2017", [f"{key:012d}.jpg" for key in (7, 8)])
    rows = [(7, "In this picture we see red."), (8, "Here is a blue wall."), (7, "Another one about red.")]
    lines = [{"dataset_id": "mscoco_val2017", "image_id": str(key), "caption": text} for key, text in rows]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "coco_val_localized_narratives.jsonl").write_text(text)


ALL: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (
        vqav2, okvqa, vizwiz, textvqa, gqa, docvqa, infographicvqa, easy_vqa, pope, coco_captions, nocaps, flickr30k,
        image_paragraphs, mmvet, mmbench, coco_drawing, ln_coco_drawing,
    )
}  # fmt: skip
