"""Writes official_scores.json: made inputs and what the official implementations give for them.

    python record_official_scores.py --vqa DIR --pope DIR --output official_scores.json

`--vqa` holds vqaEval.py of https://github.com/GT-Vision-Lab/VQA (brought to Python 3), `--pope` evaluate.py of
https://github.com/AoiDragon/POPE. pycocoevalcap, anls and torch-fidelity are imported. Not a test: it is run where
these are installed.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PIECES = (
    "a", "an", "the", "The", "red", "Two", "ten", "none", "dont", "isnt", "couldnt've", "somebody'd", "left", "right",
    "x-ray", "1,000", "3.5", "5:30", "p.m.", "U.S.", "yes", "no", "No", "not", "dog", "dogs", "on", "grass", "t-shirt",
    "ma'am", "who've", "100%", "$5", "#1", "(two)", "left/right", "a_b", "wait...", "really?", "stop!", "1989", "blue,",
)  # fmt: skip
JOINTS = (" ", " ", " ", " ", ", ", ". ", "/", "-", "\n", "\t", "  ", " ,", ". ")


def phrase(rng: random.Random, longest: int = 4) -> str:
    """Words of PIECES, joined in ways that normalisers stumble over."""
    text = rng.choice(PIECES)
    for _ in range(rng.randint(0, longest - 1)):
        text += rng.choice(JOINTS) + rng.choice(PIECES)
    return text


def vqa(folder: Path, rng: random.Random) -> dict[str, Any]:
    """Normal forms of phrases, and the accuracy of questions with ten answers."""
    sys.path.insert(0, str(folder))
    from vqaEval import VQAEval  # pyright: ignore[reportMissingImports]

    asked = []
    for number in range(150):
        pool = [phrase(rng) for _ in range(rng.randint(1, 4))]
        asked.append((number, [rng.choice(pool) for _ in range(10)], rng.choice([*pool, pool[0].upper(), phrase(rng)])))
    known = {
        key: {
            "question_type": "made",
            "answer_type": "made",
            "answers": [{"answer": text, "answer_id": place} for place, text in enumerate(answers)],
        }
        for key, answers, _ in asked
    }
    replies = {key: {"answer": reply} for key, _, reply in asked}
    judge = VQAEval(SimpleNamespace(qa=known, getQuesIds=lambda: list(known)), SimpleNamespace(qa=replies), n=12)
    texts = [phrase(rng) for _ in range(150)]
    forms = [judge.processDigitArticle(judge.processPunctuation(text)) for text in texts]
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
    return {
        "normalised": list(zip(texts, forms, strict=True)),
        "accuracy": [[reply, answers, judge.evalQA[key] / 100] for key, answers, reply in asked],
    }


def pope(folder: Path, rng: random.Random) -> list[dict[str, Any]]:
    """Scores of replies, as printed."""
    program = (folder / "evaluate.py").read_text()
    found = []
    for _ in range(4):
        replies = ["No.", "Yes, it is.", *(phrase(rng, 6) for _ in range(48))]
        labels = ["no", "yes", *(rng.choice(("yes", "no")) for _ in range(48))]
        with tempfile.TemporaryDirectory() as work:
            for name, field, rows in (("ans_file", "answer", replies), ("label_file", "label", labels)):
                file = Path(work) / name
                file.write_text("".join(json.dumps({field: row}) + "\n" for row in rows))
                program_here = program.replace("ans_file = ''", f"ans_file = {str(Path(work) / 'ans_file')!r}")
            program_here = program_here.replace("label_file = ''", f"label_file = {str(Path(work) / 'label_file')!r}")
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(compile(program_here, "evaluate.py", "exec"), {})
        values = [float(line.rpartition(":")[2]) for line in said.getvalue().splitlines() if ": " in line]
        found.append({"replies": replies, "labels": labels, "scores": values})
    return found


def captions(rng: random.Random) -> dict[str, Any]:
    """CIDEr-D of captions that are words already."""
    from pycocoevalcap.cider.cider import Cider  # pyright: ignore[reportMissingImports]

    words = "a the dog cat man woman runs sits on under red green grass table with ball two large"

    def sentence() -> str:
        return " ".join(rng.choice(words.split()) for _ in range(rng.randint(3, 14)))

    references = {key: [sentence() for _ in range(rng.randint(1, 5))] for key in range(40)}
    said = {key: [rng.choice([sentence(), texts[0], texts[-1] + " ball"])] for key, texts in references.items()}
    _, scores = Cider().compute_score(references, said)
    return {
        "captions": [said[key][0] for key in references],
        "references": list(references.values()),
        "scores": list(map(float, scores)),
    }


def read_answers(rng: random.Random) -> list[Any]:
    """ANLS of short texts."""
    from anls import anls_score  # pyright: ignore[reportMissingImports]

    found = []
    for _ in range(120):
        answers = [phrase(rng, 3) for _ in range(rng.randint(1, 3))]
        letters = list(rng.choice(answers))
        for _ in range(rng.randint(0, 4)):
            letters[rng.randrange(len(letters))] = rng.choice("abc D")
        reply = "".join(letters)
        found.append([reply, answers, anls_score(prediction=reply, gold_labels=answers, threshold=0.5)])
    return found


def distances() -> list[dict[str, float]]:
    """FID and KID of seeded features: more, and fewer, items than values."""
    import numpy
    import torch
    import torch_fidelity.metric_fid as fid  # pyright: ignore[reportMissingImports]
    import torch_fidelity.metric_kid as kid  # pyright: ignore[reportMissingImports]

    found = []
    for items, others, width in ((64, 80, 8), (200, 150, 64), (50, 40, 96)):
        one = torch.from_numpy(numpy.random.RandomState(0).randn(items, width))
        other = torch.from_numpy(numpy.random.RandomState(1).randn(others, width) * 1.5 + 0.3)
        options = {"kid_subsets": 20, "kid_subset_size": 32, "kid_kernel": "poly", "kid_kernel_poly_degree": 3}
        options |= {"kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1.0, "rng_seed": 2020, "verbose": False}
        whole = fid.fid_statistics_to_metric(*map(fid.fid_features_to_statistics, (one, other)), False)
        part = kid.kid_features_to_metric(one, other, **options)
        found.append(
            {
                "items": items, "others": others, "width": width,
                "fid": float(whole[fid.KEY_METRIC_FID]), "kid": float(part[kid.KEY_METRIC_KID_MEAN]),
            }
        )  # fmt: skip
    return found


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("vqa", "pope", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    rng = random.Random(0)
    found = {
        "vqa": vqa(options.vqa, rng),
        "pope": pope(options.pope, rng),
        "cider": captions(rng),
        "anls": read_answers(rng),
        "distances": distances(),
    }
    options.output.write_text(json.dumps(found, indent=0) + "\n")


if __name__ == "__main__":
    main()
