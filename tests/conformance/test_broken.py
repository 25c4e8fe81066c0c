"""The catalogue of broken zoneouts: the kit catches each of them, and minizone has none of their bugs.

How many were caught is printed at the end of a run of the tests.
"""

from functools import cache

import pytest

from minizone.conformance import INVARIANTS, Function, Layer, conform
from minizone.conformance.broken import CATALOGUE, ReadableLSTM


@cache
def results(adapter):
    """Status by the name of the invariant."""
    return {result.invariant.name: result.status for result in conform(adapter)}


@pytest.mark.parametrize("bug", CATALOGUE, ids=lambda bug: bug.__name__)
def test_bug_is_caught_by_the_invariants_that_name_it_and_minizone_does_not_have_it(bug, record_property):
    failed = {name for name, status in results(bug).items() if status == "FAIL"}
    assert failed and failed == bug.caught_by
    for correct in (Function, Layer, ReadableLSTM):
        assert {results(correct)[name] for name in failed} == {"pass"}
    record_property("broken zoneouts caught", 1)


@pytest.mark.parametrize("correct", [Function, Layer, ReadableLSTM])
def test_correct_implementation_passes_every_invariant(correct):
    assert results(correct) == {invariant.name: "pass" for invariant in INVARIANTS}


def test_every_invariant_catches_a_bug():
    """An invariant that nothing in the catalogue fails could be broken itself."""
    assert set().union(*(bug.caught_by for bug in CATALOGUE)) == {invariant.name for invariant in INVARIANTS}


def test_catalogue_is_complete_and_says_of_each_bug_whose_it_was_and_what_it_costs():
    in_its_file = {bug for bug in ReadableLSTM.__subclasses__() if bug.__module__ == ReadableLSTM.__module__}
    assert set(CATALOGUE) == in_its_file and len(CATALOGUE) == len(in_its_file)
    for bug in CATALOGUE:
        assert bug.__doc__ and bug.whose and bug.cost
