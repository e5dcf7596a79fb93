"""Which answers are stored, under which key, how much memory they take, and for how long."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mongars.core.generation import (
    Chunk,
    GenerationRequest,
    Message,
    Origin,
    PartialAnswer,
    Sampling,
    Usage,
)
from mongars.inference.caching.cache import (
    ENTRY_BYTES,
    ROLLOUT_SECONDS,
    AnswerCache,
    CachedAnswer,
    CurrentWeights,
    answer_key,
    weights_of,
)
from mongars.inference.provider import Route
from mongars.testing.manual_clock import ManualClock

GREEDY = Sampling(temperature=0, max_tokens=20)
DEFAULTS = Sampling(temperature=0.7, top_p=0.9, max_tokens=512)
ORIGIN = Origin(model="m", engine="e", adapter_version="v7", adapter_digest="d" * 64)
QUESTION = GenerationRequest(
    messages=(Message(role="user", content="Why?"),),
    request_id="one",
    sampling=GREEDY,
    scope="alice",
)


def asked(**changes: object) -> bytes | None:
    return answer_key(dataclasses.replace(QUESTION, **changes), DEFAULTS)


def stored(text: str = "Because.", origin: Origin = ORIGIN) -> CachedAnswer:
    chunks = (
        Chunk(text=text, raw=b"data: " + text.encode() + b"\n\n", logprobs=(-0.5,)),
        Chunk(finish_reason="stop"),
        Chunk(usage=Usage(prompt_tokens=1, completion_tokens=1)),
    )
    route = Route(provider="ray_serve", endpoint="here", attempts=1)
    return CachedAnswer(chunks=chunks, origin=origin, route=route)


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": "two"},
        {"session_id": "another"},
        {"traceparent": "00-a-b-01"},
        {"sampling": dataclasses.replace(GREEDY, top_p=0.9)},
    ],
    ids=["request id", "session", "trace", "default spelled out"],
)
def test_what_does_not_change_the_answer_does_not_change_the_key(
    changes: dict[str, object],
) -> None:
    assert asked(**changes) == asked()


@pytest.mark.parametrize("field", dataclasses.fields(Sampling), ids=lambda field: field.name)
def test_every_sampling_parameter_changes_the_key(field: dataclasses.Field[object]) -> None:
    """Each sampling parameter is part of the cache key."""
    seeded = dataclasses.replace(GREEDY, seed=9)
    values = {
        "stop": ("x",),
        "logit_bias": ((5, 1.0),),
        "n": 2,
        "response_format": {"type": "text"},
    }
    changed = dataclasses.replace(seeded, **{field.name: values.get(field.name, 1)})
    assert asked(sampling=changed) != asked(sampling=seeded)


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "bob"},
        {"messages": (Message(role="user", content="Why not?"),)},
        {"messages": (Message(role="system", content="Why?"),)},
        {"task_type": "coding"},
        {"sampling": dataclasses.replace(GREEDY, max_tokens=21)},
        {"sampling": dataclasses.replace(GREEDY, seed=1)},
        {"sampling": dataclasses.replace(GREEDY, logprobs=True)},
        {"sampling": dataclasses.replace(GREEDY, stop=("\n",))},
        {"sampling": dataclasses.replace(GREEDY, response_format={"type": "json_object"})},
        {"sampling": dataclasses.replace(GREEDY, n=2)},
    ],
    ids=str,
)
def test_what_may_change_the_answer_changes_the_key(changes: dict[str, object]) -> None:
    assert asked(**changes) not in {None, asked()}


@given(st.lists(st.text(max_size=4), min_size=2, max_size=3, unique=True).map(tuple))
def test_texts_cannot_be_shifted_between_messages(texts: tuple[str, ...]) -> None:
    """The boundary between two messages is part of the key."""
    apart = tuple(Message(role="user", content=text) for text in texts)
    joined = (Message(role="user", content="".join(texts)),)
    assert asked(messages=apart) != asked(messages=joined)


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": None},
        {"sampling": Sampling()},
        {"sampling": Sampling(temperature=0.7)},
        {"adapter": "v7"},
        {"continue_from": PartialAnswer(text="Be", model="m", adapter_version="v7")},
    ],
    ids=[
        "no account",
        "default temperature",
        "drawn at random",
        "demanded adapter",
        "continuation",
    ],
)
def test_what_is_not_kept_has_no_key(changes: dict[str, object]) -> None:
    assert asked(**changes) is None


def test_a_seed_or_a_default_of_zero_makes_an_answer_repeatable() -> None:
    assert asked(sampling=Sampling(temperature=0.7, seed=4)) is not None
    greedy = Sampling(temperature=0, top_p=0.9, max_tokens=512)
    open_one = dataclasses.replace(QUESTION, sampling=Sampling())
    assert answer_key(open_one, greedy) is not None


async def test_answers_are_kept_for_so_long_and_no_longer() -> None:
    clock = ManualClock()
    cache = AnswerCache(max_bytes=1_000_000, seconds=300, clock=clock)
    cache.put(b"a", stored())
    await clock.advance(200)
    cache.put(b"b", stored())
    assert cache.get(b"a", weights_of(ORIGIN)) == stored()
    await clock.advance(99.9)
    assert cache.get(b"a", weights_of(ORIGIN)) is not None
    await clock.advance(0.1)
    assert cache.get(b"a", weights_of(ORIGIN)) is None
    assert cache.size == stored().size, "what has expired takes no memory"
    assert cache.get(b"b", weights_of(ORIGIN)) is not None


@pytest.mark.parametrize(
    "weights",
    [("m", "v8", "d" * 64), ("m", "v7", "e" * 64), ("other", "v7", "d" * 64), None],
    ids=["version", "digest", "model", "unknown"],
)
def test_other_weights_answer_for_themselves(weights: tuple[str, str, str] | None) -> None:
    cache = AnswerCache(max_bytes=1_000_000, seconds=300, clock=ManualClock())
    cache.put(b"a", stored())
    assert cache.get(b"a", weights) is None
    assert cache.get(b"a", weights_of(ORIGIN)) is not None


def test_the_least_recently_used_answer_makes_room() -> None:
    room = 2 * stored().size
    cache = AnswerCache(max_bytes=room, seconds=300, clock=ManualClock())
    cache.put(b"a", stored())
    cache.put(b"b", stored())
    cache.get(b"a", weights_of(ORIGIN))
    cache.put(b"c", stored())
    found = {key for key in (b"a", b"b", b"c") if cache.get(key, weights_of(ORIGIN))}
    assert found == {b"a", b"c"}


KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
STEPS = st.one_of(
    st.tuples(st.just("put"), KEYS, st.integers(0, 6000)),
    st.tuples(st.just("get"), KEYS, st.just(0)),
    st.tuples(st.just("wait"), KEYS, st.integers(0, 200)),
)


@settings(deadline=None)  # slow machines must not fail this test
@given(st.lists(STEPS, max_size=60), st.integers(0, 20_000))
async def test_it_never_takes_more_memory_than_it_may(
    steps: list[tuple[str, bytes, int]], maximum: int
) -> None:
    """After any operations the memory limit holds, and an answer that fits is found after it was stored."""
    clock = ManualClock()
    cache = AnswerCache(max_bytes=maximum, seconds=300, clock=clock)
    for what, key, number in steps:
        if what == "put":
            answer = stored("x" * number)
            cache.put(key, answer)
            assert (cache.get(key, weights_of(ORIGIN)) is not None) == (answer.size <= maximum)
        elif what == "get":
            cache.get(key, weights_of(ORIGIN))
        else:
            await clock.advance(number)
        assert cache.size <= maximum
    kept = [cache.get(key, weights_of(ORIGIN)) for key in (b"a", b"b", b"c", b"d", b"e")]
    assert cache.size == sum(answer.size for answer in kept if answer is not None)


def test_the_size_counts_text_and_raw_bytes() -> None:
    """1,000 more characters add at least 2,000 bytes to an answer's size, for the text and the raw event."""
    assert stored("x" * 2000).size >= stored("x" * 1000).size + 2000
    assert stored("").size > ENTRY_BYTES


