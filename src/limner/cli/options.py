"""Options that several verbs share, spelled once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Pictures(StrEnum):
    """Who decides where pictures go (the names of limner.generate.request.Pictures, which needs
    torch).
    """

    AUTO = "auto"
    NONE = "none"
    NOW = "now"


class Device(StrEnum):
    """Where models compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Weights(StrEnum):
    """How the language model's matrices are held while it writes (limner.backbone.products.Weights)."""

    EXACT = "exact"
    INT8 = "int8"


class Resume(StrEnum):
    """What is done with a run that is there already (limner.train.plan.Resume)."""

    AUTO = "auto"
    NEVER = "never"
    REQUIRED = "required"


class Profiler(StrEnum):
    """What profiles steps (limner.train.profiling.Tool)."""

    TORCH = "torch"
    PYINSTRUMENT = "pyinstrument"


class Layout(StrEnum):
    """How a model is laid over the processes that train it (limner.train.parallel)."""

    REPLICATE = "replicate"
    SHARD = "shard"


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A name that `limner models` lists, or a checkpoint directory."),
]
DeviceOption = Annotated[
    Device, typer.Option("--device", help="Where the model computes; auto takes a GPU where there is one.")
]
WeightsOption = Annotated[
    Weights, typer.Option("--weights", help="Of the language model while it writes; int8 is faster and not exact.")
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the step from token to token: for GPUs; the first tokens take minutes."),
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same reply.")]
PicturesOption = Annotated[
    Pictures,
    typer.Option(help="auto: the model decides where pictures go; none: text only; now: one at once."),
]
GuidanceScale = Annotated[
    float, typer.Option(min=0.0, help="How strictly pictures follow the words; 1 switches it off.")
]
Steps = Annotated[int, typer.Option(min=1, help="Denoising steps per picture.")]
GuidanceRescale = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Against colours that strict guidance bleaches; 0.7 is usual, 0 is off.")
]
Negative = Annotated[str, typer.Option(help="What pictures are pushed away from, in words.")]
Sampler = Annotated[
    str,
    typer.Option(help="The way from noise to a picture: ddim, dpm++, euler ...; the decoder's own if none."),
]
Size = Annotated[str, typer.Option(metavar="HxW", help="Size of pictures in pixels; the decoder's own if none.")]
BestOf = Annotated[int, typer.Option(min=1, help="Pictures drawn at each place, of which the best stays.")]
ScorerOption = Annotated[
    str, typer.Option("--scorer", metavar="DIRECTORY", help="A CLIP that says which is best; the model itself if none.")
]
Beams = Annotated[int, typer.Option(min=1, help="Beam search for the likeliest text; needs --pictures none.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")]
TopP = Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw from the likeliest tokens of this total.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Most text tokens of a reply.")]
Config = Annotated[str, typer.Argument(metavar="CONFIG", help="path.py, or path.py:function, of a recipe.")]
Recipe = Annotated[
    str,
    typer.Argument(metavar="CONFIG", help="path.py, path.py:function, or a run's stage.json."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes of existing keys, as in `seed=1`."),
]
Output = Annotated[Path, typer.Option(help="Directory to write to; it is made where it is missing.")]
