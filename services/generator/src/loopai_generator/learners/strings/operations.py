"""What string programs are made of beyond Python's own string methods.

The sources of these patterns and functions are written into the programs that use them, and the search runs the very
same ones: a program does in the sandbox what it did when it was found. They raise ``ValueError`` (or ``LookupError``,
``OverflowError``) where they do not apply; a program answers that with its default.
"""

import re
from datetime import UTC, datetime, time
from types import MappingProxyType

DIGITS = re.compile(r"[0-9]+")
LETTERS = re.compile(r"[^\W\d_]+")
WORDS = re.compile(r"[^\W_]+")
NAMES = re.compile(r"[^\W\d_]+(?:[-'.][^\W\d_]+)*")
CAPITALS = re.compile(r"[A-Z]+")
CAPITALISED = re.compile(r"[A-Z][a-z]+")
SMALL = re.compile(r"[a-z]+")
PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
NUMBERS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
DOTTED = re.compile(r"(?<![0-9])[0-9]+(?:\.[0-9]+)+")
CODES = re.compile(r"(?<![A-Z])[A-Z]+-[0-9]+")
EMAILS = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
URLS = re.compile(r"https?://[^\s<>]+")
CLOCKS = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?")
HANDLES = re.compile(r"[@#]\w+")
SPACES = re.compile(r"\s+")
NOT_DIGITS = re.compile(r"[^0-9]+")
NOT_ALNUM = re.compile(r"[\W_]+")

NUMBER = re.compile(r"(?:(?<![\w.])-)?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|(?:(?<![\w.])-)?[0-9]+(?:\.[0-9]+)?")
NUMBER_COMMA = re.compile(r"(?:(?<![\w,])-)?[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]+)?|(?:(?<![\w,])-)?[0-9]+(?:,[0-9]+)?")
MAX_DIGITS = 30

DATE = re.compile(
    r"(?<![0-9])(?:"
    r"([0-9]{4})[-/. ]([0-9]{1,2})[-/. ]([0-9]{1,2})(?![0-9])"
    r"|([0-9]{1,2})[-/. ]([0-9]{1,2})[-/. ]([0-9]{4}|[0-9]{2})(?![0-9])"
    r"|([0-9]{4})([0-9]{2})([0-9]{2})(?![0-9])"
    r"|([0-9]{1,2})(?:st|nd|rd|th)?[-./ ]*(?:of )?([A-Za-z]{3,9})[-./, ]+([0-9]{4}|[0-9]{2})(?![0-9])"
    r"|(?<![A-Za-z])([A-Za-z]{3,9})[-./ ]+([0-9]{1,2})(?:st|nd|rd|th)?,?[-/ ]+([0-9]{4})(?![0-9])"
    r"|([0-9]{4})[-/ ]([A-Za-z]{3,9})[-/ ]([0-9]{1,2})(?![0-9]))"
)
MONTHS = MappingProxyType(
    {
        "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
        "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
    }
)  # fmt: skip
TIME = re.compile(r"(?<![0-9:])([0-9]{1,2})(?::([0-9]{2}))?(?::([0-9]{2}))?(?![0-9:])(?: ?([AaPp])\.?[Mm])?")


def first_at(pattern: re.Pattern[str], text: str) -> int:
    """Where the pattern first matches."""
    found = pattern.search(text)
    if found is None:
        raise ValueError
    return found.start()


def number(text: str) -> float:
    """The first number in the text; a point is decimal, commas group thousands."""
    digits = NUMBER.findall(text)[0].replace(",", "")
    if len(digits) > MAX_DIGITS:
        raise ValueError
    return float(digits) if "." in digits else int(digits)


def number_comma(text: str) -> float:
    """The first number in the text; a comma is decimal, points group thousands."""
    digits = NUMBER_COMMA.findall(text)[0].replace(".", "").replace(",", ".")
    if len(digits) > MAX_DIGITS:
        raise ValueError
    return float(digits) if "." in digits else int(digits)


def read_date(text: str, position: int, day_first: bool) -> datetime:
    """The date that is found in the text at a position; two-digit years are 1969 to 2068, as in POSIX."""
    groups = [group for group in list(DATE.finditer(text))[position].groups() if group]
    if len(groups[0]) == 4 and groups[0].isdigit():
        year, month, day = groups
    elif groups[0].isalpha() or not (day_first or groups[1].isalpha()):
        month, day, year = groups
    else:
        day, month, year = groups
    if len(year) == 2:
        year = f"19{year}" if int(year) >= 69 else f"20{year}"
    number_of_month = int(month) if month.isdigit() else MONTHS[month[:3].lower()]
    return datetime(int(year), number_of_month, int(day), tzinfo=UTC)


def read_time(text: str, position: int) -> time:
    """The time of day that is found in the text at a position: 14:05, 14:05:33, 2:05 pm, 2pm."""
    found = [match.groups() for match in TIME.finditer(text) if match[2] or match[4]]
    hour, minute, second, half = found[position]
    hours = int(hour)
    if half:
        hours = hours % 12 + (12 if half in "pP" else 0)
    return time(hours, int(minute or 0), int(second or 0))


def read_stamp(text: str) -> datetime:
    """The moment of so many seconds since 1970, in UTC."""
    if len(text) > MAX_DIGITS // 2:
        raise ValueError
    return datetime.fromtimestamp(int(text), UTC)


def camel(words: list[str]) -> str:
    """The words as one, all but the first with a capital."""
    return "".join([words[0].lower(), *[word.capitalize() for word in words[1:]]])


def as_text(value: object) -> str:
    """What is read as text: strings as they are, nothing as an empty one."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def as_number(value: object) -> float:
    """What is read as a number: 0 where there is none."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
