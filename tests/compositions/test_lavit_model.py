"""LaVIT as a MultimodalLM says and draws what its own decoding does; parts are read when they are used."""

from pathlib import Path

import numpy
import PIL.Image
import pytest
import torch
from lavit_originals import HEADS, read_tiny, write_lavit_original

from limner.compositions.lavit import Lavit, read_lavit
from limner.compositions.lavit_generation import (
    CodeSettings,
    PixelSettings,
    codes_of,
    image_ids,
    pictures,
    prompt_ids,
)
from limner.compositions.lavit_model import lavit_model, model_of
from limner.compositions.lavit_pixels import Framing
from limner.compositions.lavit_understanding import Wording, caption, picture_blocks, say, texts_of, with_questions
from limner.compositions.layouts import convert
from limner.config.call import call
from limner.config.serialize import to_json
from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling
from limner.modalities.noise import keyed_generator
from limner.model.checkpoint import load_checkpoint, own, save_checkpoint
from limner.model.multimodal import MultimodalLM

MOST = 9
TEXT = "a red apple"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lavit_original(tmp_path_factory.mktemp("lavit"))


@pytest.fixture(scope="module")
def lavit(folder: Path) -> Lavit:
    return read_lavit(folder, heads=HEADS)


@pytest.fixture(scope="module")
def model(lavit: Lavit) -> MultimodalLM:
    found = model_of(lavit)
    lavit.max_codes = MOST
    return found


@pytest.fixture(scope="module")
def picture() -> Image:
    noise = numpy.random.default_rng(0).integers(0, 255, (28, 28, 3), dtype=numpy.uint8)
    return Image.from_pil(PIL.Image.fromarray(noise))


def drawn(*parts: str | Image | Media, **options) -> Request:
    settings = {"max_new_tokens": 1, "max_pictures": 1, "pictures": Pictures.NOW, "guidance_scale": 2.0}
    settings |= {"code_guidance_scale": 4.0, "num_inference_steps": 2, "size": (8, 8), "seed": 3}
    return Request(Document.chat([("user", list(parts))]), **(settings | options))


def _codes(lavit: Lavit, prompt: list[int]) -> list[int]:
    """What its own decoding says, greedily, where the end may be said at once."""
    settings = CodeSettings(sampling=Sampling(), max_new=MOST, min_new=0, guidance_scale=4.0)
    return codes_of(lavit, image_ids(lavit, [prompt], settings=settings).tolist())[0]


def _said(engine: Engine, request: Request) -> list[int]:
    running = engine.running(num_rows=2)
    (row,) = running.add([request])
    while running.step():
        pass
    return row.codes


def test_codes_of_a_text_are_those_of_its_own_decoding(lavit: Lavit, model: MultimodalLM) -> None:
    expected = _codes(lavit, prompt_ids(lavit, [TEXT]))
    assert expected
    assert _said(Engine(model), drawn(TEXT)) == expected


def test_codes_of_pictures_and_text_are_those_of_its_own_decoding(
    lavit: Lavit, model: MultimodalLM, picture: Image
) -> None:
    shown = Media(picture, directions=(Direction.OUT,))
    expected = _codes(lavit, prompt_ids(lavit, [picture, TEXT]))
    assert _said(Engine(model), drawn(shown, TEXT)) == expected


def test_the_picture_is_the_one_its_own_decoder_draws(lavit: Lavit, model: MultimodalLM) -> None:
    request = drawn(TEXT)
    (reply,) = Engine(model).run([request])
    settings = PixelSettings(Framing((8, 8)), num_inference_steps=2, guidance_scale=2.0)
    generators = [keyed_generator(request.seed, "picture", 0)]
    (expected,) = pictures(lavit, [_said(Engine(model), request)], settings=settings, generators=generators)
    (part,) = [media for _, media in reply.media()]
    found = torch.from_numpy(numpy.array(part.content.pil())).permute(2, 0, 1).float()
    assert float((found - ((expected.clamp(-1, 1) + 1) * 127.5).round()).abs().max()) <= 1


def test_a_question_is_answered_as_its_own_decoding_answers(lavit: Lavit, model: MultimodalLM, picture: Image) -> None:
    question = "Question: what is it Answer:"
    pixels = lavit.encoder.preprocess(Media(picture))[None]
    with torch.inference_mode():
        blocks = with_questions(lavit, picture_blocks(lavit, lavit.reader(pixels)), [question])
        wording = Wording(max_new=6, min_new=0, num_beams=1)
        expected = texts_of(lavit, say(lavit, blocks, wording=wording).ids)[0]
    request = Request(Document.chat([("user", [picture, question])]), max_new_tokens=6, pictures=Pictures.NONE)
    assert Engine(model).run([request])[0].messages[-1].text.strip() == expected


