"""The benchmark of tokenizers at a hundredth of its steps: codes of scenes are counted and read back."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_scenes_are_read_back_from_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    page = tmp_path / "visual_tokenizer.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- end of measured -->\nafter\n")
    script = importlib.import_module("benchmarks.visual_tokenizer")
    work = ["--work", str(tmp_path), "--output", str(tmp_path)]
    script.main(["--plans", "--scenes", "4", "--steps", "0.01", *work])
    printed = capsys.readouterr().out
    assert re.search(r"scenes of held-out combinations, 4: [\d.]+% of aspects .* 9 codes a picture", printed)
    assert page.read_text().startswith("before\n<!-- measured -->\n")
    assert "old" not in page.read_text()
