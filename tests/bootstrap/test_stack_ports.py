from __future__ import annotations

import os
import socket

import pytest

from bootstrap.stack_bench import free_port
from mongars.bootstrap.stack.ports import PortUse, check_ports
from mongars.bootstrap.stack.probe import http_answers
from mongars.core.errors import ConfigurationError


def use(port: int, *, what: str = "the API", host: str = "127.0.0.1") -> PortUse:
    """A port that `what` needs on `host`."""
    return PortUse(what=what, host=host, port=port, setting="--port or MONGARS_PORT")


def test_free_ports_pass():
    """Checking a free port raises nothing and leaves the port free."""
    port = free_port()
    check_ports([use(port)])
    check_ports([use(port)])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])  # noqa: S104 - probed
def test_a_taken_port_is_named(host):
    """The error for a port in use says what needs the port, which process has it, and which setting changes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigurationError) as raised:
            check_ports([use(port, host=host)])
    text = str(raised.value)
    assert f"Port {port} on {host}, wanted for the API, is taken by" in text
    assert f"(pid {os.getpid()})" in text
    assert "--port or MONGARS_PORT" in text


def test_every_complaint_is_told_at_once():
    """One error names all ports in use."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [one.getsockname()[1], two.getsockname()[1]]
        with pytest.raises(ConfigurationError) as raised:
            check_ports([use(port) for port in ports])
    assert all(str(port) in str(raised.value) for port in ports)


def test_one_port_for_two_is_refused():
    """One port configured for two parts is refused with an error that names both."""
    port = free_port()
    with pytest.raises(ConfigurationError, match="both the API and Ray's head"):
        check_ports([use(port), use(port, what="Ray's head")])


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_a_foreign_address_is_refused(host):
    """A host that is no address of this machine is refused with the name of its variable."""
    with pytest.raises(ConfigurationError, match=r"no address of this machine.*MONGARS_HOST"):
        check_ports([use(free_port(), host=host)])


async def test_nobody_listening_is_no_answer():
    """`http_answers` returns False for a port on which nothing listens."""
    assert not await http_answers("127.0.0.1", free_port(), path="/")
