"""Assembled prefixes kept for questions that come again: least recently used first out, by bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from cmt_memory.model.prefix import KVPrefix


class PrefixCache:
    """Thread-safe LRU of `KVPrefix` by what went into them.

    Args:
        max_bytes: bytes of keys and values to keep; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[Hashable, KVPrefix] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> KVPrefix | None:
        """The prefix under `key`, or None."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return found

    def put(self, key: Hashable, prefix: KVPrefix) -> None:
        """Keep a prefix, unless it is larger than the whole limit; the least recently used make room."""
        with self._lock:
            if prefix.nbytes > self.max_bytes or key in self._entries:
                return
            self._entries[key] = prefix
            self.nbytes += prefix.nbytes
            while self.nbytes > self.max_bytes:
                self.nbytes -= self._entries.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget every prefix."""
        with self._lock:
            self._entries.clear()
            self.nbytes = 0
