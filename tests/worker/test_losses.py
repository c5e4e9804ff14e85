"""Who is to blame for a message that comes again after a connection was lost."""

import math

from asyncq.seams.losses import MOST_IN_A_ROW, SETTLED_AFTER, Losses

HEARTBEAT = 60.0  # seconds until a server gives up a connection that is not there any more


def lost(*ids: str, most: int = 100) -> Losses:
    """Of a worker that held these, and is connected again since the moment 0."""
    losses = Losses()
    losses.lose(dict.fromkeys(ids, 0), most)
    losses.come_back(0.0, HEARTBEAT)
    return losses


def test_who_has_lost_no_connection_spares_nothing() -> None:
    losses = Losses()
    losses.come_back(0.0, HEARTBEAT)

    assert losses.are_over
    assert losses.spare("1", 0) == losses.spare("1", 1) == 0


def test_what_was_in_our_own_hands_is_spared_once_however_late_it_comes() -> None:
    losses = lost("1", "2")
    losses.see_new(SETTLED_AFTER)

    assert losses.spare("1", 5) == 1  # of a queue whose leader changed, some count several
    assert losses.spare("1", 1) == 0
    assert not losses.are_over


def test_what_others_held_is_spared_until_something_new_comes() -> None:
    losses = lost()

    assert losses.spare("1", 1) == 1
    losses.see_new(SETTLED_AFTER - 0.1)  # what is new may come first, shortly after the return
    assert losses.spare("2", 1) == 1
    assert losses.see_new(SETTLED_AFTER)
    assert losses.spare("3", 1) == 0
    assert losses.are_over


def test_what_came_again_more_often_than_the_connection_was_lost_is_not_spared() -> None:
    losses = lost()
    assert losses.spare("1", 2) == 0

    losses.lose({}, 100)
    assert losses.spare("1", 2) == 1
    assert losses.spare("1", 3) == 0


def test_a_queue_that_does_not_count_is_believed() -> None:
    assert lost().spare("1", 0) == 1


def test_nothing_is_over_before_we_are_connected_again() -> None:
    losses = Losses()
    losses.lose({}, 100)

    assert not losses.see_new(1e9)
    losses.come_back(1e9, HEARTBEAT)
    losses.come_back(0.0, HEARTBEAT)  # another channel: the first counts
    assert not losses.see_new(1e9 + 1)
    assert losses.see_new(1e9 + SETTLED_AFTER)


def test_what_does_not_come_is_forgotten_when_the_server_has_given_up_every_connection() -> None:
    losses = lost("1")

    losses.see_new(HEARTBEAT - 1)
    assert not losses.are_over
    losses.see_new(HEARTBEAT)
    assert losses.are_over
    assert losses.spare("1", 1) == 0


def test_without_heartbeats_it_is_remembered() -> None:
    losses = Losses()
    losses.lose({"1": 0}, 100)
    losses.come_back(0.0, math.inf)

    losses.see_new(1e9)
    assert losses.spare("1", 1) == 1


def test_what_is_in_hand_whenever_the_server_dies_is_spared_so_often_and_no_more() -> None:
    losses, times = Losses(), 0
    spared: list[int] = []
    for _ in range(MOST_IN_A_ROW + 1):
        losses.lose({"1": times}, 100)
        times = losses.spare("1", 1)
        spared.append(times)

    assert spared == [*range(1, MOST_IN_A_ROW + 1), 0]


def test_only_so_many_are_remembered_and_those_that_were_held_last() -> None:
    losses = lost("1", "2", most=2)
    losses.lose({"1": 1, "3": 0}, 2)

    assert [losses.spare(id, 9) for id in ("1", "2", "3")] == [2, 0, 1]


def test_what_was_held_and_did_not_come_is_spared_after_the_next_loss_as_well() -> None:
    losses = lost("1")
    losses.lose({}, 100)
    losses.come_back(0.0, HEARTBEAT)

    assert losses.spare("1", 2) == 1
