"""Numbers of documents as people write them: 833, 158K, 20M."""

import re

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_size(size: str | int) -> int:
    """Read a size: 104900000 for "104.9M". K, M, B and T are powers of a thousand. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMBT]?)\s*", str(size).upper())
    if not found:
        raise ValueError(f"a size is `{size}`; expected a number such as 833, 158K or 1.5M\nhint: write it so")
    return round(float(found[1]) * _UNITS[found[2]])


def format_size(size: int) -> str:
    """104900000 -> "104.9M", to a tenth of the unit; below 1000 exact."""
    if size < 1000:
        return str(size)
    for unit, factor in reversed(_UNITS.items()):
        # 999,960 is 1M to a tenth, not 1000K.
        if round(size / factor, 1) >= 1:
            return f"{size / factor:.1f}".removesuffix(".0") + unit
    return str(size)
