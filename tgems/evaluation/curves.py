"""Curves of quality over realised rate, on every resample at once: interpolation, and the area under them."""

import numpy as np

AREA_FROM, AREA_TO = 0.3, 0.9


def interpolate(x: np.ndarray, rates: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Piecewise linear curves, one per resample, without extrapolation.

    Args:
        x: Where to read each curve `[R]` or `[R, q]`.
        rates: Knots `[R, k]`, in any order.
        values: Values at the knots `[R, k]`.

    Returns:
        The shape of `x`; NaN outside of a curve.
    """
    order = np.argsort(rates, axis=1, kind="stable")
    rates, values = np.take_along_axis(rates, order, 1), np.take_along_axis(values, order, 1)
    wanted = x.reshape(len(rates), -1)
    right = (rates[:, None, :] < wanted[:, :, None]).sum(-1).clip(1, rates.shape[1] - 1)
    x0, x1 = np.take_along_axis(rates, right - 1, 1), np.take_along_axis(rates, right, 1)
    y0, y1 = np.take_along_axis(values, right - 1, 1), np.take_along_axis(values, right, 1)
    share = np.divide(wanted - x0, x1 - x0, out=np.ones_like(wanted), where=x1 > x0)
    read = y0 + share * (y1 - y0)
    outside = (wanted < rates[:, :1] - 1e-12) | (wanted > rates[:, -1:] + 1e-12)
    return np.where(outside, np.nan, read).reshape(x.shape)


def area(rates: np.ndarray, values: np.ndarray, low: float = AREA_FROM, high: float = AREA_TO) -> np.ndarray:
    """Mean height of piecewise linear curves between two rates (docs/method.md#evaluation).

    Args:
        rates: Knots `[R, k]`.
        values: Values `[R, k]`.
        low: Left end.
        high: Right end.

    Returns:
        `[R]`; NaN where a curve does not reach both ends.
    """
    ends = np.tile([low, high], (len(rates), 1))
    knots = np.sort(np.concatenate((ends, rates.clip(low, high)), 1), 1)
    return np.trapezoid(interpolate(knots, rates, values), knots, axis=1) / (high - low)
