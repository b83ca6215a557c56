"""`limner export`: half the size, the same model, and what else lay in the directory stays."""

import torch
from safetensors.torch import load_file

from limner.model.checkpoint import load_checkpoint, read_index


def test_an_exported_checkpoint_is_the_model_in_half_precision(limner, checkpoint, tmp_path):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "README.md").write_text("card")
    result = limner("export", checkpoint, shipped, "context_length=192")
    assert (result.code, result.out) == (0, f"{shipped}\n"), result.err
    assert (shipped / "README.md").read_text() == "card"
    assert read_index(shipped)["model"] != read_index(checkpoint)["model"]
    assert load_file(shipped / "backbone.safetensors")["backbone.added_input"].dtype == torch.float16
    exported, original = load_checkpoint(shipped), load_checkpoint(checkpoint)
    assert exported.backbone.context_length == 192
    for name, value in original.state_dict().items():
        torch.testing.assert_close(exported.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_what_is_no_checkpoint_is_refused(limner, tmp_path):
    result = limner("export", tmp_path, tmp_path / "out")
    assert result.code == 1
    assert "is no checkpoint" in result.err
    assert not (tmp_path / "out").exists()
