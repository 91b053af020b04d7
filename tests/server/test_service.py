"""Before the server starts anything it says what would keep it from running."""

import socket
import threading

import pytest

from federation.errors import UserError
from server import service
from server.consortium import Consortium
from server.control import load_kit
from server.provision import provision


def test_a_port_that_is_taken_is_said_at_once(tmp_path, monkeypatch):
    def started(*_):
        raise AssertionError("programs were started")

    monkeypatch.setattr(service, "supervise", started)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        document = {
            "consortium": {"name": "c"},
            "server": {"host": "127.0.0.1", "port": port},
            "sites": [{"name": "ash"}],
        }
        provision(Consortium.model_validate(document), tmp_path / "c")
        kit = load_kit(tmp_path / "c/server")
        with pytest.raises(UserError, match=rf"server\.toml: port {port}: .* in use"):
            service.run_server(kit, threading.Event(), lambda text: None)
    with pytest.raises(AssertionError, match="were started"):
        service.run_server(kit, threading.Event(), lambda text: None)
