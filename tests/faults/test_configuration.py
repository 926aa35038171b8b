"""Configurations that cannot be used are refused with one line that names key and value."""

import pytest
from config.test_config import complete_smoke
from conftest import ROOT
from faults.breaking import cases, check_line

from tgems.errors import UserError


@pytest.mark.parametrize("case", cases("configuration"))
def test_a_bad_value_is_one_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        complete_smoke(case["case"], tmp_path)
    check_line(str(error.value), case)
