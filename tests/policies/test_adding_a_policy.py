"""The code of docs/adding-a-policy.md works as it stands there."""

import re

from conftest import ROOT
from policies.conftest import random_outputs

from tgems.policies.registry import find_policies

PAGE = (ROOT / "docs/adding-a-policy.md").read_text()


def example() -> str:
    return re.search(r"```python\n(.*?)```", PAGE, re.S)[1]


def test_the_policy_of_the_documentation_works(tmp_path):
    assert len(example().splitlines()) < 40
    path = tmp_path / "my_policies.py"
    path.write_text(example())
    word = re.search(r"my_policies\.py:(\w+)\]", PAGE)[1]
    ((name, policy),) = find_policies([f"{path}:{word}"]).items()
    assert name == "confirmed_confidence" and policy.needs_bank
    whole = random_outputs(0, n=40)
    winner, first = whole.statistics.winner.tolist(), whole.statistics.first.tolist()
    for point in policy.fit(whole, [0.6, 0.9]):
        for i, exit_ in enumerate(policy.decide(whole, point).tolist()):
            leaves = [e for e in (1, 2) if winner[i][e] == winner[i][e - 1] and first[i][e] > point.thresholds[0]]
            assert exit_ == (leaves[0] if leaves else 3)
