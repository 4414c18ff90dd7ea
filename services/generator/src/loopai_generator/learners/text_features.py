"""What the linear classifier looks at in a text.

The source of :func:`features` is written into every program it serves, so that training and the program cannot differ.
It runs for every call of a program: it is written for speed, on constants that the program carries too.
"""

import re
from itertools import pairwise

WORD = re.compile(r"\w{1,20}|[^\w\s]")  # bounded, so that a text without spaces does not become one huge feature
DIGIT = re.compile(r"\d")
MAX_CHARACTERS = 4000


def features(text: str, size: int) -> set[str]:
    """Words, pairs of neighbouring words, and runs of `size` characters, where any digit counts as 0."""
    text = " ".join(text[:MAX_CHARACTERS].lower().split())
    words = WORD.findall(text)
    text = DIGIT.sub("0", f" {text} ")
    runs = zip(*[text[start:] for start in range(size)], strict=False)
    return {*words, *map(" ".join, pairwise(words)), *map("".join, runs)}
