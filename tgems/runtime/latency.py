"""Measure the time that early exit saves: full encoder and early exit take turns in one process.

Which image leaves where is drawn beforehand from an exit histogram, so that both sides encode the same images at a
known rate; gates are evaluated as usual. Weights do not matter for speed, so heads and gates are random.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from tgems.backbones.load import load_backbone
from tgems.backbones.towers import Tower
from tgems.config.run import LatencyOptions
from tgems.costs.exit_costs import ExitCosts
from tgems.costs.saved_costs import read_costs
from tgems.devices import autocast, require_device
from tgems.errors import UserError
from tgems.exits.losses import exit_weights
from tgems.outputs import whole_file
from tgems.policies.trained_gates import TGem
from tgems.runtime.block_times import bound, measure_block_times
from tgems.runtime.drawn_exits import draw_exits
from tgems.runtime.engine import default_chunk, encode_early
from tgems.runtime.exits_by_time import draw_among, exits_by_time
from tgems.runtime.live_view import ExitDecider
from tgems.runtime.measured_settings import MeasuredSetting, RandomModules, settings_of_run
from tgems.runtime.speed_table import speed_table

FULL, CHUNKED, EARLY, BY_TIME = "full", "full, in chunks", "early exit", "early exit, exits by time"
IMAGES = 32
LEAST = 3

Encoders = dict[tuple, Callable[[int], Tensor]]
"""Functions of the number of the call, by the names of the setting: encoder, rate target and, if any, further names."""


class _Planned(NamedTuple):
    """Exits `[n]` that the images of all calls take, the decider to evaluate, and the cost of leaving `[E]`."""

    decider: ExitDecider
    exits: np.ndarray
    prices: np.ndarray


def measure_latency(
    tower: Tower,
    costs: ExitCosts,
    hidden: Mapping[str, int],
    shares: Mapping[float, np.ndarray],
    options: LatencyOptions,
    settings: Callable[[RandomModules], Iterable[MeasuredSetting]] = lambda modules: (),
) -> pd.DataFrame:
    """Measure one backbone.

    Args:
        tower: Image tower in eval mode.
        costs: Costs of its exits.
        hidden: Hidden widths of `heads` and `image_gates`, and of `bank_gates` if gates of further settings need it.
        shares: Rate target -> share of images by exit `[E]`, of policy tgem.
        options: Batch sizes, time, type and device.
        settings: Function that returns further operating points to measure together with the others.

    Returns:
        One row per batch size and encoder: `full`, `full, in chunks` (only where it differs), and at every rate target
            `early exit`, which asks all exits, and `early exit, exits by time` (`tgems.runtime.exits_by_time`), with
            exits that are drawn among those asked; and `early exit` of every further setting, which is named by
            `policy`, `dataset` and `exit_block`. `asked` is the number of exits asked. `speedup` is relative to the
            faster of the two full ones; `efficiency` is `speedup` times the rate, and `share_of_bound` is `speedup`
            divided by `bound`
        (`tgems.runtime.block_times.bound`).
    """
    torch.manual_seed(0)
    tower.visual.to(options.device)
    modules, prices = RandomModules(costs, hidden, options.device), partial(TGem().costs, costs, 0)
    decider = modules.decider(TGem(), range(len(costs.blocks) - 1))
    further = list(settings(modules))
    blank = torch.zeros(max(options.batch_sizes), 3, *tower.image_size, device=options.device)
    chunk = default_chunk(tower.stem(blank))
    parts = measure_block_times(tower, decider, min(chunk, len(blank)), options.seconds, options.dtype, options.device)
    frames = []
    for batch_size in tqdm(options.batch_sizes, desc="latency", unit="batch size"):
        calls = max(1, IMAGES // batch_size)
        images = torch.randn(batch_size, 3, *tower.image_size, device=options.device)
        planned: dict[tuple, _Planned] = {}
        for target, share in shares.items():
            some = exits_by_time(parts, prices, costs.blocks, target, batch_size, chunk).asked
            every, n = decider.asked, calls * batch_size
            planned[EARLY, target] = _Planned(decider, draw_exits(share, n), prices(every))
            planned[BY_TIME, target] = _Planned(
                decider.at(some), draw_among(prices(some), some, target, n), prices(some)
            )
        for setting in further:
            exits = draw_exits(setting.shares, calls * batch_size)
            planned[EARLY, *setting.names] = _Planned(setting.decider, exits, setting.prices)
        encoders = _encoders(tower, images, chunk)
        encoders |= {key: _leaving_at(own, tower, images, chunk) for key, own in planned.items()}
        times = _in_turn(encoders, calls, options)
        realised = {key: float(own.prices[own.exits].mean()) for key, own in planned.items()}
        bounds = {
            key: bound(parts, own.exits.reshape(calls, batch_size), costs.blocks, chunk) for key, own in planned.items()
        }
        asked = {key: len(own.decider.asked) for key, own in planned.items()}
        frames.append(speed_table(times, realised, bounds, asked, batch_size, calls))
    about = {"device": _device_name(options.device), "threads": torch.get_num_threads(), "dtype": options.dtype}
    return pd.concat(frames, ignore_index=True).assign(**about)


def run_latency(
    backbone: dict,
    hidden: Mapping[str, int],
    rate_targets: Sequence[float],
    macs: Path,
    exits: Sequence[Path],
    options: LatencyOptions,
    about: dict,
    out: Path,
    evaluated: Sequence[tuple[Path, Path]] = (),
) -> None:
    """Measure one backbone and write a CSV file.

    Args:
        backbone: Entry of the configuration.
        hidden: Hidden widths of `heads` and `image_gates`.
        rate_targets: Rate targets to draw exits for.
        macs: `macs.json` of the variant.
        exits: Shares of exits on one data set (Parquet); none to draw from the distribution of highest entropy at each
            rate.
        options: Batch sizes, time, type and device.
        about: Columns common to all rows.
        out: CSV file.
        evaluated: Exits taken on each data set and the thresholds that they follow from (`settings_of_run`), if
            `options` has policies.

    Raises:
        UserError: There is no such device, or no batch size, or policy tgem has no exits on this data set.
    """
    if not options.batch_sizes:
        raise UserError(
            "config: latency.batch_sizes is empty, so there is nothing to measure; set it, for example to [1, 8, 64]"
        )
    require_device("latency.device", options.device)
    costs = read_costs(macs)
    if exits:
        shares = trained_shares(pd.concat([pd.read_parquet(path) for path in exits]))
    else:
        rates = torch.from_numpy(costs.image_guided()).float()
        shares = {target: exit_weights(rates, target).numpy() for target in rate_targets}
    measured = ("tgem", exits[0].parent.name) if exits else None

    def settings(modules: RandomModules) -> Iterable[MeasuredSetting]:
        found = settings_of_run(options.policies, evaluated, modules)
        return [one for one in found if (one.policy, one.dataset) != measured]

    frame = measure_latency(load_backbone(backbone).tower, costs, hidden, shares, options, settings)
    if measured:
        frame.loc[frame["encoder"].eq(EARLY) & frame["policy"].isna(), ["policy", "dataset"]] = measured
    with whole_file(out) as partial:
        frame.assign(**about).to_csv(partial, index=False, float_format="%.6g")


def trained_shares(exits: pd.DataFrame) -> dict[float, np.ndarray]:
    """Return the share of images by exit for each rate target, of policy tgem, as means over seeds.

    Raises:
        UserError: There are none.
    """
    own = exits.query("policy == 'tgem'")
    if own.empty:
        raise UserError("config: latency.exits is 'trained', which needs policy 'tgem'; add it, or set 'drawn'")
    own = own[own["calibration"] == own["calibration"].iloc[0]]
    means = own.groupby(["rate_target", "exit_block"])["share"].mean().unstack()
    return {float(target): row.to_numpy() for target, row in means.iterrows()}


def _encoders(tower: Tower, images: Tensor, chunk: int) -> Encoders:
    """Make functions of the number of the call that encode all images to the end, by encoder."""
    encoders: Encoders = {(FULL, None): lambda call: F.normalize(tower.encode(images), dim=-1)}
    if chunk < len(images):
        encoders[CHUNKED, None] = lambda call: torch.cat(
            [F.normalize(tower.encode(x), dim=-1) for x in images.split(chunk)]
        )
    return encoders


def _leaving_at(own: _Planned, tower: Tower, images: Tensor, chunk: int) -> Callable[[int], Tensor]:
    """Make a function of the number of the call that encodes images which leave at given exits."""
    exits = torch.from_numpy(own.exits).to(images.device).split(len(images))
    return lambda call: encode_early(tower, own.decider, images, chunk=chunk, planned=exits[call]).embeddings


@torch.inference_mode()
def _in_turn(encoders: dict, calls: int, options: LatencyOptions) -> dict[tuple, list[list[float]]]:
    """Measure seconds of every call, by encoder and round; each round runs every encoder once over all calls."""
    times: dict[tuple, list[list[float]]] = {key: [] for key in encoders}
    start, rounds = time.perf_counter(), 0
    with autocast(options.device, options.dtype):
        for encode in encoders.values():
            encode(0)
        while rounds < LEAST or time.perf_counter() - start < options.seconds:
            for key, encode in encoders.items():
                times[key].append([_timed(encode, call, options.device) for call in range(calls)])
            rounds += 1
    return times


def _timed(encode: Callable, call: int, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    encode(call)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"
