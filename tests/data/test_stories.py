import hashlib
import io
import itertools
import json
import pickle
import random
import re
import tarfile
from collections import Counter

import pytest
from PIL import Image as PillowImage

from limner.data import stories, story_text
from limner.data.stories import (
    TASKS,
    Library,
    Record,
    definite,
    document,
    indefinite,
    story,
    tell,
)
from limner.data.story_text import DRAW, HELD_OUT, KIND_NAMES, KIND_SUBGROUPS, PLOTS
from limner.document.document import Document, Media, Text
from limner.document.media import Image

# Subgroup -> a few real names; kinds that are known by name come from the table itself.
BY_SUBGROUP = {
    "animal-mammal": ["fox", "elephant", "ewe", "unicorn", "mouse", "mouse face"],
    "animal-bird": ["owl", "duck"],
    "animal-marine": ["whale", "octopus", "crab"],
    "animal-bug": ["ant", "snail", "butterfly"],
    "plant-flower": ["tulip", "rose", "sunflower"],
    "food-fruit": ["red apple", "grapes", "pear", "olive"],
    "food-vegetable": ["carrot", "onion", "broccoli"],
    "food-prepared": ["bread", "pizza", "pancakes"],
    "food-sweet": ["ice cream", "cookie", "birthday cake"],
    "musical-instrument": ["accordion", "violin", "trumpet"],
    "tests": ["hourglass done", "x-ray", "woman with headscarf"],
}
STYLES = ("flat", "round")


def picture(text):
    color = tuple(hashlib.sha256(text.encode()).digest()[:3])
    return Image.from_pil(PillowImage.new("RGB", (4, 4), color))


def record(name, subgroup, style):
    words = ("red", "nice", "small", "old", "new")
    key = f"{name}-{style}"
    concept = name.removesuffix(" face").replace(" ", "-")
    return Record(key, name, words, concept, style, "group", subgroup, picture(key))


@pytest.fixture(scope="module")
def library():
    named = {name: "named" for names in KIND_NAMES.values() for name in names}
    named |= {name: group for group, names in BY_SUBGROUP.items() for name in names}
    return Library(record(n, group, style) for n, group in named.items() for style in STYLES)


def shown(message):
    """The message as text, with <name> where a picture stands."""
    return "".join(p.text if isinstance(p, Text) else f"<{p.alt}>" for p in message.parts)


def test_every_task_is_a_pure_function_of_index_and_seed(library):
    for task, make in TASKS.items():
        first = [make(index, seed=1, library=library) for index in range(20)]
        assert first == [make(index, seed=1, library=library) for index in range(20)]
        assert first != [make(index, seed=2, library=library) for index in range(20)], task


def test_the_order_of_the_records_does_not_matter(library):
    shuffled = list(library.records)
    random.Random(0).shuffle(shuffled)
    again = Library(shuffled)
    for index in range(50):
        assert document(index, seed=3, library=again) == document(index, seed=3, library=library)


def test_documents_survive_json(library):
    for index in range(30):
        made = document(index, seed=0, library=library)
        assert Document.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("number", range(len(PLOTS)))
def test_every_plot_renders_with_every_name_of_its_kinds(library, number):
    plot = PLOTS[number]
    slots = sorted(set(re.findall(r"\[(\w+)\]|_(\w+)\}", " ".join(plot))))
    slots = sorted({a or b for a, b in slots})
    pools = {slot: sorted(library.pool(slot, {})) for slot in slots}
    for turn in range(max(map(len, pools.values()))):
        chosen = {slot: pool[turn % len(pool)] for slot, pool in pools.items()}
        lines = tell(plot, chosen, library=library, rng=random.Random(turn))
        assert 3 <= len(lines) <= 5
        assert lines[0].startswith(story_text.OPENINGS)
        for line in lines:
            assert not re.search(r"[{}]|  |\ba a\b|\bthe the\b", line), line
            assert line[0].isupper() or line[0] == '"'
            assert re.search(r"[.!?]\"?( \[\w+\])?$", line), line
            for slot in re.findall(r"\[(\w+)\]", line):
                assert chosen[slot] in line or chosen[slot] in line.replace("An ", "an "), line


