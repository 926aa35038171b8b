"""Divide one's own images into training, validation and test images, so that what belongs together stays together."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from tgems.data.dataset_entries import ROLES
from tgems.errors import UserError

HELD_OUT = 2_000
"""Most images of validation, and of test; each is otherwise a fifth of packed images, or a tenth of the tars."""
FEWEST = 20
"""Fewest images, and fewest groups of images, that can be divided."""


def groups_of(names: Sequence[str | None], sizes: Sequence[int], read: Callable[[int], bytes]) -> list[int]:
    """Return the group of each image: images are in one group if they share a name, or if their bytes are identical.

    Only images of equal size are read.

    Args:
        names: Name of the group that each image belongs to, or None.
        sizes: Number of bytes of each image.
        read: Reads the bytes of an image, by its place.

    Returns:
        For each image, the place of the first image of its group.
    """
    first = list(range(len(names)))

    def root(place: int) -> int:
        while first[place] != place:
            first[place] = first[first[place]]
            place = first[place]
        return place

    often = {size for size, count in Counter(sizes).items() if count > 1}
    seen: dict[tuple[str, str], int] = {}
    for place, name in enumerate(names):
        marks = [("name", name)] if name is not None else []
        if sizes[place] in often:
            marks.append(("bytes", hashlib.sha256(read(place)).hexdigest()))
        for mark in marks:
            one, other = root(place), root(seen.setdefault(mark, place))
            first[max(one, other)] = min(one, other)
    return [root(place) for place in range(len(names))]


def divided(groups: Sequence[int], seed: int, place: str) -> dict[str, list[int]]:
    """Divide images into roles at random, whole groups at a time; within a role they keep their order.

    Validation and test take groups until each holds a fifth of the images, or `HELD_OUT`. A group that is larger than
    that is for training.

    Args:
        groups: Group of each image, of `groups_of`.
        seed: Seed of the division.
        place: Folder or table that lists the images, for messages.

    Raises:
        UserError: There are too few images or groups, or the groups are too large.
    """
    takes = f"training and testing a T-GEM takes {FEWEST}"
    members: dict[int, list[int]] = {}
    for image, group in enumerate(groups):
        members.setdefault(group, []).append(image)
    if len(groups) < FEWEST:
        raise UserError(f"{place}: holds {len(groups)} images; {takes} at least, better 1,000")
    if len(members) < FEWEST:
        raise UserError(
            f"{place}: holds {len(groups)} images in {len(members)} groups, since images with a common group or "
            f"identical bytes stay together; {takes} groups at least"
        )
    held, own = min(len(groups) // 5, HELD_OUT), list(members.values())
    parts: dict[str, list[int]] = {role: [] for role in ROLES}
    for number in np.random.default_rng(seed).permutation(len(own)):
        fits = len(own[number]) <= held
        role = next((name for name in ("validation", "test") if fits and len(parts[name]) < held), "train")
        parts[role] += own[number]
    for role in ROLES:
        if len(parts[role]) < FEWEST // 5:
            raise UserError(
                f"{place}: the groups are too large to divide; the largest holds {max(map(len, own)):,} of "
                f"{len(groups):,} images, and {role} gets {len(parts[role])}; make smaller groups, or add images"
            )
    return {role: sorted(parts[role]) for role in ROLES}
