"""How the published DreamLLM computes losses and conditions, over Limner's own parts.

Parity only. It finds pictures by their begin tokens, counts positions through padding, takes the loss of every
micro-batch by itself, gives its unconditional branch ids that are never sampled from, and learns nothing of a picture
in eval mode. Every draw is an argument, because the order of the original's depends on how its tensors lie in memory.

    recorded ids, mask, labels, pixels --legacy_batch--> Batch --legacy_losses (draws, rules)--> LegacyLosses
    prompt ids --prompt_states--> hidden states at the queries that follow a prompt
"""

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.document.document import Direction
from limner.modalities.decoders.latent_diffusion import LatentDiffusion
from limner.modalities.decoders.variational import VariationalAutoencoder
from limner.model.anchor import anchor
from limner.model.losses import text_loss
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED, Batch, SpanBatch

IMAGE = "image"
"""The one modality of the published model."""


@dataclass(frozen=True, kw_only=True)
class LossRules:
    """Settings of the published heads; `drop_prob` None switches the unconditional branch off."""

    weight_lm: float = 1.0
    weight_vm: float = 10.0
    scale_schedule: str = "none"
    drop_prob: float | None = None
    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    snr_gamma: float | None = None
    prediction_type: str = ""

    @property
    def scale(self) -> float:
        """What the weighted sum of losses is divided by. Raises ValueError for an unknown schedule."""
        scales = {
            "none": 1.0,
            "l1_norm": self.weight_lm + self.weight_vm,
            "l2_norm": math.hypot(self.weight_lm, self.weight_vm),
        }
        if self.scale_schedule not in scales:
            raise ValueError(
                f"loss_scale_schedule is `{self.scale_schedule}`\nhint: expected one of {', '.join(scales)}"
            )
        return scales[self.scale_schedule]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Everything that the loss of made pictures draws, one entry per picture.

    drop_mask: 1 where the condition is replaced by the unconditional one.
    """

    vae_noise: Float[Tensor, "items channels latent_height latent_width"]
    noise: Float[Tensor, "items channels latent_height latent_width"]
    timesteps: Int[Tensor, " items"]
    offset_noise: Float[Tensor, "items channels 1 1"] | None = None
    perturb_noise: Float[Tensor, "items channels latent_height latent_width"] | None = None
    drop_mask: Float[Tensor, " items"] | None = None


@dataclass(frozen=True, kw_only=True)
class Creation:
    """What the loss of made pictures passes through; `decoder` is the model's under the rules of the loss."""

    condition: Float[Tensor, "items queries d_model"]
    unconditional: Float[Tensor, "queries d_model"] | None
    projected: Float[Tensor, "items queries width"]
    latents: Float[Tensor, "items channels latent_height latent_width"]
    decoder: LatentDiffusion
    loss: Float[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class LegacyLosses:
    """`lm` and `vm` unweighted, `total` weighted and scaled; `creation` None where nothing is made."""

    lm: Float[Tensor, ""]
    vm: Float[Tensor, ""]
    total: Float[Tensor, ""]
    hidden: Float[Tensor, "batch seq d_model"]
    creation: Creation | None


def legacy_batch(
    model: MultimodalLM,
    ids: Int[Tensor, "batch seq"],
    *,
    mask: Int[Tensor, "batch seq"],
    labels: Int[Tensor, "batch seq"] | None = None,
    read: Tensor | None = None,
    made: Tensor | None = None,
) -> Batch:
    """A padded batch of the original as ours: positions run through padding, and padding is no document.

    `read` and `made` are the pixels of all pictures, in row order; without `made`, slots of pictures to be made hold
    the ids that stand there, as in the original. Raises ValueError when ids and pictures do not agree in number.
    """
    positions = torch.arange(ids.shape[1]).expand_as(ids).contiguous()
    spans = {}
    for direction, pixels in ((Direction.IN, read), (Direction.OUT, made)):
        if pixels is None or not len(pixels):
            continue
        begin = model.vocabulary.span(IMAGE, direction).begin
        starts = torch.nonzero(ids.flatten() == begin).flatten() + 1
        spans[IMAGE, direction] = _span_batch(model, starts, pixels, direction=direction)
    return Batch(
        ids=ids,
        positions=positions,
        documents=mask.long(),
        labels=torch.full_like(ids, IGNORED) if labels is None else labels,
        spans=spans,
    )


def _span_batch(model: MultimodalLM, starts: Tensor, pixels: Tensor, *, direction: Direction) -> SpanBatch:
    """Spans of pictures from their first slots on."""
    if len(starts) != len(pixels):
        raise ValueError(
            f"{len(starts)} begin tokens of pictures ({direction}) and {len(pixels)} pictures\n"
            "hint: every begin token needs its picture"
        )
    reads = direction is Direction.IN
    length = slots_of_picture(model) if reads else model.maker(IMAGE).queries.num_queries
    return SpanBatch(
        slots=(starts[:, None] + torch.arange(length)).flatten(),
        lengths=torch.full((len(starts),), length),
        values=pixels,
        keys=tuple(str(index) for index in range(len(starts))),
    )


def slots_of_picture(model: MultimodalLM) -> int:
    """Slots of a picture that is read: the same for every picture."""
    encoder: Any = model.reader(IMAGE).encoder
    return model.reader(IMAGE).input_projector.measure(encoder.num_patches)


def legacy_losses(model: MultimodalLM, batch: Batch, *, draws: Draws | None, rules: LossRules) -> LegacyLosses:
    """The loss of a micro-batch. `draws` None, as in the original's eval mode, leaves made pictures out of it.

    Parts that the batch does not use get a zero gradient instead of none, so optimisers move them on.
    """
    hidden = model.hidden_states(batch)
    lm = text_loss(model.backbone, hidden, batch).mean + anchor([], device=model.device, also=hidden)
    makes = model.modality(IMAGE).maker is not None
    spans = batch.spans.get((IMAGE, Direction.OUT))
    creation = None
    if spans is not None and draws is not None:
        creation = _creation(model, spans, hidden, draws=draws, rules=rules)
    absent = () if creation is not None or not makes else model.maker(IMAGE)
    vm = anchor(absent, device=model.device)
    if creation is not None:
        vm = vm + creation.loss
    total = (rules.weight_vm * vm + rules.weight_lm * lm) / rules.scale
    return LegacyLosses(lm=lm, vm=vm, total=total, hidden=hidden, creation=creation)


def _creation(model: MultimodalLM, spans: SpanBatch, hidden: Tensor, *, draws: Draws, rules: LossRules) -> Creation:
    """The diffusion loss: mean over elements, then over pictures."""
    decoder = decoder_with(model, rules)
    condition = model.out_hidden(spans, hidden)
    unconditional, chosen = None, condition
    if rules.drop_prob is not None:
        assert draws.drop_mask is not None, "a drop probability comes with what was drawn for it"
        unconditional = unconditional_states(model)
        drop = draws.drop_mask[:, None, None]
        chosen = (1.0 - drop) * condition + drop * unconditional
    projected = model.condition(IMAGE, chosen)
    latents = latent_space(decoder).latents_of(decoder.encode(spans.values), noise=draws.vae_noise)
    losses = decoder.loss_of(
        projected,
        latents,
        noise=draws.noise,
        timesteps=draws.timesteps,
        offset_noise=draws.offset_noise,
        perturbation=draws.perturb_noise,
    )
    return Creation(
        condition=condition,
        unconditional=unconditional,
        projected=projected,
        latents=latents,
        decoder=decoder,
        loss=losses.mean(),
    )


def decoder_with(model: MultimodalLM, rules: LossRules) -> LatentDiffusion:
    """The model's decoder under other rules, over the same weights."""
    decoder = copy.copy(latent_decoder(model))
    decoder.denoising = dataclasses.replace(
        decoder.denoising,
        noise_offset=rules.noise_offset,
        input_perturbation=rules.input_perturbation,
        snr_gamma=rules.snr_gamma,
    )
    if rules.prediction_type:
        decoder.scheduler = {**decoder.scheduler, "prediction_type": rules.prediction_type}
    return decoder


def latent_decoder(model: MultimodalLM) -> LatentDiffusion:
    """The model's decoder, which is one of latent diffusion."""
    decoder = model.maker(IMAGE).decoder
    assert isinstance(decoder, LatentDiffusion), "the published model draws by latent diffusion"
    return decoder


def latent_space(decoder: LatentDiffusion) -> VariationalAutoencoder:
    """The autoencoder of a decoder, which is a variational one."""
    autoencoder = decoder.autoencoder
    assert isinstance(autoencoder, VariationalAutoencoder), "the published model's latents are those of a VAE"
    return autoencoder


def unconditional_states(model: MultimodalLM) -> Float[Tensor, "queries d_model"]:
    """The original's unconditional condition in training: a dream block that holds the ids of its slots, no queries.

    It is never what pictures are sampled from (that is the empty prompt, with queries). Gradients flow.
    """
    edges = model.vocabulary.span(IMAGE, Direction.OUT)
    length = model.maker(IMAGE).queries.num_queries
    begin, end = page_edges(model)
    ids = torch.tensor([[begin, edges.begin, *[edges.slot] * length, edges.end, end]])
    batch = legacy_batch(model, ids, mask=torch.ones_like(ids))
    return model.hidden_states(batch)[0, 2 : 2 + length]


def page_edges(model: MultimodalLM) -> tuple[int, int]:
    """The ids that begin and end a document."""
    (begin,) = model.tokenizer.markup_ids(model.render.template.begin)
    (end,) = model.tokenizer.eos_ids
    return begin, end


def prompt_states(
    model: MultimodalLM,
    ids: Int[Tensor, "batch seq"],
    *,
    mask: Int[Tensor, "batch seq"],
    read: Tensor | None = None,
) -> Float[Tensor, "batch queries d_model"]:
    """Hidden states at the queries of a dream block behind each prompt.

    Prompts are padded to one length and the block stands behind the padding: on the right, padding moves it away from
    the text.
    """
    edges = model.vocabulary.span(IMAGE, Direction.OUT)
    num_queries = model.maker(IMAGE).queries.num_queries
    block = torch.tensor([edges.begin, *[edges.slot] * num_queries, edges.end]).expand(len(ids), -1)
    whole = torch.cat([ids, block], dim=1)
    batch = legacy_batch(model, whole, mask=torch.cat([mask, torch.ones_like(block)], dim=1), read=read)
    starts = torch.arange(len(ids)) * whole.shape[1] + ids.shape[1] + 1
    spans = _span_batch(model, starts, torch.zeros(len(ids), 0), direction=Direction.OUT)
    batch = dataclasses.replace(batch, spans={**batch.spans, (IMAGE, Direction.OUT): spans})
    return model.out_hidden(spans, model.hidden_states(batch))
