"""Bodies of requests, as OpenAI's API has them, with what a model that draws needs besides.

Unknown fields are refused by name: a client that believes in an option should not be answered as if it had worked.
What OpenAI's own clients always send and nothing here depends on (`user`, `metadata`, `store`) is taken and left.
"""

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 200_000
"""Characters of one text part."""
MAX_PROMPT = 32_000
"""Characters of what is to be drawn."""
MAX_SHOWN = 16
"""Pictures that an edit may show."""
MAX_STOPS = 4
"""Texts that may end a reply."""

StopText = Annotated[str, Field(min_length=1, max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class TextPart(_Body):
    """{"type": "text", "text": ...}."""

    type: Literal["text"]
    id: str | None = None
    text: str = Field(max_length=MAX_TEXT)


class ImageURL(_Body):
    """A data URL: these routes fetch nothing."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Body):
    """{"type": "image_url", "image_url": {"url": ...}}."""

    type: Literal["image_url"]
    id: str | None = None
    image_url: ImageURL


class AudioData(_Body):
    """base64 and its format."""

    data: str
    format: Literal["wav", "mp3", "flac", "ogg"] = "wav"


class AudioPart(_Body):
    """{"type": "input_audio", "input_audio": {"data": ..., "format": ...}}."""

    type: Literal["input_audio"]
    input_audio: AudioData


ContentPart = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


class ChatMessage(_Body):
    """One message. An assistant's may carry the `parts` that an earlier answer had, pictures among them, in order."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_TEXT)] | list[ContentPart] | None = None
    parts: list[ContentPart] | None = None
    name: str | None = None


class StreamOptions(_Body):
    """Whether the last chunk says how many tokens were used."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ImageOptions(_Body):
    """How pictures are drawn, wherever they come up in the answer."""

    guidance_scale: float = Field(default=3.0, ge=1.0, le=50.0)
    num_inference_steps: int = Field(default=24, ge=1, le=1000)


class _Sampled(_Body):
    model: str = ""
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    user: str | None = None
    metadata: Any = None
    store: bool | None = None


class ChatBody(_Sampled):
    """POST /v1/chat/completions. `pictures` says who decides where pictures go."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=512)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    n: Literal[1] = 1
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    pictures: Literal["auto", "none", "now"] = "auto"
    image: ImageOptions = Field(default_factory=ImageOptions)


class _Drawn(BaseModel):
    """What the routes of pictures share."""

    n: int = Field(default=1, ge=1, le=10)
    size: str | None = Field(default=None, pattern=r"^(auto|\d{1,4}x\d{1,4})$")
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png"] = "png"
    quality: str | None = None
    background: str | None = None
    moderation: str | None = None


class ImagesBody(_Sampled, _Drawn):
    """POST /v1/images/generations."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    image: ImageOptions = Field(default_factory=ImageOptions)


class _Shown(_Sampled, _Drawn, ImageOptions):
    """A form that shows pictures; how pictures are drawn stands beside, because `image` is what is shown."""

    metadata: str | None = None


class EditForm(_Shown):
    """POST /v1/images/edits: pictures and what is to become of them. `image[]` is how OpenAI's clients name several."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    image: list[UploadFile] = Field(default_factory=list, max_length=MAX_SHOWN)
    images: list[UploadFile] = Field(default_factory=list, max_length=MAX_SHOWN, alias="image[]")
    input_fidelity: str | None = None


class VariationForm(_Shown):
    """POST /v1/images/variations: one picture."""

    image: UploadFile
