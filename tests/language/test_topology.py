"""Queues, exchanges and bindings: what can be declared, and where a message goes by it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncq.errors import ConfigurationError
from asyncq.language.topology import (
    LONGEST_KEY,
    Binding,
    Exchange,
    Queue,
    check_queues,
    copy_id,
    matches,
    resolve,
)

TOPIC = Exchange("logs", "topic")
HEADERS = Exchange("files", "headers")

words = st.sampled_from(["a", "b", "", "stock", "*", "#"])
keys = st.lists(words, max_size=6).map(".".join)
values = st.sampled_from([0, 1, 1.0, True, False, "1", "", b"1", None, [1]])
names = st.sampled_from(["type", "size", "x-type", "to"])


def slow_topic(pattern: Sequence[str], key: Sequence[str]) -> bool:
    """AMQP's rule, as it is written: by the first word of the pattern."""
    if not pattern:
        return not key
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(slow_topic(rest, key[at:]) for at in range(len(key) + 1))
    return bool(key) and first in {"*", key[0]} and slow_topic(rest, key[1:])


def words_of(key: str) -> list[str]:
    return key.split(".") if key else []


@given(keys, keys)
@example("", "")
@example("#", "")
@example("#.#", "")
@example("*", "")
@example("*", "a.b")
@example("#.a.#", "b.a")
@example("a.#", "a")
@example("*.#", "a.b.c")
@example(".", "")
@example("*.*", ".")
def test_a_topic_pattern_is_taken_word_by_word(pattern: str, key: str) -> None:
    binding = Binding(TOPIC, pattern)

    assert matches(binding, key, {}) is slow_topic(words_of(pattern), words_of(key))


@pytest.mark.parametrize(
    ("pattern", "key", "goes"),
    [
        ("mail.*", "mail.sent", True),
        ("mail.*", "mail", False),
        ("mail.*", "mail.sent.late", False),
        ("mail.#", "mail", True),
        ("mail.#", "mail.sent.late", True),
        ("mail.#", "mails", False),
        ("#.late", "late", True),
        ("*.orange.*", "quick.orange.rabbit", True),
        ("*.orange.*", "quick.orange.male.rabbit", False),
        ("lazy.#", "lazy.orange.male.rabbit", True),
        ("mail.sent", "MAIL.sent", False),
        ("mai*", "mail", False),
    ],
)
def test_a_star_is_one_word_and_a_hash_is_any_number(pattern: str, key: str, goes: bool) -> None:
    assert matches(Binding(TOPIC, pattern), key, {}) is goes


def test_a_pattern_full_of_hashes_is_no_trap() -> None:
    binding = Binding(TOPIC, ".".join("#a" * 60))

    assert not matches(binding, ".".join("a" * 100) + ".b", {})


@given(keys, keys)
def test_a_direct_exchange_compares_and_a_fanout_does_not(bound: str, key: str) -> None:
    assert matches(Binding(Exchange("d"), bound), key, {}) is (bound == key)
    assert matches(Binding(Exchange("f", "fanout")), key, {})


@given(st.dictionaries(names, values, min_size=1), st.dictionaries(names, values))
def test_headers_match_all_or_any_by_type_and_value(
    bound: dict[str, Any], sent: dict[str, Any]
) -> None:
    def same(name: str) -> bool:
        if name not in sent:
            return False
        return bound[name] is None or repr(bound[name]) == repr(sent[name])

    looked_at = [name for name in bound if not name.startswith("x-")]

    assert matches(Binding(HEADERS, headers=bound), "", sent) is all(map(same, looked_at))
    if looked_at:
        binding = Binding(HEADERS, headers=bound, match="any")
        assert matches(binding, "ignored", sent) is any(map(same, looked_at))


def test_a_headers_exchange_without_headers_takes_everything() -> None:
    assert matches(Binding(HEADERS), "", {"a": 1})


