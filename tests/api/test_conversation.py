"""The chat that stores its conversations, its history, login, health and metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import orjson
import pytest

from mongars.engines.fake import FakePlan
from mongars.protocol.sse import EventSplitter
from mongars.testing.fake_replica import FakeReplica
from mongars.testing.faults import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from api_world import Api

    Start = Callable[..., AbstractAsyncContextManager[Api]]

CHAT = "/api/v1/conversation/chat"
HISTORY = "/api/v1/conversation/history"


async def say(api: Api, message: str, **more: object) -> dict[str, object]:
    body = {"message": message, **more}
    async with api.http.post(api.url + CHAT, json=body, headers=api.auth) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def history(api: Api, **query: object) -> list[dict[str, object]]:
    params = {name: str(value) for name, value in query.items()}
    async with api.http.get(api.url + HISTORY, params=params, headers=api.auth) as response:
        assert response.status == 200
        return await response.json()


async def test_earlier_turns_reach_the_model(api: Api) -> None:
    """The second message of a session is sent to the model together with the first message and its answer."""
    first = await say(api, "hello there", session_id="s1")
    second = await say(api, "and again", session_id="s1")
    assert first["response"] == "[1] you said: hello there"
    assert second["response"] == "[3] you said: and again"


async def test_null_fields_count_as_left_out(api: Api) -> None:
    """Optional fields of a chat request that are null are treated as absent."""
    reply = await say(api, "hello", session_id=None, stream=None, task_type=None)
    assert reply["response"] == "[1] you said: hello"


async def test_reply_has_the_published_fields(api: Api) -> None:
    """A chat reply has response, confidence, processing time, speech turn, usage and provider as documented."""
    reply = await say(api, "Hello. How are you?")
    assert reply["confidence"] == pytest.approx(math.exp(-0.5)), "what the engine reported"
    assert reply["processing_time"] > 0
    turn = reply["speech_turn"]
    assert turn["text"] == reply["response"]
    assert [segment["text"] for segment in turn["segments"]] == [
        "[1] you said: Hello.",
        "How are you?",
    ]
    assert reply["usage"]["completion_tokens"] == 7
    assert reply["provider"] == "embedded"


async def test_history_is_newest_first_and_the_owners_only(api: Api) -> None:
    """A user's history has their own turns, newest first; another user's history gets 403."""
    for word in ("one", "two", "three"):
        await say(api, word)
    assert [turn["query"] for turn in await history(api, limit=2)] == ["three", "two"]
    assert [turn["query"] for turn in await history(api, user_id="alice")] == [
        "three",
        "two",
        "one",
    ]
    bob = {"Authorization": f"Bearer {api.other_key}"}
    async with api.http.get(api.url + HISTORY, headers=bob) as response:
        assert await response.json() == []
    async with api.http.get(
        api.url + HISTORY, params={"user_id": "alice"}, headers=bob
    ) as response:
        assert response.status == 403


@pytest.mark.parametrize(
    "unnamed", [{}, {"session_id": None}, {"session_id": ""}, {"session_id": " "}]
)
async def test_a_message_without_a_session_begins_a_new_one(
    api: Api, unnamed: dict[str, str | None]
) -> None:
    """A message without a session id starts a new session without earlier turns, and the reply has its id."""
    await say(api, "secret plan", session_id="a")
    first = await say(api, "hello", **unnamed)
    assert first["response"] == "[1] you said: hello"
    other = await say(api, "hello again", **unnamed)
    assert other["response"] == "[1] you said: hello again"
    assert len({"a", first["session_id"], other["session_id"]}) == 3
    second = await say(api, "and again", session_id=first["session_id"])
    assert second["response"] == "[3] you said: and again"
    assert len(await history(api)) == 4


async def test_the_session_header_names_a_conversation(api: Api) -> None:
    """The header `x-session-id` works like `session_id` in the body; one of 101 characters gets 422."""
    named = {**api.auth, "x-session-id": "from-a-header"}
    for message, count in (("one", 1), ("two", 3)):
        async with api.http.post(api.url + CHAT, json={"message": message}, headers=named) as reply:
            body = await reply.json()
        assert body["response"] == f"[{count}] you said: {message}"
        assert body["session_id"] == "from-a-header"
    long = {**api.auth, "x-session-id": "s" * 101}
    async with api.http.post(api.url + CHAT, json={"message": "x"}, headers=long) as reply:
        assert reply.status == 422
        assert "x-session-id" in (await reply.json())["detail"]


async def test_sessions_are_kept_apart(api: Api) -> None:
    """A session's turns are not sent to the model in another session of the same user."""
    await say(api, "secret plan", session_id="a")
    reply = await say(api, "hello", session_id="b")
    assert reply["response"] == "[1] you said: hello"
    assert [turn["query"] for turn in await history(api, session_id="a")] == ["secret plan"]


async def test_long_histories_are_cut_to_the_context(api: Api) -> None:
    """When the history exceeds the model's context, the newest message is answered with as much history as fits."""
    for turn in range(8):
        reply = await say(api, f"turn {turn} " + "word " * 20, session_id="long")
        assert reply["response"].startswith("[")
    assert int(str(reply["response"])[1:].split("]")[0]) > 1, "some history must remain"


