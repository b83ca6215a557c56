"""X-CLIP as an encoder of moving pictures: its video embedding, of length 1, as one row.

It looks at a few neighbouring frames (8 as published) from a random place. The place is a function of the clip, so its
features are the same at every call; `window` draws it from numpy's global generator, as published. As published too,
the last frame is never looked at, and the text tower plays no part.
"""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import XCLIPModel

from limner.document.document import Media
from limner.document.video import Video
from limner.modalities.base import Encoder, Features
from limner.modalities.encoders.item_draws import drawn_for
from limner.modalities.encoders.vision_tower import PictureProcessor


class XClipEncoder(Encoder):
    """One row per clip. Frozen."""

    def __init__(self, path: str | Path) -> None:
        """Load a local directory."""
        super().__init__()
        self.network = XCLIPModel.from_pretrained(path, local_files_only=True)
        config: Any = self.network.config
        size = config.vision_config.image_size
        default = PictureProcessor(
            crop=(size, size),
            shortest_edge=size,
            # ImageNet's statistics, as published with the weights.
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            resample=PIL.Image.Resampling.BILINEAR,
        )
        self.processor = PictureProcessor.from_directory(Path(path), default=default)
        self.num_frames = config.vision_config.num_frames
        self.width = config.projection_dim
        self.requires_grad_(False)
        self.eval()

    @property
    def signature(self) -> str:
        """Published weights; the front end is theirs."""
        return self.source

    def preprocess(self, media: Media) -> Float[Tensor, "frames 3 height width_px"]:
        """Pixels of the frames that belong to the clip. Raises ValueError for one that is too short."""
        video = Video.of(media.payload)
        with drawn_for(video):
            return self.pixels(video, self.window(video))

    def window(self, video: Video) -> list[int]:
        """Indices of neighbouring frames from a random start."""
        if video.num_frames <= self.num_frames:
            raise ValueError(
                f"`{video.name}` has {video.num_frames} frames; expected more than {self.num_frames}\n"
                "hint: take a longer clip"
            )
        end = int(np.random.randint(self.num_frames, video.num_frames))
        return list(range(end - self.num_frames, end))

    def pixels(self, video: Video, indices: list[int]) -> Float[Tensor, "frames 3 height width_px"]:
        """The given frames, scaled, cropped, normalised."""
        frames = video.frames(indices)
        return torch.stack([self.processor(PIL.Image.fromarray(frame)) for frame in frames])

    def measure(self, media: Media) -> int:
        """Always one."""
        return 1

    def forward(self, items: Float[Tensor, "items frames 3 height width_px"]) -> Features:
        """Normalised embeddings, clip by clip."""
        network: Any = self.network
        rows = F.normalize(network.get_video_features(items).pooler_output, dim=-1)
        return Features(rows, torch.ones(len(items), dtype=torch.long, device=items.device))