def test_there_are_enough_plots_openings_and_requests():
    assert len(PLOTS) >= 12
    assert all("[hero]" in " ".join(plot) for plot in PLOTS)
    assert len(story_text.OPENINGS) >= 8
    assert len(story_text.STORY_REQUESTS) >= 8
    assert len(HELD_OUT["draw"]) >= 6


def test_a_picture_follows_the_sentence_that_names_it(library):
    for index in range(500):
        made = story(index, seed=4, library=library)
        parts = made.messages[1].parts
        pictures = [part for part in parts if isinstance(part, Media)]
        assert 2 <= len(pictures) <= 4
        assert len({part.alt for part in pictures}) == len(pictures)
        for before, part in itertools.pairwise(parts):
            if isinstance(part, Media):
                assert isinstance(before, Text)
                last = re.split(r"(?<=[.!?]) ", before.text.strip())[-1]
                assert part.alt in last, (part.alt, before.text)


def test_the_subjects_of_the_request_are_drawn_in_the_story(library):
    for index in range(300):
        made = story(index, seed=5, library=library)
        drawn = {part.alt for _, part in made.media()}
        asked = [name for name in made.meta["names"].values() if name in made.messages[0].text]
        assert made.meta["names"]["hero"] in drawn
        assert asked


def test_the_pictures_of_a_story_share_a_style(library):
    by_digest = {item.image().digest: item.style for item in library.records}
    for index in range(100):
        made = story(index, seed=6, library=library)
        assert len({by_digest[media.payload.digest] for _, media in made.media()}) == 1


def test_requests_for_words_alone_are_answered_without_pictures(library):
    for index in range(200):
        for task in ("words_only", "plain"):
            made = TASKS[task](index, seed=7, library=library)
            assert not list(made.media())
            assert "[" not in made.messages[1].text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red apple", "a red apple"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("ewe", "a ewe"),
        ("umbrella", "an umbrella"),
        ("hourglass done", "an hourglass done"),
        ("x-ray", "an x-ray"),
        ("euro banknote", "a euro banknote"),
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("unlocked", "an unlocked"),
        ("grapes", "grapes"),
        ("bread", "bread"),
        ("Santa Claus", "Santa Claus"),
        ("Statue of Liberty", "the Statue of Liberty"),
        ("T-Rex", "a T-Rex"),
    ],
)
def test_names_get_the_right_article(name, expected):
    assert indefinite(name) == expected


def test_definite_names_keep_proper_names_bare():
    assert definite("fox") == "the fox"
    assert definite("Santa Claus") == "Santa Claus"
    assert indefinite("grapes", some="some ") == "some grapes"


def test_articles_are_right_in_all_texts(library):
    wrong = re.compile(r"\ba (?=[aeio])(?!one|ewe)|\ban (?![aeiouAEIOUhx])|\ban (?:unicorn|ewe)\b")
    for index in range(2000):
        for message in document(index, seed=8, library=library).messages:
            assert not wrong.search(message.text), message.text


def test_held_out_wordings_never_appear_in_training(library):
    patterns = [
        re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(re.sub(r"^\[any\] ", "", user))))
        for wordings in HELD_OUT.values()
        for user in (wording.split(" || ")[0] for wording in wordings)
    ]
    for index in range(2000):
        for message in document(index, seed=9, library=library).messages:
            if message.role == "user":
                assert not any(pattern.fullmatch(message.text) for pattern in patterns)


def test_held_out_wordings_make_documents_of_their_own(library):
    drawn = stories.draw(0, seed=0, library=library, templates=HELD_OUT["draw"])
    assert list(drawn.media())
    told = story(0, seed=0, library=library, requests=HELD_OUT["story"])
    assert told.messages[1].parts == story(0, seed=0, library=library).messages[1].parts
    assert not set(DRAW) & set(HELD_OUT["draw"])


def test_drawing_answers_with_the_picture_that_was_asked_for(library):
    for index in range(300):
        made = stories.draw(index, seed=10, library=library)
        [(message, media)] = made.media()
        assert message.role == "assistant"
        words = made.messages[0].text
        assert media.alt.lower() in words.lower() or "these words" in words


