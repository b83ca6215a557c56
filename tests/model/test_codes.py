"""Codes in the model: a term of their own, the same packed or not, alone or cached, saved or not."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import backward, picture, tiny_backbone, tiny_model
from tiny_codes import ColourQuantizer, code_documents, code_model_call, said, tiny_code_model
from torch import Tensor

from limner.config.serialize import to_json
from limner.data.collate import Collator
from limner.data.encoding import encode_documents
from limner.data.features import FeatureCache
from limner.data.mixture import Mixture
from limner.document.document import Direction, Document, Media
from limner.modalities.base import Codes, Modality
from limner.model.checkpoint import load_checkpoint, save_checkpoint
from limner.model.codes import quantise
from limner.train.objectives import Multimodal
from limner.train.stage import Packed


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory."""
    monkeypatch.setenv("LIMNER_FEATURES", str(tmp_path / "features"))
    return tmp_path / "features"


@pytest.fixture(scope="module", params=[False, True], ids=["codes read", "encoder reads"])
def model(request):
    return tiny_code_model(reads=request.param)


def _sequences(model):
    return [model.render(document, key=str(index)) for index, document in enumerate(code_documents())]


def _close(left, right) -> None:
    (totals, gradients), (other_totals, other_gradients) = left, right
    for name, (total, count) in totals.items():
        assert total == pytest.approx(other_totals[name][0], rel=1e-6)
        assert count == other_totals[name][1]
    for name, gradient in gradients.items():
        other = other_gradients[name]
        assert gradient is not None, name
        assert other is not None, name
        torch.testing.assert_close(gradient, other, atol=1e-5 * (1 + float(other.abs().max())), rtol=0, msg=name)


def test_words_and_codes_are_told_apart_and_together_are_all_targets(model) -> None:
    batch = Collator(model)([_sequences(model)])
    terms = model(batch, noise_key=(0,))
    assert set(terms) == {"text", "image"}
    assert float(terms["image"].count) == 18  # blue and green are made, red is read, white has no code
    logits = model.backbone.logits(model.hidden_states(batch)[:, :-1].flatten(0, 1))
    everything = F.cross_entropy(logits, batch.labels[:, 1:].flatten(), reduction="sum")
    assert float((terms["text"].sum + terms["image"].sum).detach()) == pytest.approx(
        float(everything.detach()), rel=1e-5
    )
    assert float(terms["text"].count + terms["image"].count) == float((batch.labels[:, 1:] >= 0).sum())


def test_counts_are_known_before_the_forward(model) -> None:
    batch = Collator(model)([_sequences(model)])
    terms = model(batch, noise_key=(0,))
    assert Multimodal().count(batch) == {name: float(term.count) for name, term in terms.items()}
    assert Multimodal(made=()).count(batch).keys() == model(batch, noise_key=(0,), made=()).keys() == {"text"}


@pytest.mark.parametrize("layout", [[[0], [1], [2], [3], [4]], [[0, 1, 4], [2, 3]], [[3, 4, 2], [1, 0]]])
def test_packed_rows_give_the_losses_and_gradients_of_one_long_row(model, layout) -> None:
    collate, sequences = Collator(model), _sequences(model)
    packed = backward(model, [collate([sequences])])
    _close(packed, backward(model, [collate([[sequences[index] for index in row] for row in layout])]))


def test_batches_of_one_give_what_one_batch_gives(model) -> None:
    collate, sequences = Collator(model), _sequences(model)
    whole = backward(model, [collate([[sequence] for sequence in sequences])])
    _close(whole, backward(model, [collate([[sequence]]) for sequence in sequences]))


def test_a_batch_without_codes_has_an_empty_term_and_every_gradient(model) -> None:
    batch = Collator(model)([[model.render(Document.page(["Only words."]))]])
    totals, gradients = backward(model, [batch])
    assert totals["image"] == [0.0, 0.0]
    assert None not in gradients.values()


def test_cached_codes_are_those_of_the_quantizer_and_an_item_is_quantised_once(model, monkeypatch) -> None:
    runs: list[int] = []
    forward = ColourQuantizer.forward

    def counted(self: ColourQuantizer, items: Tensor) -> Codes:
        runs.append(len(items))
        return forward(self, items)

    monkeypatch.setattr(ColourQuantizer, "forward", counted)
    fresh = tiny_code_model(reads=model.modality("image").encoder is not None)
    plain = [fresh.render(document) for document in code_documents()]
    num_plain = len(runs)
    caching = fresh.render.spelling(FeatureCache(fresh).spell)
    assert [caching(document) for document in code_documents()] == plain
    assert len(runs) == 2 * num_plain
    again = fresh.render.spelling(FeatureCache(fresh).spell)
    assert [again(document) for document in code_documents()] == plain
    assert [fresh.render(document) for document in code_documents()] == plain
    assert len(runs) == 2 * num_plain
    assert set(runs) == {1}


def test_encoding_ahead_covers_codes_in_the_direction_in_which_they_are_used(model, monkeypatch) -> None:
    reads = model.modality("image").encoder is not None
    fresh = copy.deepcopy(model).requires_grad_(False)
    cache = FeatureCache(fresh)
    mixture = Mixture(sources={"a": code_documents()})
    counts = encode_documents(mixture, cache=cache)
    assert counts["encoded image out"] == (3 if reads else 4)
    assert counts["encoded image in"] == (1 if reads else 0)
    monkeypatch.setattr(ColourQuantizer, "forward", None)
    render = fresh.render.spelling(FeatureCache(fresh).spell)
    assert [len(render(document).spans) for document in code_documents()] == [1, 1, 0, 1, 1]


