"""A data root with one made-up row of each published data set that recipes name, in that data set's own layout."""

import io
import json
import tarfile
from pathlib import Path

from tiny import picture

_PICTURE = picture("red").data


def write(root: Path) -> Path:
    """Fill `root` and return it."""
    for name in ("laion400m_orig", "laion_coco", "blip_laion"):
        _tar(root / name / "00000.tar", {"0.jpg": _PICTURE, "0.txt": b"A red picture."})
    page = {"text_list": ["A fox.", "Red."], "image_info": [{"image_name": "fox.jpg", "matched_text_index": 1}]}
    _tar(root / "mmc4_core" / "00000.tar", {"doc.json": json.dumps(page).encode(), "doc-fox.jpg": _PICTURE})
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    chat = {"image": "fox.jpg", "conversations": turns}
    _json(root / "llava_pretrain" / "blip_laion_cc_sbu_558k.json", chat)
    _json(root / "gqa" / "questions.json", chat)
    _json(root / "llavav1.5_instruct" / "llava_v1_5_mix665k.json", chat)
    _json(root / "mmc4_instruct_filtered224" / "pages.json", page | {"instruction": "Tell me of a fox."})
    said = {"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Red."}]}
    for name in ("name", "look", "listen", "compare"):
        _json(root / "speech_and_pictures" / f"{name}.train.jsonl", said | {"images": ["images/fox.jpg"]})
    return root


def _tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))


def _json(path: Path, row: dict) -> None:
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    (path.parent / "images" / "fox.jpg").write_bytes(_PICTURE)
    path.write_text(json.dumps(row) if path.suffix == ".jsonl" else json.dumps([row]))
