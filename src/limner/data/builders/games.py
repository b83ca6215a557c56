"""Rows about games: a frame, the actions there are, and the one that a trained policy takes.

A policy is what CleanRL's PPO saves: an actor of linear layers with tanh between them. A game is an environment of
gymnasium with a vector to observe and a choice of actions.

    policy + environment -> rounds -> some of their frames as JPEG below the media folder -> rows
"""

import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from limner.data.builders.building import Given, Outcome, chat

Policy = Callable[[Any], int]

REQUEST = "<image>\nThis is a game, and it is your turn. You can choose one of {}. Which do you choose?"


def episodes(
    given: Given, *, environment: Any, policy: Policy, actions: Sequence[str], rounds: int, share: float
) -> Iterator[Outcome]:
    """Rows of a share of the frames of so many rounds; `actions` are the words for the choices, in their order."""
    if not 0 < share <= 1 or rounds < 1:
        raise ValueError(
            f"{rounds} rounds, a share of {share}; expected at least one and 0 to 1\nhint: as 100 and 0.01"
        )
    given.media.mkdir(parents=True, exist_ok=True)
    for number in range(rounds):
        draws = given.draws(f"round/{number}")
        observation, _ = environment.reset(seed=draws.getrandbits(31))
        step, ended = 0, False
        while not ended:
            action = policy(observation)
            if not 0 <= action < len(actions):
                raise ValueError(f"the policy takes action {action} of {len(actions)}\nhint: name all of --actions")
            if draws.random() < share:
                yield _row(f"{number:06d}-{step:05d}", environment.render(), actions, action, given.media, draws)
            observation, _, terminated, truncated, _ = environment.step(action)
            step, ended = step + 1, terminated or truncated


def _row(key: str, frame: Any, actions: Sequence[str], action: int, media: Path, draws: random.Random) -> Outcome:
    name = f"{key}.jpg"
    PIL.Image.fromarray(np.asarray(frame, dtype=np.uint8)).save(media / name, quality=92)
    listed = [f"[{word}]" for word in draws.sample(list(actions), len(actions))]
    return chat(key, REQUEST.format(", ".join(listed)), f"[{actions[action]}]", images=[name])


def open_game(name: str) -> Any:
    """An environment of gymnasium that draws its frames. Raises ValueError where it cannot be had."""
    try:
        gymnasium: Any = importlib.import_module("gymnasium")
    except ImportError as error:
        raise ValueError(
            "games are played by gymnasium, which is not installed\nhint: pip install 'gymnasium[box2d]'"
        ) from error
    try:
        return gymnasium.make(name, render_mode="rgb_array")
    except gymnasium.error.Error as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"no game `{name}` ({reason})\nhint: as in LunarLander-v3") from error


def load_policy(path: Path) -> Policy:
    """The likeliest action by a saved actor. Raises ValueError for a file without one."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        layers = sorted({int(key.split(".")[1]) for key in state if key.startswith("actor.")})
        weights = [(state[f"actor.{place}.weight"].float(), state[f"actor.{place}.bias"].float()) for place in layers]
    except Exception as error:
        raise ValueError(
            f"`{path}` holds no actor ({type(error).__name__})\nhint: give what CleanRL's ppo.py saves"
        ) from error
    if not weights:
        raise ValueError(f"`{path}` holds no `actor.*`\nhint: give what CleanRL's ppo.py saves")

    def policy(observation: Any) -> int:
        hidden = torch.as_tensor(np.asarray(observation), dtype=torch.float32)
        for place, (weight, bias) in enumerate(weights):
            hidden = torch.nn.functional.linear(hidden, weight, bias)
            hidden = hidden.tanh() if place + 1 < len(weights) else hidden
        return int(hidden.argmax())

    return policy
