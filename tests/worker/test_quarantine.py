"""The quarantine of a worker: who may come beside whom."""

from asyncq.seams.quarantine import NO_ADMISSION, Admission, Quarantine


def test_an_empty_quarantine_has_room_for_any() -> None:
    assert Quarantine(alone_from=2).admission == Admission(2, alone=True)
    assert Quarantine(alone_from=0).admission == Admission(1, alone=True)


def test_while_one_may_come_that_is_to_be_alone_nobody_else_may() -> None:
    quarantine = Quarantine(alone_from=2)
    admission = quarantine.reserve()

    assert quarantine.reserve() == NO_ADMISSION
    quarantine.occupy(admission)
    assert quarantine.is_empty
    assert quarantine.admission.alone


def test_beside_those_with_few_crashes_others_with_few_may_come() -> None:
    quarantine = Quarantine(alone_from=2)
    quarantine.occupy(quarantine.reserve(), [1, 1])

    second, third = quarantine.reserve(), quarantine.reserve()
    assert second == third == Admission(2, alone=False)
    quarantine.occupy(second, [0])
    quarantine.occupy(third)
    quarantine.leave(2)
    assert quarantine.admission == Admission(2, alone=False)
    quarantine.leave()
    assert quarantine.admission.alone


def test_beside_one_that_is_to_be_alone_nobody_may_come() -> None:
    quarantine = Quarantine(alone_from=2)
    quarantine.occupy(quarantine.reserve(), [2])

    nothing = quarantine.reserve()
    assert nothing == NO_ADMISSION
    quarantine.occupy(nothing)
    assert not quarantine.is_empty
    quarantine.leave()
    assert quarantine.admission.alone


def test_a_reservation_outlives_those_it_was_made_beside() -> None:
    quarantine = Quarantine(alone_from=2)
    quarantine.occupy(quarantine.reserve(), [1])
    beside = quarantine.reserve()
    quarantine.leave()

    assert not quarantine.admission.alone  # it may bring some yet
    quarantine.occupy(beside, [1])
    quarantine.leave()
    assert quarantine.is_empty


def test_a_place_that_is_lent_is_free_and_whoever_has_it_again_is_alone() -> None:
    quarantine = Quarantine(alone_from=2)
    quarantine.occupy(quarantine.reserve(), [2])
    quarantine.lend()

    child = quarantine.reserve()
    assert child == Admission(2, alone=True)
    quarantine.occupy(child, [2])
    quarantine.take_back(2)
    quarantine.leave()  # the child

    assert quarantine.admission == NO_ADMISSION
    quarantine.leave()
    assert quarantine.admission.alone


def test_who_has_its_place_again_while_others_may_come_shuts_the_quarantine_behind_them() -> None:
    quarantine = Quarantine(alone_from=2)
    quarantine.occupy(quarantine.reserve(), [2])
    quarantine.lend()
    admission = quarantine.reserve()
    quarantine.take_back(2)

    quarantine.occupy(admission, [1])

    assert quarantine.admission == NO_ADMISSION
    quarantine.leave()
    assert quarantine.admission == NO_ADMISSION  # one of them is in there
    quarantine.leave()
    assert quarantine.admission.alone


def test_a_place_that_was_lent_as_its_suspect_was_taken_from_us_is_no_place_any_more() -> None:
    quarantine = Quarantine(alone_from=2)
    quarantine.occupy(quarantine.reserve(), [2])
    quarantine.lend()
    quarantine.leave()  # the lease has ended
    quarantine.take_back(2)

    assert quarantine.is_empty
    assert quarantine.admission.alone
