"""Every call of a program starts from the same module globals, whatever the calls before it did.

Executing the module again for each call is always right, and slow for a program with large tables. Where no global
can be changed in place it is enough to put the globals dictionary back. What counts as unchangeable: numbers, text,
bytes, ``None``, tuples and frozen sets of such, compiled patterns, ``datetime`` and ``decimal`` values, whatever the
standard library defines, functions without attributes whose defaults and closures are themselves unchangeable, and
``types.MappingProxyType`` over a dictionary of such, which is how a program writes a large table. Variables of closures
and keyword defaults are put back with the globals. Comparing the rest of a function at each call would cost more than
many a call, so a program that names it, or a way to assign what is not named, is executed again.

What a program leaves in the standard library is not undone: its worker is its own.
"""

import builtins
import datetime
import decimal
import fractions
import re
import sys
import types
from collections.abc import Callable
from typing import Any, Final

MODULE_NAME: Final = "program"

_SCALARS: Final = frozenset(
    {
        str, int, float, complex, bool, bytes, type(None), type(...), range, re.Pattern,
        decimal.Decimal, fractions.Fraction,
        datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone,
    }
)  # fmt: skip
_WAYS_TO_CHANGE_A_FUNCTION: Final = frozenset(
    {
        "__code__", "__defaults__", "__kwdefaults__", "__annotations__", "__annotate__",
        "setattr", "__setattr__", "delattr", "__delattr__", "exec", "eval",
    }
)  # fmt: skip
_MAX_DEPTH: Final = 50

EntryPoint = Callable[[Any], Any]


class NoEntryPoint(Exception):
    """The program does not define the function that it was stored with."""


def private_builtins() -> dict[str, Any]:
    """The builtins for programs: what a program does to them does not reach the loop that runs it."""
    module = types.ModuleType("builtins")
    vars(module).update(vars(builtins))
    sys.modules["builtins"] = module
    return vars(module)


class SharingProgram:
    """A loaded program. :attr:`entry` gives its entry point, in globals that the calls before it may have changed.

    Making one executes the module: it raises whatever the module raises, or :class:`NoEntryPoint`.
    """

    def __init__(self, code: types.CodeType, entry_point: str) -> None:
        self._code = code
        self._name = entry_point
        self._builtins = private_builtins()
        self._globals = self._execute()
        self._entry = self._find(self._globals)
        self.entry: Callable[[], EntryPoint] = self._as_it_is

    def _as_it_is(self) -> EntryPoint:
        return self._entry

    def _execute(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {"__name__": MODULE_NAME, "__builtins__": self._builtins}
        exec(self._code, fresh)  # noqa: S102  # what a worker is for, behind the sandbox
        return fresh

    def _find(self, module: dict[str, Any]) -> EntryPoint:
        entry: EntryPoint | None = module.get(self._name)
        if not callable(entry):
            raise NoEntryPoint(f"the program defines no function {self._name!r}")
        return entry


class IsolatedProgram(SharingProgram):
    """A loaded program. :attr:`entry` gives its entry point in globals as they were right after loading."""

    def __init__(self, code: types.CodeType, entry_point: str) -> None:
        super().__init__(code, entry_point)
        self._pristine = dict(self._globals)
        self._functions: list[types.FunctionType] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._keyword_defaults: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.entry = self._restored if self._is_unchangeable() else self._executed_again

    @property
    def restores(self) -> bool:
        """Whether the globals are put back rather than made anew."""
        return self.entry == self._restored

    def _restored(self) -> EntryPoint:
        current, pristine = self._globals, self._pristine
        current.update(pristine)  # not clear() first: the interpreter's caches live as long as the keys do
        if len(current) != len(pristine):
            for name in current.keys() - pristine.keys():
                del current[name]
        for function in self._functions:
            if function.__dict__:
                function.__dict__.clear()
        for cell, contents in self._cells:
            cell.cell_contents = contents
        for changed, defaults in self._keyword_defaults:
            changed.clear()
            changed.update(defaults)
        return self._entry

    def _executed_again(self) -> EntryPoint:
        return self._find(self._execute())

    def _is_unchangeable(self) -> bool:
        names = self._pristine.keys() - {"__builtins__", "__annotations__"}
        if self._pristine.get("__annotations__") or _names_a_way_to_change_a_function(self._code):
            return False
        return all(self._holds(self._pristine[name], 0) for name in names)

    def _holds(self, value: Any, depth: int) -> bool:
        kind = type(value)
        if kind in _SCALARS:
            return True
        if depth > _MAX_DEPTH:
            return False
        if kind is tuple or kind is frozenset:
            return all(self._holds(item, depth + 1) for item in value)
        if kind is types.MappingProxyType:
            return all(self._holds(k, depth + 1) and self._holds(v, depth + 1) for k, v in value.items())
        if kind is types.FunctionType:
            return self._holds_function(value, depth)
        if kind is types.BuiltinFunctionType:
            return self._holds(value.__self__, depth + 1)  # the module, or what a bound method would change
        if kind is types.ModuleType:
            return value is builtins or sys.modules.get(value.__name__) is value
        if isinstance(value, type):
            return value.__module__ != MODULE_NAME
        return kind.__module__ == "typing"

    def _holds_function(self, function: types.FunctionType, depth: int) -> bool:
        if function.__globals__ is not self._globals:
            return function.__globals__ is getattr(sys.modules.get(function.__module__), "__dict__", None)
        if function in self._functions:
            return True
        self._functions.append(function)
        try:
            cells = [(cell, cell.cell_contents) for cell in function.__closure__ or ()]
        except ValueError:  # a cell that is still empty
            return False
        self._cells += cells
        keyword_defaults = function.__kwdefaults__ or {}
        if keyword_defaults:
            self._keyword_defaults.append((keyword_defaults, dict(keyword_defaults)))
        held = (function.__defaults__ or (), *keyword_defaults.values(), *(contents for _, contents in cells))
        return not function.__dict__ and self._holds(held, depth + 1)


def _names_a_way_to_change_a_function(module: types.CodeType) -> bool:
    """Whether code that runs in a call does, as a name or as text; what only the module itself does is done by then."""
    return any(_mentions(part) for part in module.co_consts if type(part) is types.CodeType)


def _mentions(part: Any) -> bool:
    if type(part) is types.CodeType:
        return not _WAYS_TO_CHANGE_A_FUNCTION.isdisjoint(part.co_names) or any(map(_mentions, part.co_consts))
    if type(part) is tuple:
        return any(map(_mentions, part))
    return type(part) is str and part in _WAYS_TO_CHANGE_A_FUNCTION
