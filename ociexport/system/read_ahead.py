"""Work ahead of the one who needs it: an iterator that runs in a thread of its own.

`hashlib`, `isal`, `zstd` and file system calls let go of the interpreter lock, so threads really run side by side.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

from ociexport.spec.digest import Chunk, Digest
from ociexport.system.threads import start_thread

T = TypeVar("T")


def _room_for(count: int) -> SimpleQueue[None]:
    """Return a queue of ``count`` items: whoever takes one may go on, and puts it back for the next.

    A semaphore by the one synchronisation that the standard library has in C: `threading.Semaphore` takes several
    microseconds of the interpreter lock at each step of each chunk.
    """
    room: SimpleQueue[None] = SimpleQueue()
    for _ in range(count):
        room.put(None)
    return room


class ReadAhead(Generic[T], Iterator[T]):
    """The items of a generator, made in a thread up to ``depth`` ahead; what it raises is raised here, each time.

    Args:
        items: run in the thread; closed there.
        depth: how many items may wait, which bounds the memory.
        name: of the thread, for those who look at a hanging process.
    """

    def __init__(self, items: Generator[T], depth: int, name: str) -> None:
        self._items = items
        self._free = _room_for(depth)
        self._ready: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
        self._is_stopped = False
        self._is_done = False
        self._failure: BaseException | None = None
        self._thread = start_thread(self._run, name=name)

    def _run(self) -> None:
        try:
            for item in self._items:
                self._free.get()
                if self._is_stopped:
                    return
                self._ready.put((item,))
            self._ready.put(None)
        except BaseException as error:  # all of them: they belong to the one who waits
            self._ready.put(error)
        finally:
            self._items.close()

    def __next__(self) -> T:
        if self._is_done:
            raise self._failure or StopIteration
        got = self._ready.get()
        if isinstance(got, tuple):
            self._free.put(None)
            return got[0]
        self._is_done, self._failure = True, got
        raise got or StopIteration

    def deepen(self, count: int) -> None:
        """Let so many items more wait."""
        for _ in range(count):
            self._free.put(None)

    def stop(self) -> None:
        """Have the thread end after the item that it is at, and free whoever waits for one."""
        self._is_stopped = True
        self._free.put(None)
        self._ready.put(None)

    def join(self, timeout_seconds: float | None = None) -> None:
        """Wait for a stopped thread; one that hangs in the network is left behind after the time-out."""
        self._thread.join(timeout_seconds)


class HashAhead:
    """A hash computed in a thread of its own.

    Args:
        digest: whose algorithm is used.
        depth: how many chunks may wait.
    """

    def __init__(self, digest: Digest, depth: int) -> None:
        self._hasher = digest.new_hasher()
        self._free = _room_for(depth)
        self._waiting: SimpleQueue[Chunk | None] = SimpleQueue()
        self._thread = start_thread(self._run, name="hash")

    def _run(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            self._hasher.update(chunk)
            self._free.put(None)

    def update(self, chunk: Chunk) -> None:
        """Take the next bytes, which nobody changes from now on."""
        self._free.get()
        self._waiting.put(chunk)

    def finish(self) -> str:
        """Wait for the thread and return the hash in hexadecimal."""
        self._waiting.put(None)
        self._thread.join()
        return self._hasher.hexdigest()


class ChunkPipe:
    """A stream of bytes from the thread that puts them in to the one that reads; a `ByteStream`.

    Args:
        depth: how many chunks may wait, which bounds the memory.
    """

    def __init__(self, depth: int) -> None:
        self._free = _room_for(depth)
        self._ready: SimpleQueue[Chunk | None] = SimpleQueue()
        self._rest = memoryview(b"")
        self._is_ended = False
        self._is_closed = False

    def put(self, chunk: Chunk) -> None:
        """Hand on the next bytes, which nobody changes from now on; dropped where the reader has closed the stream."""
        if not self._is_closed:
            self._free.get()
            self._ready.put(chunk)

    def end(self) -> None:
        """Have the reader find the end after what was put in."""
        self._ready.put(None)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` of the next bytes, ``b""`` at the end; a chunk at most."""
        while not self._rest and not self._is_ended:
            chunk = self._ready.get()
            self._free.put(None)
            self._is_ended = chunk is None
            self._rest = memoryview(chunk or b"")
        taken = bytes(self._rest if size < 0 else self._rest[:size])
        self._rest = self._rest[len(taken) :]
        return taken

    def close(self) -> None:
        """Let whoever puts in more go on: nobody reads it."""
        self._is_closed = True
        self._free.put(None)
