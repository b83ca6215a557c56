"""`limner data encode`: what it computes is what training finds."""

from pathlib import Path

import pytest

from limner.cli.data_cache import cache
from limner.cli.data_encode import encode
from limner.config.call import build
from limner.config.load import load
from limner.data import features
from limner.data.feature_store import features_root

RECIPE = """
import PIL.Image
from tiny import COLOURS, model_call

from limner.config.call import Call, call
from limner.data.mixture import FunctionSource, Mixture
from limner.document.document import Document
from limner.document.media import Image
from limner.train.objectives import Reconstruction
from limner.train.plan import Plan
from limner.train.stage import Packed, Pictures, Stage, Trainable


def page(index: int) -> Document:
    if index == 5:
        raise ValueError("row 5 is no JSON")
    picture = Image.from_pil(PIL.Image.new("RGB", (32, 32), COLOURS[index % 3]))
    return Document.chat([("user", "Draw."), ("assistant", [picture])])


def source() -> FunctionSource:
    return FunctionSource(page, 6)


def stage(name: str, glob: str, **changes) -> Call:
    options = {
        "mixture": call(Mixture, sources={"pages": call(source)}),
        "batching": call(Packed, row_length=64, num_rows=2),
        "loss_weights": {"text": 1.0, "image": 1.0},
    }
    return call(
        Stage, name=name, trainable=[call(Trainable, glob=glob, learning_rate=1e-3)], num_steps=1, **(options | changes)
    )


def config() -> Call:
    drawing = stage("drawing", "modalities.image.queries.*")
    return call(Plan, model=model_call(), stages=[drawing, stage("more", "modalities.image.queries.*")], seed=0)


def two() -> Call:
    pictures = stage(
        "pictures",
        "modalities.image.decoder.autoencoder.*",
        batching=call(Pictures, modality="image", num_items=2),
        objective=call(Reconstruction, modality="image"),
        loss_weights={"image.reconstruction": 1.0},
    )
    return call(Plan, model=model_call(), stages=[pictures, stage("drawing", "modalities.image.queries.*")], seed=0)
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LIMNER_FEATURES", str(tmp_path / "features"))
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every item that a frozen part computes in this process."""
    lines: list[str] = []
    compute = features.FrozenPart.compute

    def counted(part, media, **options):
        lines.append(f"{part.name} {part.direction}")
        return compute(part, media, **options)

    monkeypatch.setattr(features.FrozenPart, "compute", counted)
    return lines


def test_what_is_encoded_is_found_by_the_training(recipe, computed, tmp_path, capsys, caplog):
    from limner.train.plan import run_plan

    encode(recipe, stage=["drawing"], processes=1)
    assert capsys.readouterr().out.splitlines() == [
        "drawing\timage in\t3 encoded\t2 held",
        "drawing\timage out\t3 encoded\t2 held",
        "drawing\t1 of 6 documents skipped",
    ]
    assert "pages/5" in caplog.text
    assert len(computed) == 6
    run_plan(load(recipe), output=tmp_path / "run")
    assert len(computed) == 6


def test_it_goes_on_where_it_was(recipe, computed, capsys):
    encode(recipe, stage=["drawing"], processes=1)
    encode(recipe, stage=["drawing"], processes=1)
    assert len(computed) == 6
    assert "drawing\timage in\t0 encoded\t5 held" in capsys.readouterr().out


def test_processes_share_the_documents(recipe, computed, capsys):
    encode(recipe, stage=["drawing"], processes=2)
    lines = capsys.readouterr().out.splitlines()
    for line in lines[:2]:
        encoded, held = (int(word.split()[0]) for word in line.split("\t")[2:])
        assert encoded + held == 5
        assert encoded >= 3  # both may meet the same picture at the same time
    assert computed == []
    encode(recipe, stage=["drawing"], processes=1)
    assert computed == []


def test_weights_of_an_earlier_stage_are_waited_for(recipe, computed, tmp_path, capsys):
    from limner.train.plan import run_plan

    encode(f"{recipe}:two", processes=1)
    left_out = "left out: an earlier stage decides its weights; give that run with --run"
    assert capsys.readouterr().out.splitlines() == [
        "pictures\treads pixels, no features",
        f"drawing\timage in\t{left_out}",
        f"drawing\timage out\t{left_out}",
        "drawing\t1 of 6 documents skipped",
    ]
    assert computed == []
    run_plan(load(f"{recipe}:two"), output=tmp_path / "run")
    known = len(computed)
    folders = set(features_root().iterdir())
    encode(f"{recipe}:two", run=tmp_path / "run", processes=1)
    assert "drawing\timage out\t" in capsys.readouterr().out
    assert set(features_root().iterdir()) == folders  # the same weights as in the run
    assert len(computed) <= max(known, 6)


def test_what_cannot_be_encoded_is_said_at_once(recipe, tmp_path):
    with pytest.raises(ValueError, match=r"no stage `writing`.*\nhint: its stages are drawing, more"):
        encode(recipe, stage=["writing"])
    Path(recipe).write_text(RECIPE + "\n\ndef model() -> Call:\n    return model_call()\n")
    with pytest.raises(ValueError, match=r"expected a Plan\nhint: "):
        encode(f"{recipe}:model")


def test_a_process_that_fails_says_why_here(recipe, tmp_path):
    with pytest.raises(ValueError, match=r"\nhint: "):
        encode(f"{recipe}:two", stage=["drawing"], run=tmp_path / "nothing", processes=2)


def test_a_limit_encodes_what_training_takes_first(recipe, computed):
    encode(recipe, stage=["drawing"], max_documents=2)
    order = build(load(recipe)).stages[0].mixture
    taken = {order.draw(position).index % 3 for position in range(2) if order.draw(position).index != 5}
    assert len(computed) == 2 * len(taken)
    encode(recipe, stage=["drawing"])
    assert len(computed) == 6


def test_sources_without_an_end_are_not_begun_with(recipe, capsys):
    Path(recipe).write_text(RECIPE.replace("FunctionSource(page, 6)", "FunctionSource(lambda n: page(n % 5), 2**60)"))
    with pytest.raises(ValueError, match=r"as good as no end\nhint: give --max-documents"):
        encode(recipe, stage=["drawing"])
    encode(recipe, stage=["drawing"], max_documents=8)
    assert "drawing\timage in\t3 encoded\t5 held" in capsys.readouterr().out


def test_the_cache_is_listed_and_cleared(recipe, computed, tmp_path, capsys):
    encode(recipe, stage=["drawing"])
    capsys.readouterr()
    cache()
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split("\t")[1] for line in lines[:2]) == ["3 items", "3 items"]
    assert sorted(line.split("\t")[3] for line in lines[:2]) == ["image in", "image out"]
    assert lines[2].endswith("no limit (LIMNER_FEATURES_LIMIT)")
    with pytest.raises(ValueError, match=r"no features `nothing`\nhint: "):
        cache(["nothing"], clear=True)
    name = lines[0].split("\t")[0]
    cache([name], clear=True)
    assert [path.name for path in features_root().iterdir()] == [lines[1].split("\t")[0]]
    cache(clear=True)
    assert not list(features_root().iterdir())
