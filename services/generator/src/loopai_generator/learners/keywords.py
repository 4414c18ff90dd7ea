"""Text to label by keywords: from the description, the schema's labels, and what examples there are."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from pydantic import JsonValue

from loopai_common.contracts.artifacts import SynthesisStrategy
from loopai_common.contracts.generation import GenerationRequest
from loopai_generator.domain import CrossValidation, LabelledText, LabelTask, Learned, read_label_task
from loopai_generator.learners.folds import cross_validate, fold_of
from loopai_generator.learners.program import entry_point, header, pattern_line, source_of

MEASURABLE_FROM = 10
"""With fewer examples a cross-validated figure would be noise."""

CONFIDENCE_OF_AN_EXAMPLE = 0.05
_MAX_KEYWORDS = 40
_LEAST_PRECISION = 0.8
_CATCH_ALL = frozenset({"other", "others", "none", "unknown", "neutral", "misc", "normal", "false", "no"})
_ALSO_CALLED = {"true": ("true", "yes", "whether", "if", "when"), "false": ("false", "no", "otherwise")}
_STOP_WORDS = frozenset(
    """a about all also an and any are as at be been both but by can class classify could do does each either else for
    from get give given has have how i if in input into is it its label labels like may me message messages mean means
    mention mentions most my no not of on one only or other otherwise our output return returns say says should so some
    such task tell text texts than that the their them then there these they this those to try type us use want was we
    were what when where whether which who will with word words would you your""".split()  # noqa: SIM905  # fifty words read better as prose
)

WORD = re.compile(r"\w{1,20}")
ENDING = re.compile(r"(?:ing|ed|e?s|e)$")
MAX_CHARACTERS = 4000


def terms(text: str) -> set[str]:
    """Words without their endings, and pairs of neighbouring ones."""
    words = [ENDING.sub("", word) if len(word) > 4 else word for word in WORD.findall(text[:MAX_CHARACTERS].lower())]
    return {*words, *map(" ".join, pairwise(words))}


_CLASSIFY = """\
def classify(text):
    found = terms(text)
    answer, most = DEFAULT, 0
    for label, keywords in RULES:
        hits = len(found & keywords)
        if hits > most:
            answer, most = label, hits
    return answer
