"""The visual tokenizer of LaVIT, value by value, and what training it rests on."""

from pathlib import Path

import pytest
import ranks
import torch
import torch.nn.functional as F
from golden import lavit
from torch import nn

from limner.compositions import lavit_checkpoint as published
from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.decoders.feature_decoder import AttentionPool, FeatureDecoder
from limner.modalities.encoders.eva import EvaEncoder
from limner.modalities.noise import keyed_generator
from limner.modalities.quantizers.codebook import Codebook, perplexity
from limner.modalities.quantizers.dynamic import DynamicTokenizer
from limner.modalities.quantizers.merger import TokenMerger
from limner.modalities.quantizers.selector import TokenSelector, gumbel_noise, keep_mask
from limner.train.parallel import World


@pytest.fixture(scope="module")
def tokenizer() -> DynamicTokenizer:
    sizes, folder = lavit.sizes(), lavit.required() / "checkpoint" / "visual_tokenizer"
    vision, merger, codes = sizes["vision"], sizes["merger"], sizes["quantizer"]
    made = DynamicTokenizer(
        EvaEncoder(
            image_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            width=vision["width"],
            num_layers=vision["depth"],
            num_heads=vision["heads"],
            hidden=vision["mlp_hidden"],
        ),
        merger=_merger(merger),
        codebook=Codebook(codes["codes"], width=codes["code_dim"]),
    )
    encoder = published.read_tensors(folder / "eva_vitg_psz14.bin")
    published.fill(made.encoder, published.encoder_part(encoder), source="encoder")
    tensors = published.read_tensors(folder / "tokenizer_encoder.bin")
    published.fill(made.selector, published.part(tensors, published.SELECTOR), source="selector")
    published.fill(made.merger, published.part(tensors, published.MERGER), source="merger")
    published.fill(made.head, published.part(tensors, published.CODE_HEAD), source="head")
    published.fill(made.codebook, published.part(tensors, published.CODEBOOK), source="codebook", left=["usage"])
    return made.eval()


def _merger(sizes: dict) -> TokenMerger:
    return TokenMerger(sizes["width"], num_layers=sizes["depth"], num_heads=sizes["heads"], hidden=sizes["mlp_hidden"])


def test_pictures_are_squeezed_and_normalised_as_recorded(tokenizer: DynamicTokenizer) -> None:
    names = ["rgb_landscape", "rgb_portrait_small", "gray_square", "rgba_exact"]
    files = [lavit.required() / "inputs" / f"{name}.png" for name in names]
    got = torch.stack([tokenizer.encoder.preprocess(Media(Image.from_path(file))) for file in files])
    expected = lavit.case("preprocess")["out.pixels"]
    # Ours lays transparent pictures over white; the original drops the alpha channel.
    lavit.close(got[:3], expected[:3], atol=1e-5, rtol=1e-5)


def test_the_encoder_agrees_block_by_block(tokenizer: DynamicTokenizer) -> None:
    recorded = lavit.case("vit")
    rows = tokenizer.encoder.embed(lavit.case("preprocess")["out.pixels"])
    lavit.close(rows, recorded["out.embed"], atol=1e-5, rtol=1e-4)
    for number, block in enumerate(tokenizer.encoder.blocks):
        rows = block(rows)
        lavit.close(rows, recorded[f"out.block_{number}"], atol=1e-5, rtol=1e-4)
    pixels = lavit.case("preprocess")["out.pixels"]
    lavit.close(tokenizer.features(pixels), recorded["out.features"], atol=1e-5, rtol=1e-4)


def test_the_selector_and_its_noise_agree(tokenizer: DynamicTokenizer) -> None:
    got = tokenizer.selector(lavit.case("vit")["out.features"])
    lavit.close(got, lavit.case("selector")["out.logprobs"], atol=5e-5, rtol=5e-5)
    recorded = lavit.case("mask")
    keep = keep_mask(lavit.case("selector")["out.logprobs"], noise=recorded["noise.gumbel.0"])
    assert torch.equal(keep.to(torch.uint8), recorded["out.mask"])


@pytest.mark.parametrize("weights", ["generation", "understanding"])
def test_the_exact_merger_agrees_for_every_mask(tokenizer: DynamicTokenizer, weights: str) -> None:
    recorded = lavit.case("merger")
    merger = tokenizer.merger
    if weights == "understanding":
        merger = _merger(lavit.sizes()["merger"])
        file = lavit.required() / "checkpoint" / "language_model" / "visual_weight.bin"
        tensors = published.part(published.read_tensors(file), published.MERGER)
        published.fill(merger, tensors, source="visual_weight.bin")
    features = lavit.case("vit")["out.features"][recorded["in.features_index"]]
    got = merger(features, recorded["in.masks"].float())
    lavit.close(got, recorded[f"out.{weights}"], atol=1e-4, rtol=1e-4)


