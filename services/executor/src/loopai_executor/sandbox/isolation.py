"""Every call of a program starts from the same module globals, whatever the calls before it did.

Executing the module again for each call is always right, and slow for a program with large tables. Where no global
can be changed in place it is enough to put the globals dictionary back. What counts as unchangeable: numbers, text,
bytes, ``None``, tuples and frozen sets of such, compiled patterns, ``datetime`` and ``decimal`` values, whatever the
standard library defines, functions without attributes whose defaults and closures are themselves unchangeable, and
``types.MappingProxyType`` over a dictionary of such, which is how a program writes a large table.
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
        decimal.Decimal, fractions.Fraction, types.BuiltinFunctionType, types.ModuleType,
        datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone,
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


class IsolatedProgram:
    """A loaded program. :meth:`entry` gives its entry point in globals as they were right after loading.

    Making one executes the module: it raises whatever the module raises, or :class:`NoEntryPoint`.
    """

    def __init__(self, code: types.CodeType, entry_point: str) -> None:
        self._code = code
        self._name = entry_point
        self._builtins = private_builtins()
        self._globals = self._execute()
        self._entry = self._find(self._globals)
        self._pristine = dict(self._globals)
        self.entry: Callable[[], EntryPoint] = self._restored if self._is_unchangeable() else self._executed_again

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
        return self._entry

    def _executed_again(self) -> EntryPoint:
        return self._find(self._execute())

    def _execute(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {"__name__": MODULE_NAME, "__builtins__": self._builtins}
        exec(self._code, fresh)  # noqa: S102  # what a worker is for, behind the sandbox
        return fresh

    def _find(self, module: dict[str, Any]) -> EntryPoint:
        entry: EntryPoint | None = module.get(self._name)
        if not callable(entry):
            raise NoEntryPoint(f"the program defines no function {self._name!r}")
        return entry

    def _is_unchangeable(self) -> bool:
        self._functions: list[types.FunctionType] = []
        names = self._pristine.keys() - {"__builtins__", "__annotations__"}
        if self._pristine.get("__annotations__"):
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
        if isinstance(value, type):
            return value.__module__ != MODULE_NAME
        return kind.__module__ == "typing"

    def _holds_function(self, function: types.FunctionType, depth: int) -> bool:
        if function.__globals__ is not self._globals:
            return True
        if function in self._functions:
            return True
        self._functions.append(function)
        cells = (cell.cell_contents for cell in function.__closure__ or ())
        defaults = (function.__defaults__ or (), tuple((function.__kwdefaults__ or {}).values()))
        try:
            held = (*defaults, *cells)
        except ValueError:  # a cell that is still empty
            return False
        return not function.__dict__ and self._holds(held, depth + 1)
