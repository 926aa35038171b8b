"""Token merging against loops over lists of tokens."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tgems.backbones.token_merging import (
    Matching,
    match_tokens,
    merge_tokens,
    new_owners,
    proportional_attention,
    token_sizes,
)

NEAR = 1e-4


def cosine(a: list[float], b: list[float]) -> float:
    """Cosine similarity of two vectors."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def merged_by_loop(keys: list[list[float]], prefix: int, r: int) -> tuple[list[list[int]], bool]:
    """Merge the tokens of one image.

    Returns:
        The old tokens that each new token is made of, the one that keeps its place first; and whether rounding could
        change that.
    """
    a = [i for i in range(prefix, len(keys)) if i % 2 == 0]
    b = [i for i in range(prefix, len(keys)) if i % 2 == 1]
    likeness = {i: [cosine(keys[i], keys[j]) for j in b] for i in a}
    closest = sorted(a, key=lambda i: -max(likeness[i]))
    gone = closest[:r]
    groups = {i: [i] for i in [*range(prefix), *(i for i in a if i not in gone), *b]}
    for i in gone:
        groups[b[likeness[i].index(max(likeness[i]))]].append(i)
    numbers = sorted((max(row) for row in likeness.values()), reverse=True)
    close = r < len(numbers) and r > 0 and numbers[r - 1] - numbers[r] < NEAR
    tied = any(len(row) > 1 and sorted(row)[-1] - sorted(row)[-2] < NEAR for row in likeness.values())
    return list(groups.values()), close or tied


def groups_of(matching: Matching, image: int) -> list[list[int]]:
    """Old tokens that each new token of an image is made of, the one that keeps its place first."""
    groups = [[i] for i in matching.kept[image].tolist()]
    for old, new in zip(matching.merged[image].tolist(), matching.into[image].tolist(), strict=True):
        groups[new].append(old)
    return groups


@st.composite
def token_counts(draw) -> tuple[int, int, int]:
    """Number of class and register tokens, of patches, and of tokens to merge."""
    patches = draw(st.integers(2, 17))
    return draw(st.integers(0, 4)), patches, draw(st.integers(1, patches // 2))


@given(token_counts(), st.integers(0, 2**31))
def test_tokens_are_matched_as_a_loop_matches_them(counts, seed):
    prefix, patches, r = counts
    keys = torch.randn(3, prefix + patches, 5, generator=torch.Generator().manual_seed(seed))
    matching = match_tokens(keys, prefix, r)
    for image in range(3):
        expected, unsure = merged_by_loop(keys[image].tolist(), prefix, r)
        assume(not unsure)
        ours = groups_of(matching, image)
        assert [sorted(group) for group in ours] == [sorted(group) for group in expected]
        assert [group[0] for group in ours] == [group[0] for group in expected], "the order is the paper's"


def test_of_equally_similar_pairs_the_first_is_merged():
    matching = match_tokens(torch.ones(1, 9, 2), 1, 2)
    assert groups_of(matching, 0) == [[0], [6], [8], [1, 2, 4], [3], [5], [7]]


@settings(deadline=None)
@given(token_counts(), st.integers(0, 2**31), st.integers(1, 4))
def test_a_token_is_the_mean_of_its_patches_however_often_tokens_are_merged(counts, seed, rounds):
    prefix, patches, r = counts
    generator = torch.Generator().manual_seed(seed)
    n, original = 2, torch.randn(2, prefix + patches, 3, generator=generator)
    tokens, owners = original, torch.arange(prefix, prefix + patches).expand(n, -1)
    for _ in range(rounds):
        now = min(r, (tokens.shape[1] - prefix) // 2)
        if not now:
            break
        sizes = token_sizes(owners, tokens.shape[1], prefix)
        keys = torch.randn(n, tokens.shape[1], 4, generator=generator)
        matching = match_tokens(keys, prefix, now)
        tokens, owners = merge_tokens(tokens, sizes, matching), new_owners(owners, matching)
        assert tokens.shape[1] == sizes.shape[1] - now
    sizes = token_sizes(owners, tokens.shape[1], prefix)
    assert (sizes >= 1).all() and (sizes.sum(1) == prefix + patches).all()
    assert torch.equal(tokens[:, :prefix], original[:, :prefix])
    for image in range(n):
        for number in range(prefix, tokens.shape[1]):
            own = [k for k in range(patches) if owners[image, k] == number]
            mean = sum(original[image, prefix + k] for k in own) / len(own)
            assert sizes[image, number] == len(own)
            assert torch.allclose(tokens[image, number], mean, atol=1e-5)


@given(token_counts(), st.integers(0, 2**31))
def test_tokens_into_which_none_is_merged_stay_as_they_are_bit_for_bit(counts, seed):
    prefix, patches, r = counts
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, prefix + patches, 3, generator=generator)
    sizes = torch.randint(1, 50, tokens.shape[:2], generator=generator).float()
    matching = match_tokens(torch.randn(2, prefix + patches, 4, generator=generator), prefix, r)
    merged = merge_tokens(tokens, sizes, matching)
    for image in range(2):
        for new, group in enumerate(groups_of(matching, image)):
            if len(group) == 1:
                assert torch.equal(merged[image, new], tokens[image, group[0]])


@given(token_counts(), st.integers(0, 2**31))
def test_neither_the_order_of_images_nor_that_within_either_set_matters(counts, seed):
    prefix, patches, r = counts
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(4, prefix + patches, 5, generator=generator)
    for image in keys:
        assume(not merged_by_loop(image.tolist(), prefix, r)[1])
    plain, images = match_tokens(keys, prefix, r), torch.randperm(4, generator=generator)
    for one, other in zip(match_tokens(keys[images], prefix, r), plain, strict=True):
        assert torch.equal(one, other[images])
    order = list(range(prefix + patches))
    for first in (prefix, prefix + 1):
        own = torch.arange(first, prefix + patches, 2)
        order[first::2] = own[torch.randperm(len(own), generator=generator)].tolist()
    mixed = match_tokens(keys[:, order], prefix, r)
    for image in range(4):
        ours = {frozenset(order[k] for k in group) for group in groups_of(mixed, image)}
        assert ours == {frozenset(group) for group in groups_of(plain, image)}


@given(st.integers(1, 9), st.integers(0, 2**31))
def test_attention_counts_a_token_as_often_as_it_has_patches(tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 1, 2, tokens, 4, generator=generator)
    sizes = torch.randint(1, 6, (1, tokens), generator=generator)
    ours = proportional_attention(query, key, value, sizes.float())
    repeated = (x.repeat_interleave(sizes[0], dim=2) for x in (key, value))
    assert torch.allclose(ours, F.scaled_dot_product_attention(query, *repeated), atol=1e-5)
    ones = torch.ones(1, tokens)
    assert torch.allclose(
        proportional_attention(query, key, value, ones), proportional_attention(query, key, value, None), atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tokens_keep_their_precision_and_half_precision_does_not_overflow(dtype):
    tokens = torch.full((1, 5, 2), 60_000.0 if dtype is torch.float16 else 3e38, dtype=dtype)
    merged = merge_tokens(tokens, torch.full((1, 5), 100.0), match_tokens(torch.randn(1, 5, 3), 1, 2))
    assert merged.dtype == dtype and torch.isfinite(merged).all() and torch.equal(merged, tokens[:, :3])
