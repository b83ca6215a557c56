"""The two paths of the token merger: kept rows alone against all rows, at a third of the patches kept.

    python -m benchmarks merger

Same weights, same masks, outputs compared; times are taken in turns, medians and their ratio are printed.
"""

import argparse
import statistics
import time

import torch

from limner.evaluate.report import environment
from limner.modalities.noise import keyed_generator
from limner.modalities.quantizers.merger import TokenMerger


def main(arguments: list[str]) -> None:
    """Measure both paths."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks merger")
    parser.add_argument("--width", type=int, default=352, help="a quarter of the published 1408")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--patches", type=int, default=256)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    hidden = int(options.width * 4.3637)
    merger = TokenMerger(options.width, num_layers=options.layers, num_heads=4, hidden=hidden).eval()
    features = torch.randn(options.pictures, options.patches, options.width, generator=keyed_generator("features"))
    keep = (torch.rand(options.pictures, options.patches, generator=keyed_generator("keep")) < 1 / 3).float()
    seconds: dict[str, list[float]] = {"exact": [], "packed": []}
    with torch.inference_mode():
        found = {name: getattr(merger, name)(features, keep).values for name in seconds}
        for _ in range(options.rounds):
            for name, taken in seconds.items():
                started = time.perf_counter()
                getattr(merger, name)(features, keep)
                taken.append(time.perf_counter() - started)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    difference = (found["exact"] - found["packed"]).abs().max().item()
    facts = environment()
    print(f"{facts['date']}, {facts['processor']}, {facts['threads']} threads, keep ratio {keep.mean():.3f}")
    print(f"exact {1000 * medians['exact']:.0f} ms, packed {1000 * medians['packed']:.0f} ms")
    ratio = medians["exact"] / medians["packed"]
    print(f"packed is {ratio:.2f} times as fast (target: 2); outputs differ by {difference:.1e}")
