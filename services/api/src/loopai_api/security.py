"""Who may call what: the scope of every route, API keys, and whether the connection is private enough for them.

Both lanes ask the one :class:`Guard` of the process. Whatever declares no scope is refused to everybody.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, Literal

from fastapi import Request
from starlette.types import Scope as AsgiScope

from loopai_api.keyring import KeyRing, Principal
from loopai_api.problems import HttpsRequired, InsufficientScope, InvalidApiKey, MissingApiKey
from loopai_api.references import task_reference
from loopai_common.errors import TaskNotFound
from loopai_common.keys import Scope

PUBLIC: Final = "public"
"""Needs no key."""

Access = Scope | Literal["public"]
Network = IPv4Network | IPv6Network
Headers = Iterable[tuple[bytes, bytes]]
FindTask = Callable[[str], Awaitable[tuple[str, str]]]
"""The id and the name of the task that a reference names; raises :class:`TaskNotFound`."""

ACCESS: Mapping[str, Access] = {
    "GET /health": PUBLIC,
    "GET /health/live": PUBLIC,
    "GET /health/ready": PUBLIC,
    "GET /metrics": PUBLIC,
    "GET /openapi.json": PUBLIC,
    "GET /swagger": PUBLIC,
    "GET /swagger/static": PUBLIC,
    "GET /redoc": PUBLIC,
    "GET /redoc/static": PUBLIC,
    "GET /docs/errors": PUBLIC,
    "POST /tasks": Scope.TASKS_WRITE,
    "GET /tasks": Scope.TASKS_READ,
    "GET /tasks/{task}": Scope.TASKS_READ,
    "PATCH /tasks/{task}": Scope.TASKS_WRITE,
    "DELETE /tasks/{task}": Scope.TASKS_WRITE,
    "GET /tasks/{task}/events": Scope.TASKS_READ,
    "GET /tasks/{task}/activations": Scope.TASKS_READ,
    "GET /tasks/{task}/executions": Scope.TASKS_READ,
    "GET /tasks/{task}/artifacts": Scope.TASKS_READ,
    "POST /tasks/{task}/artifacts": Scope.TASKS_WRITE,
    "GET /tasks/{task}/artifacts/{version}": Scope.TASKS_READ,
    "GET /tasks/{task}/artifacts/{version}/code": Scope.TASKS_READ,
    "POST /tasks/{task}/artifacts/{version}/activate": Scope.TASKS_WRITE,
    "POST /tasks/{task}/generate": Scope.TASKS_WRITE,
    "POST /tasks/{task}/execute": Scope.EXECUTE,
    "POST /tasks/{task}/execute/batch": Scope.EXECUTE,
    "GET /executions/{execution}": Scope.EXECUTE,
}
"""What each operation needs, whatever the version of the API; ``HEAD`` needs what ``GET`` does.

A key that is limited to some tasks can use the operations under ``/tasks/{task}`` alone.
"""

HSTS: Final = (b"strict-transport-security", b"max-age=31536000")

_VERSION_PREFIX = re.compile(r"^/api/v[0-9]+(?=/)")
_HEALTH = re.compile(r"(?:/api/v[0-9]+)?/(?:health(?:/live|/ready)?|metrics)")
_TASK_PARAMETER = "task"
_MAX_KNOWN_TASKS: Final = 100_000
_ANYBODY = Principal([Scope.ADMIN])


def required_access(method: str, path: str) -> Access | None:
    """What the operation at a route's path needs; ``None`` when nothing was declared."""
    return ACCESS.get(f"{'GET' if method == 'HEAD' else method} {_VERSION_PREFIX.sub('', path)}")


