"""The tables' numbers once more, from the caches, the trained modules and the thresholds, by loops over images.

Nothing of `tgems.evaluation` is used, and of the policies only what trained modules compute and
the constants of thresholds that move.
"""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tgems.exits.bank_statistics import BankStatistics, bank_features
from tgems.exits.saved_modules import load_module
from tgems.policies import online

pytestmark = pytest.mark.workflow
BACKBONE, TARGET = "demo-vit-8", 0.6


def read_split(results, dataset):
    """Summaries, embeddings of the last exit, texts, and for each text the images that it is right for."""
    folder = results / f"features/{BACKBONE}/{dataset}"
    parts = [load_file(path) for path in sorted((folder / "test.shards").glob("*/*.safetensors"))]
    summaries, last = (torch.cat([part[name] for part in parts]) for name in ("summaries", "embeddings"))
    texts = load_file(folder / "test/texts.safetensors")["embeddings"]
    if dataset == "scenes":
        captions = pd.read_parquet(folder / "test/captions.parquet")
        return summaries, last, texts, texts[captions["text"].tolist()], captions["image"].tolist()
    return summaries, last, texts, texts, pd.read_parquet(folder / "test/samples.parquet")["label"].tolist()


def costs_of(results, policy, visited, bank_size):
    """Relative cost of leaving at every exit, by walking the exits."""
    macs = json.loads((results / f"profiling/{BACKBONE}/default/macs.json").read_text())["costs"]
    spent, price, exits = 0, [], len(macs["encoder"])
    for k in range(exits):
        look = 0
        if k < exits - 1 and k in (range(exits) if visited is None else visited):
            look = {"tgem": macs["gates"]["image"][k], "margin": macs["head"][k]}.get(policy, 0)
            look += macs["head"][k] + macs["gates"]["bank"][k] if policy == "tgem_bank" else 0
        answer = macs["head"][k] if k < exits - 1 and policy in ("tgem", "fixed") else 0
        price.append((macs["encoder"][k] + spent + look + answer) / macs["encoder"][-1])
        spent += look + (bank_size * macs["embed_dim"] if look and policy in ("margin", "tgem_bank") else 0)
    return price


def scores_of(results, policy, z, summaries, bank, scale, weights):
    """Score of every exit before the last."""
    if policy == "tgem":
        return load_module(results / f"exits/{BACKBONE}/default/image/rate-0.60/seed-0", weights)(summaries).double()
    logits = scale * z @ bank.T
    p = logits.double().softmax(-1).sort(-1, descending=True).values[:, :-1]
    if policy == "margin":
        return p[..., 0] - p[..., 1]
    gates = load_module(results / f"exits/{BACKBONE}/default/bank/seed-0", weights)
    seen = BankStatistics(p[..., 0], p[..., 0], p[..., 0], p[..., 0], bank_features(logits[:, :-1], scale))
    return gates.scores(summaries, seen)


def hits_by_text(z, right, texts, retrieval):
    """Return for each image and exit whether the best text is right `[n, E]`; a tie counts as wrong."""
    hits = np.zeros(z.shape[:2])
    for i in range(len(z)):
        own = np.array([image == i for image in right]) if retrieval else np.arange(len(texts)) == right[i]
        scores = z[i].double().numpy() @ texts.double().numpy().T
        hits[i] = scores[:, own].max(1) > scores[:, ~own].max(1) + 1e-12
    return hits


def hits_by_image(gallery, texts, right):
    """Share of texts whose image scores highest."""
    scores = texts.double().numpy() @ gallery.double().numpy().T
    own = scores[np.arange(len(right)), right].copy()
    scores[np.arange(len(right)), right] = -np.inf
    return (own > scores.max(1) + 1e-12).mean()


def exits_of_stream(scores, price, start):
    """Exits of images whose thresholds move after each, as docs/method.md#holding-a-rate describes it."""
    exits, debt, base, offset = np.full(len(scores), -1), 0.0, 0.0, 0.0
    visited = range(scores.shape[1]) if start["point"]["visited"] is None else start["point"]["visited"]
    for image in np.random.default_rng([0, len(scores)]).permutation(len(scores)):
        exits[image] = scores.shape[1]
        for k, threshold in zip(visited, start["point"]["thresholds"], strict=True):
            leaves_anyway, never = offset <= -online.RANGE, offset >= online.RANGE
            if not never and (leaves_anyway or scores[image, k] > threshold + offset * start["spread"]):
                exits[image] = k
                break
        debt += price[exits[image]] - TARGET
        base = min(max(base - online.LEARNING * online.GAIN * debt, -online.RANGE), online.RANGE)
        offset = base - online.GAIN * debt
    return exits


