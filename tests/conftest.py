"""What every test starts from: no network, few threads, no LIMNER_* settings of the shell."""

import os

import pytest
from hypothesis import settings

# Read when the libraries are first imported, hence before any fixture.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tiny tensors: a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asserts a time, on a busy machine least of all.
settings.register_profile("limner", deadline=None)
settings.load_profile("limner")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith("LIMNER_")]:
        monkeypatch.delenv(name)
    # Features of tiny models are not for the user's cache.
    monkeypatch.setenv("LIMNER_FEATURES", str(tmp_path_factory.getbasetemp() / "features"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch  # only here: most test files do not need it

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
