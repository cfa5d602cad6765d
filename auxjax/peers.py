"""The lines between processes that met: one that dies or fails ends the others at once, with one line of why.

Process 0 has a connection to every other, and passes on what it hears. A connection ends with its process, however
that dies; only a host that loses its power or network says nothing, and is left to `jax.distributed`'s heartbeat.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import threading
import time

from auxjax.errors import TRY_AGAIN

_BYE, _ERROR, _LOST = "bye", "error", "lost"
# An error that all processes make is told by each, so that they wait for one another's. Who fails alone ends first and
# process 0 last, since jaxlib aborts whatever survives process 0.
_FAILED_SECONDS, _OTHERS_SECONDS, _LAST_SECONDS = 3.0, 4.0, 5.0
_PASSED_ON_SECONDS = 0.5
_LINE_BYTES, _KEEP_ALIVE_SECONDS = 4096, 60


class Peers:
    """Watches the other processes from a thread of its own; without connections it does nothing."""

    def __init__(self, connections: dict[int, socket.socket], count: int) -> None:
        self._connections, self._count, self._failing = connections, count, False
        self._words: dict[int, str] = {}  # the last of each that has said one
        self._gone: set[int] = set()
        self._told: tuple[int, str] | None = None  # another's error: its exit code and what it says
        self._heard = dict.fromkeys(connections, b"")
        for connection in connections.values():
            connection.setblocking(True)
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):  # or routers forget a connection that is silent
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_SECONDS)
        if connections:
            threading.Thread(target=self._watch, name="auxjax_peers", daemon=True).start()

    def leave(self) -> None:
        """Says that this process ends as it should."""
        self._tell(_BYE, "")

    def fail(self, text: str, code: int) -> None:
        """Says that this process fails, and returns once the others do so as well; else ends it with `code` itself.

        The caller has printed why. Ending it here skips the exit of `jax.distributed`, which would wait for the others.
        """
        self._failing = True
        self._tell(_ERROR, f"{code} {text}")
        end = time.monotonic() + (_FAILED_SECONDS if 0 in self._connections else _LAST_SECONDS)
        failed: set[int] = set()
        while time.monotonic() < end and not (failed | self._gone).issuperset(self._connections):
            time.sleep(0.05)
            failed = {number for number, word in self._words.items() if word == _ERROR}
        if not failed.issuperset(self._connections):
            _end(code)

    def follow(self) -> None:
        """Ends this process with another's error, if there is one: what fails here after it is its consequence."""
        time.sleep(_PASSED_ON_SECONDS)  # the news may be on its way
        if self._told and not self._failing:
            self._end(self._told[0], "", self._told[1])

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for number, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in selector.select():
                    if not self._hear(int(key.data)):
                        selector.unregister(key.fileobj)

    def _hear(self, number: int) -> bool:
        """Acts on what a process says or on its end; returns whether it may say more."""
        try:
            piece = self._connections[number].recv(_LINE_BYTES)
        except (ConnectionResetError, BrokenPipeError):
            piece = b""
        except OSError:  # no answer for long: the heartbeat decides
            return False
        if not piece:
            self._gone.add(number)
            if number not in self._words:
                self._end(TRY_AGAIN, _LOST, f"process {number} of {self._count} is gone", but=number)
            return False
        *lines, self._heard[number] = (self._heard[number] + piece).split(b"\n")
        for line in lines:
            word, _, text = line.decode(errors="replace").partition(" ")
            if word == _LOST:
                self._end(TRY_AGAIN, _LOST, text, but=number)
            self._words[number] = word
            if word == _ERROR:
                code, _, text = text.partition(" ")
                passed_on = number == 0 and text.startswith("process ")
                self._told = int(code), text if passed_on else f"process {number} of {self._count}: {text}"
                threading.Thread(target=self._fail_later, args=(*self._told, number), daemon=True).start()
        return True

    def _fail_later(self, code: int, text: str, but: int) -> None:
        """Ends this process with an error of another, unless it makes the same one itself meanwhile."""
        self._tell(_ERROR, f"{code} {text}", but)
        time.sleep(_OTHERS_SECONDS if 0 in self._connections else _LAST_SECONDS)
        self._end(code, "", text)

    def _end(self, code: int, word: str, text: str, but: int = -1) -> None:
        if self._failing:  # it says so itself
            return
        if word:
            self._tell(word, text, but)
        again = ": start all again, they go on from the last checkpoint" if code == TRY_AGAIN else ""
        print(f"error: {text}{again}", file=sys.stderr)
        if word and len(self._connections) > 1:
            time.sleep(_PASSED_ON_SECONDS)
        _end(code)

    def _tell(self, word: str, text: str, but: int = -1) -> None:
        for number, connection in self._connections.items():
            if number != but:
                try:
                    connection.sendall(f"{word} {' '.join(text.split())[:1000]}\n".encode())
                except OSError:  # it is gone, which the thread sees
                    continue


def _end(code: int) -> None:
    """Ends this process though other threads are inside a computation that never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
