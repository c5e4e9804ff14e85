"""URLs keep their passwords to themselves, and say the rest."""

import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncq.config import DEFAULT_URL, Url, broker_urls, mask, query_of, sqlite_path
from asyncq.errors import ConfigurationError

CANARY = "S3CR3T"
odd = st.text(alphabet="/@:?#&=%+ \\'\"[]{}*\n\tä🙂ab1", max_size=8)
passwords = st.tuples(odd, st.just(CANARY), odd).map("".join)
users = st.text(alphabet="abc%.-_", max_size=5)
tails = st.sampled_from(["", "/", "/0", "/0?a=b", "?a=b", "/0?mail=x@y.z&a=/", "/%2Fvhost"])
schemes = st.sampled_from(["redis", "rediss", "amqp", "unix", "postgresql+asyncpg", "x"])


@given(schemes, users, passwords, tails)
@example("redis", "u", f"p@a/{CANARY}", "/0")
@example("redis", "u", f"a/b@c/{CANARY}", "")
@example("redis", "", f"?#{CANARY}", "/0?a=b")
def test_no_password_shows(scheme: str, user: str, password: str, tail: str) -> None:
    text = f"{scheme}://{user}:{password}@host:6379{tail}"
    url = Url(text)

    shown = [str(url), repr(url), f"{url}", f"{url!r:>9}", "%s %r" % (url, url), url + "", url[:]]  # noqa: UP031 - as logging does
    assert not any(CANARY in each for each in [*shown, mask(text), "".join(url), url.scheme])
    assert url.reveal() == text
    assert url.scheme == scheme


@given(st.sampled_from(["password", "PASSWORD", "ssl_password", "client_secret"]), st.booleans())
def test_no_password_of_the_query_shows(name: str, first: bool) -> None:
    pairs = [f"{name}={CANARY}", "db=1"]
    url = Url("redis://host/0?" + "&".join(pairs if first else reversed(pairs)))

    assert CANARY not in str(url)
    assert CANARY not in repr(url)
    assert "db=1" in url


@given(st.text())
def test_any_text_can_be_masked(text: str) -> None:
    assert Url(text).reveal() == text


@pytest.mark.parametrize(
    "text",
    [
        "memory://",
        "sqlite:///asyncq.db",
        "sqlite:////var/lib/mail@home/asyncq.db",
        "redis://localhost:6379/0?prefix=a",
        "unix:///run/redis.sock",
        "redis://host/0?mail=x@y.z",
    ],
)
def test_a_url_without_a_password_shows_whole(text: str) -> None:
    assert Url(text) == text


def test_all_but_the_password_shows() -> None:
    assert Url("redis://u:p@host:6379/0?a=b") == "redis://u:***@host:6379/0?a=b"
    assert Url("redis://:p@host") == "redis://:***@host"
    assert Url("redis://u@host/0") == "redis://u@host/0"


def test_a_url_survives_the_way_to_a_child_process() -> None:
    url = pickle.loads(pickle.dumps(Url("redis://u:p@host/0")))

    assert isinstance(url, Url)
    assert url.reveal() == "redis://u:p@host/0"


def test_a_sqlite_url_names_a_file() -> None:
    assert sqlite_path(Url("sqlite:///asyncq.db")) == "asyncq.db"
    assert sqlite_path(Url("sqlite:////var/my%20jobs.db?x=1")) == "/var/my jobs.db"
    with pytest.raises(ConfigurationError, match="names no file"):
        sqlite_path(Url("sqlite://"))


def test_a_query_is_a_table() -> None:
    assert query_of(Url("redis://host/0?prefix=a&x=%2F")) == {"prefix": "a", "x": "/"}


def test_the_broker_is_the_given_one_or_the_environments_or_sqlite(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ASYNCQ_BROKER", raising=False)
    assert broker_urls(None) == (DEFAULT_URL,)

    monkeypatch.setenv("ASYNCQ_BROKER", "memory://env")
    assert broker_urls(None) == ("memory://env",)
    assert broker_urls("memory://given") == ("memory://given",)


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        ("redis://a,redis://b", ["redis://a", "redis://b"]),
        ("redis://a , amqps://u:p,q@b/v,w", ["redis://a", "amqps://u:p,q@b/v,w"]),
        ("redis://a,b", ["redis://a,b"]),
        (["redis://a,b", "redis://c"], ["redis://a,b", "redis://c"]),
    ],
)
def test_several_urls_are_a_list_or_have_commas_between_them(
    given: str | list[str], urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [url.reveal() for url in broker_urls(given)] == urls
    if isinstance(given, str):
        monkeypatch.setenv("ASYNCQ_BROKER", given)
        assert [url.reveal() for url in broker_urls(None)] == urls
