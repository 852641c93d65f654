"""Reads and writes over UDP: a window of questions under way, each answered, repeated or given up (D10).

Nonces rise in the order of sending and a repetition has a new one. A copy of a WRITE that comes late is
refused by the node once a newer WRITE is in, so repeating is safe; a STALE_WRITE only says that the network
changed the order, and the piece goes out again.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque

from fabricbios.client.pace import Pace
from fabricbios.client.plane import READ, Codec, Greeting, Question, failure
from fabricbios.client.transfer import Progress, Transfer
from fabricbios.errors import Disconnected, Refused, TimedOut
from fabricbios.model import DpOp, DpStatus, Status

WINDOW = 64
NONCE_SPREAD = 512  # half of what the node's replay window holds (D10): a slow question is repeated, not refused
BUSY_SECONDS = 0.01
READ_BATCH = 256
_OK, _BUSY, _STALE = int(DpStatus.OK), int(DpStatus.BUSY), int(DpStatus.STALE_WRITE)


class _Piece:
    __slots__ = ("length", "question", "sent_at", "start", "transfer")

    def __init__(self, transfer: Transfer, start: int, length: int) -> None:
        self.transfer, self.start, self.length = transfer, start, length
        self.question: Question
        self.sent_at = 0.0


class DatagramIo:
    """One connected UDP socket for one lease. `max_read` and `max_write` are bytes a datagram (LIMITS)."""

    def __init__(
        self,
        address: tuple[str, int],
        codec: Codec,
        max_read: int,
        max_write: int,
        first_nonce: int = 1,
        window: int = WINDOW,
    ) -> None:
        self._codec = codec
        self._max = {True: max_read, False: max_write}
        self._loop = asyncio.get_running_loop()
        self._nonce = first_nonce
        self._pace = Pace(window)
        self._flying: dict[int, _Piece] = {}  # by nonce, oldest first
        self._again: deque[_Piece] = deque()
        self._transfers: deque[Transfer] = deque()
        self._greetings: dict[int, tuple[Question, asyncio.Future[Greeting | None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._timeout = 10.0
        self._buffer = bytearray(2048)
        self._view = memoryview(self._buffer)
        self._whom = f"the data plane at {address[0]} port {address[1]} (UDP)"
        self._sock = _connect(address)
        self._loop.add_reader(self._sock, self._readable)
        self.repeated = 0
        self.rejected = 0  # answers with a wrong tag or shape

    async def read(self, offset: int, target: memoryview, timeout: float, progress: Progress | None = None) -> None:
        """Fill `target` from `offset`. Raises TimedOut after `timeout` seconds without progress."""
        await self._run(Transfer(READ, offset, target, self._max[True], self._loop.time(), progress), timeout)

    async def write(self, offset: int, data: memoryview, timeout: float, progress: Progress | None = None) -> None:
        """Store `data` at `offset`. As `read`; the caller sees to it that no two writes under way overlap."""
        transfer = Transfer(DpOp.WRITE, offset, data, self._max[False], self._loop.time(), progress)
        await self._run(transfer, timeout)

    async def greet(self, op: DpOp = DpOp.HELLO, timeout: float = 5.0) -> Greeting | None:
        """Send HELLO (or PING, whose answer is None) until it is answered. Raises TimedOut, or as the status says."""
        deadline = self._loop.time() + timeout
        while (left := deadline - self._loop.time()) > 0:
            datagram, question = self._codec.greet(op, self._take_nonce())
            future: asyncio.Future[Greeting | None] = self._loop.create_future()
            self._greetings[question.nonce] = question, future
            self._send(datagram)
            try:
                async with asyncio.timeout(min(self._pace.wait, left)):
                    return await future
            except TimeoutError:
                self.repeated += 1
            finally:
                del self._greetings[question.nonce]
        raise TimedOut(f"{self._whom} does not answer")

    def close(self) -> None:
        """Free the socket; transfers under way fail with Disconnected."""
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self._fail(Disconnected("the lease was closed here"))

    def _fail(self, why: Exception) -> None:
        for transfer in [*self._transfers, *(p.transfer for p in (*self._flying.values(), *self._again))]:
            transfer.fail(why)
        self._transfers.clear()
        self._flying.clear()
        self._again.clear()

    async def _run(self, transfer: Transfer, timeout: float) -> None:
        if self._sock.fileno() < 0:
            raise Disconnected("the lease was closed here")
        if not transfer.memory:
            return
        self._timeout = timeout
        self._transfers.append(transfer)
        self._pump()
        try:
            await transfer.wait()
        finally:
            self._forget(transfer)

    def _forget(self, transfer: Transfer) -> None:
        """Give the window back that a transfer still has when it failed or was cancelled."""
        left = [nonce for nonce, piece in self._flying.items() if piece.transfer is transfer]
        for nonce in left:
            del self._flying[nonce]
        if left and self._sock.fileno() >= 0:
            self._pump()

    # -- sending ----------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send while the window has room; a full socket buffer stops it until there is room again."""
        now = self._loop.time()
        while len(self._flying) < self._pace.window and not self._stalled and not self._too_far():
            piece = self._next_piece()
            if piece is None:
                break
            self._launch(piece, now)
        if self._flying and self._timer is None:
            oldest = next(iter(self._flying.values()))
            self._timer = self._loop.call_at(oldest.sent_at + self._pace.wait, self._tick)

    def _too_far(self) -> bool:
        oldest = next(iter(self._flying), self._nonce)
        return self._nonce - oldest >= NONCE_SPREAD

    def _next_piece(self) -> _Piece | None:
        while self._again:
            piece = self._again.popleft()
            if piece.transfer.alive:
                return piece
        while self._transfers:
            transfer = self._transfers[0]
            found = transfer.next_piece() if transfer.alive else None
            if found is not None:
                return _Piece(transfer, *found)
            self._transfers.popleft()
        return None

    def _launch(self, piece: _Piece, now: float) -> None:
        transfer, nonce = piece.transfer, self._take_nonce()
        at = transfer.offset + piece.start
        if transfer.op == READ:
            datagram, piece.question = self._codec.read(nonce, at, piece.length)
        else:
            data = transfer.memory[piece.start : piece.start + piece.length]
            datagram, piece.question = self._codec.write(nonce, at, data)
        piece.sent_at = now
        self._flying[nonce] = piece
        self._send(datagram)

    def _send(self, datagram: bytes) -> None:
        """A datagram that cannot be sent is one that was lost: it is repeated in time."""
        try:
            self._sock.send(datagram)
        except BlockingIOError:
            self._stalled = True
            self._loop.add_writer(self._sock, self._writable)
        except OSError:
            self.rejected += 1

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._stalled = False
        self._pump()

    def _take_nonce(self) -> int:
        nonce = self._nonce
        self._nonce += 1
        return nonce

    # -- receiving --------------------------------------------------------------------------

    def _readable(self) -> None:
        now = self._loop.time()
        for _ in range(READ_BATCH):
            try:
                size = self._sock.recv_into(self._buffer)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error: the port is closed, or not yet open
            self._take(self._view[:size], now)
        self._pump()

    def _take(self, answer: memoryview, now: float) -> None:
        nonce = self._codec.nonce_of(answer)
        piece = self._flying.get(nonce)
        if piece is None:
            self._take_greeting(answer, nonce)
            return
        question = piece.question
        status = self._codec.status(answer, question) if self._codec.proves(answer, question) else -1
        data = self._codec.data(answer, question) if status == _OK and question.op == READ else b""
        if status < 0 or data is None:
            self.rejected += 1
            return
        del self._flying[nonce]
        self._pace.answered(now - piece.sent_at)
        if status == _OK:
            self._finish(piece, data, now)
        else:
            self._refused(piece, status)

    def _finish(self, piece: _Piece, data: memoryview | bytes, now: float) -> None:
        transfer = piece.transfer
        if data and transfer.alive:
            transfer.memory[piece.start : piece.start + piece.length] = data
        transfer.piece_done(piece.length, now)

    def _refused(self, piece: _Piece, status: int) -> None:
        if status == _STALE:
            self.repeated += 1
            self._again.append(piece)
        elif status == _BUSY:
            self._loop.call_later(BUSY_SECONDS, self._requeue, piece)
        else:
            piece.transfer.fail(failure(status))

    def _requeue(self, piece: _Piece) -> None:
        if self._sock.fileno() >= 0:
            self._again.append(piece)
            self._pump()

    def _take_greeting(self, answer: memoryview, nonce: int) -> None:
        question, future = self._greetings.get(nonce, (None, None))
        if question is None or future is None or future.done() or not self._codec.proves(answer, question):
            self.rejected += question is not None
            return
        status = self._codec.status(answer, question)
        if status == _OK:
            future.set_result(self._codec.greeting(answer) if question.op == DpOp.HELLO else None)
        elif status > 0:
            future.set_exception(failure(status) if status != _BUSY else Refused(Status.RESOURCE_BUSY, "try again"))

    # -- time -------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Repeat what was not answered in time; end what has not moved for too long."""
        self._timer, now = None, self._loop.time()
        for nonce, piece in list(self._flying.items()):
            if now - piece.sent_at < self._pace.wait:
                break  # the rest was sent later
            del self._flying[nonce]
            self._pace.lost(now)
            self.repeated += 1
            if now - piece.transfer.moved_at >= self._timeout:
                piece.transfer.fail(TimedOut(f"{self._whom} has not answered for {self._timeout:g} s"))
            else:
                self._again.append(piece)
        self._pump()


def _connect(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise Disconnected(f"{address[0]}: {error.strerror}") from error
    return sock
