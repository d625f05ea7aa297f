"""Tokens to text as they come."""

import codecs

import tiktoken


class TextStream:
    """Text of tokens that come one by one: whole characters only, and nothing of a string that ends the text.

    A token may be part of a character, and a stop string may begin in one token and end in another: what could still
    become either is held back until it is certain.
    """

    def __init__(self, encoding: tiktoken.Encoding, stop: tuple[str, ...] = ()) -> None:
        self._encoding, self._stop = encoding, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._given = 0
        self.text = ""
        """All text so far, the part that is held back included; without the stop string once that has come."""
        self.ended = False
        """Whether a stop string has come."""

    def add(self, token: int) -> str:
        """The text that is certain with one more token."""
        if self.ended:
            return ""
        self.text += self._decoder.decode(self._encoding.decode_single_token_bytes(token))
        return self._give()

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        if self.ended:
            return ""
        self.text += self._decoder.decode(b"", final=True)
        piece = self._give()
        return piece + self._take(len(self.text))

    def _give(self) -> str:
        # A stop string cannot begin in what was given: that was held back as long as it could.
        found = [at for at in (self.text.find(stop, self._given) for stop in self._stop) if at >= 0]
        if found:
            self.text, self.ended = self.text[: min(found)], True
            return self._take(len(self.text))
        return self._take(len(self.text) - self._held())

    def _take(self, end: int) -> str:
        piece = self.text[self._given : end]
        self._given = max(self._given, end)
        return piece

    def _held(self) -> int:
        """Characters at the end with which a stop string begins."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self.text) - self._given), longest, -1):
                if self.text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
