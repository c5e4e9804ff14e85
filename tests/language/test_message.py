"""Ids are unique, records survive their encoding, and each outcome has its status."""

import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import given

from asyncq.language.message import (
    MESSAGE_ID,
    QUEUE_NAME,
    TASK_NAME,
    Cancelled,
    Expired,
    Failed,
    Failure,
    Outcome,
    Status,
    Succeeded,
    new_id,
    status_of,
)
from asyncq.language.record import Record
from tests.language.strategies import records

FORK = """
import os
from asyncq.language.message import new_id

new_id()
if os.fork() == 0:
    print(new_id(), flush=True)
    os._exit(0)
os.wait()
print(new_id(), flush=True)
"""


def test_an_id_is_its_moment_and_80_random_bits_in_hexadecimal() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(10_000)]
    after = time.time_ns() // 1_000_000

    assert len(set(ids)) == len(ids)
    assert all(len(each) == 32 and MESSAGE_ID.fullmatch(each) for each in ids)
    # Those drawn before the test have an earlier moment.
    assert all(before <= int(each[:12], 16) <= after for each in ids[256:])
    # 800,000 random bits: this far from the middle is 35 standard deviations.
    ones = sum(int(each[12:], 16).bit_count() for each in ids)
    assert abs(ones - 400_000) < 16_000


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_draws_ids_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)

    childs, parents = done.stdout.split()
    assert childs != parents


@given(records)
def test_decoding_a_record_undoes_encoding(record: Record) -> None:
    encoded = msgspec.msgpack.encode(record)

    assert msgspec.msgpack.decode(encoded, type=Record) == record


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Succeeded(msgspec.Raw(b"\xc0")), Status.SUCCEEDED),
        (Failed(Failure("ValueError", "no")), Status.FAILED),
        (Cancelled(), Status.CANCELLED),
        (Expired(), Status.EXPIRED),
    ],
)
def test_each_outcome_has_its_status(outcome: Outcome, status: Status) -> None:
    assert status_of(outcome) is status


@pytest.mark.parametrize("name", ["", "a b", "a\n", "a/b", "größe", "a" * 201])
def test_a_task_name_is_short_plain_text(name: str) -> None:
    assert not TASK_NAME.fullmatch(name)
    assert TASK_NAME.fullmatch("shop.mail:Sender.<locals>.send-all_2")


@pytest.mark.parametrize("name", ["", "a:b", "{a}", "a*", "a\x00", "a\n", "a" * 129])
def test_a_queue_name_has_nothing_that_means_something_to_a_broker(name: str) -> None:
    assert not QUEUE_NAME.fullmatch(name)
    assert QUEUE_NAME.fullmatch("mail-2.high_prio")
