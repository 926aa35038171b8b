"""Streams at full batches: the results of images encoded one by one, in the order of the input, and what waits."""

from collections import deque
from dataclasses import replace
from functools import cache
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime.test_engine import most_alive
from small_towers import small_tower
from torch import nn
from toy import costs_of_sizes, gates_of_all_kinds

from tgems.errors import UserError
from tgems.exits.modules import ExitHeads, ImageGates
from tgems.policies.interface import ThresholdPolicy
from tgems.policies.registry import POLICIES
from tgems.runtime import buffered_engine
from tgems.runtime.buffered_engine import AHEAD, WAITING, encode_stream
from tgems.runtime.engine import encode_early
from tgems.runtime.live_view import ExitDecider

N, DEPTH, DIM = 30, 6, 8
CASES = [
    *(("ViT", policy) for policy in ("tgem", "tgem_bank", "margin", "patience", "saturation", "saturation_raw")),
    *(("ViT", policy) for policy in ("fixed", "fixed_raw")),
    *(("EVA", "tgem"), ("ResNet", "tgem"), ("no class token", "saturation")),
    *(("ViT, merging", "patience"), ("registers, merging", "tgem"), ("norms and scales, merging", "saturation_raw")),
]


def widest_gap(scores: torch.Tensor) -> float:
    """A threshold in the middle of the scores that is close to none of them."""
    known = np.unique(scores[scores.isfinite()].double().numpy())
    if len(known) < 2:
        return np.inf
    low, high = len(known) // 2, max(len(known) // 2 + 2, len(known) * 4 // 5)
    middle = known[max(low - 1, 0) : high]
    widest = np.diff(middle).argmax()
    return float(middle[widest : widest + 2].mean())


@cache
def case(family: str, policy_name: str, depth: int = DEPTH):
    """A tower, images, and an untrained policy with thresholds that let images leave at every exit."""
    tower, policy = small_tower(family, depth), POLICIES[policy_name]
    torch.manual_seed(1)
    widths, n = list(tower.widths[:-1]), tower.depth - 1
    size, uneven = max(widths) * 5, None if len(set(widths)) == 1 else widths
    heads = ExitHeads(n, size, 4, DIM, uneven)
    nn.init.normal_(heads.down.weight)
    costs = costs_of_sizes(widths, size, DIM)
    gates = ImageGates(n, size, 4, widths=uneven)
    if uneven is None and policy.gates == "bank":
        gates = gates_of_all_kinds(n, max(widths), [], [])["bank", None]
    for module in (heads, gates):
        module.eval().requires_grad_(False)
    bank = nn.functional.normalize(torch.randn(9, DIM), dim=-1)
    modules = (None if policy.frozen_head else heads, gates if policy.gates else None)
    images, exits = torch.randn(N, 3, *tower.image_size), tuple(range(n))
    decider = ExitDecider(policy, costs, *modules, dict.fromkeys(exits, np.inf), exits, 20.0, bank)
    if not isinstance(policy, ThresholdPolicy):
        return tower, images, replace(decider, asked=(2,))
    left, thresholds = torch.ones(N, dtype=torch.bool), {}
    for k, scores in enumerate(all_scores(tower, images, decider)):
        thresholds[k] = widest_gap(scores[left])
        left &= scores <= thresholds[k]
    return tower, images, replace(decider, thresholds=thresholds)


def all_scores(tower, images, decider):
    """Scores of all images at each exit, since none of them leaves."""
    policy, seen = decider.policy, []
    policy.reads(decider.costs)  # which tries it
    score = policy.score
    with patch.object(policy, "score", lambda view: seen.append(score(view)) or seen[-1]):
        encode_early(tower, decider, images, chunk=N)
    return seen


@cache
def alone(family: str, policy_name: str, last_resort: int | None):
    """The results of images that are encoded one by one."""
    tower, images, decider = case(family, policy_name)
    parts = [encode_early(tower, decider, image, last_resort) for image in images.split(1)]
    exits = torch.cat([part.exits for part in parts])
    assert policy_name.startswith("fixed") or len(exits.unique()) > 1, "images leave at different exits"
    return torch.cat([part.embeddings for part in parts]), exits


def split_at_will(total: int):
    """Lengths of batches that add up to a total; some may be empty."""
    return st.lists(st.integers(0, total), max_size=8).map(
        lambda cuts: [b - a for a, b in pairwise([0, *sorted(cuts), total])]
    )


@pytest.mark.parametrize(("family", "policy_name"), CASES)
@given(
    sizes=split_at_will(N),
    batch_size=st.integers(1, 9),
    chunk=st.none() | st.integers(1, 5),
    last_resort=st.sampled_from([None, 2]),
    seed=st.integers(0, 99),
)
@settings(max_examples=6, deadline=None)
def test_each_image_has_the_result_that_it_has_alone(family, policy_name, sizes, batch_size, chunk, last_resort, seed):
    tower, images, decider = case(family, policy_name)
    embeddings, exits = alone(family, policy_name, last_resort)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    got = list(encode_stream(tower, decider, images[order].split(sizes), batch_size, last_resort, chunk))
    assert [len(part.exits) for part in got] == [len(part.embeddings) for part in got] == sizes
    assert torch.equal(torch.cat([part.exits for part in got]), exits[order])
    assert torch.allclose(torch.cat([part.embeddings for part in got]), embeddings[order], atol=1e-5)


