"""Makes tiny.py importable: recorded calls name targets that can be imported."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
