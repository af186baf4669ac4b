"""Random programs: a few here, as many as wanted by `python tests/fuzz_programs.py FIRST LAST`."""

from __future__ import annotations

import jax
import pytest
from fuzz_programs import LENGTH, drawn, mistakes

#: Of the first thirty those that found mistakes: maxima, medians, complex numbers, what is held back.
SEEDS = (2, 12, 17, 24, 29)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("seed", SEEDS)
def test_every_transformation_of_a_random_program(seed):
    with jax.enable_x64(True):
        assert not mistakes(seed)


def test_programs_are_long_and_known_by_their_seed():
    with jax.enable_x64(True):
        first, again, other = drawn(3).names, drawn(3).names, drawn(4).names
    assert len(first) == LENGTH and first == again != other
