"""Where processes meet before `jax.distributed`, which aborts those whose peers do not come; standard library only.

Process 0 listens on the coordinator's own port until all are there, then answers everybody and frees the port.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time

from auxjax.errors import AuxjaxError, TryAgainError

_HELLO, _GO, _NO, _LATE = "auxjax", "go", "error ", "late "
_LINE_BYTES, _LINE_SECONDS, _PAUSE_SECONDS = 600, 2.0, 0.1


def meet(address: str, count: int, index: int, seconds: float) -> dict[int, socket.socket]:
    """Returns open connections by number when all `count` processes are there: process 0's to all, theirs to it.

    `address` is HOST:PORT of process 0.

    Raises the same TryAgainError in every process that came where not all do so within `seconds`, and AuxjaxError where
    two have the same number or they differ about `count`.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    if index == 0:
        return _receive(int(port), count, seconds, deadline)
    return {0: _visit(host.strip("[]"), int(port), count, index, seconds, deadline)}


def _receive(port: int, count: int, seconds: float, deadline: float) -> dict[int, socket.socket]:
    """Process 0: collects the others, then tells them to go on or why not."""
    guests: dict[int, socket.socket] = {}
    problem = ""
    with _listen(port, deadline) as server:
        while not problem and len(guests) < count - 1 and time.monotonic() < deadline:
            server.settimeout(_PAUSE_SECONDS)
            arrived: list[socket.socket] = []
            with contextlib.suppress(TimeoutError):
                arrived.append(server.accept()[0])
            for number in [number for number, guest in guests.items() if not _is_there(guest)]:
                guests.pop(number).close()
            for connection in arrived:
                problem = _admit(connection, guests, count)
    missing = [] if problem else [str(number) for number in range(1, count) if number not in guests]
    if missing:
        problem = (
            f"{len(guests) + 1} of {count} processes came within {seconds:g} s, missing: {', '.join(missing)}; start "
            "the same command on every host"
        )
    for guest in guests.values():
        _say(guest, f"{_LATE if missing else _NO}{problem}" if problem else _GO)
    if problem:
        for guest in guests.values():
            guest.close()
        raise TryAgainError(problem) if missing else AuxjaxError(problem)
    return guests


def _admit(connection: socket.socket, guests: dict[int, socket.socket], count: int) -> str:
    """Adds a process that says who it is; returns what is wrong with it, and closes what is none of ours."""
    hello, *numbers = _hear(connection, time.monotonic() + _LINE_SECONDS).split()
    if hello != _HELLO or len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        connection.close()
        return ""
    number, told = map(int, numbers)
    problem = ""
    if told != count:
        problem = f"process {number} was told of {told} processes and process 0 of {count}: start all alike"
    elif number in guests or not 0 < number < count:
        problem = f"two processes are number {number} of {count}: give each its own JAX_PROCESS_ID"
    if problem:
        _say(connection, f"{_NO}{problem}")
        connection.close()
    else:
        guests[number] = connection
    return problem


def _visit(host: str, port: int, count: int, index: int, seconds: float, deadline: float) -> socket.socket:
    """Any other process: tells process 0 that it is there, and waits for all the others."""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # not there yet
            door = socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), _PAUSE_SECONDS))
            _say(door, f"{_HELLO} {index} {count}")
            # Process 0 may have come late, and then waits for so long itself.
            answer = _hear(door, time.monotonic() + seconds + _LINE_SECONDS)
            if answer == _GO:
                return door
            door.close()
            if answer.startswith(_NO):
                raise AuxjaxError(answer.removeprefix(_NO))
            if answer.startswith(_LATE):
                raise TryAgainError(answer.removeprefix(_LATE))
        time.sleep(_PAUSE_SECONDS)
    raise TryAgainError(
        f"process 0 of {count} did not answer at {host}:{port} within {seconds:g} s: start the same command on every "
        "host, and see that JAX_COORDINATOR_ADDRESS names process 0's"
    )


def _listen(port: int, deadline: float) -> socket.socket:
    """Returns a listening socket; a port that a run before this one still holds is waited for."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    while True:
        try:
            return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=dual)
        except OSError as error:
            if dual and error.errno == errno.EADDRNOTAVAIL:  # the kernel knows IPv6, and this host has none
                dual, family = False, socket.AF_INET
                continue
            if error.errno != errno.EADDRINUSE:
                raise AuxjaxError(f"port {port} cannot be listened on: {error.strerror}; choose another") from None
            if time.monotonic() > deadline:
                raise AuxjaxError(
                    f"port {port} is in use on this host: stop the other run, or choose another"
                ) from None
        time.sleep(_PAUSE_SECONDS)


def _is_there(guest: socket.socket) -> bool:
    """Returns whether the other end still holds the connection."""
    guest.setblocking(False)
    try:
        return bool(guest.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _say(connection: socket.socket, text: str) -> None:
    try:
        connection.sendall(text.encode() + b"\n")
    except OSError:  # it went away, which it notices itself
        connection.close()


def _hear(connection: socket.socket, deadline: float) -> str:
    """Returns the one line that is sent; "?" for what is no line, or late."""
    heard = b""
    while not heard.endswith(b"\n") and len(heard) < _LINE_BYTES:
        connection.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            piece = connection.recv(_LINE_BYTES)
        except OSError:
            piece = b""
        if not piece:
            return "?"
        heard += piece
    return heard.decode(errors="replace").strip() or "?"
