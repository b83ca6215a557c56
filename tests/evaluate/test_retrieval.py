import torch
from tiny import picture

from limner.evaluate.metrics.retrieval import Judge, best_of_cluster, ranks, whitening
from limner.modalities.encoders.convolutional import ConvolutionalEncoder


def test_ranks_by_hand_with_ties_in_the_middle():
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.7, 0.2], [0.3, 0.3, 0.3]])
    expected = [[1.0, 3.0, 2.0], [2.5, 1.0, 2.5], [2.0, 2.0, 2.0]]
    assert ranks(similarity).tolist() == expected


def test_the_best_rank_of_a_cluster_stands_at_each_of_its_pictures():
    ranked = torch.tensor([[3.0, 1.0, 2.0, 4.0]])
    found = best_of_cluster(ranked, clusters=["a", "b", "a", "b"])
    assert found.tolist() == [[2.0, 1.0, 2.0, 1.0]]


def test_whitening_gives_every_direction_its_weight():
    torch.manual_seed(0)
    values = torch.randn(500, 3) * torch.tensor([100.0, 10.0, 10.0]) + 7.0
    white = whitening(values, num_components=3)
    spread = ((values - white.mean) @ white.basis).std(0)
    assert spread[0] < 3 * spread[2]
    assert torch.allclose(white(values).norm(dim=1), torch.ones(500))


def test_a_constant_gallery_gives_the_middle_rank_and_no_nan():
    values = torch.ones(5, 4)
    rows = whitening(values)(values)
    assert ranks(rows @ rows.T).unique().tolist() == [3.0]


def test_a_judge_finds_the_pictures_of_its_gallery():
    torch.manual_seed(0)
    encoder = ConvolutionalEncoder(image_size=32, width=16, num_halvings=3)
    gallery = [picture(colour) for colour in ("red", "blue", "green", "white")]
    judge = Judge("own", encoder, gallery=gallery)
    assert judge.ranks(gallery).diagonal().tolist() == [1.0] * 4
    assert judge.ranks(gallery[:1]).shape == (1, 4)