def test_yes_and_no_about_a_picture_are_balanced_and_true(library):
    counts = Counter()
    for index in range(3000):
        made = stories.describe(index, seed=11, library=library)
        text = shown(made.messages[1])
        if text.startswith(("Yes", "No,")):
            counts[text[:2]] += 1
            name = made.messages[0].parts[0].alt
            asked = re.fullmatch(r".*(?:Is this|Does this show) (?:an? |the )?(.*)\?", made.messages[0].text)
            assert (asked[1] == name) == text.startswith("Yes")
    assert 0.75 < counts["Ye"] / counts["No"] < 1.33


def test_later_turns_refer_to_the_right_picture(library):
    for index in range(300):
        made = stories.conversation(index, seed=12, library=library)
        last = shown(made.messages[-1])
        alts = [media.alt for _, media in made.media()]
        if "first?" in made.messages[-2].text:
            assert alts[0] in last
        if "last?" in made.messages[-2].text:
            assert alts[-1] in last
        if made.messages[-2].text == "Draw it again.":
            assert alts[0] == alts[1]


def test_pages_and_lists_name_what_they_show(library):
    roles = Counter()
    for index in range(200):
        made = stories.page(index, seed=13, library=library)
        roles[made.messages[-1].role] += 1
        parts = made.messages[-1].parts
        for before, part in itertools.pairwise(parts):
            if isinstance(part, Media):
                assert part.alt.lower() in before.text.lower()
    assert set(roles) == {"page", "assistant"}


def test_the_mixture_holds_its_proportions_and_refuses_unknown_tasks(library):
    tasks = Counter(document(i, seed=14, library=library).meta["task"] for i in range(1000))
    assert set(tasks) == set(TASKS)
    assert tasks["story"] > tasks["describe"] > tasks["plain"]
    only = document(0, seed=0, library=library, weights={"draw": 1})
    assert only.meta["task"] == "draw"
    with pytest.raises(ValueError, match="no such task"):
        document(0, seed=0, library=library, weights={"dance": 1})


def test_the_kinds_are_disjoint():
    names = [name for names in KIND_NAMES.values() for name in names]
    groups = [group for groups in KIND_SUBGROUPS.values() for group in groups]
    assert len(names) == len(set(names))
    assert len(groups) == len(set(groups))


def write_shard(path, names, *, without_pictures=False):
    with tarfile.open(path, "w") as tar:
        for name in names:
            fields = {
                "name": name, "keywords": ["fruit", "red"], "concept": name, "style": "flat",
                "group": "food-drink", "subgroup": "food-fruit", "licence": "none",
            }  # fmt: skip
            members = {"json": json.dumps(fields).encode(), "png": picture(name).data}
            for ending, data in members.items():
                if ending == "png" and without_pictures:
                    continue
                member = tarfile.TarInfo(f"{name.replace(' ', '-')}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def test_shards_are_indexed_and_pictures_read_on_access(tmp_path):
    path = write_shard(tmp_path / "train-0.tar", ["red apple", "pear", "lemon"])
    library = Library.from_shards([path])
    assert library.names == ("lemon", "pear", "red apple")
    [apple] = library.by_name["red apple"]
    assert apple.image() == picture("red apple")
    assert pickle.loads(pickle.dumps(apple)).image().size == (4, 4)
    drawn = stories.draw(1, seed=0, library=library)
    assert len(list(drawn.media())) == 1


def test_styles_choose_among_the_records_of_a_shard(tmp_path):
    path = write_shard(tmp_path / "train-0.tar", ["pear"])
    with pytest.raises(ValueError, match="without records"):
        Library.from_shards([path], styles=["round"])


def test_a_shard_without_a_picture_is_named(tmp_path):
    path = write_shard(tmp_path / "bad.tar", ["pear"], without_pictures=True)
    with pytest.raises(ValueError, match="no picture for `pear`"):
        Library.from_shards([path])


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such shard"):
        Library.from_shards([tmp_path / "none.tar"])


def test_a_library_too_small_for_a_story_says_so(tmp_path):
    path = write_shard(tmp_path / "train-0.tar", ["pear", "lemon"])
    with pytest.raises(ValueError, match="fills no template"):
        story(0, seed=0, library=Library.from_shards([path]))