@pytest.mark.parametrize("dataset", ["scenes", "digits"])
@torch.no_grad()
def test_the_tables_numbers_are_those_of_loops_over_images(smoke, dataset):
    results = smoke / "results/smoke"
    summaries, last, bank, texts, right = read_split(results, dataset)
    manifest = json.loads((results / f"features/{BACKBONE}/{dataset}/test/manifest.json").read_text())
    fits = json.loads((results / f"evaluation/{BACKBONE}/default/{dataset}/thresholds.json").read_text())["thresholds"]
    heads = load_module(results / f"exits/{BACKBONE}/default/heads/seed-0", manifest["weights"])
    z = torch.cat((heads(summaries), last[:, None]), 1)
    by_text = hits_by_text(z, right, texts, dataset == "scenes")
    table = pd.read_csv(results / "tables/tradeoff.csv", dtype={"seed": str}).query("score_normalisation == 'none'")
    table = table[table["dataset"].eq(dataset) & ~table["seed"].eq("mean")]
    streams = table[table["calibration"].eq("online")].set_index("policy")
    table = table[~table["calibration"].isin(["transfer", "online"])]
    started = json.loads((results / f"evaluation/{BACKBONE}/default/scenes/thresholds.json").read_text())["thresholds"]
    metric = "text_retrieval_recall@1" if dataset == "scenes" else "acc1"
    checked = 0

    def check(value, rate, metric=metric, **where):
        nonlocal checked
        row = table[(table[list(where)] == pd.Series(where)).all(axis=1) & table["metric"].eq(metric)]
        assert len(row) == 1, where
        found = row[["value", "rate"]].iloc[0].tolist()
        assert found == pytest.approx([value, rate], abs=1e-6), (where, metric)
        checked += 1

    check(by_text[:, -1].mean(), 1.0, policy="full")
    for block, price in enumerate(costs_of(results, "fixed", None, len(bank))[:-1], 1):
        check(by_text[:, block - 1].mean(), price, policy="fixed", exit_block=block)
        if dataset == "scenes":
            at_block = hits_by_image(z[:, block - 1], texts, right)
            check(at_block, price, "image_retrieval_recall@1", policy="fixed", exit_block=block)
    for policy in ("margin", "tgem", "tgem_bank"):
        point = next(f for f in fits if f["policy"] == policy and f["score_normalisation"] == "none")["point"]
        price = np.array(costs_of(results, policy, point["visited"], len(bank)))
        scores = scores_of(results, policy, z, summaries, bank, manifest["logit_scale"], manifest["weights"]).numpy()
        exits = []
        for row in scores:
            looked = range(len(row)) if point["visited"] is None else point["visited"]
            pairs = zip(looked, point["thresholds"], strict=True)
            exits.append(next((k for k, threshold in pairs if row[k] > threshold), len(row)))
        value = np.mean([by_text[i, k] for i, k in enumerate(exits)])
        check(value, price[exits].mean(), policy=policy, rate_target=TARGET)
        start = next(f for f in started if f["policy"] == policy and f["score_normalisation"] == "none")
        price = np.array(costs_of(results, policy, start["point"]["visited"], len(bank)))
        held = exits_of_stream(scores, price, start)
        row = streams[streams["metric"].eq(metric)].loc[policy]
        again = [np.mean([by_text[i, k] for i, k in enumerate(held)]), price[held].mean()]
        assert row[["value", "rate"]].tolist() == pytest.approx(again, abs=1e-6), policy
        price = np.array(costs_of(results, policy, point["visited"], len(bank)))
        permuted = np.mean([np.mean(by_text[:, k]) for k in exits])
        check(permuted, price[exits].mean(), policy="shuffled", twin_of=policy, rate_target=TARGET)
        if dataset == "scenes" and policy == "tgem":
            gallery = z[torch.arange(len(z)), torch.tensor(exits)]
            value = hits_by_image(gallery, texts, right)
            check(value, price[exits].mean(), "image_retrieval_recall@1", policy=policy, rate_target=TARGET)
    assert checked == (22 if dataset == "scenes" else 14)
