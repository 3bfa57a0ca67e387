"""The plans of two jobs, whole: a change of any field of any object shows in review."""

import pytest

from tests.tandem_operator.golden_plans import NAMES, plan_file, plan_text


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_is_the_one_that_was_reviewed(name: str) -> None:
    """After a change that is meant: `python -m tests.tandem_operator.golden_plans`, then read the difference."""
    assert plan_text(name) == plan_file(name).read_text()
