"""Transcripts: a sound becomes what was said in it, so that a model that only reads text is asked by voice.

Who transcribes is the caller's choice: any function from sounds to texts (a pipeline, a service, a table). A transcript
is a Text part like any other: markup that somebody speaks is written as text and opens nothing.

    asked = transcribed([document], transcriber=listen)[0]
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from limner.document.audio import Audio
from limner.document.document import Document, Media, Part, Text

Transcriber = Callable[[Sequence[Audio]], Sequence[str]]
"""What was said in each of some sounds, in their order."""


def transcribed(
    documents: Sequence[Document], *, transcriber: Transcriber, modality: str = "speech", form: str = "{}"
) -> list[Document]:
    """The documents with text in the place of every item of `modality`; other parts stay as they are.

    Equal sounds are transcribed once, all of them in one call. `form` is what stands in the item's place, "{}" its
    transcript; `train` of the item becomes that of the text. Raises ValueError for a form without a place, for an item
    that is no sound, and where the transcriber answers another number of sounds than it was asked for.
    """
    if form.count("{}") != 1:
        raise ValueError(f"form is `{form}`; expected one {{}} in it\nhint: the transcript stands there")
    sounds: dict[str, Audio] = {}
    for document in documents:
        for _, media in document.media():
            if media.modality == modality:
                sound = Audio.of(media.payload)
                sounds[sound.digest] = sound
    found = list(transcriber(list(sounds.values()))) if sounds else []
    if len(found) != len(sounds):
        raise ValueError(
            f"the transcriber gave {len(found)} texts for {len(sounds)} sounds\nhint: one text each, empty for silence"
        )
    texts = dict(zip(sounds, found, strict=True))
    before, _, after = form.partition("{}")

    def said(part: Part) -> Part:
        if not isinstance(part, Media) or part.modality != modality:
            return part
        return Text(before + texts[Audio.of(part.payload).digest] + after, train=part.train)

    return [
        replace(
            document,
            messages=tuple(
                replace(message, parts=tuple(said(part) for part in message.parts)) for message in document.messages
            ),
        )
        for document in documents
    ]
