"""`limner compare`: two evaluations of the same items, paired."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    first: Annotated[Path, typer.Argument(metavar="A", help="What `limner evaluate` wrote for one model.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The same for another.")],
) -> None:
    """Compare two models item by item: difference, 95 % interval, p-value."""
    from limner.evaluate.comparison import compare

    print("benchmark\titems\tA\tB\tB - A\t95 %\tp")
    for one in compare(first, second):
        low, high = one.difference.low, one.difference.high
        print(
            f"{one.benchmark}\t{one.num_items}\t{one.first:.4f}\t{one.second:.4f}\t{one.difference.mean:+.4f}\t"
            f"[{low:+.4f}, {high:+.4f}]\t{one.p_value:.4f}"
        )
