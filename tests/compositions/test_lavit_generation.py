"""What LaVIT does once it is read: it continues prompts, reads pictures, and draws them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lavit_originals import HEADS, PATCHES, write_lavit_original
from torch import Tensor

from limner.compositions.lavit import Lavit, read_lavit
from limner.compositions.lavit_decoding import BeamSettings, Limits, continue_by_beams, continue_rows
from limner.compositions.lavit_generation import (
    CodeSettings,
    PixelSettings,
    codes_of,
    generate,
    image_ids,
    pictures,
    prompt_ids,
    reconstruct,
)
from limner.compositions.lavit_pixels import HIGH_RES, LOW_RES, Framing
from limner.compositions.lavit_understanding import (
    Wording,
    answer,
    answer_of,
    caption,
    caption_of,
    cleaned_question,
    picture_blocks,
    say,
    with_prompts,
    with_questions,
)
from limner.document.media import Image
from limner.generate.sampling import Sampling
from limner.modalities.noise import keyed_generator
from limner.modalities.quantizers.selector import gumbel_noise

GREEDY = CodeSettings(sampling=Sampling(), max_new=12, min_new=4, guidance_scale=3.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lavit_original(tmp_path_factory.mktemp("lavit"))


@pytest.fixture(scope="module")
def lavit(folder: Path) -> Lavit:
    return read_lavit(folder, heads=HEADS)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(2, 3, 28, 28, generator=keyed_generator("pixels"))


def _generators(count: int) -> list[torch.Generator]:
    return [keyed_generator("lavit", number) for number in range(count)]


# Decoding.


def _rows(lavit: Lavit, *texts: str) -> list[Tensor]:
    ids = [[*lavit.text.markup_ids(text), lavit.ids.image_start] for text in texts]
    return [lavit.backbone.embed(torch.tensor([row]))[0] for row in ids]


def _logits(lavit: Lavit, rows: Tensor) -> Tensor:
    """Logits behind a row, without any cache."""
    seq = len(rows)
    positions, documents = torch.arange(seq)[None], torch.ones(1, seq, dtype=torch.long)
    hidden = lavit.backbone.packed_hidden_states(rows[None], positions=positions, documents=documents)
    return lavit.backbone.logits(hidden[0, -1:])[0]


@torch.inference_mode()
def test_guided_ids_are_those_of_two_branches_run_apart(lavit: Lavit) -> None:
    found = image_ids(lavit, [lavit.text.markup_ids("a cat"), []], settings=GREEDY)
    branches = [_rows(lavit, "a cat")[0], _rows(lavit, "")[0]]
    said: list[int] = []
    for _ in range(GREEDY.max_new):
        conditional, unconditional = (_logits(lavit, rows).log_softmax(dim=-1) for rows in branches)
        scores = unconditional + GREEDY.guidance_scale * (conditional - unconditional)
        scores[: lavit.ids.image_end] = float("-inf")
        if len(said) < GREEDY.min_new:
            scores[lavit.ids.image_end] = float("-inf")
        said.append(int(scores.argmax()))
        if said[-1] == lavit.ids.image_end:
            break
        new = lavit.backbone.embed(torch.tensor([said[-1:]]))[0]
        branches = [torch.cat([rows, new]) for rows in branches]
    row = found[0].tolist()
    assert row[0] == lavit.ids.image_start
    assert row[1 : 1 + len(said)] == said
    assert set(row[1 + len(said) :]) <= {lavit.ids.end}


def test_a_row_does_not_depend_on_its_batch(lavit: Lavit) -> None:
    prompts = [lavit.text.markup_ids(text) for text in ("a cat", "", "two dogs on a hill")]
    settings = replace(GREEDY, sampling=Sampling(temperature=1.0, top_k=5, top_p=0.9))
    together = image_ids(lavit, prompts, settings=settings, generators=_generators(3))
    for number, prompt in enumerate(prompts):
        alone = image_ids(lavit, [prompt], settings=settings, generators=[_generators(3)[number]])[0].tolist()
        assert together[number].tolist()[: len(alone)] == alone


def test_copies_of_a_prompt_are_as_if_it_had_been_given_twice(lavit: Lavit) -> None:
    prompt = lavit.text.markup_ids("a cat")
    settings = replace(GREEDY, sampling=Sampling(temperature=1.0))
    copied = image_ids(lavit, [prompt], settings=replace(settings, num_returned=2), generators=_generators(2))
    given = image_ids(lavit, [prompt, prompt], settings=settings, generators=_generators(2))
    assert torch.equal(copied, given)


def test_only_codes_and_the_end_are_drawn_unless_strays_are_let_through(lavit: Lavit) -> None:
    settings = replace(GREEDY, sampling=Sampling(temperature=5.0), max_new=40, min_new=40)
    prompts = [lavit.text.markup_ids("a cat")] * 4
    plain = image_ids(lavit, prompts, settings=settings, generators=_generators(4))
    assert plain[:, 1:].min() >= lavit.ids.first_code
    strays = image_ids(lavit, prompts, settings=replace(settings, strays=True), generators=_generators(4))[:, 1:]
    assert ((strays < lavit.ids.first_text) | (strays >= lavit.ids.image_start)).all()
    assert codes_of(lavit, [[0, 2, lavit.ids.image_start, lavit.ids.first_code + 3]]) == [[3]]


@torch.inference_mode()
@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.7])
def test_beams_that_hold_everything_find_the_best_of_all(lavit: Lavit, penalty: float) -> None:
    first, ids = lavit.ids.first_code, lavit.ids
    allowed = [ids.image_end, first, first + 1]
    limits = Limits(
        begin=ids.image_start,
        end=ids.image_end,
        pad=ids.end,
        max_new=3,
        suppressed=[token for token in range(ids.size) if token not in allowed],
    )
    rows = _rows(lavit, "a cat")
    beams = BeamSettings(num_beams=9, length_penalty=penalty)
    found = continue_by_beams(lavit.backbone, rows, limits=limits, beams=beams)
    best = max(
        _everything(lavit, rows[0], allowed=allowed, left=3, said=(), total=0.0), key=lambda e: e[0] / e[2] ** penalty
    )
    assert found.ids[0, 1 : 1 + len(best[1])].tolist() == list(best[1])
    assert found.scores[0].item() == pytest.approx(best[0] / best[2] ** penalty, rel=1e-4)


def _everything(
    lavit: Lavit, rows: Tensor, *, allowed: list[int], left: int, said: tuple[int, ...], total: float
) -> list[tuple[float, tuple[int, ...], int]]:
    """Sum, ids and length of every continuation; the length counts the first id, but not the end."""
    end = lavit.ids.image_end
    if left == 0:
        return [(total, said, len(said) + 1)]
    scores, found = _logits(lavit, rows).log_softmax(dim=-1), []
    for token in allowed:
        after = total + scores[token].item()
        if token == end:
            found.append((after, said, len(said) + 1))
            continue
        longer = torch.cat([rows, lavit.backbone.embed(torch.tensor([[token]]))[0]])
        found += _everything(lavit, longer, allowed=allowed, left=left - 1, said=(*said, token), total=after)
    return found


def test_wrong_counts_are_refused(lavit: Lavit) -> None:
    limits = Limits(begin=1, end=2, pad=2, max_new=1)
    with pytest.raises(ValueError, match="0 unconditional prompts for 1 rows"):
        continue_rows(lavit.backbone, _rows(lavit, "a"), limits=limits, sampling=Sampling(), guidance_scale=2.0)
    with pytest.raises(ValueError, match="sampling without random numbers"):
        image_ids(lavit, [[5]], settings=CodeSettings())
    with pytest.raises(ValueError, match="0 generators for 1 pictures"):
        pictures(lavit, [[1]], settings=PixelSettings(Framing((8, 8))))
    with pytest.raises(ValueError, match="size is 7x8"):
        pictures(lavit, [[1]], settings=PixelSettings(Framing((7, 8))), generators=_generators(1))
    with pytest.raises(ValueError, match="17 codes for one picture"):
        pictures(lavit, [[1] * 17], settings=PixelSettings(Framing((8, 8))), generators=_generators(1))
    with pytest.raises(ValueError, match="max_new is 0"):
        replace(limits, max_new=0)
    with pytest.raises(ValueError, match="num_beams is 1"):
        BeamSettings(1)
    settings = PixelSettings(Framing((8, 8)))
    with pytest.raises(ValueError, match="2 generators; expected 1"):
        generate(lavit, ["a"], codes=GREEDY, pixels=settings, generators=_generators(2))


# Reading.


def test_padding_stands_where_the_original_had_it_and_changes_nothing(lavit: Lavit, pixels: Tensor) -> None:
    noise = gumbel_noise(_generators(2), num_patches=PATCHES)
    blocks = picture_blocks(lavit, lavit.reader(pixels, noise=noise))
    questions = ["is it?", "what is there on the hill?"]
    behind, before = with_prompts(lavit, blocks, questions), with_questions(lavit, blocks, questions)
    assert behind.mask.sum(dim=1).tolist() == before.mask.sum(dim=1).tolist()
    assert before.mask.diff(dim=1).min() == 0  # padding in front alone
    for one, other in zip(behind.rows, before.rows, strict=True):
        torch.testing.assert_close(one, other)
    assert int(before.positions.max()) == int(before.mask.sum(dim=1).max()) - 1


def test_reading_is_deterministic_without_noise(lavit: Lavit, pixels: Tensor) -> None:
    assert torch.equal(lavit.reader(pixels).values, lavit.reader(pixels).values)


def test_captions_and_answers_are_text_alone(lavit: Lavit, pixels: Tensor) -> None:
    wording = Wording(max_new=6, min_new=2)
    blocks = picture_blocks(lavit, lavit.reader(pixels))
    assert int(say(lavit, blocks, wording=wording).ids.max()) < lavit.ids.text_size
    captions = caption(lavit, pixels, wording=wording)
    alone = [caption(lavit, pixels[number : number + 1], wording=wording)[0] for number in range(2)]
    assert captions == alone
    answers = answer(lavit, pixels, questions=["is it?", "what?"])
    assert [text.lower() for text in answers] == answers


def test_sampling_with_beams_is_refused(lavit: Lavit, pixels: Tensor) -> None:
    blocks = picture_blocks(lavit, lavit.reader(pixels))
    with pytest.raises(ValueError, match="sampling with num_beams = 2"):
        say(lavit, blocks, wording=Wording(sampling=Sampling(temperature=1.0)))


def test_texts_are_cut_as_the_original_cut_them() -> None:
    assert caption_of("  A dog. It runs.") == "A dog"
    assert answer_of(" Yes, it is.\nquestion: why") == "Yes"
    assert answer_of("red question: why") == "red "
    assert answer_of("Long answer: red") == ""
    assert cleaned_question('Is it: "RED"; or (blue)?!  ') == "is it red or blue?"
    assert len(cleaned_question("why " * 80).split()) == 50


# Drawing.


@pytest.mark.parametrize("decoder", [HIGH_RES, LOW_RES])
def test_a_picture_does_not_depend_on_its_batch_and_has_the_size_asked_for(lavit: Lavit, decoder: str) -> None:
    settings = PixelSettings(Framing((8, 12)), decoder=decoder, num_inference_steps=2)
    codes = [[1, 2, 3], [4, 5, 6, 7, 8]]
    together = pictures(lavit, codes, settings=settings, generators=_generators(2))
    assert together.shape == (2, 3, 8, 12)
    alone = pictures(lavit, codes[1:], settings=settings, generators=_generators(2)[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)


def test_the_unconditional_rows_of_low_res_see_nothing_behind_them(lavit: Lavit) -> None:
    decoder = lavit.low_res
    condition = decoder.condition(torch.randn(3, 6, generator=keyed_generator("codes")), torch.tensor([3]))[1]
    latents = torch.randn(1, 4, 4, 4, generator=keyed_generator("latents"))
    times, recorded = torch.tensor([500]), decoder.unconditional.shape[1]
    with torch.inference_mode():
        padded = decoder.diffusion.predict(latents, times, condition)
        alone = decoder.diffusion.predict(latents, times, condition[:, :recorded])
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


def test_high_res_is_told_sizes(lavit: Lavit) -> None:
    settings = PixelSettings(Framing((8, 8)), num_inference_steps=2)
    codes = [[1, 2, 3]]
    own = pictures(lavit, codes, settings=settings, generators=_generators(1))
    same = replace(settings, framing=Framing((8, 8), original_size=(8, 8)))
    assert torch.equal(own, pictures(lavit, codes, settings=same, generators=_generators(1)))
    other = replace(settings, framing=Framing((8, 8), original_size=(64, 64), corner=(9, 5)))
    assert not torch.equal(own, pictures(lavit, codes, settings=other, generators=_generators(1)))


def test_prompts_of_texts_and_pictures_become_ids_in_order(lavit: Lavit) -> None:
    array = torch.randint(0, 256, (20, 30, 3), generator=keyed_generator("picture"), dtype=torch.uint8)
    image = Image.from_array(array.numpy())
    text = lavit.text.markup_ids("a hill")
    found = prompt_ids(lavit, [image, "a hill", image])
    codes = found[: (len(found) - len(text)) // 2]
    assert found == [*codes, *text, *codes]
    assert all(token >= lavit.ids.first_code for token in codes)
    settings = PixelSettings(Framing((8, 8)), decoder=LOW_RES, num_inference_steps=1)
    drawn = generate(lavit, ["a cat", [image, "a hill"]], codes=GREEDY, pixels=settings, generators=_generators(2))
    assert drawn.shape == (2, 3, 8, 8)
    assert math.isfinite(drawn.sum().item())


def test_reconstruction_draws_what_the_codes_say(lavit: Lavit) -> None:
    images = torch.rand(2, 3, 20, 24, generator=keyed_generator("images"))
    settings = PixelSettings(Framing((8, 8)), num_inference_steps=1)
    made = reconstruct(lavit, images, settings=settings, generators=_generators(2))
    assert made.shape == (2, 3, 8, 8)
    assert made.abs().max() <= 1.0


def test_an_unknown_pixel_decoder_is_refused(lavit: Lavit) -> None:
    with pytest.raises(ValueError, match="no pixel decoder `midres`"):
        lavit.pixel_decoder("midres")
