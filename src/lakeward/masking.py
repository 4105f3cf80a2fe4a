"""Words that nobody may see, in all the forms in which a text may hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

_MASK = "****"
_SHORTEST = 4  # characters: shorter words are in every line


class Mask:
    """A text without the words, also as JSON, Python or a URL writes them, or line by line."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._words: set[str] = set()
        self.add(words)

    def add(self, words: Iterable[str]) -> None:
        for word in words:
            written = json.dumps(word), json.dumps(word, ensure_ascii=False), repr(word)
            forms = {word, quote(word), quote(word, safe=""), quote_plus(word)}
            forms |= {text[1:-1] for text in written}
            forms |= {line.strip() for line in word.splitlines()}
            self._words |= {form for form in forms if len(form) >= _SHORTEST}

    def __call__(self, text: str) -> str:
        for word in sorted(self._words, key=len, reverse=True):
            text = text.replace(word, _MASK)
        return text
