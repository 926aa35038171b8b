import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgems.evaluation.bootstrap import ClusterBootstrap, interval


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 8))
def test_equals_resampling_one_by_one(seed, n, clusters):
    rng = np.random.default_rng(seed)
    cluster = rng.integers(clusters, size=n)
    hits, below = rng.random((n, 2)), rng.integers(1, 4, size=n).astype(float)
    bootstrap = ClusterBootstrap(cluster, n_resamples=5, seed=1)
    fast = bootstrap.means(hits, below)
    names = np.unique(cluster)
    for r in range(5):
        drawn = [
            i for c, k in zip(names, bootstrap.counts[r], strict=True) for i in np.flatnonzero(cluster == c).repeat(k)
        ]
        assert fast[r] == pytest.approx(hits[drawn].sum(0) / below[drawn].sum())


def test_interval_of_a_mean_matches_the_normal_one():
    hits = (np.random.default_rng(0).random(2000) < 0.7).astype(float)
    low, high = interval(ClusterBootstrap(None, 2000, 2000).means(hits, np.ones(2000)))
    error = 1.96 * np.sqrt(0.7 * 0.3 / 2000)
    assert (high - low) / 2 == pytest.approx(error, rel=0.1)


def test_clusters_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).random(100), 10)
    apart = interval(ClusterBootstrap(None, 1000).means(values, np.ones(1000)))
    together = interval(ClusterBootstrap(np.repeat(np.arange(100), 10)).means(values, np.ones(1000)))
    assert together[1] - together[0] > 2.5 * (apart[1] - apart[0])


def test_macro_recall_leaves_absent_classes_out():
    correct, labels = np.array([[1.0], [0.0], [1.0]]), np.array([0, 0, 1])
    bootstrap = ClusterBootstrap(None, 3, 50)
    for r, value in enumerate(bootstrap.macro_recall(correct, labels)[:, 0]):
        counts = bootstrap.counts[r]
        recalls = [
            (counts[labels == c] @ correct[labels == c, 0]) / counts[labels == c].sum()
            for c in (0, 1)
            if counts[labels == c].sum()
        ]
        assert value == pytest.approx(np.mean(recalls))


def test_no_unit_is_an_error():
    with pytest.raises(ValueError, match="at least one unit"):
        ClusterBootstrap(None, 0)