class Guard:
    """Lets requests in or raises why not. One for each process; without ``keys`` everybody may do everything."""

    def __init__(
        self,
        find_task: FindTask,
        keys: KeyRing | None = None,
        *,
        require_https: bool = False,
        trusted_proxies: Sequence[Network] = (),
    ) -> None:
        self.open = keys is None
        self.require_https = require_https
        self._find_task = find_task
        self._keys = keys
        self._trusted_proxies = trusted_proxies
        self._tasks: dict[str, tuple[str, str]] = {}

    async def admit(self, request: Request) -> None:
        """Lets a request of the ordinary lane in, once its route is known. A dependency of every route."""
        scope = request.scope
        access = required_access(scope["method"], scope["route"].path)
        if access == PUBLIC:
            return
        principal = _ANYBODY if self.open else self._principal(credential_in(scope["headers"]))
        principal.spend()
        if access is None or access not in principal.scopes:
            raise _out_of_scope(access)
        if principal.tasks is not None and not await self._includes(principal, scope["path_params"]):
            raise _other_task()
        request.state.all_tasks = principal.tasks is None

    def admit_execution(self, credential: bytes | None, task: str) -> bool:
        """Lets an execute request of the fast lane in; ``False`` when only :meth:`admit` can tell whether it may."""
        if self.open:
            return True
        principal = self._principal(credential)
        includes = principal.tasks is None or self._includes_known(principal.tasks, task)
        if includes is None:
            return False
        principal.spend()
        if Scope.EXECUTE not in principal.scopes:
            raise _out_of_scope(Scope.EXECUTE)
        if not includes:
            raise _other_task()
        return True

    def trusts(self, client: tuple[str, int] | None) -> bool:
        """Whether what the peer says of its own client is believed."""
        if not self._trusted_proxies or client is None:
            return False
        try:
            address = ip_address(client[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted_proxies)

    def check_transport(self, scope: AsgiScope) -> bool:
        """Whether the request came over HTTPS, all the way; raises :class:`HttpsRequired` where it must and did not.

        Health and metrics are told to anybody: probes come from inside, and carry no key.
        """
        private = scope["scheme"] == "https" or (
            self.trusts(scope["client"]) and [v for n, v in scope["headers"] if n == b"x-forwarded-proto"] == [b"https"]
        )
        if self.require_https and not private and _HEALTH.fullmatch(scope["path"]) is None:
            raise HttpsRequired("use https; a key that was sent over plain HTTP should be revoked")
        return private

    def _principal(self, credential: bytes | None) -> Principal:
        if credential is None or self._keys is None:
            raise MissingApiKey("send an API key: 'Authorization: Bearer lk_…'")
        return self._keys.recognise(credential)

    def _includes_known(self, tasks: frozenset[str], task: str) -> bool | None:
        """Whether the task, by either of its names, is one of ``tasks``; ``None`` when its other name is not known."""
        if task in tasks:
            return True
        known = self._tasks.get(task)
        return None if known is None else not tasks.isdisjoint(known)

    async def _includes(self, principal: Principal, parameters: Mapping[str, Any]) -> bool:
        """As :meth:`_includes_known`, with a question to the store where it is needed.

        A task's id and name belong together for ever, so that one question a task is enough. A task that is not there
        is none of the key's.
        """
        if principal.tasks is None or _TASK_PARAMETER not in parameters:
            return principal.tasks is None
        task = task_reference(parameters[_TASK_PARAMETER])
        includes = self._includes_known(principal.tasks, task)
        if includes is not None:
            return includes
        try:
            known = await self._find_task(task)
        except TaskNotFound:
            return False
        if len(self._tasks) >= _MAX_KNOWN_TASKS:
            self._tasks.clear()
        self._tasks[task] = known
        return not principal.tasks.isdisjoint(known)


def require_all_tasks(request: Request, what: str) -> None:
    """Raises :class:`InsufficientScope` for a key that is limited to tasks: ``what`` concerns others too."""
    if not request.state.all_tasks:
        raise InsufficientScope(f"{what} needs a key that is not limited to tasks")


def credential_in(headers: Headers) -> bytes | None:
    """The API key of a request, as a value of ``Authorization``; ``None`` when there is none.

    ``X-API-Key`` goes first, since ``Authorization`` may be for a proxy on the way. Raises :class:`InvalidApiKey` when
    a header comes twice, for then nobody can say which of them others looked at.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (b"authorization", b"x-api-key"):
            if name in found:
                raise InvalidApiKey("send one API key, in one header")
            found[name] = value
    if b"x-api-key" in found:
        return b"Bearer " + found[b"x-api-key"]
    return found.get(b"authorization")


def describe_keys(document: dict[str, Any]) -> None:
    """Adds to an OpenAPI document what keys there are, and which scope each operation needs."""
    document.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, `lk_…`."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            access = required_access(method.upper(), path)
            if access != PUBLIC:
                roles = [] if access is None else [str(access)]
                operation["security"] = [{"bearer": roles}, {"header": roles}]


def _out_of_scope(scope: Scope | None) -> InsufficientScope:
    needed = "no key may do this" if scope is None else f"this needs a key with the scope {scope}"
    return InsufficientScope(needed)


def _other_task() -> InsufficientScope:
    return InsufficientScope("this key is for other tasks")
