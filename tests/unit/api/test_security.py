"""Who may call what: every route declares it, and the guard keeps to it in both lanes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request

from loopai_api.application import build_application
from loopai_api.keyring import KeyRing, TokenBucket
from loopai_api.problems import (
    HttpsRequired,
    InsufficientScope,
    InvalidApiKey,
    MissingApiKey,
    RateLimitExceeded,
    headers_of,
)
from loopai_api.security import ACCESS, PUBLIC, Guard, credential_in, required_access
from loopai_api.settings import ApiSettings
from loopai_api.wiring import build
from loopai_common.errors import TaskNotFound
from loopai_common.keys import ApiKey, Rate, Scope, encode_keys, new_key

TASK_ID = "01938f5e-3a6b-7c4d-9e1f-2a3b4c5d6e7f"
NAME = "spam"


class Store:
    """Knows one task, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def find(self, reference: str) -> tuple[str, str]:
        self.asked.append(reference)
        if reference.lower() in (TASK_ID, NAME):
            return TASK_ID, NAME
        raise TaskNotFound("there is no such task")


class Keys:
    """A file of keys of the test's own, and the guard that reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store()
        self.texts: list[str] = []
        self._keys: dict[str, ApiKey] = {}

    def add(self, *scopes: Scope, **more: Any) -> bytes:
        text, known = new_key(scopes=list(scopes), **more)
        self._keys[known.id] = known
        self.path.write_bytes(encode_keys(self._keys))
        self.texts.append(text)
        return f"Bearer {text}".encode()

    def guard(self) -> Guard:
        return Guard(self.store.find, KeyRing(self.path))

    def guard_with(self, scope: Scope) -> Guard:
        self.add(scope)
        return self.guard()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


class _Route:
    def __init__(self, path: str) -> None:
        self.path = path


async def admit(guard: Guard, operation: str, credential: bytes | None = None, **parameters: str) -> None:
    """As the ordinary lane asks."""
    method, _, path = operation.partition(" ")
    headers = [] if credential is None else [(b"authorization", credential)]
    scope = {"type": "http", "method": method, "route": _Route(f"/api/v1{path}"), "headers": headers}
    await guard.admit(Request({**scope, "path_params": parameters}))


def application(settings: ApiSettings | None = None) -> FastAPI:
    app = build(settings or ApiSettings()).app
    assert isinstance(app, FastAPI)
    return app


def operations(app: FastAPI) -> set[tuple[str, str]]:
    """Every method and path that the application answers, by its routes and by its document."""
    found = {
        (method, route.path)
        for route in [*app.routes, *app.state.routes]
        if getattr(route, "path", None)
        for method in (getattr(route, "methods", None) or {"GET"})
    }
    documented = {(method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item}
    assert {("GET", "/swagger"), ("POST", "/api/v1/tasks")} <= found
    return found | documented


def test_every_route_declares_what_it_needs() -> None:
    undeclared = [(method, path) for method, path in operations(application()) if required_access(method, path) is None]
    assert undeclared == [], "add them to loopai_api.security.ACCESS"


def test_only_health_metrics_and_documentation_need_no_key() -> None:
    public = {operation for operation, access in ACCESS.items() if access == PUBLIC}
    assert {operation.split("/")[1] for operation in public} == {
        "health",
        "metrics",
        "docs",
        "openapi.json",
        "swagger",
        "redoc",
    }


async def test_a_route_without_a_declaration_is_refused_even_to_admins_and_in_the_open(keys: Keys) -> None:
    admin = keys.add(Scope.ADMIN)
    for guard in (keys.guard(), Guard(keys.store.find)):
        with pytest.raises(InsufficientScope, match="no key"):
            await admit(guard, "POST /tasks/{task}/forgotten", admin, task=NAME)


async def test_the_guard_stands_before_a_route_that_nobody_declared(keys: Keys) -> None:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield

    router = APIRouter(prefix="/api/v1")
    router.add_api_route("/new/{thing}", lambda thing: thing)
    app = build_application(lifespan, [router], keys.guard_with(Scope.ADMIN))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.get("/api/v1/new/x")).json()["code"] == "missing_api_key"
        response = await client.get("/api/v1/new/x", headers={"X-API-Key": keys.texts[-1]})
    assert (response.status_code, response.json()["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize("operation", sorted(ACCESS))
async def test_each_operation_needs_its_scope(keys: Keys, operation: str) -> None:
    needed = ACCESS[operation]
    by_scope = {scope: keys.add(scope) for scope in Scope}
    guard = keys.guard()
    if needed == PUBLIC:
        await admit(guard, operation)
        return
    with pytest.raises(MissingApiKey):
        await admit(guard, operation, task=NAME)
    for scope, credential in by_scope.items():
        if scope in (needed, Scope.ADMIN):
            await admit(guard, operation, credential, task=NAME)
        else:
            with pytest.raises(InsufficientScope):
                await admit(guard, operation, credential, task=NAME)


@pytest.mark.parametrize("listed", [TASK_ID, TASK_ID.upper(), NAME])
@pytest.mark.parametrize("asked", [TASK_ID, TASK_ID.upper(), NAME])
async def test_a_key_for_a_task_works_by_its_id_and_by_its_name(keys: Keys, listed: str, asked: str) -> None:
    credential = keys.add(Scope.EXECUTE, tasks=[listed])
    guard = keys.guard()
    if not guard.admit_execution(credential, asked):
        await admit(guard, "POST /tasks/{task}/execute", credential, task=asked)
    questions = len(keys.store.asked)
    assert guard.admit_execution(credential, asked), "the fast lane knows by now"
    assert len(keys.store.asked) == questions <= 1


@pytest.mark.parametrize("asked", [NAME, TASK_ID])
async def test_a_key_for_another_task_is_refused_and_the_store_asked_once(keys: Keys, asked: str) -> None:
    credential = keys.add(Scope.EXECUTE, tasks=["other"])
    guard = keys.guard()
    for _ in range(3):
        with pytest.raises(InsufficientScope, match="other tasks"):
            await admit(guard, "POST /tasks/{task}/execute", credential, task=asked)
    with pytest.raises(InsufficientScope, match="other tasks"):
        guard.admit_execution(credential, asked)
    assert keys.store.asked == [asked]


async def test_a_task_that_is_not_there_looks_like_one_of_others(keys: Keys) -> None:
    credential = keys.add(Scope.EXECUTE, tasks=[NAME])
    with pytest.raises(InsufficientScope, match="other tasks"):
        await admit(keys.guard(), "POST /tasks/{task}/execute", credential, task="nobody")


@pytest.mark.parametrize("operation", ["GET /tasks", "POST /tasks", "GET /executions/{execution}"])
async def test_a_key_for_a_task_can_do_nothing_outside_of_it(keys: Keys, operation: str) -> None:
    credential = keys.add(Scope.ADMIN, tasks=[NAME])
    with pytest.raises(InsufficientScope, match="other tasks"):
        await admit(keys.guard(), operation, credential)


def test_an_expired_key_is_as_one_that_never_was(keys: Keys) -> None:
    good = keys.add(Scope.EXECUTE, expires_at=datetime.now(UTC) + timedelta(hours=1))
    bad = keys.add(Scope.EXECUTE, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    guard = keys.guard()
    assert guard.admit_execution(good, NAME)
    messages = set()
    for credential in (bad, bad, b"Bearer lk_nobody_" + b"0" * 64, b"Basic abc", b"", b"\xff"):
        with pytest.raises(InvalidApiKey) as error:
            guard.admit_execution(credential, NAME)
        messages.add(error.value.message)
    assert len(messages) == 1


def test_only_valid_keys_are_remembered(keys: Keys) -> None:
    good = keys.add(Scope.EXECUTE)
    ring = KeyRing(keys.path)
    assert ring.recognise(good) is ring.recognise(good), "verified once"
    for number in range(100):
        with pytest.raises(InvalidApiKey):
            ring.recognise(b"Bearer lk_a%d_" % number + b"0" * 64)
    assert list(ring._recognised) == [good]


def test_a_bucket_lets_a_burst_through_and_then_the_rate() -> None:
    bucket = TokenBucket(Rate(requests_per_second=10, burst=3), now=100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(100.0) == pytest.approx(0.1)
    assert bucket.take(100.05) == pytest.approx(0.05)
    assert bucket.take(100.101) == 0
    assert bucket.take(100.102) > 0
    assert [bucket.take(1000.0) > 0 for _ in range(4)] == [False, False, False, True]


def test_a_refusal_by_rate_says_when_to_come_again(keys: Keys) -> None:
    credential = keys.add(Scope.EXECUTE, rate=Rate(0.5, 2))
    guard = keys.guard()
    assert all(guard.admit_execution(credential, NAME) for _ in range(2))
    with pytest.raises(RateLimitExceeded) as error:
        guard.admit_execution(credential, NAME)
    assert headers_of(error.value) == {
        "Retry-After": "2",
        "RateLimit": '"key";r=0;t=2',
        "RateLimit-Policy": '"key";q=2;w=4',
    }


def test_a_key_in_its_own_header_goes_before_one_in_authorization() -> None:
    assert credential_in([]) is None
    assert credential_in([(b"authorization", b"Bearer a")]) == b"Bearer a"
    assert credential_in([(b"authorization", b"Basic x"), (b"x-api-key", b"b")]) == b"Bearer b"
    for name in (b"authorization", b"x-api-key"):
        with pytest.raises(InvalidApiKey):
            credential_in([(name, b"Bearer a"), (name, b"Bearer b")])


@pytest.mark.parametrize(
    ("client", "headers", "private"),
    [
        ("10.1.2.3", [(b"x-forwarded-proto", b"https")], True),
        ("::ffff:10.1.2.3", [(b"x-forwarded-proto", b"https")], True),
        ("fd00::7", [(b"x-forwarded-proto", b"https")], True),
        ("10.1.2.3", [(b"x-forwarded-proto", b"http")], False),
        ("10.1.2.3", [(b"x-forwarded-proto", b"https"), (b"x-forwarded-proto", b"http")], False),
        ("10.1.2.3", [(b"x-forwarded-proto", b"http, https")], False),
        ("10.1.2.3", [], False),
        ("11.1.2.3", [(b"x-forwarded-proto", b"https")], False),
        ("not an address", [(b"x-forwarded-proto", b"https")], False),
    ],
)
def test_only_a_trusted_proxy_makes_plain_http_private(
    client: str, headers: list[tuple[bytes, bytes]], private: bool
) -> None:
    networks = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    guard = Guard(Store().find, require_https=True, trusted_proxies=networks)
    scope = {"scheme": "http", "client": (client, 5), "headers": headers, "path": "/api/v1/tasks"}
    if private:
        assert guard.check_transport(scope)
    else:
        with pytest.raises(HttpsRequired):
            guard.check_transport(scope)
        assert not guard.check_transport({**scope, "path": "/api/v1/health/ready"}), "probes come over plain HTTP"
    assert guard.check_transport({**scope, "scheme": "https"})


@pytest.mark.parametrize(
    ("host", "setting", "required"),
    [
        ("127.0.0.1", "auto", False),
        ("localhost", "auto", False),
        ("::1", "auto", False),
        ("0.0.0.0", "auto", True),
        ("api.example.com", "auto", True),
        ("127.0.0.1", "on", True),
        ("0.0.0.0", "off", False),
    ],
)
def test_https_is_required_where_others_listen(host: str, setting: Any, required: bool) -> None:
    assert ApiSettings(host=host, require_https=setting).https_required is required
