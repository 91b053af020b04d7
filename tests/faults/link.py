"""A line between a site and the coordinator: slow, lossy or dead.

As a network namespace under tc netem where the kernel has it, and as a relay of our own, which
delays and throttles what passes and can hold it back altogether.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

DELAY_SECONDS = 0.2
BYTES_A_SECOND = 10e6 / 8
LOSS = 0.01
RETRANSMISSION_SECONDS = 0.4
"""What a lost packet costs on a line of this delay, at least."""
PACKET = 1448
SPACE, INSIDE, OUTSIDE = "wardround-site", "wr-site", "wr-host"
HOST, SITE = "10.99.7.1", "10.99.7.2"


@dataclass
class Relay:
    """Passes connections on to a port of this machine.

    Attributes:
        target: the port.
        slow: 200 ms each way, 10 Mbit/s, and the waits of 1% lost packets.
        dead: what arrives is kept back and nothing is answered, as on a line that was cut.
    """

    target: int
    slow: bool = False
    dead: bool = False
    passed: int = 0
    _listening: socket.socket = field(default_factory=socket.socket)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getsockname()[1])

    def start(self) -> None:
        """Listen, and pass on in threads of its own."""
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Take no more connections."""
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        rng = random.Random(7)
        with contextlib.suppress(OSError):
            while data := source.recv(2**14):
                if self.slow:
                    time.sleep(self._seconds(len(data), rng))
                while self.dead:
                    time.sleep(0.1)
                self.passed += len(data)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _seconds(self, size: int, rng: random.Random) -> float:
        packets = -(-size // PACKET)
        lost = sum(rng.random() < LOSS for _ in range(packets))
        return DELAY_SECONDS + size / BYTES_A_SECOND + lost * RETRANSMISSION_SECONDS


@contextmanager
def relay(target: int) -> Iterator[Relay]:
    """Run a relay to a port."""
    running = Relay(target)
    running.start()
    try:
        yield running
    finally:
        running.dead = False
        running.stop()


def why_no_netem() -> str:
    """Return why a line cannot be shaped by the kernel here; empty if it can."""
    if os.geteuid() != 0:
        return "a network namespace needs root"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "iproute2 is not installed"
    try:
        with netem():
            return ""
    except subprocess.CalledProcessError as error:
        return f"tc netem: {error.stderr.strip()}"


@contextmanager
def netem() -> Iterator[tuple[str, ...]]:
    """Make a network namespace on a slow line; yield what runs a command in it.

    The coordinator is 10.99.7.1 there.
    """
    _ip(f"netns add {SPACE}")
    try:
        _ip(f"link add {OUTSIDE} type veth peer name {INSIDE} netns {SPACE}")
        _ip(f"addr add {HOST}/30 dev {OUTSIDE}")
        _ip(f"link set {OUTSIDE} up")
        _ip(f"-n {SPACE} addr add {SITE}/30 dev {INSIDE}")
        _ip(f"-n {SPACE} link set {INSIDE} up")
        _ip(f"-n {SPACE} link set lo up")
        shape = "netem delay 100ms loss 1% rate 10mbit"
        _run(f"tc qdisc add dev {OUTSIDE} root {shape}")
        _run(f"tc -n {SPACE} qdisc add dev {INSIDE} root {shape}")
        yield ("ip", "netns", "exec", SPACE)
    finally:
        subprocess.run(["ip", "link", "del", OUTSIDE], capture_output=True)
        subprocess.run(["ip", "netns", "del", SPACE], capture_output=True)


def _ip(arguments: str) -> None:
    _run(f"ip {arguments}")


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True, text=True)
