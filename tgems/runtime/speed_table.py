"""Tabulate measured times: latency, throughput, speed-up, and intervals that assume no distribution."""

import statistics
from collections.abc import Sequence
from math import comb

import numpy as np
import pandas as pd


def speed_table(times: dict, realised: dict, bounds: dict, asked: dict, batch_size: int, calls: int) -> pd.DataFrame:
    """Tabulate latency, throughput and speed-up of one batch size.

    Args:
        times: Seconds of every call, by encoder and round.
        realised: Mean rate by encoder; 1 if absent.
        bounds: Speed-up by encoder that its exits would reach if only the encoder took time; absent for the full
            encoder.
        asked: Number of exits at which the policy is evaluated, by encoder; absent for the full encoder.
        batch_size: Number of images per call.
        calls: Number of calls per round.
    """
    totals = {key: [sum(one) for one in rounds] for key, rounds in times.items()}
    full = min((key for key in totals if key not in asked), key=lambda key: statistics.median(totals[key]))
    rows = []
    for key, rounds in times.items():
        encoder, target, *names = key
        milliseconds = [1000 * total / (batch_size * calls) for total in totals[key]]
        fastest, slowest = median_interval(milliseconds)
        rate = realised.get(key, 1.0)
        speedups = [f / t for f, t in zip(totals[full], totals[key], strict=True)]
        limit = bounds.get(key, float("nan"))
        speedup, (low, high) = statistics.median(speedups), median_interval(speedups)
        single = [t * 1000 for one in rounds for t in one]
        rows.append(
            {
                "encoder": encoder,
                "batch_size": batch_size,
                "rate_target": target,
                "rate": rate,
                "asked": asked.get(key),
                "latency_ms_p50": float(np.percentile(single, 50)),
                "latency_ms_p95": float(np.percentile(single, 95)),
                "images_per_second": batch_size * calls / statistics.median(totals[key]),
                "speedup": speedup,
                "speedup_ci_low": low,
                "speedup_ci_high": high,
                "flops_speedup": 1 / rate,
                "efficiency": speedup * rate,
                "bound": limit,
                "share_of_bound": speedup / limit,
                "rounds": len(rounds),
                "ms_per_image": statistics.median(milliseconds),
                "ms_per_image_ci_low": fastest,
                "ms_per_image_ci_high": slowest,
                **dict(zip(("policy", "dataset", "exit_block"), names or (None, None, None), strict=True)),
            }
        )
    return pd.DataFrame(rows).astype({"asked": "Int64"})


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return an interval that covers the median of independent draws with at least this probability.

    It lies between two order statistics, whatever the distribution (Hahn & Meeker 1991, Statistical Intervals, 5.2):
    the j-th smallest and j-th largest value, with the largest j that suffices. Fewer than six values cannot reach
    95 %, and give their range.
    """
    ordered, outside, j = sorted(values), 0.0, 0
    n = len(ordered)
    while j < (n - 1) // 2:
        outside += 2 * comb(n, j) / 2**n  # the probability that at most j values lie on one side of the median
        if outside > 1 - level:
            break
        j += 1
    j = max(j, 1)
    return ordered[j - 1], ordered[n - j]
