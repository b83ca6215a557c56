import itertools

import numpy
import pytest

from limner.evaluate.intervals import bootstrap, permuted, share


def test_the_interval_of_independent_coins_is_that_of_the_normal_approximation():
    # 80 of 200: 0.4 +- 1.96 sqrt(0.4 * 0.6 / 200) = [0.332, 0.468]
    values = [1.0] * 80 + [0.0] * 120
    found = bootstrap(values, clusters=range(200), num_resamples=20_000)
    assert found.mean == pytest.approx(0.4)
    assert found.low == pytest.approx(0.332, abs=0.006)
    assert found.high == pytest.approx(0.468, abs=0.006)


def test_copies_within_a_cluster_make_nothing_surer():
    values = [1.0] * 20 + [0.0] * 30
    alone = bootstrap(values, clusters=range(50))
    copied = bootstrap(values * 4, clusters=[*range(50)] * 4)
    assert copied == pytest.approx(alone)
    assert bootstrap(values * 4, clusters=range(200)).low > copied.low


def test_clusters_of_other_sizes_weigh_by_their_items():
    assert bootstrap([1, 1, 1, 0], clusters=["a", "a", "a", "b"]).mean == 0.75


def test_the_bootstrap_of_two_clusters_has_three_outcomes():
    # Means 0, 1/2, 1 with chances 1/4, 1/2, 1/4: the 2.5th percentile is 0, the 97.5th is 1.
    assert bootstrap([0, 1], clusters=["a", "b"]) == (0.5, 0.0, 1.0)


def test_the_same_seed_gives_the_same_interval():
    assert bootstrap([0, 1, 1], clusters=[0, 1, 2], seed=3) == bootstrap([0, 1, 1], clusters=[0, 1, 2], seed=3)


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0], ["a", "b"])])
def test_values_without_clusters_are_refused(values, clusters):
    with pytest.raises(ValueError, match="one cluster per value"):
        bootstrap(values, clusters=clusters)


def test_permutations_agree_with_brute_force():
    values = numpy.random.default_rng(0).random((5, 5))
    clusters = ["a", "a", "b", "c", "d"]
    means = []
    for order in itertools.permutations(range(5)):
        pairs = [(i, j) for i, j in enumerate(order) if clusters[i] != clusters[j]]
        if pairs:
            means.append(sum(values[pair] for pair in pairs) / len(pairs))
    found = permuted(values, clusters=clusters, num_permutations=20_000)
    low, high = numpy.percentile(means, [2.5, 97.5])
    assert found.mean == pytest.approx(numpy.mean(means), abs=0.005)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_what_is_right_only_for_its_own_item_is_never_right_by_luck():
    assert permuted(numpy.eye(6, dtype=bool), clusters=range(6)) == (0.0, 0.0, 0.0)
    assert permuted(numpy.ones((6, 6)), clusters=range(6)) == (1.0, 1.0, 1.0)


def test_one_cluster_leaves_no_luck_to_measure():
    assert permuted(numpy.ones((3, 3)), clusters=["a"] * 3) is None
    with pytest.raises(ValueError, match="expected a square"):
        permuted(numpy.ones((3, 2)), clusters=range(3))


def test_no_success_leaves_doubt_that_shrinks_with_the_clusters():
    # Exact binomial, 0 of 10 at 95 %: [0, 0.3085]; 0 of 20: [0, 0.1684].
    assert share([0] * 10, clusters=range(10)) == pytest.approx((0, 0, 0.3085), abs=1e-4)
    assert share([1] * 20, clusters=range(20)) == pytest.approx((1, 1 - 0.1684, 1), abs=1e-4)
    assert share([0] * 20, clusters=[0, 1] * 10).high == share([0] * 2, clusters=range(2)).high


def test_a_share_between_is_the_bootstrap():
    values = [0, 1, 1, 0, 1]
    assert share(values, clusters=range(5)) == bootstrap(values, clusters=range(5))
