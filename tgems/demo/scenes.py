"""Digit scenes as data: their content, the descriptions that are true of them, and captions in English.

A scene is a function of (seed, part, index). A description is a set of claims about a scene; whether it holds is
decided by the scene's attributes, never by comparing strings.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tgems.demo.handwriting import PARTS, split_handwriting
from tgems.errors import UserError

VALUES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLORS = ("red", "green", "blue", "yellow")
RELATIONS = ("above", "left of", "row", "column")
POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
LAYOUTS = ("plain", "single", *RELATIONS)
CANVAS = 32


@dataclass(frozen=True)
class PlacedDigit:
    """One digit on the canvas, with lengths in pixels of a 32 x 32 canvas and angles in radians."""

    source: int
    value: int
    color: str
    size: str
    position: str
    x: float
    y: float
    extent: float
    angle: float
    shear: float


@dataclass(frozen=True)
class Scene:
    """A scene: its layout, its difficulty from 0 (clean) to 1 (hard), and its digits in reading order."""

    layout: str
    difficulty: float
    digits: tuple[PlacedDigit, ...]
    render_seed: tuple[int, ...]


@dataclass(frozen=True)
class Claim:
    """What a description states about one digit; attributes that are None are left open."""

    value: int | None = None
    color: str | None = None
    size: str | None = None
    position: str | None = None

    def holds(self, digit: PlacedDigit) -> bool:
        """Return whether the digit has all stated attributes."""
        return all(
            stated is None or stated == actual
            for stated, actual in (
                (self.value, digit.value),
                (self.color, digit.color),
                (self.size, digit.size),
                (self.position, digit.position),
            )
        )


@dataclass(frozen=True)
class Description:
    """Claims about all digits of a scene, in order; with `layout` None their arrangement is left open."""

    claims: tuple[Claim, ...]
    layout: str | None = None
    handwritten: bool = False

    def holds(self, scene: Scene) -> bool:
        """Return whether the description is true of the scene."""
        return (
            len(self.claims) == len(scene.digits)
            and (self.layout is None or self.layout == scene.layout)
            and all(c.holds(d) for c, d in zip(self.claims, scene.digits, strict=True))
        )


def sample_scene(
    rng: np.random.Generator, sources: tuple[np.ndarray, ...], layout: str, render_seed: tuple[int, ...] = (0,)
) -> Scene:
    """Draw a scene of the given layout; values are uniform over the ten digits.

    Args:
        rng: Generator of all draws.
        sources: Source images by value, as `split_handwriting` returns them.
        layout: One of `LAYOUTS`.
        render_seed: Seed of all that is drawn in rendering: clutter, noise and background.
    """
    count = {"plain": 1, "single": 1, "above": 2, "left of": 2, "row": 3, "column": 3}[layout]
    difficulty = 0.0 if layout == "plain" else float(rng.random())
    half = CANVAS / 2
    digits = []
    size = str(rng.choice(("small", "large"))) if layout == "single" else "medium"
    for i in range(count):
        value = int(rng.integers(10))
        color = "white" if layout == "plain" else COLORS[rng.integers(len(COLORS))]
        position = "center"
        if layout == "plain":
            extent = rng.uniform(28, CANVAS)
            x, y = half + rng.uniform(-1.5, 1.5, 2)
        elif layout == "single" and size == "large":
            extent = rng.uniform(20, 26)
            x, y = half + rng.uniform(-3, 3, 2)
        elif layout == "single":
            extent = rng.uniform(12, 15)
            cell = int(rng.integers(9))
            position = POSITIONS[cell]
            x, y = half + 9 * (np.array([cell % 3, cell // 3]) - 1) + rng.uniform(-1.5, 1.5, 2)
        else:
            step, extent = (14, rng.uniform(13, 16)) if count == 2 else (10, rng.uniform(10, 12))
            along = half + step * (i - (count - 1) / 2) + rng.uniform(-1, 1)
            across = half + rng.uniform(-5, 5)
            x, y = (along, across) if layout in ("left of", "row") else (across, along)
        digits.append(
            PlacedDigit(
                source=int(rng.choice(sources[value])),
                value=value,
                color=color,
                size=size,
                position=position,
                x=float(x),
                y=float(y),
                extent=float(extent),
                angle=float(rng.uniform(-0.2, 0.2)),
                shear=float(rng.uniform(-0.2, 0.2)),
            )
        )
    return Scene(layout, difficulty, tuple(digits), render_seed)


def plain_scene(source: int, value: int) -> Scene:
    """Return a scene of one unmodified source image, resized to the canvas."""
    half = CANVAS / 2
    digit = PlacedDigit(source, value, "white", "medium", "center", half, half, float(CANVAS), 0.0, 0.0)
    return Scene("plain", 0.0, (digit,), (0,))


def full_description(scene: Scene) -> Description:
    """Describe all that a caption can state: values, colors and layout, or the size and position of a single digit."""
    if scene.layout == "plain":
        return Description((Claim(value=scene.digits[0].value),), "plain", handwritten=True)
    if scene.layout == "single":
        digit = scene.digits[0]
        position = digit.position if digit.size == "small" else None
        return Description((Claim(digit.value, digit.color, digit.size, position),), "single")
    return Description(tuple(Claim(d.value, d.color) for d in scene.digits), scene.layout)


def partial_description(scene: Scene, rng: np.random.Generator) -> Description:
    """Draw a true description that leaves some attributes open."""
    keep_value, keep_color = ((True, False), (False, True), (True, True))[rng.integers(3)]
    if scene.layout == "plain":
        return Description((Claim(value=scene.digits[0].value),), handwritten=bool(rng.integers(2)))
    claims = tuple(Claim(d.value if keep_value else None, d.color if keep_color else None) for d in scene.digits)
    if scene.layout == "single":
        return Description(claims, handwritten=keep_value and not keep_color and bool(rng.integers(2)))
    if rng.random() < 0.15:
        claims = tuple(Claim() for _ in claims)
    return Description(claims, scene.layout)


def caption(description: Description) -> str:
    """Write a description in English; equal descriptions give equal captions."""

    def noun(claim: Claim) -> str:
        adjectives = [word for word in (claim.size, claim.color) if word is not None]
        name = VALUES[claim.value] if claim.value is not None else "digit"
        words = " ".join([*adjectives, name])
        return f"{'an' if words[0] in 'aeiou' and words != 'one' else 'a'} {words}"

    claims = description.claims
    if len(claims) == 1:
        claim = claims[0]
        if description.handwritten and claim.value is not None:
            return f"a handwritten {VALUES[claim.value]}"
        if claim.value is None:
            return f"something {claim.color}"
        return noun(claim) + (f" at the {claim.position}" if claim.position else "")
    if all(c == Claim() for c in claims):
        return relation_phrase(description.layout or "")
    if len(claims) == 2:
        return f"{noun(claims[0])} {description.layout} {noun(claims[1])}"
    return f"a {description.layout} of {noun(claims[0])}, {noun(claims[1])} and {noun(claims[2])}"


def relation_phrase(layout: str) -> str:
    """Return the class name of a layout in the data set `relations`."""
    return f"one digit {layout} another" if layout in ("above", "left of") else f"a {layout} of three digits"


def sample_rng(seed: int, part: str, stream: int, index: int, attempt: int = 0) -> np.random.Generator:
    """Return the random generator of one sample; it does not depend on samples drawn before."""
    return np.random.default_rng([seed, PARTS.index(part), stream, index, attempt])


def scenes(
    seed: int, part: str, stream: int, n: int, shares: dict[str, float], unique: bool = False
) -> Iterator[Scene]:
    """Draw `n` scenes of one split.

    Args:
        seed: Seed of the data set.
        part: Part of the handwriting that the digits come from.
        stream: Number of the data set, by which two data sets of the same part differ.
        n: Number of scenes.
        shares: Share of the scenes for each layout, summing to 1. Counts are exact up to rounding, in random order.
        unique: Whether no two scenes may have the same full description.

    Raises:
        UserError: `unique` cannot be met because a layout has too few different descriptions.
    """
    sources = split_handwriting(part, seed)
    names = list(shares)
    edges = np.round(np.cumsum(list(shares.values())) * n).astype(int)
    layouts = np.repeat(names, np.diff(edges, prepend=0))
    layouts = np.random.default_rng([seed, PARTS.index(part), stream]).permutation(layouts)
    seen: set[Description] = set()
    for index, layout in enumerate(layouts):
        for attempt in range(1000):
            rng = sample_rng(seed, part, stream, index, attempt)
            scene = sample_scene(rng, sources, str(layout), (seed, PARTS.index(part), stream, index, 0xD5))
            if not unique:
                break
            description = full_description(scene)
            if description not in seen:
                seen.add(description)
                break
        else:
            raise UserError(
                f"{n} scenes of part {part!r} cannot all be told apart: layout {layout!r} with a share of "
                f"{shares[str(layout)]} has too few different descriptions; lower its share or the number of scenes"
            )
        yield scene
