"""Module globals are fresh for every call: put back where nothing can be changed in place, else made anew."""
# ruff: noqa: E501  # each program is one line

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from loopai_executor.sandbox.isolation import IsolatedProgram, NoEntryPoint, SharingProgram


@pytest.fixture(autouse=True)
def _builtins_of_the_tests() -> Iterator[None]:
    """A program gets a module of builtins of its own, which must not stay."""
    kept = sys.modules["builtins"]
    yield
    sys.modules["builtins"] = kept


def load(source: str, entry_point: str = "run") -> IsolatedProgram:
    return IsolatedProgram(compile(source, "<program>", "exec"), entry_point)


def outputs(program: SharingProgram, *values: Any) -> list[Any]:
    return [program.entry()(value) for value in values]


CHANGELESS = [
    "WORDS = ('a', 'b')\nLIMIT = 3\ndef run(x):\n    return 1\n",
    "import re\nP = re.compile('a')\ndef run(x):\n    return 1\n",
    "from types import MappingProxyType\nT = MappingProxyType({'a': (1, frozenset({2}))})\ndef run(x):\n    return T['a'][0]\n",
    "from collections import Counter\nimport math, datetime, decimal\nD = datetime.date(2020, 1, 1)\ndef run(x):\n    return 1\n",
    "def helper(a, b=(1, 2), *, c=None):\n    return 1\ndef run(x):\n    return helper(x)\n",
    "def make(n):\n    def inner(x):\n        return n\n    return inner\nrun = make(1)\n",
    "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\ndef run(x):\n    return 1\n",
    "from typing import Optional\nMaybe = Optional[int]\ndef run(x):\n    return 1\n",
    "import math\nroot = math.sqrt\nlength = len\nmake = dict.fromkeys\ndef run(x):\n    return int(root(length('a')))\n",
    "from textwrap import dedent\nfrom re import sub\ndef run(x):\n    return len(dedent(sub('b', 'a', 'b')))\n",
    "def f(x):\n    return 1\nf.__doc__ = 'the module itself may'\nrun = f\n",
    "def run(x):\n    class Local:\n        n = 1\n    return Local.n\n",
]

CHANGEABLE = [
    "T = {'a': 1}\ndef run(x):\n    T['a'] += 1\n    return T['a'] - 1\n",
    "T = []\ndef run(x):\n    T.append(1)\n    return len(T)\n",
    "T = ([],)\ndef run(x):\n    T[0].append(1)\n    return len(T[0])\n",
    "def run(x, seen=[]):\n    seen.append(1)\n    return len(seen)\n",
    "def make():\n    seen = []\n    def inner(x):\n        seen.append(1)\n        return len(seen)\n    return inner\nrun = make()\n",
    "class A:\n    n = 0\ndef run(x):\n    A.n += 1\n    return A.n\n",
    "from functools import lru_cache\n@lru_cache\ndef f(x):\n    return []\ndef run(x):\n    f(0).append(1)\n    return len(f(0))\n",
    "from types import MappingProxyType\nT = MappingProxyType({'a': []})\ndef run(x):\n    T['a'].append(1)\n    return len(T['a'])\n",
    "def run(x):\n    return next(G)\nG = iter([1, 2, 3])\n",
    "def run(x):\n    run.n += 1\n    return run.n\nrun.n = 0\n",
    "run = lambda x: 0\ndef f(x):\n    f.__defaults__ = (f.__defaults__ or ()) + (1,)\n    return len(f.__defaults__)\nrun = f\n",
    "def f(x=0):\n    setattr(f, '__defaults__', (f.__defaults__[0] + 1,))\n    return f.__defaults__[0]\nrun = f\n",
    "def other(x):\n    return 2\ndef one(x):\n    return 1\ndef run(x):\n    r = one(x)\n    one.__code__ = other.__code__\n    return r\n",
    "def f(x, *, n=1):\n    f.__kwdefaults__ = {'n': n + 1}\n    return n\nrun = f\n",
    "def f(x, *, n=1):\n    vars(type(f))['__kwdefaults__'].__get__(f)['n'] += 1\n    return n\nrun = f\n",
    "def run(x):\n    run.__annotations__['n'] = run.__annotations__.get('n', 0) + 1\n    return run.__annotations__['n']\n",
    "def run(x):\n    object.__setattr__(run, '__defa' + 'ults__', (run,) + tuple(seen()))\n    return len(seen())\ndef seen():\n    return run.__defaults__ or ()\n",
    "scope = {'n': 0}\nexec('def run(x):\\n    global n\\n    n += 1\\n    return n\\n', scope)\nrun = scope.pop('run')\ndel scope\n",
    "import types\nm = types.ModuleType('math')\nm.n = 0\ndef run(x):\n    m.n += 1\n    return m.n\n",
    "keep = [].append\ndef run(x):\n    keep(x)\n    return len(keep.__self__)\n",
    "class Run:\n    n = 0\n    def __call__(self, x):\n        self.n += 1\n        return self.n\nrun = Run()\n",
]

