"""The cache salt: what replicas receive in place of the account's name."""

from __future__ import annotations

import pytest

from mongars.inference.config import InferenceConfig
from mongars.testing.fake_replica import FakeReplica

CHAT = "/v1/chat/completions"
CONVERSATION = "/api/v1/conversation/chat"
MESSAGE = {
    CHAT: {"model": "mongars", "messages": [{"role": "user", "content": "Hello"}]},
    CONVERSATION: {"message": "Hello"},
}


@pytest.mark.parametrize("path", [CHAT, CONVERSATION])
async def test_every_route_sends_the_accounts_salt_and_not_its_name(start_api, path: str) -> None:
    """Replicas receive one salt per account, the same on every route, and never the account's name."""
    async with FakeReplica() as replica, start_api(endpoints=(replica.url,)) as api:
        for key, route in ((api.key, path), (api.key, CHAT), (api.other_key, path)):
            headers = {"Authorization": f"Bearer {key}"}
            async with api.http.post(api.url + route, json=MESSAGE[route], headers=headers) as got:
                assert got.status == 200, await got.text()
        salts = [received.body["cache_salt"] for received in replica.received]
        assert salts[0] == salts[1] != salts[2]
        assert all(len(salt) == 32 for salt in salts)
        sent = str([(received.body, received.headers) for received in replica.received])
        assert "alice" not in sent
        assert "bob" not in sent


def test_salt_cannot_be_made_without_the_key() -> None:
    """The salt of an account is the same in all processes with one salt key; without a key each process has its own."""
    keyed = [InferenceConfig(endpoints=(), use_ray=True, cache_salt_key=b"k") for _ in range(2)]
    assert keyed[0].cache_salt("alice") == keyed[1].cache_salt("alice")
    assert keyed[0].cache_salt(None) is None
    unkeyed = [InferenceConfig(endpoints=(), use_ray=True) for _ in range(2)]
    assert unkeyed[0].cache_salt("alice") != unkeyed[1].cache_salt("alice")
    assert "cache_salt_key" not in repr(unkeyed[0])
