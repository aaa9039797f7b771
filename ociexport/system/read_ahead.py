"""Work done ahead in threads of their own: an iterator, a hash, and a pipe of chunks.

`hashlib`, `isal`, `zstd` and file system calls release the interpreter lock, so threads really run in parallel.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

from ociexport.spec.digest import Chunk, Digest
from ociexport.system.threads import start_thread

T = TypeVar("T")


def room_for(count: int) -> SimpleQueue[None]:
    """Return a semaphore: a queue of ``count`` items, from which a thread takes one and later puts it back.

    `SimpleQueue` is written in C. `threading.Semaphore` is not, and holds the interpreter lock for several microseconds
    at each step of each chunk.
    """
    room: SimpleQueue[None] = SimpleQueue()
    for _ in range(count):
        room.put(None)
    return room


class ReadAhead(Generic[T], Iterator[T]):
    """The items of a generator, computed in a thread up to ``depth`` ahead.

    An error of the generator is raised by each `next` from then on.

    Args:
        items: run and closed in the thread.
        depth: how many items may wait, which bounds the memory.
        name: of the thread, shown by tools that inspect a hanging process.
    """

    def __init__(self, items: Generator[T], depth: int, name: str) -> None:
        self._items = items
        self._free = room_for(depth)
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
        except BaseException as error:  # all of them: the reader raises it
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
        """Let ``count`` more items wait."""
        for _ in range(count):
            self._free.put(None)

    def stop(self) -> None:
        """Make the thread end after its current item, and release a reader that waits for an item."""
        self._is_stopped = True
        self._free.put(None)
        self._ready.put(None)

    def join(self, timeout_seconds: float | None = None) -> None:
        """Wait until the stopped thread ends, or until the time-out if it hangs in the network."""
        self._thread.join(timeout_seconds)


class HashAhead:
    """A hash computed in a thread of its own.

    Args:
        digest: only its algorithm is used.
        depth: how many chunks may wait.
    """

    def __init__(self, digest: Digest, depth: int) -> None:
        self._hasher = digest.new_hasher()
        self._free = room_for(depth)
        self._waiting: SimpleQueue[Chunk | None] = SimpleQueue()
        self._thread = start_thread(self._run, name="hash")

    def _run(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            self._hasher.update(chunk)
            self._free.put(None)

    def update(self, chunk: Chunk) -> None:
        """Hash the next bytes, which must not be changed afterwards."""
        self._free.get()
        self._waiting.put(chunk)

    def finish(self) -> str:
        """Wait for the thread and return the hash in hexadecimal."""
        self._waiting.put(None)
        self._thread.join()
        return self._hasher.hexdigest()


class ChunkPipe:
    """A stream of bytes from one thread to another; a `ByteStream` for the reader.

    Args:
        depth: how many chunks may wait, which bounds the memory.
    """

    def __init__(self, depth: int) -> None:
        self._free = room_for(depth)
        self._ready: SimpleQueue[Chunk | None] = SimpleQueue()
        self._rest = memoryview(b"")
        self._is_ended = False
        self._is_closed = False

    def has_room(self) -> bool:
        """Whether `put` would not wait."""
        return self._is_closed or not self._free.empty()

    def put(self, chunk: Chunk) -> None:
        """Pass on the next bytes, which must not be changed afterwards; dropped if the reader has closed the stream."""
        if not self._is_closed:
            self._free.get()
            self._ready.put(chunk)

    def end(self) -> None:
        """End the stream after the bytes that were put in."""
        self._ready.put(None)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` of the next bytes, at most one chunk; ``b""`` at the end."""
        while not self._rest and not self._is_ended:
            chunk = self._ready.get()
            self._free.put(None)
            self._is_ended = chunk is None
            self._rest = memoryview(chunk or b"")
        taken = bytes(self._rest if size < 0 else self._rest[:size])
        self._rest = self._rest[len(taken) :]
        return taken

    def close(self) -> None:
        """Stop reading: a writer no longer waits for room."""
        self._is_closed = True
        self._free.put(None)
