"""Makes tiny.py and plans.py importable: recorded calls name targets that can be imported."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
