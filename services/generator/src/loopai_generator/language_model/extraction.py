"""Taking the program out of what a language model wrote.

Models wrap programs in fences with and without a language, in prose, in several blocks, and behind their reasoning. A
program is only taken when it parses and has an entry point; what it does is for the check in the sandbox to find out.
"""

import ast
import builtins
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from loopai_common.contracts.artifacts import MAX_CODE_BYTES
from loopai_common.contracts.generation import EntryPoint

_REASONING = re.compile(r"\s*<(think|thinking|reasoning|thought)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_REASONING = re.compile(r"\A.*?</(?:think|thinking|reasoning|thought)>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)")
_BEGINNING_OF_CODE = re.compile(r'(?:import|from|def|class|async def)\s+\w|@\w|[A-Za-z_]\w*\s*=[^=]|"""')
_BEGINNING_OF_DEFINITION = re.compile(r"(?:import|from|def|class|async def)\s+\w")
_MAX_CUTS = 20


class NoProgram(Exception):
    """The answer holds no program that can be used; ``problem`` says why, to the model and to people."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Extracted:
    """A program that parses, and the function to call."""

    code: str
    entry_point: EntryPoint


@dataclass(frozen=True, slots=True)
class _Block:
    language: str
    text: str


def extract_program(answer: str) -> Extracted:
    """The program in ``answer``: of several blocks that are one the last (the others are drafts), else all together.

    Raises :class:`NoProgram`.
    """
    text = answer.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    if not text.strip():
        raise NoProgram("it is empty")
    problem = None
    for candidate in _candidates(_without_reasoning(text)):
        try:
            return check_program(candidate)
        except NoProgram as found:
            problem = problem or found
    raise problem or NoProgram("it holds no program")


def check_program(code: str) -> Extracted:
    """``code`` with its entry point.

    Raises :class:`NoProgram` when it is too long, does not parse, has none, or uses what it does not define.
    """
    code = code.strip("\n").rstrip() + "\n"
    if len(code.encode("utf-8", "surrogatepass")) > MAX_CODE_BYTES:
        raise NoProgram(f"the program is longer than {MAX_CODE_BYTES} bytes")
    tree = _parse(code)
    entry_point = _entry_point(tree)
    missing = sorted(_undefined_names(tree))
    if missing:
        raise NoProgram(f"the program uses names that it neither defines nor imports: {', '.join(missing[:5])}")
    return Extracted(code, entry_point)


def _without_reasoning(text: str) -> str:
    """The text behind what the model thought aloud; some templates emit only the end of that."""
    begun = _REASONING.match(text)
    while begun is not None:
        text = text[begun.end() :]
        begun = _REASONING.match(text)
    ended = _END_OF_REASONING.match(text)
    return text[ended.end() :] if ended is not None and "def " in text[ended.end() :] else text


def _candidates(text: str) -> Iterator[str]:
    """What may be the program, the likeliest first."""
    blocks = list(_blocks(text))
    python = [block.text for block in blocks if block.language in {"python", "py", "python3"}]
    others = [block.text for block in blocks if block.language in {"", "text", "code", "plaintext"}]
    for named in (python, others):
        yield from reversed(named)
        if len(named) > 1:
            yield "\n\n".join(named)
    lines = text.split("\n")
    fences = [index for index, line in enumerate(lines) if _FENCE.fullmatch(line)]
    if len(fences) > 2:
        # A program with a fence in its docstring was taken for several blocks.
        yield "\n".join(lines[fences[0] + 1 : fences[-1]])
    if not blocks:
        yield text
        yield from _between_prose(lines)


def _blocks(text: str) -> Iterator[_Block]:
    """Fenced blocks as in CommonMark, at any indentation; one that is not closed goes to the end."""
    opening: re.Match[str] | None = None
    body: list[str] = []
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if opening is None:
            opening, body = fence, []
        elif fence is not None and _closes(fence, opening):
            yield _block(opening, body)
            opening = None
        else:
            body.append(line)
    if opening is not None:
        yield _block(opening, body)


def _closes(fence: re.Match[str], opening: re.Match[str]) -> bool:
    return fence["fence"].startswith(opening["fence"]) and not fence["info"].strip()


def _block(opening: re.Match[str], body: list[str]) -> _Block:
    info = opening["info"].strip().strip("{}.").split()
    return _Block(info[0].lower() if info else "", textwrap.dedent("\n".join(body)))


def _between_prose(lines: list[str]) -> Iterator[str]:
    """From where code begins to where prose goes on, for an answer without fences."""
    first = next((i for i, line in enumerate(lines) if _BEGINNING_OF_CODE.match(line)), None)
    if first is None:
        return
    code = lines[first:]
    yield "\n".join(code)
    for _ in range(_MAX_CUTS):
        try:
            ast.parse("\n".join(code))
        except SyntaxError as error:
            end = (error.lineno or 0) - 1
            if not _is_prose(code, end):
                return
            code = code[:end]
        except (ValueError, RecursionError, MemoryError):
            return
        else:
            yield "\n".join(code)
            return


def _is_prose(code: list[str], index: int) -> bool:
    """Whether a line that does not parse begins a paragraph of text: cutting code off there would leave half of it."""
    if not 0 < index < len(code) or code[index - 1].strip():
        return False
    return code[index][:1].strip() != "" and _BEGINNING_OF_DEFINITION.match(code[index]) is None


def _parse(code: str) -> ast.Module:
    try:
        return ast.parse(code)
    except SyntaxError as error:
        raise NoProgram(f"the program does not parse: {error.msg} (line {error.lineno})") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise NoProgram("the program does not parse") from error


def _entry_point(tree: ast.Module) -> EntryPoint:
    """The function to call; ``run`` before the others. A program may also make it by an assignment."""
    defined = {
        statement.name: statement
        for statement in tree.body
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assigned = {
        target.id
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    problem = "the program defines no function `run(input)` at the top level of the module"
    for entry in EntryPoint:
        if entry in assigned:
            return entry
        found = defined.get(entry)
        if isinstance(found, ast.FunctionDef) and _takes_one(found.args):
            return entry
        if entry is EntryPoint.RUN and found is not None:
            problem = "`run` must be a plain function (not async, not a class) that takes exactly one argument"
    raise NoProgram(problem)


def _undefined_names(tree: ast.Module) -> set[str]:
    """Names that are read and bound nowhere in the module, in whichever scope: a forgotten import, or half a program.

    None for a module that binds names in a way that cannot be seen.
    """
    read: set[str] = set()
    bound = set(dir(builtins)) | {"__file__"}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                bound |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                bound.add(name)
    return set() if "*" in bound or read & {"globals", "exec", "vars"} else read - bound


def _takes_one(arguments: ast.arguments) -> bool:
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    keywords = any(default is None for default in arguments.kw_defaults)
    return required <= 1 and (positional >= 1 or arguments.vararg is not None) and not keywords