def test_codes_agree(tokenizer: DynamicTokenizer) -> None:
    recorded = lavit.case("quantizer")
    rows = tokenizer.merged(lavit.case("vit")["out.features"], lavit.case("mask")["out.mask"].float())
    lavit.close(rows.values, recorded["out.rows"], atol=1e-4, rtol=1e-4)
    head = tokenizer.head(rows.values)
    lavit.close(head, recorded["out.head"], atol=1e-4, rtol=1e-4)
    lavit.close(F.normalize(head, dim=-1), recorded["out.z"], atol=1e-4, rtol=1e-4)
    found = tokenizer.codebook(head)
    assert torch.equal(found.codes, recorded["out.codes"])
    lavit.close(tokenizer.codebook.vectors[found.codes], recorded["out.z_q"], atol=1e-4, rtol=1e-4)


def test_a_picture_becomes_its_recorded_tokens(tokenizer: DynamicTokenizer) -> None:
    recorded, sizes = lavit.case("tokenize_image"), lavit.sizes()
    tokens = tokenizer(lavit.case("preprocess")["out.pixels"], noise=recorded["noise.gumbel.0"])
    assert torch.equal(tokens.codes + sizes["ids"]["first_code"], recorded["out.ids"])
    assert torch.equal(tokens.lengths, recorded["out.counts"])


def test_rows_for_the_language_model_agree(tokenizer: DynamicTokenizer) -> None:
    recorded = lavit.case("encode_features")
    tensors = published.read_tensors(lavit.required() / "checkpoint" / "language_model" / "visual_weight.bin")
    merger = _merger(lavit.sizes()["merger"])
    published.fill(merger, published.part(tensors, published.MERGER), source="visual_weight.bin")
    projection = nn.Linear(lavit.sizes()["merger"]["width"], lavit.sizes()["language_model"]["hidden_size"])
    published.fill(projection, published.part(tensors, published.PROJECTION), source="visual_weight.bin")
    features = tokenizer.features(lavit.case("preprocess")["out.pixels"])
    rows = merger.exact(features, tokenizer.keep(features, noise=recorded["noise.gumbel.0"]))
    lavit.close(projection(rows.values), recorded["out.rows"], atol=1e-4, rtol=1e-4)
    assert torch.equal(rows.lengths, recorded["out.counts"])


