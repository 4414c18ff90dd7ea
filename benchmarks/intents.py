"""A made-up corpus of customers' questions in 77 intents: eleven things a bank offers, and seven troubles with each.

No real data set of that many labels can be shipped here. What makes real ones hard is in it: intents share their words
with sixteen others, the words have synonyms, sentences come in many forms and mention other things by the way, letters
are mistyped, and some labels are wrong. The same call gives the same corpus.
"""

import random
from collections.abc import Sequence

THINGS: dict[str, Sequence[str]] = {
    "card": ("card", "debit card", "bank card", "plastic", "visa"),
    "virtual_card": ("virtual card", "online card", "digital card", "card in the app", "disposable card"),
    "transfer": ("transfer", "bank transfer", "wire", "money I sent", "payment to a friend"),
    "top_up": ("top up", "top-up", "deposit", "money I added", "adding money"),
    "cash": ("cash withdrawal", "withdrawal", "ATM", "cash machine", "cash"),
    "exchange": ("exchange", "currency exchange", "conversion", "foreign currency", "exchange rate"),
    "direct_debit": ("direct debit", "standing order", "subscription", "recurring payment", "monthly payment"),
    "pin": ("PIN", "pin code", "passcode", "password", "secret number"),
    "account": ("account", "profile", "my bank account", "membership", "current account"),
    "identity": ("identity check", "verification", "ID check", "passport photo", "proof of identity"),
    "refund": ("refund", "money back", "reimbursement", "chargeback", "returned payment"),
}
TROUBLES: dict[str, Sequence[str]] = {
    "pending": (
        "is still pending",
        "is taking for ever",
        "has not arrived yet",
        "says in progress",
        "how long does it take",
    ),
    "declined": ("was declined", "was rejected", "does not work", "keeps failing", "why was it refused"),
    "fee": (
        "I was charged a fee",
        "costs too much",
        "why is there an extra charge",
        "what does it cost",
        "hidden fees",
    ),
    "wrong": (
        "the amount is wrong",
        "I do not recognise it",
        "shows a different amount",
        "there is a mistake",
        "it looks incorrect",
    ),
    "cancel": ("how do I cancel it", "I want to stop it", "please undo it", "close it for me", "get rid of it"),
    "limit": (
        "what is the limit",
        "is there a maximum",
        "how much am I allowed",
        "can I raise the cap",
        "how many can I have",
    ),
    "lost": ("I lost it", "it has been stolen", "I cannot find it", "somebody else is using it", "it disappeared"),
}
_OPENINGS = ("", "", "", "hi, ", "hello. ", "please help, ", "can you tell me, ", "i have a question: ", "so, ", "ok ")
_ENDINGS = ("", "", "", "?", " please", " thanks", ", can you help", "!!", " as soon as possible", ", what now?")
_ASIDES = (
    "i already tried my {}",
    "the {} is fine",
    "same as with the {}",
    "not about my {}",
    "after the {} last week",
)
_FORMS = (
    "my {thing} {trouble}",
    "{trouble} - {thing}",
    "about the {thing}, {trouble}",
    "{trouble}, the {thing}",
    "{thing}: {trouble}",
)
_ASIDE, _TYPO, _WRONG_LABEL, _VAGUE = 0.25, 0.35, 0.02, 0.04


def corpus(size: int, seed: int = 77) -> list[tuple[str, str]]:
    """``size`` pairs of a text and its label, with about as many texts for each of the 77 labels."""
    draw = random.Random(seed)  # a corpus, not a secret
    intents = [(thing, trouble) for thing in THINGS for trouble in TROUBLES]
    pairs = []
    for number in range(size):
        thing, trouble = intents[number % len(intents)]
        label = f"{thing}_{trouble}"
        if draw.random() < _WRONG_LABEL:
            label = "_".join(draw.choice(intents))
        pairs.append((_sentence(draw, thing, trouble), label))
    draw.shuffle(pairs)
    return pairs


def _sentence(draw: random.Random, thing: str, trouble: str) -> str:
    named = "it" if draw.random() < _VAGUE else draw.choice(THINGS[thing])
    text = draw.choice(_FORMS).format(thing=named, trouble=draw.choice(TROUBLES[trouble]))
    if draw.random() < _ASIDE:
        aside = draw.choice(_ASIDES).format(draw.choice(THINGS[draw.choice(list(THINGS))]))
        text = f"{aside}, {text}" if draw.random() < 0.5 else f"{text}, {aside}"
    text = draw.choice(_OPENINGS) + text + draw.choice(_ENDINGS)
    return _mistyped(draw, text) if draw.random() < _TYPO else text


def _mistyped(draw: random.Random, text: str) -> str:
    """The text with one or two letters swapped, dropped or doubled."""
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(text) - 1)
        text = draw.choice(
            (
                text[:at] + text[at + 1] + text[at] + text[at + 2 :],
                text[:at] + text[at + 1 :],
                text[:at] + text[at] + text[at:],
            )
        )
    return text
