"""Which steps are recorded."""

from __future__ import annotations

from xent.inspection.watching._schedule import Schedule


def recorded(schedule: Schedule, steps: range) -> list[int]:
    """Each record takes an hour, so that the shares pay for none after the first."""
    found = []
    for step in steps:
        kinds = schedule.due(step, 1)
        if "plain" in kinds:
            found.append(step)
        for kind in kinds:
            schedule.took(kind, step, 3600.0)
        if step == steps.start:
            schedule.began()
    return found


def test_a_short_run_has_a_curve_whatever_a_record_costs() -> None:
    assert recorded(Schedule(None), range(1, 91)) == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64]


def test_a_short_run_has_rows_of_more_than_its_beginning() -> None:
    schedule, found = Schedule(None), []
    for step in range(1, 2000):
        kinds = schedule.due(step, 1)
        found += [step] if "rows" in kinds else []
        for kind in kinds:
            schedule.took(kind, step, 3600.0)
        if step == 1:
            schedule.began()
    assert found == [1, 2, 4, 16, 64, 256, 1024]  # no record has been paid for before the first counted one


def test_steps_of_a_process_that_goes_on_are_counted_from_its_first() -> None:
    assert recorded(Schedule(None, first_step=101), range(101, 121)) == [101, 102, 103, 104, 106, 108, 111, 116]


def test_every_nth_is_every_nth() -> None:
    assert recorded(Schedule(10), range(1, 41)) == [1, 10, 20, 30, 40]


def test_ranks_record_the_same_steps_whatever_their_clocks_say() -> None:
    slow, fast = Schedule(None, by_number=True), Schedule(None, ("plain",), by_number=True)
    steps = recorded(slow, range(1, 1025))
    assert steps == [step for step in range(1, 1025) if "plain" in fast.due(step, 1)]
    assert steps[:128] == [*range(1, 129)]
    assert steps[-3:] == [1008, 1016, 1024]


def test_a_rank_whose_file_is_fuller_records_a_part_of_what_the_others_do() -> None:
    schedule = Schedule(None, by_number=True)
    of = {thinning: {step for step in range(1, 5000) if schedule.due(step, thinning)} for thinning in (1, 2, 8)}
    assert of[8] < of[2] < of[1]
    for step in range(1, 5000):
        kinds = schedule.due(step, 2)
        assert not kinds or "plain" in kinds  # nothing else stands alone