async def test_streamed_chat_equals_the_stored_turn(api: Api) -> None:
    """The deltas of a streamed reply add up to the text of its final event and of the stored turn."""
    body = {"message": "good morning", "stream": True}
    async with api.http.post(api.url + CHAT, json=body, headers=api.auth) as response:
        events = EventSplitter().feed(await response.read())
    pieces = [orjson.loads(event.data)["delta"] for event in events if event.name == "chunk"]
    complete = orjson.loads(next(event.data for event in events if event.name == "complete"))
    assert events[-1].is_done
    assert "".join(pieces) == complete["response"] == (await history(api))[0]["response"]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_failed_answer_is_not_remembered(
    start_api: Callable[..., AbstractAsyncContextManager[Api]], *, stream: bool
) -> None:
    """An answer whose generation breaks off is reported as an error and not stored in the history."""
    async with start_api(FakePlan(cut_after_tokens=1)) as api:
        body = {"message": "good morning", "stream": stream}
        async with api.http.post(api.url + CHAT, json=body, headers=api.auth) as response:
            text = await response.text()
            assert response.status == (200 if stream else 500)
        assert "generation_interrupted" in text
        assert "[DONE]" not in text
        assert await history(api) == []


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        pytest.param(b"{oops", 422, "parse JSON", id="malformed"),
        pytest.param(b"{}", 422, "message", id="missing"),
        pytest.param(b'{"message": "  "}', 422, "blank", id="blank"),
        pytest.param(b'{"message": 7}', 422, "message", id="wrong-type"),
        pytest.param(
            b'{"message": "x", "session_id": "' + b"s" * 101 + b'"}',
            422,
            "session_id",
            id="session",
        ),
        pytest.param(b'{"message": "' + b"word " * 300 + b'"}', 400, "200", id="beyond-context"),
        pytest.param(
            b'{"message": "' + b"x" * 1_000_000 + b'"}', 413, "1000000", id="one-megabyte"
        ),
    ],
)
async def test_bad_messages_get_a_status_and_a_reason(
    api: Api, *, body: bytes, status: int, says: str
) -> None:
    """An invalid chat message is refused with a status and a detail that names the fault."""
    async with api.http.post(api.url + CHAT, data=body, headers=api.auth) as response:
        assert response.status == status
        assert says in (await response.json())["detail"]


@pytest.mark.parametrize("limit", ["0", "-3"])
async def test_limit_must_be_positive(api: Api, limit: str) -> None:
    """A history limit of zero or less gets 400 with the documented text."""
    async with api.http.get(
        api.url + HISTORY, params={"limit": limit}, headers=api.auth
    ) as response:
        assert response.status == 400
        assert (await response.json())["detail"] == "limit must be positive"


async def test_token_from_name_and_password_opens_the_api(api: Api) -> None:
    """A login returns a bearer token that works; a wrong name and a wrong password get the same 401."""
    form = {"username": "alice", "password": "alice-password"}
    async with api.http.post(api.url + "/token", data=form) as response:
        token = await response.json()
        assert response.status == 200
    assert token["token_type"] == "bearer"
    bearer = {"Authorization": f"Bearer {token['access_token']}"}
    async with api.http.get(api.url + HISTORY, headers=bearer) as response:
        assert response.status == 200
    for wrong in ({**form, "password": "nope-nope"}, {**form, "username": "nobody"}):
        async with api.http.post(api.url + "/token", data=wrong) as response:
            assert response.status == 401
            assert (await response.json())["detail"] == "Invalid credentials"
    async with api.http.post(api.url + "/token", data={"username": "alice"}) as response:
        assert response.status == 422


async def test_health_is_open_and_readiness_names_the_parts(api: Api) -> None:
    """`/healthz` and `/readyz` answer without a key; `/readyz` has the state of each part."""
    async with api.http.get(api.url + "/healthz") as response:
        assert (await response.json())["status"] == "ok"
    await say(api, "wake up")
    async with api.http.get(api.url + "/readyz") as response:
        body = await response.json()
        assert response.status == 200
    assert body["status"] == "ready"
    assert body["parts"]["database"]["state"] == "up"
    assert body["parts"]["embedded"]["state"] == "up"


async def test_metrics_count_what_happened(api: Api) -> None:
    """One answered chat message is counted as one successful request on the metrics page."""
    await say(api, "count me")
    async with api.http.get(api.url + "/metrics", headers=api.auth) as response:
        page = await response.text()
    assert 'llm_requests_total{outcome="success"} 1.0' in page
    assert 'llm_requests_total{outcome="error"} 0.0' in page
    assert 'llm_tokens_total{provider="embedded",type="output"} 5.0' in page


async def test_unknown_routes_say_so(api: Api) -> None:
    """An unknown path gets 404 with the path in the error, and a wrong method gets 405."""
    async with api.http.get(api.url + "/v1/nothing", headers=api.auth) as response:
        assert response.status == 404
        assert "/v1/nothing" in (await response.json())["error"]["message"]
    async with api.http.get(api.url + CHAT, headers=api.auth) as response:
        assert response.status == 405


async def test_a_request_that_the_engine_finds_invalid_has_the_status_of_an_invalid_request(
    start_api: Start,
) -> None:
    """A message that a replica refuses as invalid gets the status 422, like one that the API itself refuses."""
    async with FakeReplica() as replica, start_api(endpoints=(replica.url,)) as api:
        replica.always = Status(code=400, error="invalid_request", detail="no such thing")
        body = {"message": "hello"}
        async with api.http.post(api.url + CHAT, json=body, headers=api.auth) as response:
            assert response.status == 422
            assert "no such thing" in (await response.json())["detail"]
