"""A gate about conditions that no photograph shows."""

import numpy as np
import pandas as pd
import pytest

from ddeval.errors import InputError
from ddeval.metrics.paired import Comparison
from ddeval.score.gate import Criterion, _of_comparison


def asked(metric: str) -> object:
    columns = ["run", "baseline", "subset", "metric", "value", "difference", "ci_low", "ci_high"]
    empty = pd.DataFrame({name: [] for name in [*columns, "n_images", "n_groups"]})
    comparison = Comparison(**{**dict.fromkeys(Comparison._fields, empty), "n_images": 0, "n_groups": 0})
    criterion = Criterion(name="x", metric=metric, kind="at_most", bound=0.2)
    return _of_comparison(criterion, comparison, "B", "A", "gate.yaml: x")


def test_malignant_conditions_that_no_photograph_shows_cannot_be_told():
    found = asked("malignant_missed")
    assert np.isnan(found.value)
    assert found.n_images == 0
    assert "risk group" in found.note


def test_a_misspelt_metric_is_still_refused():
    with pytest.raises(InputError, match="malignant_misses"):
        asked("malignant_misses")
