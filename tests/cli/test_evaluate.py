"""`limner evaluate` and `limner compare`, as typed."""

import public_formats


def test_a_model_is_scored_once_and_compared_with_another_seed(limner, checkpoint, tmp_path):
    public_formats.easy_vqa(tmp_path / "data" / "easy_vqa")
    public_formats.pope(tmp_path / "data" / "pope")
    arguments = ("evaluate", checkpoint, "--tasks", "easy_vqa,pope", "--output", "one")
    first = limner(*arguments)
    assert first.code == 0, first.err
    assert "## easy_vqa" in first.out
    assert "| accuracy | 4 |" in first.out
    answered = (tmp_path / "one" / "answers" / "easy_vqa" / "answers.0.jsonl").read_bytes()
    assert limner(*arguments).out.split("## ")[1:] == first.out.split("## ")[1:]
    assert (tmp_path / "one" / "answers" / "easy_vqa" / "answers.0.jsonl").read_bytes() == answered
    limner("evaluate", checkpoint, "--tasks", "pope", "--output", "two", "--limit", "3")
    compared = limner("compare", "one", "two")
    assert compared.out.splitlines()[1].startswith("pope_random\t3\t")


def test_benchmarks_are_listed_with_what_they_are(limner, checkpoint):
    lines = limner("evaluate", checkpoint, "--tasks", "list").out.splitlines()
    assert "mmbench" in [line.split("\t")[0] for line in lines]


def test_a_wrong_task_and_missing_files_end_in_one_line(limner, checkpoint):
    wrong = limner("evaluate", checkpoint, "--tasks", "vqav22")
    assert (wrong.code, wrong.err) == (1, "error: no benchmark `vqav22`\nhint: did you mean `vqav2`?\n")
    missing = limner("evaluate", checkpoint, "--tasks", "gqa")
    assert missing.code == 1
    assert "is missing\nhint: say where the benchmark's files lie with --data" in missing.err