LEAVING = [
    "n = 0\ndef run(x):\n    global n\n    n += 1\n    return n\n",
    "def run(x):\n    run.n = getattr(run, 'n', 0) + 1\n    return run.n\n",
    "def helper():\n    return 1\ndef run(x):\n    global helper\n    r = helper()\n    helper = lambda: 9\n    return r\n",
    "A = 1\ndef run(x):\n    global A\n    r = A\n    del A\n    return r\n",
    "def run(x):\n    new = 'N' not in globals()\n    globals()['N'] = 1\n    return int(new)\n",
    "n = 0\ndef run(x):\n    globals().clear()\n    return 1\n",
    "def make():\n    n = 0\n    def inner(x):\n        nonlocal n\n        n += 1\n        return n\n    return inner\nrun = make()\n",
    "def make():\n    n = 1\n    def inner(x):\n        nonlocal n\n        r = n\n        del n\n        return r\n    return inner\nrun = make()\n",
    "def make():\n    n = 0\n    def step():\n        nonlocal n\n        n += 1\n        return n\n    return lambda x: step()\nrun = make()\n",
    "def other(x, *, n=1):\n    return n\nkept = other.__kwdefaults__['n']\ndef run(x):\n    r = other(x)\n    for k in dir(other):\n        if k.endswith('kwdefaults__'):\n            getattr(other, k)['n'] = 5\n    return r\n",
]


@pytest.mark.parametrize("source", CHANGELESS)
def test_globals_that_cannot_change_are_put_back(source: str) -> None:
    program = load(source)
    assert program.restores
    assert outputs(program, 0, 0, 0) == [1, 1, 1]
    assert program.entry() is program.entry()


@pytest.mark.parametrize("source", CHANGEABLE)
def test_module_whose_globals_can_change_is_executed_again(source: str) -> None:
    program = load(source)
    assert not program.restores
    assert outputs(program, 0, 0, 0) == [1, 1, 1]


@pytest.mark.parametrize("source", LEAVING)
def test_rebinding_and_attributes_do_not_stay(source: str) -> None:
    program = load(source)
    assert program.restores
    assert outputs(program, 0, 0, 0) == [1, 1, 1]


@pytest.mark.parametrize("source", [LEAVING[0], CHANGEABLE[1], CHANGEABLE[6], CHANGEABLE[9], LEAVING[6]])
def test_sharing_program_keeps_what_its_calls_leave(source: str) -> None:
    program = SharingProgram(compile(source, "<program>", "exec"), "run")
    assert program.entry() is program.entry()
    assert outputs(program, 0, 0, 0) != [1, 1, 1]


def test_builtins_that_a_program_replaces_are_its_own() -> None:
    program = load("import builtins\ndef run(x):\n    builtins.len = None\n    return 1\n")
    assert outputs(program, 0) == [1]
    assert len("ab") == 2


def test_missing_entry_point_is_named() -> None:
    with pytest.raises(NoEntryPoint, match="'main'"):
        load("def run(x):\n    return 1\n", "main")
    with pytest.raises(NoEntryPoint, match="'run'"):
        load("run = 3\n")


def test_exception_of_the_module_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        load("1 / 0\n")
