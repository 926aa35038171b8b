"""Times of the parts of early exit: the bound adds up the calls that the engine makes, and parts are told apart."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime.test_engine import EveryOther
from toy import costs_of_sizes

from tgems.exits.modules import ExitHeads
from tgems.runtime.block_times import BlockTimes, batch_sizes_up_to, bound, early_seconds, measure_block_times
from tgems.runtime.engine import encode_early
from tgems.runtime.live_view import ExitDecider

DEPTH = 4
COSTS = costs_of_sizes([2] * (DEPTH - 1), 2, 2)


class Tower:
    """A tower that notes how many images each part was called with; `slow` blocks sleep."""

    depth, image_size, widths = DEPTH, (1, 1), (2,) * DEPTH

    def __init__(self, slow=()):
        self.calls, self.slow = [], slow

    def stem(self, images):
        self.calls.append(("stem", len(images)))
        return torch.ones(len(images), 2)

    def block(self, k, state):
        self.calls.append((k, len(state)))
        if k in self.slow:
            time.sleep(0.01)
        return state + 0

    def finish(self, state):
        self.calls.append(("finish", len(state)))
        return state

    def summarise(self, state, grids):
        return state[:, None]


def decider():
    return ExitDecider(EveryOther(), COSTS, ExitHeads(DEPTH - 1, 2, 0, 2).eval(), None, {}, tuple(range(DEPTH - 1)))


def affine(sizes=(1, 2, 4, 8), fixed=1.0, each=1.0):
    """Times `fixed + each n` of the stem, twice as much for the end, and more for each further block."""
    n = np.array(sizes, dtype=float)
    one = fixed + each * n
    return BlockTimes(sizes, one, one * np.arange(3, 3 + DEPTH)[:, None], 2 * one, *np.ones((2, DEPTH - 1, len(sizes))))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, DEPTH - 1), min_size=1, max_size=20), st.integers(1, 8))
@torch.no_grad()
def test_the_bound_counts_the_calls_that_the_engine_makes(exits, chunk):
    times, tower = affine((1, 32)), Tower()
    encode_early(tower, decider(), torch.zeros(len(exits), 3, 1, 1), chunk=chunk, planned=torch.tensor(exits))
    weight = {"stem": 1, "finish": 2} | {k: 3 + k for k in range(DEPTH)}
    spent = sum(weight[part] * (1 + n) for part, n in tower.calls)
    assert early_seconds(times, np.array(exits), COSTS.blocks, chunk) == pytest.approx(spent)


def test_the_bound_equals_a_closed_form():
    """Stem 1, blocks 3, 4, 5, 6 and end 2 times (1 + n)."""
    exits = np.array([[0, 0], [3, 1]])
    calls = [3 * (1 + 3), 3 * (1 + 3 + 4) + 2 * (5 + 6 + 2)]
    assert bound(affine(), exits, COSTS.blocks, 2) == pytest.approx(3 * 21 / np.mean(calls))
    assert bound(affine(), np.full((2, 5), 3), COSTS.blocks, 2) == 1, "the full encoder in chunks"
    proportional = affine(fixed=0.0)
    assert bound(proportional, np.array([[0, 3]]), COSTS.blocks, 2) == pytest.approx(2 * 21 / (4 + 21))


def test_times_between_and_beyond_measured_sizes():
    times = affine()
    assert times.at(times.stem, 0) == 0 and times.at(times.stem, 3) == 4 and times.at(times.stem, 8) == 9
    assert times.at(times.blocks, 16).tolist() == [54, 72, 90, 108], "in proportion"
    assert batch_sizes_up_to(1) == (1,) and batch_sizes_up_to(8) == (1, 2, 4, 8)
    assert batch_sizes_up_to(11) == (1, 2, 4, 8, 11)


@torch.no_grad()
def test_each_part_is_timed_by_itself():
    tower = Tower(slow=[2])
    times = measure_block_times(tower, decider(), 3, 0.0)
    assert times.sizes == (1, 2, 3) and times.blocks.shape == (DEPTH, 3) and times.visits.shape == (DEPTH - 1, 3)
    assert (times.blocks[2] >= 0.01).all() and (times.blocks[[0, 1, 3]] < 0.01).all() and (times.finish < 0.01).all()
    assert (times.visits > 0).all() and {n for _, n in tower.calls} == {1, 2, 3}
