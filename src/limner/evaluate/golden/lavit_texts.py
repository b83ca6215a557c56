"""Recorded cases of LaVIT's texts: the tokenizer, captions, answers, and what is done to questions and replies."""

from typing import Any

import torch
from torch import Tensor

from limner.compositions.lavit_decoding import Step
from limner.compositions.lavit_understanding import (
    ANSWER,
    CAPTION,
    QUESTION,
    TOP_K,
    Assembled,
    Wording,
    answer_of,
    asked,
    caption_of,
    cleaned_question,
    picture_blocks,
    say,
    texts_of,
    with_prompts,
    with_questions,
)
from limner.evaluate.golden.lavit_cases import Case, Found
from limner.generate.sampling import Sampling


def text_tokenizer(case: Case) -> Found:
    """Strings to ids and back, or the clean-up of questions."""
    if "processed" in case.expected:
        return {"processed": [cleaned_question(text) for text in case.inputs["strings"]]}
    text = case.lavit.text
    ids = [text.markup_ids(string) for string in case.inputs["strings"]]
    recorded = case.inputs.get("decode_inputs", [])
    return {
        "ids": ids,
        "decoded_skip_special": [text.decode(row) for row in ids],
        "decode_inputs": recorded,
        "decode_outputs": [text.decode(row) for row in recorded],
    }


def understanding(case: Case) -> Found:
    """Captions, answers, or what is cut off from generated text."""
    if "decoded" in case.inputs:
        decoded = case.inputs["decoded"]
        return {
            "caption": [caption_of(text) for text in decoded],
            "answer_before_lemmatisation": [answer_of(text) for text in decoded],
            "answer_lower_cased": [answer_of(text).lower() for text in decoded],
        }
    lavit = case.lavit
    blocks = picture_blocks(lavit, lavit.reader(case.input("pixels"), noise=case.gumbel[0]))
    if "questions" in case.inputs:
        template = case.settings.get("prompt", QUESTION)
        assembled = with_questions(lavit, blocks, [asked(q, template=template) for q in case.inputs["questions"]])
        return _said(case, assembled, wording=_answering(case.settings))
    prompts = case.inputs.get("prompt")
    assembled = blocks if prompts is None else with_prompts(lavit, blocks, prompts)
    return _said(case, assembled, wording=_captioning(case.settings))


def _captioning(settings: Any) -> Wording:
    penalty = float(settings.get("repetition_penalty", CAPTION.repetition_penalty))
    sampled = Sampling(temperature=float(settings.get("temperature", 1.0)), top_k=TOP_K, repetition_penalty=penalty)
    return Wording(
        max_new=settings.get("max_length", CAPTION.max_new),
        min_new=settings.get("min_length", CAPTION.min_new),
        num_beams=settings.get("num_beams", CAPTION.num_beams),
        length_penalty=float(settings.get("length_penalty", CAPTION.length_penalty)),
        repetition_penalty=penalty,
        num_returned=settings.get("num_captions", CAPTION.num_returned),
        sampling=sampled if settings.get("use_nucleus_sampling") else None,
    )


def _answering(settings: Any) -> Wording:
    return Wording(
        max_new=settings.get("max_len", ANSWER.max_new),
        min_new=settings.get("min_len", ANSWER.min_new),
        num_beams=settings.get("num_beams", ANSWER.num_beams),
        length_penalty=float(settings.get("length_penalty", ANSWER.length_penalty)),
        early_stopping=True,
    )


def _said(case: Case, assembled: Assembled, *, wording: Wording) -> Found:
    lavit, steps = case.lavit, []

    def keep(step: Step) -> None:
        steps.append(step.conditional)

    said = say(lavit, assembled, wording=wording, draws=case.exponential(num_ids=lavit.ids.size), on_step=keep)
    texts = texts_of(lavit, said.ids)
    found: dict[str, Any] = {
        "out.inputs_embeds": assembled.embeddings,
        "out.attention_mask": assembled.mask,
        "out.position_ids": assembled.positions,
        "out.ids": said.ids,
        "out.sequence_scores": said.scores,
        "ids": said.ids,
        "raw_text": texts,
        "final_text": [caption_of(text) for text in texts],
        "text_before_lemmatisation": [answer_of(text) for text in texts],
        "lower_cased": [answer_of(text).lower() for text in texts],
    }
    if "index.logit_columns" in case.tensors:
        found |= _logits(case, assembled, steps)
    return found


def _logits(case: Case, assembled: Assembled, steps: list[Tensor]) -> Found:
    """Logits of the first step, which beams share with greedy decoding, and of the recorded steps."""
    first = steps
    if not first:
        say(
            case.lavit,
            assembled,
            wording=Wording(max_new=1, min_new=0, num_beams=1),
            on_step=lambda step: first.append(step.conditional),
        )
    columns = case.tensors["index.logit_columns"]
    recorded = case.tensors.get("out.step_logits", torch.empty(1))
    return {
        "out.first_logits": first[0][:, columns],
        "out.first_logsumexp": first[0].logsumexp(dim=-1),
        "out.step_logits": torch.stack(first[: len(recorded)])[..., columns],
    }