def test_changed_weights_of_the_quantizer_are_other_codes(model) -> None:
    fresh = copy.deepcopy(model)
    spell = FeatureCache(fresh).spell
    media = said("red")
    before = fresh.render.spell(media), spell(media)
    with torch.no_grad():
        fresh.modality("image").quantizer.palette[[1, 2]] = fresh.modality("image").quantizer.palette[[2, 1]]
    after = fresh.render.spell(media), spell(media)
    assert before == ((1,) * 9, (1,) * 9)
    assert after == ((2,) * 9, (2,) * 9)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_packs_by_the_lengths_of_codes_in_workers_too(model, num_workers: int) -> None:
    mixture = Mixture(sources={"a": code_documents()}, seed=1)
    batches = Packed(row_length=64, num_rows=2, window=5)
    loader = batches.loader(mixture, model=model, num_workers=num_workers)
    batch = loader.next_batch()
    expected = batches.loader(mixture, model=model).next_batch()
    assert torch.equal(batch.ids, expected.ids)
    assert float(model(batch, noise_key=(0,))["image"].count) == float(batch.codes_of("image").sum()) > 0
    loader.close()


def test_condition_dropout_leaves_codes_to_learn(model) -> None:
    mixture = Mixture(sources={"a": [Document.page(["Draw ", said("red")])]}, seed=1, condition_dropout=0.5)
    lengths = {
        len(model.render(mixture.document(position)[0])) - 11  # codes and edges
        for position in range(16)
    }
    assert lengths == {1, 3}  # of the null prompt the stop token, of the others two words too


def test_a_saved_model_says_the_same(model, tmp_path: Path) -> None:
    reads = model.modality("image").encoder is not None
    save_checkpoint(model, tmp_path / "model", description=to_json(code_model_call(reads=reads)))
    loaded = load_checkpoint(tmp_path / "model", modules=["tiny_codes"])
    assert loaded.vocabulary == model.vocabulary
    batch = Collator(model)([_sequences(model)])
    other = Collator(loaded)([_sequences(loaded)])
    assert torch.equal(batch.ids, other.ids)
    with torch.no_grad():
        for name, term in model(batch, noise_key=(0,)).items():
            assert float(term.sum) == float(loaded(other, noise_key=(0,))[name].sum)


def test_rows_of_codes_begin_apart_and_small() -> None:
    model = tiny_code_model()
    fresh = type(model.backbone)(model.backbone.language_model, num_added=model.vocabulary.num_added)
    rows = fresh.added_input.detach()
    matrix = model.backbone.language_model.get_input_embeddings().weight.detach()
    assert len(rows.unique(dim=0)) == len(rows)
    assert float((rows - matrix.mean(dim=0)).std()) < float(matrix.std())


class Longwinded(ColourQuantizer):
    """Gives more codes than it says."""

    def forward(self, items: Tensor) -> Codes:
        """Ten of each."""
        return Codes(torch.zeros(10 * len(items), dtype=torch.long), torch.full((len(items),), 10))


class Wavering(ColourQuantizer):
    """Gives other codes at every call."""

    is_random = True


def test_more_codes_than_announced_are_refused() -> None:
    with pytest.raises(ValueError, match="gave 10 codes; its max_length is 9"):
        quantise(Longwinded(), torch.zeros(3, 24, 24))


def test_sides_that_exclude_one_another_are_refused() -> None:
    model = tiny_code_model()
    image, drawn = model.modality("image"), tiny_model().modality("image")
    with pytest.raises(ValueError, match="come together"):
        Modality(quantizer=image.quantizer)
    with pytest.raises(ValueError, match="other codes at every call"):
        Modality(quantizer=Wavering(), detokenizer=image.detokenizer)
    with pytest.raises(ValueError, match="one of the two"):
        Modality(
            queries=drawn.queries,
            output_projector=drawn.output_projector,
            decoder=drawn.decoder,
            quantizer=image.quantizer,
            detokenizer=image.detokenizer,
        )


def test_a_model_without_codes_says_so() -> None:
    model = tiny_code_model(reads=True)
    with pytest.raises(ValueError, match="cannot make `image`"):
        model.maker("image")
    assert model.speller("image").quantizer.num_codes == 7


def test_a_picture_that_cannot_be_decoded_is_a_bad_document(model) -> None:
    from limner.document.media import Image

    broken = Image.from_pil(picture("red").pil())
    data = Image(broken.png_bytes()[:60] + b"x" * 20)
    documents = [Document.page([Media(data, directions=(Direction.OUT,))]), *code_documents()]
    loader = Packed(row_length=64, num_rows=2, window=6).loader(Mixture(sources={"a": documents}, seed=1), model=model)
    assert loader.next_batch().num_tokens > 0
    assert loader.state_dict()["skipped"] == {"a/render": 1}


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("cohere", True), ("gemma2", True)])
def test_scores_within_a_block_are_those_of_all_ids(family: str, tied: bool) -> None:
    backbone = tiny_backbone(family, tied=tied, num_added=5)
    hidden = torch.randn(3, backbone.d_model, generator=torch.Generator().manual_seed(0))
    whole = backbone.logits(hidden)
    for ids in (range(48, 53), range(51, 55), range(2, 9)):
        found = backbone.logits_within(hidden, ids)
        assert found.shape == whole.shape
        torch.testing.assert_close(found[:, ids], whole[:, ids], atol=1e-6, rtol=1e-5)
        assert int(found.isfinite().sum()) == 3 * len(ids)


def test_a_quantizer_that_learns_beside_its_language_model_is_refused() -> None:
    model = tiny_code_model()
    model.modality("image").quantizer.palette.requires_grad_(True)
    with pytest.raises(ValueError, match="codes would change while they are learned"):
        Packed(row_length=64, num_rows=1).loader(Mixture(sources={"a": code_documents()}), model=model)
