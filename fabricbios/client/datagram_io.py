"""Reads and writes over UDP: a window of questions under way, each answered, repeated or given up (D10).

Nonces rise in the order of sending and a repetition has a new one. A copy of a WRITE that comes late is
refused by the node once a newer WRITE is in, so repeating is safe; a STALE_WRITE only says that the network
changed the order, and the piece goes out again. An answer that comes after its question was given up
counts too, whichever copy it is to.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections import deque

from fabricbios.client.datagram_size import DatagramSize
from fabricbios.client.pace import Pace
from fabricbios.client.plane import ANSWER_BESIDE, QUESTION_BESIDE, READ, Codec, Greeting, Question, failure
from fabricbios.client.transfer import Progress, Transfer
from fabricbios.errors import Disconnected, FabricError, Refused, TimedOut
from fabricbios.model import DpOp, DpStatus, Status
from fabricbios.transport import datagrams

WINDOW = 64
NONCE_SPREAD = 512  # half of what the node's replay window holds (D10): a slow question is repeated, not refused
PROBES = 2  # as QUIC's (RFC 9002, 6.2.4): one may be lost too
LATE_KEPT = 1024  # questions given up whose answer would still be welcome
BUSY_SECONDS = 0.01
READ_BATCH = 256
RECEIVE_BUFFER = 1 << 21
ELSEWHERE_SECONDS = 1.0  # between two looks whether this machine has another address now
_OK, _BUSY, _STALE = int(DpStatus.OK), int(DpStatus.BUSY), int(DpStatus.STALE_WRITE)


class _Piece:
    """`done` once it is answered, or cut into smaller ones; `nonce` of its latest question."""

    __slots__ = ("done", "length", "nonce", "start", "transfer")

    def __init__(self, transfer: Transfer, start: int, length: int) -> None:
        self.transfer, self.start, self.length = transfer, start, length
        self.done, self.nonce = False, 0


class _Flight:
    """One question under way; `size` is its datagram's."""

    __slots__ = ("piece", "question", "sent_at", "size")

    def __init__(self, piece: _Piece, question: Question, sent_at: float, size: int) -> None:
        self.piece, self.question, self.sent_at, self.size = piece, question, sent_at, size


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
        self._address, self._codec = address, codec
        self._max = {True: max_read, False: max_write}
        self._loop = asyncio.get_running_loop()
        self._nonce, self._answered = first_nonce, 0  # the next one, and the highest that drew an answer
        self._pace = Pace(window)
        self._flying: dict[int, _Flight] = {}  # by nonce, oldest first
        self._late: dict[int, _Flight] = {}  # likewise, those given up
        self._again: deque[_Piece] = deque()
        self._transfers: deque[Transfer] = deque()  # that have pieces left to cut
        self._open: set[Transfer] = set()
        self._greetings: dict[int, tuple[Question, asyncio.Future[Greeting | None]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._buffer = bytearray(2048)
        self._view = memoryview(self._buffer)
        self._whom = f"the data plane at {address[0]} port {address[1]} (UDP)"
        self._said = ""  # what ICMP or our own kernel said last
        self._looked_at = 0.0
        self._beside = 48 if ":" in address[0] else 28  # IP and UDP headers
        try:
            self._sock = datagrams.connect(address, RECEIVE_BUFFER)
        except OSError as error:
            raise Disconnected(f"{address[0]}: {error.strerror}") from error
        self._size = DatagramSize(self._route_takes())
        self._loop.add_reader(self._sock, self._readable)
        self.repeated = 0
        self.rejected = 0  # answers with a wrong tag or shape

    async def read(self, offset: int, target: memoryview, timeout: float, progress: Progress | None = None) -> None:
        """Fill `target` from `offset`. Raises TimedOut after `timeout` seconds without progress."""
        await self._run(Transfer(READ, offset, target, timeout, progress))

    async def write(self, offset: int, data: memoryview, timeout: float, progress: Progress | None = None) -> None:
        """Store `data` at `offset`. As `read`; the caller sees to it that no two writes under way overlap."""
        await self._run(Transfer(DpOp.WRITE, offset, data, timeout, progress))

    async def greet(self, op: DpOp = DpOp.HELLO, timeout: float = 5.0) -> Greeting | None:
        """Send HELLO (or PING, whose answer is None) until it is answered. Raises TimedOut, or as the status says."""
        deadline, wait = self._loop.time() + timeout, self._pace.wait
        while (left := deadline - self._loop.time()) > 0:
            datagram, question = self._codec.greet(op, self._take_nonce())
            future: asyncio.Future[Greeting | None] = self._loop.create_future()
            self._greetings[question.nonce] = question, future
            self._send(datagram)
            try:
                async with asyncio.timeout(min(wait, left)):
                    return await future
            except TimeoutError:
                self.repeated += 1
                wait = min(2 * wait, 1.0)
                self._look_elsewhere(self._loop.time())
            finally:
                del self._greetings[question.nonce]
        raise TimedOut(f"{self._whom} does not answer{self._because}")

    def close(self) -> None:
        """Free the socket; transfers under way fail with Disconnected."""
        self._unplug()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fail(Disconnected("the lease was closed here"))

    def _fail(self, why: Exception) -> None:
        for transfer in self._open:
            transfer.fail(why)
        for held in (self._transfers, self._flying, self._late, self._again):
            held.clear()

    async def _run(self, transfer: Transfer) -> None:
        if self._closed:
            raise Disconnected("the lease was closed here")
        if not transfer.memory:
            return
        self._open.add(transfer)
        self._transfers.append(transfer)
        self._pump()
        try:
            await transfer.wait()
        finally:
            self._open.discard(transfer)
            self._forget(transfer)

    def _forget(self, transfer: Transfer) -> None:
        """Let go of the caller's memory, and of the window that a transfer has when it failed or was cancelled."""
        flying = len(self._flying)
        for held in (self._flying, self._late):
            for nonce in [nonce for nonce, flight in held.items() if flight.piece.transfer is transfer]:
                del held[nonce]
        if self._again:
            self._again = deque(piece for piece in self._again if piece.transfer is not transfer)
        if transfer in self._transfers:
            self._transfers.remove(transfer)
        if len(self._flying) < flying and not self._closed:
            self._pump()

    @property
    def _closed(self) -> bool:
        return self._sock.fileno() < 0

    @property
    def _because(self) -> str:
        return f": {self._said}" if self._said else ""

    # -- sending ----------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send while the window has room; a full socket buffer stops it until there is room again."""
        now = self._loop.time()
        while len(self._flying) < self._pace.window and not self._stalled and not self._too_far():
            piece = self._next_piece(now)
            if piece is None:
                break
            self._launch(piece, now)
        if self._open:
            self._wake_at(self._next_event(now))

    def _too_far(self) -> bool:
        oldest = next(iter(self._flying), self._nonce)
        return self._nonce - oldest >= NONCE_SPREAD

    def _next_piece(self, now: float) -> _Piece | None:
        while self._again:
            piece = self._again.popleft()
            if piece.transfer.alive and not piece.done:
                return self._fitted(piece, now)
        while self._transfers:
            transfer = self._transfers[0]
            found = transfer.next_piece(self._most(transfer, now), now) if transfer.alive else None
            if found is not None:
                return _Piece(transfer, *found)
            self._transfers.popleft()
        return None

    def _most(self, transfer: Transfer, now: float) -> int:
        """Return how many bytes of data a question of this transfer may be about: whole blocks, and at least one."""
        read = transfer.op == READ
        room = self._size.take(now) - (ANSWER_BESIDE if read else QUESTION_BESIDE)
        unit = self._codec.plane.unit
        return min(self._max[read], max(room // unit, 1) * unit)

    def _fitted(self, piece: _Piece, now: float) -> _Piece:
        """Cut a piece that was lost where datagrams have to be shorter than when it was made."""
        most = self._most(piece.transfer, now)
        if piece.length <= most:
            return piece
        piece.done = True
        self._again.appendleft(_Piece(piece.transfer, piece.start + most, piece.length - most))
        return _Piece(piece.transfer, piece.start, most)

    def _launch(self, piece: _Piece, now: float) -> None:
        transfer, nonce = piece.transfer, self._take_nonce()
        at = transfer.offset + piece.start
        if transfer.op == READ:
            datagram, question = self._codec.read(nonce, at, piece.length)
        else:
            data = transfer.memory[piece.start : piece.start + piece.length]
            datagram, question = self._codec.write(nonce, at, data)
        piece.nonce = nonce
        self._flying[nonce] = _Flight(piece, question, now, len(datagram))
        self._send(datagram)

    def _send(self, datagram: bytes) -> None:
        """A datagram that cannot be sent is one that was lost: it is repeated in time."""
        try:
            self._sock.send(datagram)
        except BlockingIOError:
            self._stalled = True
            self._loop.add_writer(self._sock, self._writable)
        except OSError as error:
            self._heard(error)

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
        try:
            for _ in range(READ_BATCH):
                try:
                    size = self._sock.recv_into(self._buffer)
                except BlockingIOError:
                    break
                except OSError as error:
                    self._heard(error)
                else:
                    self._take(self._view[:size], now)
        finally:  # whatever the caller's `progress` does
            if not self._closed:
                self._give_up_lost(now)
                self._pump()

    def _take(self, answer: memoryview, now: float) -> None:
        nonce = self._codec.nonce_of(answer)
        flight = self._flying.get(nonce) or self._late.get(nonce)
        if flight is None:
            self._take_greeting(answer, nonce)
            return
        question = flight.question
        status = self._codec.status(answer, question) if self._codec.proves(answer, question) else -1
        data = self._codec.data(answer, question) if status == _OK and question.op == READ else b""
        if status < 0 or data is None:
            self.rejected += 1
            return
        late = self._flying.pop(nonce, None) is None
        self._pace.answered(now - flight.sent_at)
        if late:
            del self._late[nonce]
            self._pace.late()
        self._answered = max(self._answered, nonce)
        if status == _OK:
            self._size.passed(flight.size)
            self._finish(flight.piece, data, now)
        elif not late:
            self._refused(flight.piece, status, now)

    def _finish(self, piece: _Piece, data: memoryview | bytes, now: float) -> None:
        if piece.done:
            return
        piece.done, transfer = True, piece.transfer
        self._flying.pop(piece.nonce, None)  # where this answers an earlier copy
        if data and transfer.alive:
            transfer.memory[piece.start : piece.start + piece.length] = data
        transfer.piece_done(piece.length, now)

    def _refused(self, piece: _Piece, status: int, now: float) -> None:
        if status == _STALE:
            self.repeated += 1
            self._pace.reordered(now)
            self._again.append(piece)
        elif status == _BUSY:
            self._loop.call_later(BUSY_SECONDS, self._requeue, piece)
        else:
            piece.transfer.fail(failure(status))

    def _requeue(self, piece: _Piece) -> None:
        if not self._closed:
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

    def _lost_at(self, nonce: int, flight: _Flight) -> float:
        return flight.sent_at + (self._pace.overtaken if nonce < self._answered else self._pace.wait)

    def _next_event(self, now: float) -> float:
        """Return when something is lost or late; both only grow later while answers come."""
        lost = min((self._lost_at(*item) for item in itertools.islice(self._flying.items(), 1)), default=now + 1)
        return min(lost, min(transfer.late_at for transfer in self._open))

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= when + 0.001:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick)

    def _tick(self) -> None:
        """Repeat what was not answered in time; end what has not moved for too long."""
        self._timer, now = None, self._loop.time()
        self._give_up_lost(now)
        for transfer in self._open:
            if transfer.late_at <= now:
                transfer.fail(self._silence(transfer))
            elif now - transfer.moved_at > ELSEWHERE_SECONDS:
                self._look_elsewhere(now)
        self._pump()

    def _silence(self, transfer: Transfer) -> FabricError:
        return TimedOut(f"{self._whom} has not answered for {transfer.timeout:g} s{self._because}")

    def _give_up_lost(self, now: float) -> None:
        """Take back what later questions have overtaken; of what was followed by silence the oldest two go out again,
        whatever the window, and their answers will tell what became of the rest."""
        lost = self._overdue(now)
        for nonce in lost:
            flight = self._late[nonce] = self._flying.pop(nonce)
            self._pace.lost(now, nonce < self._answered)
            self.repeated += 1
            self._again.append(flight.piece)
        if not lost:
            return
        self._size.lost(max(self._late[nonce].size for nonce in lost), now)
        while len(self._late) > LATE_KEPT:
            del self._late[next(iter(self._late))]
        for _ in range(sum(nonce > self._answered for nonce in lost)):
            if not self._stalled and not self._too_far() and (piece := self._next_piece(now)) is not None:
                self._launch(piece, now)

    def _overdue(self, now: float) -> list[int]:
        """Return the nonces of what is lost: all that were overtaken, then no more than PROBES."""
        found: list[int] = []
        for nonce, flight in self._flying.items():
            if self._lost_at(nonce, flight) > now or (len(found) >= PROBES and found[-PROBES] > self._answered):
                break
            found.append(nonce)
        return found

    # -- where we are -----------------------------------------------------------------------

    def _route_takes(self) -> int:
        """Return the bytes of UDP payload that the route takes, as far as the kernel knows."""
        return (datagrams.path_mtu(self._sock) or 1500) - self._beside

    def _heard(self, error: OSError) -> None:
        """ICMP or our own kernel says why nothing comes. Anybody may forge that, so it ends nothing."""
        if error.errno == errno.EMSGSIZE:
            self._size.told(self._route_takes())
        else:
            self._said = error.strerror or ""

    def _look_elsewhere(self, now: float) -> None:
        """Where this machine has another address now, ask from there."""
        if now - self._looked_at < ELSEWHERE_SECONDS:
            return
        self._looked_at = now
        found = datagrams.reconnected(self._sock, self._address, RECEIVE_BUFFER)
        if found is not None:
            self._unplug()
            self._sock, self._stalled = found, False
            self._loop.add_reader(found, self._readable)

    def _unplug(self) -> None:
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