async def test_no_weights_are_current_while_several_answer() -> None:
    """During a roll-out the current weights are unknown; afterwards they are the new ones."""
    clock = ManualClock()
    reported = CurrentWeights(clock)
    new = dataclasses.replace(ORIGIN, adapter_version="v8")
    assert reported.current(QUESTION) is None
    reported.note(QUESTION, ORIGIN)
    assert reported.current(QUESTION) == weights_of(ORIGIN)
    for origin in (new, ORIGIN, new):
        await clock.advance(1)
        reported.note(QUESTION, origin)
        assert reported.current(QUESTION) is None
    await clock.advance(ROLLOUT_SECONDS - 1)
    assert reported.current(QUESTION) == weights_of(new)


async def test_each_role_has_weights_of_its_own() -> None:
    """Answers of the code model do not change which weights are current for the general role."""
    reported = CurrentWeights(ManualClock())
    coding = dataclasses.replace(QUESTION, task_type="code")
    other = Origin(model="coder", engine="e")
    reported.note(QUESTION, ORIGIN)
    reported.note(coding, other)
    assert reported.current(QUESTION) == weights_of(ORIGIN)
    assert reported.current(coding) == weights_of(other)


def test_a_demanded_adapter_shows_nothing_of_the_active_one() -> None:
    """Answers to requests that demand an adapter do not change which stored answers are used for others."""
    clock = ManualClock()
    weights = CurrentWeights(clock)
    weights.note(QUESTION, ORIGIN)
    other = dataclasses.replace(ORIGIN, adapter_version="v6", adapter_digest="e" * 64)
    weights.note(dataclasses.replace(QUESTION, adapter="v6"), other)
    assert weights.current(QUESTION) == weights_of(ORIGIN)
