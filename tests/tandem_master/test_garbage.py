"""The collector does not walk what lives when an Infer phase begins."""

import gc

from tandem_master.garbage import kept_aside


def test_what_lives_is_kept_aside_for_as_long_as_it_matters() -> None:
    before = gc.get_threshold()

    with kept_aside():
        num_aside, inside = gc.get_freeze_count(), gc.get_threshold()

    assert num_aside > 0
    assert inside[2] > before[2]
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, before)
