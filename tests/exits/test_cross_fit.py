"""Gates learn from heads that have not seen the image."""

import torch
from conftest import DEMO, options, variant
from toy import toy_pairs

from tgems.backbones.references import model_config
from tgems.costs.exit_costs import module_costs
from tgems.costs.saved_costs import write_costs
from tgems.exits.head_training import cross_fit, embed, embed_out_of_fold, train_heads
from tgems.exits.saved_modules import load_folds
from tgems.exits.training_jobs import Training, run_heads

RATES = torch.tensor([0.25, 0.5, 0.75, 1.0])
HEADS = options("heads", fold_passes=40, batch_size=64, hidden=16, learning_rate=0.01, weight_decay=0.05)


def test_each_half_is_embedded_by_the_heads_of_the_other():
    pairs = toy_pairs(101)
    folds, unseen_by = cross_fit(pairs, RATES, HEADS, 0)
    assert unseen_by.bincount().tolist() == [50, 51]
    z = embed_out_of_fold(folds, unseen_by, pairs)
    for fold, heads in enumerate(folds):
        own = unseen_by == fold
        assert torch.allclose(z[own], embed(heads, pairs.summaries[own], pairs.last[own]), atol=1e-6)
        seen = (unseen_by != fold).nonzero()[:, 0]
        again, _ = train_heads(pairs, RATES, HEADS.model_copy(update={"passes": 40}), 0, seen)
        assert all(torch.equal(a, b) for a, b in zip(heads.parameters(), again.parameters(), strict=True))


def test_images_that_heads_have_not_seen_do_not_change_them():
    pairs, other = toy_pairs(100), toy_pairs(100)
    among = torch.arange(0, 100, 2)
    other.last[1::2] = -other.last[1::2]
    one, _ = train_heads(pairs, RATES, HEADS.model_copy(update={"passes": 3}), 0, among)
    two, _ = train_heads(other, RATES, HEADS.model_copy(update={"passes": 3}), 0, among)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_unlearnable_texts_look_learned_only_to_heads_that_have_seen_them():
    pairs = toy_pairs(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    noise = torch.nn.functional.normalize(torch.randn(200, 8, generator=torch.Generator().manual_seed(2)), dim=-1)
    pairs.last.copy_(noise[order])
    pairs.summaries.copy_(torch.randn(200, 3, 10, generator=torch.Generator().manual_seed(3)))
    chosen = HEADS.model_copy(
        update={"passes": 200, "fold_passes": 200, "text": 0, "similarity": 0, "hidden": 64, "weight_decay": 0.0}
    )
    heads, _ = train_heads(pairs, RATES, chosen, 0)
    folds, unseen_by = cross_fit(pairs, RATES, chosen, 0)
    fitted = (embed(heads, pairs.summaries, pairs.last)[:, 0] * pairs.last).sum(-1).mean()
    honest = (embed_out_of_fold(folds, unseen_by, pairs)[:, 0] * pairs.last).sum(-1).mean()
    assert fitted > 0.6 and honest < 0.2


def test_the_folder_of_heads_keeps_what_gates_learn_from(demo_features, tmp_path):
    write_costs(tmp_path / "macs.json", module_costs(model_config(DEMO), variant(exits=[2, 5])), {})
    source, macs = str(demo_features / "scenes"), str(tmp_path / "macs.json")
    found = {}
    for passes in (0, 2):
        chosen, out = options("heads", passes=2, hidden=8, fold_passes=passes, batch_size=16), tmp_path / f"{passes}"
        run_heads(source, macs, chosen, 0, str(out))
        assert (load_folds(out) is not None) == (passes > 0)
        found[passes] = Training.read(source, macs).embed(str(out))
    assert found[0].shape == found[2].shape and not torch.allclose(found[0], found[2])
    assert torch.equal(found[0][:, -1], found[2][:, -1]), "the last exit is the backbone's own"