@pytest.mark.parametrize(
    ("name", "tolerance"), [("feature_decoder", (2e-4, 1e-4)), ("feature_decoder_empty_row", (1e-2, 1e-3))]
)
@pytest.mark.parametrize("kind", ["lowres", "highres"])
def test_features_and_conditions_come_back_as_recorded(
    tokenizer: DynamicTokenizer, kind: str, name: str, tolerance: tuple[float, float]
) -> None:
    sizes, recorded = lavit.sizes(), lavit.case(name)
    wanted = sizes["feature_decoder"]
    file = {"lowres": "tokenizer_decoder.bin", "highres": "highres_tokenizer_decoder.bin"}[kind]
    tensors = published.read_tensors(lavit.required() / "checkpoint" / "visual_tokenizer" / file)
    decoder = FeatureDecoder(
        code_width=sizes["quantizer"]["code_dim"],
        width=wanted["width"],
        num_patches=sizes["num_patches"],
        num_layers=wanted["depth"],
        num_heads=wanted["heads"],
        hidden=wanted["mlp_hidden"],
        width_out=wanted["out_width"],
    )
    published.fill(decoder, published.part(tensors, published.FEATURE_DECODER), source=file)
    values = tokenizer.codebook.vectors[recorded["in.codes"]]
    features = decoder(values, recorded["in.counts"])
    atol, rtol = tolerance
    if f"out.{kind}.features" in recorded:
        lavit.close(features, recorded[f"out.{kind}.features"], atol=atol, rtol=rtol)
    names = ["unet_proj"] if kind == "lowres" else ["unet_proj_1", "unet_proj_2"]
    condition = torch.cat([F.linear(features, tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in names], dim=-1)
    lavit.close(condition, recorded[f"out.{kind}.cond"], atol=atol, rtol=rtol)
    if kind == "highres":
        pool = AttentionPool(
            wanted["out_width"],
            num_rows=sizes["num_patches"],
            num_heads=wanted["attnpool_heads"],
            width_out=wanted["pooled"],
        )
        published.fill(pool, published.part(tensors, published.ATTENTION_POOL), source=file)
        lavit.close(pool(features), recorded["out.highres.pooled"], atol=atol, rtol=rtol)


def test_a_file_of_another_model_is_refused_by_name(tokenizer: DynamicTokenizer) -> None:
    tensors = published.part(
        published.read_tensors(lavit.required() / "checkpoint" / "visual_tokenizer" / "tokenizer_encoder.bin"),
        published.MERGER,
    )
    tensors.pop("norm.bias")
    with pytest.raises(ValueError, match=r"lacks 1 tensors: norm\.bias"):
        published.fill(tokenizer.merger, tensors, source="tokenizer_encoder.bin")


# What needs no recorded value.


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(4, 12, 16, generator=keyed_generator("features"))


@pytest.fixture
def merger() -> TokenMerger:
    torch.manual_seed(0)
    return TokenMerger(16, num_layers=2, num_heads=2, hidden=32)


def test_packed_and_exact_agree_where_scores_are_small(merger: TokenMerger, features: torch.Tensor) -> None:
    keep = (torch.rand(4, 12, generator=keyed_generator("keep")) < 0.4).float()
    keep[2], keep[3] = 1.0, 0.0  # all kept; none kept
    exact, packed = merger.exact(features, keep), merger.packed(features, keep)
    assert torch.equal(exact.lengths, packed.lengths)
    torch.testing.assert_close(packed.values, exact.values, atol=1e-4, rtol=1e-4)


def test_nothing_kept_at_all_gives_no_rows(merger: TokenMerger, features: torch.Tensor) -> None:
    rows = merger.packed(features, torch.zeros(4, 12))
    assert rows.values.shape == (0, 16)
    assert rows.lengths.tolist() == [0, 0, 0, 0]


def test_a_pictures_rows_do_not_depend_on_its_batch(merger: TokenMerger, features: torch.Tensor) -> None:
    keep = (torch.rand(4, 12, generator=keyed_generator("keep")) < 0.5).float()
    together = merger.packed(features, keep).values
    alone = torch.cat([merger.packed(features[i : i + 1], keep[i : i + 1]).values for i in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_decision_to_keep_learns_from_what_is_made_of_it(merger: TokenMerger, features: torch.Tensor) -> None:
    torch.manual_seed(0)
    selector = TokenSelector(16)
    noise = gumbel_noise([keyed_generator("noise", i) for i in range(4)], num_patches=12)
    merger(features, keep_mask(selector(features), noise=noise)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in selector.parameters())


def test_without_noise_the_more_probable_is_taken() -> None:
    probable = torch.tensor([[[0.6, 0.4], [0.4, 0.6], [0.5, 0.5]]]).log()
    assert keep_mask(probable).tolist() == [[1.0, 0.0, 1.0]]


def test_each_pictures_noise_is_its_own() -> None:
    both = gumbel_noise([keyed_generator("a"), keyed_generator("b")], num_patches=5)
    assert torch.equal(both[1], gumbel_noise([keyed_generator("b")], num_patches=5)[0])


def test_the_codebook_finds_clusters_and_uses_all_codes() -> None:
    generator = keyed_generator("rows")
    centres = F.normalize(torch.randn(8, 4, generator=generator), dim=-1)
    rows = centres.repeat_interleave(32, dim=0) + 0.02 * torch.randn(256, 4, generator=generator)
    codebook = Codebook(8, width=4)
    codebook.initialise(rows, generator=generator)
    for _ in range(50):
        found = codebook(rows)
        codebook.update(rows, found.codes, generator=generator)
    counts = torch.bincount(codebook(rows).codes, minlength=8).float()
    assert (counts > 0).all()
    assert perplexity(counts) > 7.0
    torch.testing.assert_close(codebook.vectors.norm(dim=-1), torch.ones(8))


def test_values_carry_the_gradient_of_their_rows() -> None:
    rows = torch.randn(5, 4, generator=keyed_generator("rows"), requires_grad=True)
    torch.manual_seed(0)
    found = Codebook(6, width=4)(rows)
    found.values[:, 0].sum().backward()
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0


def test_too_few_rows_to_begin_with_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows to begin 8 codes"):
        Codebook(8, width=4).initialise(torch.randn(3, 4), generator=keyed_generator(0))


def test_more_codes_than_patches_are_refused() -> None:
    decoder = FeatureDecoder(code_width=4, width=8, num_patches=4, num_layers=1, num_heads=2, hidden=8, width_out=8)
    with pytest.raises(ValueError, match="5 codes for one picture"):
        decoder(torch.randn(5, 4), torch.tensor([5]))


def _codebook_of_a_rank(world: World) -> torch.Tensor:
    """The codebook after steps in which codes die, and in some of which the first rank has no row."""
    torch.manual_seed(0)
    codebook = Codebook(32, width=4, revive_below=0.9)
    generator = keyed_generator("revive", world.rank)
    for step in range(8):
        num_rows = 0 if world.rank == 0 and step % 3 == 0 else 6
        rows = torch.randn(num_rows, 4, generator=keyed_generator(step, world.rank))
        codebook.update(rows, codebook(rows).codes, generator=generator)
    return codebook.vectors


def test_the_codebook_is_the_same_on_all_ranks(tmp_path: Path) -> None:
    first, second = ranks.run(_codebook_of_a_rank, num_ranks=2, directory=tmp_path)
    assert torch.equal(first, second)