"""


@dataclass(frozen=True, slots=True)
class Rules:
    """Keywords for each label, and the label of a text that holds none. The most hits win, the first in a tie."""

    keywords: tuple[frozenset[str], ...]
    default: int


class KeywordLearner:
    """Takes any number of examples, none included; without a measurement its confidence is low."""

    strategy: ClassVar = SynthesisStrategy.RULE

    def learn(self, request: GenerationRequest) -> Learned:
        task = read_label_task(request)
        described = described_keywords(task.description, task.labels)
        measured = None
        if len(task.examples) >= MEASURABLE_FROM:
            folds = fold_of(task.examples)

            def code_without(fold: int) -> str:
                chosen = [e for e, own in zip(task.examples, folds, strict=True) if own != fold]
                return write(find_rules(task, chosen, described), task, None)

            measured = cross_validate(task, code_without)
        rules = find_rules(task, task.examples, described)
        return Learned(
            code=write(rules, task, measured),
            learner="keywords",
            strategy=self.strategy,
            confidence=measured.accuracy if measured else CONFIDENCE_OF_AN_EXAMPLE * (1 + len(task.examples)),
            cross_validation=measured,
            notes=_notes(task, rules),
            figures={"keywords": sum(map(len, rules.keywords))},
        )


def find_rules(task: LabelTask, examples: Sequence[LabelledText], described: Sequence[frozenset[str]]) -> Rules:
    """The rules that the description and the examples speak for."""
    learned = _keywords_of_examples(examples, len(task.labels))
    keywords = tuple(given | own for given, own in zip(described, learned, strict=True))
    shared = {word for word, count in Counter(word for own in keywords for word in own).items() if count > 1}
    return Rules(tuple(own - shared for own in keywords), _default(task, examples, described))


def described_keywords(description: str, labels: Sequence[JsonValue]) -> tuple[frozenset[str], ...]:
    """For each label its own name, and the words of the clauses that follow it in the description.

    Where nothing follows a label up to the end of its sentence, the words before it count.
    """
    names = [_names(label) for label in labels]
    owner = {name: position for position, own in enumerate(names) for name in own}
    found: list[set[str]] = [set() for _ in labels]
    if owner:
        pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(owner, key=lambda n: (-len(n), n))))})\b")
        for sentence in re.split(r"[.;!?\n]+", description.lower()):
            mentions = list(pattern.finditer(sentence))
            for position, mention in enumerate(mentions):
                last = position + 1 == len(mentions)
                words = _telling(sentence[mention.end() : None if last else mentions[position + 1].start()])
                if not words and last and position == 0:
                    words = _telling(sentence[: mention.start()])
                found[owner[mention.group()]] |= words
    own_names = [
        {term for name in own for term in terms(name) if not isinstance(label, bool)}
        for label, own in zip(labels, names, strict=True)
    ]
    return tuple(frozenset(words | own) for words, own in zip(found, own_names, strict=True))


def write(rules: Rules, task: LabelTask, cross_validation: CrossValidation | None) -> str:
    """The program that decides by the rules."""
    how = (
        "How it decides: the label with the most keywords in the text wins; a text without any gets DEFAULT. "
        "Keywords come from the task's description, its labels, and its examples."
    )
    lines = [
        f"    ({label!r}, frozenset(({''.join(f'{word!r}, ' for word in sorted(own))}))),"
        for label, own in zip(task.labels, rules.keywords, strict=True)
        if own
    ]
    return "\n".join(
        (
            header(task, how, SynthesisStrategy.RULE, cross_validation),
            "import re",
            "from itertools import pairwise",
            "",
            pattern_line("WORD", WORD),
            pattern_line("ENDING", ENDING),
            f"MAX_CHARACTERS = {MAX_CHARACTERS}",
            f"DEFAULT = {task.labels[rules.default]!r}",
            "RULES = (",
            *lines,
            ")",
            "",
            "",
            source_of(terms),
            "",
            _CLASSIFY,
            "",
            entry_point(task),
        )
    )


def _keywords_of_examples(examples: Sequence[LabelledText], labels: int) -> list[frozenset[str]]:
    """The terms that stand nearly only in texts of one label, those of most texts first."""
    totals = Counter(example.label for example in examples)
    everywhere: Counter[str] = Counter()
    within: list[Counter[str]] = [Counter() for _ in range(labels)]
    for example in examples:
        found = {term for term in terms(example.text) if not _is_empty(term)}
        everywhere.update(found)
        within[example.label].update(found)
    least = 1 if len(examples) < MEASURABLE_FROM else 2
    chosen = []
    for label, counts in enumerate(within):
        share = totals[label] / len(examples) if examples else 0.0
        good = [
            (-count, term)
            for term, count in counts.items()
            if count >= least
            and count / everywhere[term] >= _LEAST_PRECISION
            and count / everywhere[term] > (1 + share) / 2 - 1e-9
        ]
        chosen.append(frozenset(term for _, term in sorted(good)[:_MAX_KEYWORDS]))
    return chosen


def _default(task: LabelTask, examples: Sequence[LabelledText], described: Sequence[frozenset[str]]) -> int:
    """The commonest label; without examples the one that sounds like the rest, is least described, or named last."""
    if examples:
        counts = Counter(example.label for example in examples)
        return min(counts, key=lambda label: (-counts[label], label))
    for position, label in enumerate(task.labels):
        if str(label).lower() in _CATCH_ALL:
            return position
    mentioned = [_first_mention(task.description.lower(), label) for label in task.labels]
    return min(range(len(described)), key=lambda position: (len(described[position]), -mentioned[position], -position))


def _first_mention(text: str, label: JsonValue) -> int:
    """Where the label is first named; past the end when it is not."""
    return min((text.index(name) for name in _names(label) if name in text), default=len(text))


def _names(label: JsonValue) -> tuple[str, ...]:
    text = str(label).lower()
    if isinstance(label, bool):
        return _ALSO_CALLED[text]
    spaced = re.sub(r"[\W_]+", " ", text).strip()
    return tuple(name for name in dict.fromkeys((text, spaced)) if name)


def _telling(clause: str) -> set[str]:
    words = [word for word in WORD.findall(clause) if not _is_empty(word)]
    return {term for word in words for term in terms(word)}


def _is_empty(term: str) -> bool:
    return all(word in _STOP_WORDS or len(word) < 3 for word in term.split())


def _notes(task: LabelTask, rules: Rules) -> tuple[str, ...]:
    notes = []
    if len(task.examples) < MEASURABLE_FROM:
        notes.append(
            f"Only {len(task.examples)} examples were given: the program follows keywords and was not measured. "
            f"Give at least {MEASURABLE_FROM} examples, better a hundred, for a program that is learned."
        )
    without = sum(not own for own in rules.keywords)
    if without:
        notes.append(f"Nothing is known about {without} of {len(task.labels)} labels.")
    return tuple(notes)