def test_planned_exits_are_taken():
    tower, images, decider = case("ViT", "tgem")
    planned = torch.arange(N) % DEPTH
    got = list(encode_stream(tower, decider, images.split(4), 4, planned=planned))
    assert torch.equal(torch.cat([part.exits for part in got]), planned)


def test_an_empty_stream_gives_no_results():
    tower, images, decider = case("ViT", "margin")
    assert list(encode_stream(tower, decider, [], 4)) == []
    (none,) = encode_stream(tower, decider, [images[:0]], 4)
    assert none.embeddings.shape == (0, DIM) and none.exits.shape == (0,) and none.exits.dtype == torch.int64
    with pytest.raises(UserError, match="batch_size 0: a forward pass takes at least 1 image"):
        next(encode_stream(tower, decider, [images], 0))


def test_memory_of_a_batch_may_be_used_again():
    tower, images, decider = case("ViT", "tgem")
    memory = torch.empty_like(images[:3])

    def batches():
        for batch in images.split(3):
            yield memory.copy_(batch)

    got = torch.cat([part.embeddings for part in encode_stream(tower, decider, batches(), 4)])
    assert torch.allclose(got, alone("ViT", "tgem", None)[0], atol=1e-5)


class Watched:
    """A tower of many blocks with planned exits, and what happens in it: `("block", k, n)`, `("let in", n)`, ..."""

    def __init__(self, monkeypatch, planned):
        self.tower, images, self.decider = case("ViT", "tgem", 12)
        self.planned, self.images = planned, images[:1].clone()
        self.inside, self.most, self.sizes = 0, 0, {k: [] for k in range(12)}
        block, heads, finish = self.tower.block, self.decider.heads.at_exit, self.tower.finish
        monkeypatch.setattr(self.tower, "block", lambda k, state: self._counted(k, len(state)) or block(k, state))
        monkeypatch.setattr(self.decider.heads, "at_exit", lambda k, s: self._left(len(s)) or heads(k, s))
        monkeypatch.setattr(self.tower, "finish", lambda state: self._left(len(state)) or finish(state))

    def _counted(self, k: int, n: int) -> None:
        self.most = max(self.most, self.inside)
        self.sizes[k].append(n)

    def _left(self, n: int) -> None:
        self.inside -= n

    def batches(self, size: int):
        for part in self.planned.split(size):
            self.inside += len(part)
            yield self.images.expand(len(part), -1, -1, -1)

    def stream(self, size: int):
        return encode_stream(self.tower, self.decider, self.batches(size), size, planned=self.planned)


def random_exits(n: int) -> torch.Tensor:
    """Planned exits of a tower of 12 blocks."""
    return torch.randint(12, (n,), generator=torch.Generator().manual_seed(0))


def test_blocks_run_at_full_batches(monkeypatch):
    watched = Watched(monkeypatch, random_exits(400))
    monkeypatch.setattr(buffered_engine, "WAITING", 12)
    list(watched.stream(4))
    for k, sizes in watched.sizes.items():
        assert sum(sizes) == (watched.planned >= k).sum() and set(sizes[:-3]) == {4}, "but at the end"
    assert sum(map(len, watched.sizes.values())) <= 400 * 6.5 / 4 + 12 * 3


@pytest.mark.parametrize(("size", "held"), [(2, WAITING), (4, 2), (9, 2)])
def test_few_images_wait(monkeypatch, size, held):
    watched = Watched(monkeypatch, random_exits(300))
    monkeypatch.setattr(buffered_engine, "WAITING", held)
    exits = torch.cat([part.exits for part in watched.stream(size)])
    assert torch.equal(exits, watched.planned) and watched.inside == 0
    assert 2 * size < watched.most <= min(12 * (size - 1), held * size) + size


def test_results_do_not_wait_for_long(monkeypatch):
    """One image goes to the end, and no other one follows it."""
    planned = torch.zeros(6 * AHEAD, dtype=torch.int64)
    planned[5] = 11
    watched, taken, ahead = Watched(monkeypatch, planned), [], []
    batches = (taken.append(part) or part for part in watched.batches(2))
    results = encode_stream(watched.tower, watched.decider, batches, 2, planned=planned)
    exits = []
    for result in results:
        ahead.append(len(taken) - len(exits))
        exits.append(result.exits)
    assert torch.equal(torch.cat(exits), planned)
    assert AHEAD <= max(ahead) <= AHEAD + 4 and ahead[-1] == 1, "and then they wait no more"


def test_memory_is_that_of_a_batch_and_of_what_waits(monkeypatch):
    size, watched = 8, Watched(monkeypatch, random_exits(96))
    tower, decider, images = watched.tower, watched.decider, watched.images.expand(8, -1, -1, -1)
    one = most_alive(lambda: encode_early(tower, decider, images, planned=watched.planned[:size]))
    state = tower.stem(images).nbytes
    peak = most_alive(lambda: deque(watched.stream(size), maxlen=0))
    assert one + state < peak <= one + WAITING * state