def test_text_to_picture_reads_no_encoder_and_answers_no_decoder(folder: Path, picture: Image) -> None:
    drawing = read_lavit(folder, heads=HEADS)
    Engine(model_of(drawing)).run([drawn(TEXT)])
    assert not {"encoder", "tokenizer", "reader", "low_res"} & set(vars(drawing))
    reading = read_lavit(folder, heads=HEADS)
    Engine(model_of(reading)).run(
        [Request(Document.chat([("user", [picture])]), max_new_tokens=2, pictures=Pictures.NONE)]
    )
    assert not {"tokenizer", "codebook", "low_res", "high_res"} & set(vars(reading))


def test_one_model_writes_a_page_with_a_picture_and_goes_on(model: MultimodalLM, picture: Image) -> None:
    page = Document.page([Media(picture, directions=(Direction.IN,)), "A story.", Media(picture), "And then"])
    (reply,) = Engine(model).run(
        [Request(page, max_new_tokens=3, max_pictures=1, size=(8, 8), num_inference_steps=1, pictures=Pictures.NOW)]
    )
    assert len(list(reply.media())) == 3


def test_it_learns_from_pictures_said_and_read(model: MultimodalLM, picture: Image) -> None:
    documents = [
        Document.page([TEXT, Media(picture, directions=(Direction.OUT,))]),
        Document.chat([("user", [picture]), ("assistant", TEXT)]),
    ]
    batch = Collator(model)([[model.render(document) for document in documents]])
    terms = model(batch, noise_key=(0,))
    assert float(terms["image"].count) == len(model.render.spell(Media(picture)))
    assert float(terms["text"].count) > 3
    assert all(bool(term.sum.isfinite()) for term in terms.values())


def test_a_checkpoint_names_the_folder_and_holds_none_of_it(folder: Path, tmp_path: Path) -> None:
    description = call(lavit_model, path=str(folder), heads=call(type(HEADS), **vars(HEADS)))
    model = lavit_model(path=str(folder), heads=HEADS)
    save_checkpoint(model, tmp_path / "model", description=to_json(description))
    assert sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors")) < 1000
    loaded = load_checkpoint(tmp_path / "model")
    assert loaded.vocabulary == model.vocabulary


def test_captions_can_be_asked_for_in_its_own_way_beside(lavit: Lavit, model: MultimodalLM, picture: Image) -> None:
    pixels = lavit.encoder.preprocess(Media(picture))[None]
    assert caption(lavit, pixels, wording=Wording(max_new=4, min_new=1)) is not None
    assert model.backbone is lavit.backbone


def test_a_size_or_sampler_that_does_not_suit_is_refused_at_once(folder: Path) -> None:
    engine = Engine(model_of(read_lavit(folder, heads=HEADS)))
    for options in ({"size": (9, 8)}, {"sampler": "euler"}):
        with pytest.raises(ValueError, match="expected ddim"):
            engine.run([drawn(TEXT, **options)])


def test_a_folder_becomes_ours_and_a_folder_again_with_what_was_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limner.compositions.lavit_model.read_lavit", read_tiny)
    assert convert(folder, tmp_path / "ours", to="limner", parts={}) == "lavit"
    ours = load_checkpoint(tmp_path / "ours")
    head = ours.backbone.language_model.lm_head.weight
    with torch.no_grad():
        head += 1.0
    own(ours, ["backbone.language_model.lm_head.weight"])
    description = call(lavit_model, path=str(folder))
    save_checkpoint(ours, tmp_path / "trained", description=to_json(description))
    assert convert(tmp_path / "trained", tmp_path / "back", to="lavit", parts={}) == "limner"
    back = read_lavit(tmp_path / "back", heads=HEADS)
    torch.testing.assert_close(back.backbone.language_model.lm_head.weight, head.bfloat16().float())
    torch.testing.assert_close(back.codebook.vectors, read_lavit(folder, heads=HEADS).codebook.vectors)


def test_parts_that_were_read_and_parts_still_to_be_read_follow_the_model(tmp_path: Path) -> None:
    lavit = read_lavit(write_lavit_original(tmp_path / "original"), heads=HEADS)
    model = model_of(lavit)
    _ = lavit.codebook
    model.to("meta")
    assert lavit.device.type == "meta"
    assert lavit.codebook.vectors.is_meta
    assert all(parameter.is_meta for parameter in lavit.reader.parameters())