def test_messages_go_to_each_queue_once_in_the_order_of_declaration() -> None:
    other = Exchange("other", "fanout")
    queues = [
        Queue("late", bindings=[Binding(TOPIC, "#.late"), Binding(TOPIC, "mail.#")]),
        Queue("none"),
        Queue("other", bindings=[Binding(other)]),
        Queue("mail", bindings=[Binding(TOPIC, "mail.*"), Binding(other)]),
    ]

    assert resolve(queues, "logs", "mail.late", {}) == ["late", "mail"]
    assert resolve(queues, "logs", "mail.a.b", {}) == ["late"]
    assert resolve(queues, "other", "whatever", {}) == ["other", "mail"]
    assert resolve(queues, "logs", "news", {}) == []
    assert resolve(queues, "nowhere", "mail.late", {}) == []


@given(st.lists(st.tuples(st.integers(0, 9), keys), max_size=8), keys)
def test_what_is_resolved_is_what_matches(bound: list[tuple[int, str]], key: str) -> None:
    queues = [
        Queue(f"q{number}", bindings=[Binding(TOPIC, p) for n, p in bound if n == number])
        for number in range(10)
    ]

    found = resolve(queues, "logs", key, {})

    assert found == [
        f"q{number}"
        for number in range(10)
        if any(slow_topic(words_of(p), words_of(key)) for n, p in bound if n == number)
    ]


def test_the_first_copy_keeps_the_id_and_the_others_say_where_they_are() -> None:
    assert [copy_id("1", queue, "a") for queue in ("a", "b")] == ["1", "1@b"]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Exchange("a b"), "exchange name 'a b'"),
        (lambda: Exchange(""), "exchange name ''"),
        (lambda: Exchange("logs", "topics"), "exchange logs.*direct, topic, fanout, headers"),  # pyright: ignore[reportArgumentType]
        (lambda: Binding(TOPIC, "ä" * LONGEST_KEY), "510 bytes"),
        (lambda: Binding(TOPIC, "\udcff"), "UTF-8"),
        (lambda: Binding(TOPIC, headers={"a": 1}), "exchange logs: a topic exchange looks at no"),
        (lambda: Binding(Exchange("f", "fanout"), "k"), "exchange f: a fanout.*leave out"),
        (lambda: Binding(HEADERS, "k"), "exchange files: a headers.*leave out"),
        (lambda: Binding(HEADERS, match="any"), "name some"),
        (lambda: Binding(HEADERS, headers={"x-a": 1}, match="any"), "name some"),
        (lambda: Binding(HEADERS, match="one"), "all or any"),  # pyright: ignore[reportArgumentType]
        (lambda: Queue("a/b"), "queue name 'a/b'"),
        (lambda: Queue("mail", kind="lazy"), "queue mail: kind is quorum"),  # pyright: ignore[reportArgumentType]
        (lambda: Queue("mail", overflow="drop"), "reject or drop-head"),  # pyright: ignore[reportArgumentType]
        (lambda: Queue("mail", overflow="drop-head"), "needs a max_length"),
        (lambda: Queue("mail", max_priority=10), "queue mail: max_priority is from 1 to 9"),
        (lambda: Queue("mail", max_priority=0), "from 1 to 9"),
        (lambda: Queue("mail", ttl=0.0), "queue mail: ttl"),
        (lambda: Queue("mail", ttl=float("nan")), "queue mail: ttl"),
        (lambda: Queue("mail", ttl=float("inf")), "None is for ever"),
        (lambda: Queue("mail", max_length=0), "queue mail: max_length"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make()


def test_a_queue_is_declared_once_and_an_exchange_has_one_kind() -> None:
    with pytest.raises(ConfigurationError, match="queue mail is declared twice"):
        check_queues([Queue("mail"), Queue("news"), Queue("mail")])
    with pytest.raises(ConfigurationError, match="exchange logs is topic and, in queue b, fanout"):
        check_queues(
            [
                Queue("a", bindings=[Binding(TOPIC, "#")]),
                Queue("b", bindings=[Binding(Exchange("logs", "fanout"))]),
            ]
        )
