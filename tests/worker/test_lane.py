"""The lane of a worker: who may come beside whom."""

from asyncq.seams.lanes import NO_ROOM, Lane, Room


def test_an_empty_lane_has_room_for_any() -> None:
    assert Lane(alone_from=2).room == Room(2, alone=True)
    assert Lane(alone_from=0).room == Room(1, alone=True)


def test_while_one_may_come_that_is_to_be_alone_nobody_else_may() -> None:
    lane = Lane(alone_from=2)
    room = lane.reserve()

    assert lane.reserve() == NO_ROOM
    lane.occupy(room)
    assert lane.is_empty
    assert lane.room.alone


def test_beside_those_with_few_crashes_others_with_few_may_come() -> None:
    lane = Lane(alone_from=2)
    lane.occupy(lane.reserve(), [1, 1])

    second, third = lane.reserve(), lane.reserve()
    assert second == third == Room(2, alone=False)
    lane.occupy(second, [0])
    lane.occupy(third)
    lane.leave(2)
    assert lane.room == Room(2, alone=False)
    lane.leave()
    assert lane.room.alone


def test_beside_one_that_is_to_be_alone_nobody_may_come() -> None:
    lane = Lane(alone_from=2)
    lane.occupy(lane.reserve(), [2])

    nothing = lane.reserve()
    assert nothing == NO_ROOM
    lane.occupy(nothing)
    assert not lane.is_empty
    lane.leave()
    assert lane.room.alone


def test_a_reservation_outlives_those_it_was_made_beside() -> None:
    lane = Lane(alone_from=2)
    lane.occupy(lane.reserve(), [1])
    beside = lane.reserve()
    lane.leave()

    assert not lane.room.alone  # it may bring some yet
    lane.occupy(beside, [1])
    lane.leave()
    assert lane.is_empty


def test_a_place_that_is_lent_is_free_and_whoever_has_it_again_is_alone() -> None:
    lane = Lane(alone_from=2)
    lane.occupy(lane.reserve(), [2])
    lane.lend()

    child = lane.reserve()
    assert child == Room(2, alone=True)
    lane.occupy(child, [2])
    lane.take_back(2)
    lane.leave()  # the child

    assert lane.room == NO_ROOM
    lane.leave()
    assert lane.room.alone


def test_who_has_its_place_again_while_others_may_come_shuts_the_lane_behind_them() -> None:
    lane = Lane(alone_from=2)
    lane.occupy(lane.reserve(), [2])
    lane.lend()
    room = lane.reserve()
    lane.take_back(2)

    lane.occupy(room, [1])

    assert lane.room == NO_ROOM
    lane.leave()
    assert lane.room == NO_ROOM  # one of them is in there
    lane.leave()
    assert lane.room.alone


def test_a_place_that_was_lent_as_its_suspect_was_taken_from_us_is_no_place_any_more() -> None:
    lane = Lane(alone_from=2)
    lane.occupy(lane.reserve(), [2])
    lane.lend()
    lane.leave()  # the lease has ended
    lane.take_back(2)

    assert lane.is_empty
    assert lane.room.alone
