"""A stack with API keys, driven over HTTP by those who have one, and by those who have not."""

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from loopai_client.client import LoopaiClient
from loopai_client.errors import ApiError
from loopai_client.local.key_file import changed_keys
from loopai_common.keys import ApiKey, Rate, Scope, new_key
from tests.e2e.test_lanes import JSON, ORDINARY, without_what_varies
from tests.support.processes import descendants
from tests.support.product import ECHO, V1, Product, eventually
from tests.support.service_process import ServiceProcess
from tests.support.stack import LocalStack
from tests.support.wire import exchange

FROM_A_PROXY = {"X-Forwarded-Proto": "https"}
ORIGIN = "https://app.example.com"


MOODY = """
def run(input):
    text = input["text"]
    if text.endswith("raise"):
        raise ValueError(text)
    while text.endswith("loop"):
        pass
    if text.endswith("grow"):
        text = "y" * (1 << 33)
    return text
"""


class Keys:
    """The file of the stack's keys, as `loopai keys` would leave it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.admin = self.add(Scope.ADMIN)

    def add(self, *scopes: Scope, tasks: list[str] | None = None, rate: Rate | None = None) -> str:
        text, known = new_key(scopes=list(scopes), tasks=tasks, rate=rate)
        self.change(lambda keys: keys.update({known.id: known}))
        return text

    def revoke(self, key: str) -> None:
        self.change(lambda keys: keys.pop(key.split("_")[1]))

    def change(self, change: Callable[[dict[str, ApiKey]], Any]) -> None:
        with changed_keys(self.file) as keys:
            change(keys)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def stack(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack that asks for keys."""
    with LocalStack(tmp_path_factory.mktemp("keyed"), keys_file=keys.file) as running:
        yield running


@pytest.fixture
async def product(stack: LocalStack, keys: Keys) -> AsyncIterator[Product]:
    """The stack as its administrator sees it."""
    async with Product.connect(stack) as connected:
        connected.http.headers.update(bearer(keys.admin))
        yield connected


@pytest.fixture
async def http(stack: LocalStack) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with httpx.AsyncClient(base_url=stack.base_url, timeout=60) as client:
        yield client


@pytest.fixture
async def echo(product: Product) -> dict[str, Any]:
    return await product.program(ECHO, sampling_rate=0)


@pytest.fixture(scope="module")
def strict_api(stack: LocalStack, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Another api of the same stack: behind a proxy that ends TLS, for pages of another origin, with small limits."""
    environment = {
        "LOOPAI_NATS_URL": stack.nats_url,
        "LOOPAI_LOG_FORMAT": "json",
        "LOOPAI_API_KEYS_FILE": str(keys.file),
        "LOOPAI_API_REQUIRE_HTTPS": "on",
        "LOOPAI_API_TRUSTED_PROXIES": "127.0.0.1/32, ::1/128",
        "LOOPAI_API_CORS_ORIGINS": ORIGIN,
        "LOOPAI_API_SEND_TIMEOUT_SECONDS": "1",
        "LOOPAI_API_MAX_CONNECTIONS": "20",
        "LOOPAI_API_MAX_BATCH_MEMORY_BYTES": str(64 << 20),
    }
    log = tmp_path_factory.mktemp("strict") / "log"
    with ServiceProcess("loopai_api.main", "LOOPAI_API_", log, environment) as running:
        yield running


@pytest.fixture
async def strict(strict_api: ServiceProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=strict_api.url, timeout=60) as client:
        yield client


async def rejected(client: httpx.AsyncClient, reason: str) -> float:
    label = f'loopai_http_rejected_requests_total{{reason="{reason}"}} '
    (line,) = [line for line in (await client.get("/metrics")).text.splitlines() if line.startswith(label)]
    return float(line.removeprefix(label))


async def test_whoever_has_no_key_sees_health_metrics_and_documentation_alone(http: httpx.AsyncClient) -> None:
    for path in ("/health", "/health/live", f"{V1}/health/ready", "/metrics", "/openapi.json", "/swagger", "/redoc"):
        assert (await http.get(path)).status_code == 200, path
    document = (await http.get("/openapi.json")).json()
    checked = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            response = await http.request(method, path.replace("{", "").replace("}", ""))
            if "security" in operation:
                assert (response.status_code, response.json()["code"]) == (401, "missing_api_key"), path
                assert response.headers["www-authenticate"] == "Bearer"
                checked += 1
            else:
                assert response.status_code == 200, path
    assert checked >= 8
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}


async def test_both_lanes_answer_every_key_alike(
    product: Product, http: httpx.AsyncClient, keys: Keys, echo: dict[str, Any]
) -> None:
    good = keys.add(Scope.EXECUTE, tasks=[echo["name"]])
    others = keys.add(Scope.EXECUTE, tasks=["another"])
    reader = keys.add(Scope.TASKS_READ)
    spent = keys.add(Scope.EXECUTE, rate=Rate(0.0001, 2))
    await eventually(lambda: _is_known(http, spent))  # the file is read again whole, so the others are known too
    await http.post(f"{V1}/tasks/{echo['id']}/execute", json={"input": 1}, headers=bearer(spent))
    table: list[tuple[dict[str, str], int]] = [
        ({}, 401),
        ({"Authorization": "Basic YTpi"}, 401),
        (bearer("lk_a_b"), 401),
        (bearer(good[:-1] + ("0" if good[-1] != "0" else "1")), 401),
        (bearer(reader), 403),
        (bearer(others), 403),
        (bearer(spent), 429),
        (bearer(good), 200),
        ({"X-API-Key": good}, 200),
        ({"X-API-Key": good, "Authorization": "Basic YTpi"}, 200),
        ({"Authorization": f"BEARER {good}"}, 200),
        ({**bearer(good), "X-Forwarded-Proto": "https"}, 200),
        ({**bearer(good), "Origin": ORIGIN}, 200),
    ]
    for task in (echo["id"], echo["name"]):
        for headers, status in table:
            hot, ordinary = [
                await http.post(
                    f"{V1}/tasks/{task}/execute", content=b'{"input": 1}', headers={**JSON, **headers, **more}
                )
                for more in ({}, ORDINARY)
            ]
            assert without_what_varies(hot) == without_what_varies(ordinary)
            assert hot.status_code == status, (headers, hot.text)
    denied = await http.post(f"{V1}/tasks/nobody/execute", json={"input": 1}, headers=bearer(good))
    assert denied.json()["code"] == "insufficient_scope", "whether it exists is not this key's to know"


async def test_a_key_for_some_tasks_cannot_have_their_programs_share_a_process_with_others(
    http: httpx.AsyncClient, keys: Keys, echo: dict[str, Any]
) -> None:
    limited, unlimited = keys.add(Scope.TASKS_WRITE, tasks=[echo["id"]]), keys.add(Scope.TASKS_WRITE)
    await eventually(lambda: _is_known(http, unlimited))
    path = f"{V1}/tasks/{echo['id']}"
    denied = await http.patch(path, json={"isolation": "group"}, headers=bearer(limited))
    assert (denied.status_code, denied.json()["code"]) == (403, "insufficient_scope")
    for key, isolation in ((limited, "process"), (unlimited, "group"), (limited, "call")):
        changed = await http.patch(path, json={"isolation": isolation}, headers=bearer(key))
        assert (changed.status_code, changed.json()["isolation"]) == (200, isolation)


async def _is_known(http: httpx.AsyncClient, key: str) -> bool:
    response = await http.get(f"{V1}/tasks/nobody", headers=bearer(key))
    return response.json()["code"] not in {"invalid_api_key", "missing_api_key"}


async def test_a_key_comes_and_goes_while_the_api_runs(http: httpx.AsyncClient, keys: Keys) -> None:
    key = keys.add(Scope.TASKS_READ)
    await eventually(lambda: _is_known(http, key))
    assert (await http.get(f"{V1}/tasks", headers=bearer(key))).status_code == 200
    assert (await http.post(f"{V1}/tasks", json={}, headers=bearer(key))).status_code == 403
    keys.revoke(key)

    async def gone() -> bool:
        return not await _is_known(http, key)

    await eventually(gone)


async def test_a_broken_file_leaves_the_keys_in_force_and_degrades_readiness(
    http: httpx.AsyncClient, keys: Keys
) -> None:
    good = keys.file.read_bytes()
    keys.file.write_bytes(good[:-20])

    async def told() -> bool:
        report = (await http.get("/health/ready")).json()
        return bool(report["checks"]["api-keys"]["status"] == "degraded")

    try:
        await eventually(told)
        assert (await http.get("/health/ready")).status_code == 200
        assert (await http.get(f"{V1}/tasks", headers=bearer(keys.admin))).status_code == 200
    finally:
        keys.file.write_bytes(good)

    async def well_again() -> bool:
        return not await told()

    await eventually(well_again)


def test_the_client_sends_its_key_and_never_shows_it(
    stack: LocalStack, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOOPAI_API_KEY", raising=False)
    with LoopaiClient(stack.base_url) as nobody, pytest.raises(ApiError, match="missing_api_key"):
        list(nobody.list_tasks())
    with LoopaiClient(stack.base_url, api_key=keys.admin) as client:
        list(client.list_tasks())
        assert keys.admin not in f"{client!r} {vars(client)!r}"
    monkeypatch.setenv("LOOPAI_API_KEY", f"{keys.admin}\n")
    with LoopaiClient(stack.base_url) as client:
        list(client.list_tasks())
    command = [sys.executable, "-m", "loopai_client.cli.main", "task", "list", "--url", stack.base_url, "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert listed.returncode == 0, listed.stderr


async def test_plain_http_is_refused_unless_a_trusted_proxy_vouches_for_it(
    strict: httpx.AsyncClient, keys: Keys, echo: dict[str, Any]
) -> None:
    path, before = f"{V1}/tasks/{echo['id']}/execute", await rejected(strict, "https")
    for lane in ({}, ORDINARY):
        for proto in ({}, {"X-Forwarded-Proto": "http"}, {"X-Forwarded-Proto": "http, https"}):
            headers = {**bearer(keys.admin), **lane, **proto}
            response = await strict.post(path, json={"input": 1}, headers=headers)
            assert (response.status_code, response.json()["code"]) == (403, "https_required")
            assert "strict-transport-security" not in response.headers
        headers = {**bearer(keys.admin), **lane, **FROM_A_PROXY}
        response = await strict.post(path, json={"input": 1}, headers=headers)
        assert response.status_code == 200, response.text
        assert response.headers["strict-transport-security"] == "max-age=31536000"
    assert await rejected(strict, "https") == before + 6


async def test_pages_of_a_configured_origin_may_call_and_others_may_not(
    strict: httpx.AsyncClient, http: httpx.AsyncClient, keys: Keys, echo: dict[str, Any]
) -> None:
    path = f"{V1}/tasks/{echo['id']}/execute"
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = await strict.options(path, headers={"Origin": ORIGIN, **asking, **FROM_A_PROXY})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    refused = await strict.options(path, headers={"Origin": "https://evil.example", **asking, **FROM_A_PROXY})
    assert "access-control-allow-origin" not in refused.headers
    for key, status in ((keys.admin, 200), ("wrong", 401)):
        headers = {**bearer(key), **FROM_A_PROXY, "Origin": ORIGIN}
        response = await strict.post(path, json={"input": 1}, headers=headers)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Correlation-ID" in response.headers["access-control-expose-headers"]
    closed = await http.options(path, headers={"Origin": ORIGIN, **asking})
    assert closed.status_code == 405, "without the setting there is no CORS"


async def test_connections_over_the_limit_are_told_so_and_closed(strict_api: ServiceProcess) -> None:
    parts = urlsplit(strict_api.url)
    held = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(20)]
    try:
        async with asyncio.timeout(30):
            while True:  # those of the test before may still be closing
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                answer = await reader.read()
                writer.close()
                if answer:
                    break
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        assert b'"code":"overloaded"' in answer
    finally:
        for _, writer in held:
            writer.close()

    async def open_again() -> bool:
        async with httpx.AsyncClient(base_url=strict_api.url) as client:
            response = await client.get("/health")
            return response.status_code == 200 and await rejected(client, "connections") >= 1

    await eventually(open_again)


async def test_json_batches_share_a_bound_and_are_refused_above_it_at_once(
    strict_api: ServiceProcess, strict: httpx.AsyncClient, keys: Keys, echo: dict[str, Any]
) -> None:
    path = f"{V1}/tasks/{echo['id']}/execute/batch"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {keys.admin}\r\nX-Forwarded-Proto: https\r\n"
        f"Content-Type: application/json\r\nContent-Length: {16 << 20}\r\n\r\n{{"
    ).encode()
    parts = urlsplit(strict_api.url)
    held = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(4)]
    body = {"items": [{"id": "a", "input": 1}]}
    headers = {**bearer(keys.admin), **FROM_A_PROXY}

    async def refused() -> bool:
        response = await strict.post(path, json=body, headers=headers)
        assert response.status_code in {200, 503}, response.text
        return response.status_code == 503 and response.json()["code"] == "overloaded"

    async def accepted() -> bool:
        return not await refused()

    for _, writer in held:
        writer.write(head)
        await writer.drain()
    await eventually(refused)
    for _, writer in held:
        writer.close()
    await eventually(accepted)


async def never_reading(url: str) -> asyncio.StreamWriter:
    """A connection of a client that takes little: the kernel's buffer for it could grow to hold all answers."""
    parts = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (parts.hostname, parts.port))
    return (await asyncio.open_connection(sock=connection, limit=1024))[1]


@pytest.mark.parametrize("content_type", ["application/x-ndjson", "application/json"])
async def test_a_client_that_never_reads_is_disconnected(
    strict_api: ServiceProcess, strict: httpx.AsyncClient, keys: Keys, echo: dict[str, Any], content_type: str
) -> None:
    before = await rejected(strict, "slow_reader")
    path = f"{V1}/tasks/{echo['id']}/execute"
    items = [json.dumps({"id": f"i{n}", "input": "x" * 200_000}) for n in range(60)]
    if content_type == "application/json":
        body, suffix = f'{{"items": [{", ".join(items)}]}}'.encode(), "/batch"
    else:
        body, suffix = "".join(f"{item}\n" for item in items).encode(), "/batch"
    head = (
        f"POST {path}{suffix} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {keys.admin}\r\nX-Forwarded-Proto: https\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    urlsplit(strict_api.url)
    writer = await never_reading(strict_api.url)
    with closing(writer):
        writer.write(head + body)

        async def disconnected() -> bool:
            return await rejected(strict, "slow_reader") == before + 1

        await eventually(disconnected)


async def test_pipelining_without_reading_does_not_fill_the_memory(
    strict_api: ServiceProcess, strict: httpx.AsyncClient, keys: Keys, echo: dict[str, Any]
) -> None:
    before = await rejected(strict, "slow_reader")
    body = json.dumps({"input": "x" * 100_000}).encode()
    request = (
        f"POST {V1}/tasks/{echo['id']}/execute HTTP/1.1\r\nHost: x\r\nX-API-Key: {keys.admin}\r\n"
        f"X-Forwarded-Proto: https\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    urlsplit(strict_api.url)
    writer = await never_reading(strict_api.url)
    sent = 0
    with closing(writer):
        try:
            async with asyncio.timeout(60):
                while sent < 300:
                    writer.write(request)
                    await writer.drain()
                    sent += 1
        except ConnectionError:
            pass

    async def disconnected() -> bool:
        return await rejected(strict, "slow_reader") == before + 1

    await eventually(disconnected)
    assert sent < 300, "the api stopped reading long before"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody signed, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl is missing: no certificate can be made")
    directory = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem"), "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return directory / "cert.pem"


async def test_tls_ends_in_the_service_for_both_lanes(
    stack: LocalStack, keys: Keys, echo: dict[str, Any], certificate: Path, tmp_path: Path
) -> None:
    environment = {
        "LOOPAI_NATS_URL": stack.nats_url,
        "LOOPAI_API_HOST": "0.0.0.0",
        "LOOPAI_API_KEYS_FILE": str(keys.file),
    }
    options = ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(certificate.with_name("key.pem"))]
    api = ServiceProcess(
        "loopai_api.main", "LOOPAI_API_", tmp_path / "log", environment, options=options, certificate=certificate
    )
    with api:
        trusted = ssl.create_default_context(cafile=certificate)
        async with httpx.AsyncClient(base_url=api.url, verify=trusted, headers=bearer(keys.admin)) as client:
            path = f"{V1}/tasks/{echo['id']}/execute"
            hot, ordinary = [await client.post(path, json={"input": 1}, headers=more) for more in ({}, ORDINARY)]
            assert hot.status_code == 200, hot.text
            assert without_what_varies(hot) == without_what_varies(ordinary)
            assert hot.headers["strict-transport-security"] == "max-age=31536000"
            pair = [client.post(path, json={"input": n}) for n in range(50)]
            assert [r.json()["output"] for r in await asyncio.gather(*pair)] == list(range(50))
        assert b"HTTP/1.1" not in await exchange(api.url.replace("https", "http"), b"GET /health HTTP/1.1\r\n\r\n")
        assert api.stop() == 0


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"LOOPAI_API_HOST": "0.0.0.0"}, "LOOPAI_API_KEYS_FILE"),
        ({"LOOPAI_API_KEYS_FILE": "/nonexistent/keys"}, "loopai keys create"),
        ({"LOOPAI_API_SSL_CERTFILE": __file__}, "given together"),
        ({"LOOPAI_API_TRUSTED_PROXIES": "10.0.0.0/8,proxy"}, "TRUSTED_PROXIES"),
        ({"LOOPAI_API_CORS_ORIGINS": "app.example.com"}, "an origin is"),
    ],
    ids=["open-address", "no-file", "half-certificate", "bad-network", "bad-origin"],
)
def test_what_would_be_unsafe_or_unclear_is_refused_at_start(environment: dict[str, str], said: str) -> None:
    command = [sys.executable, "-m", "loopai_api.main"]
    clean = {"PATH": "/usr/bin:/bin", "LOOPAI_API_PORT": "0", "LOOPAI_API_KEY": "of a client", **environment}
    ended = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert said in ended.stdout + ended.stderr


async def test_no_key_input_or_program_is_found_where_it_does_not_belong(
    product: Product, http: httpx.AsyncClient, keys: Keys
) -> None:
    rejected_key, secret_input, secret_code = "0badcafe" * 8, "canary-input-1b9d", "canary-code-77aa"
    code = f"# {secret_code}\n{MOODY}"
    task = await product.program(code, sampling_rate=0)
    path, errors = f"{V1}/tasks/{task['id']}/execute", []
    for key in (keys.admin, f"lk_a_{rejected_key}", f"broken {rejected_key}"):
        for lane in ({}, ORDINARY):
            headers = {**bearer(key), **lane}
            for text in ("", "raise", "loop", "grow"):
                value = {"input": {"text": f"{secret_input} {text}"}, "timeout_ms": 200}
                response = await http.post(path, json=value, headers=headers)
                if response.status_code != 200:
                    errors.append(response.text)
            for body in (
                json.dumps({"input": {}, secret_input: secret_input}),
                json.dumps({"input": secret_input, "timeout_ms": secret_input}),
                f'{{"input": "{secret_input}"',
                f'{{"items": [{{"id": 1, "input": "{secret_input}"}}]}}',
            ):
                for suffix in ("", "/batch"):
                    response = await http.post(path + suffix, content=body, headers={**headers, **JSON})
                    assert response.status_code >= 400
                    errors.append(response.text.replace(f'{secret_input}","message":"extra inputs', ""))
            with_key_elsewhere = await http.get(f"{V1}/tasks?cursor={secret_input}", headers=headers)
            errors.append(with_key_elsewhere.text)
    await product.publish(task["id"], f"{secret_code} is no program(", activate=False)
    await product.execute(task["id"], {"text": secret_input}, version=2)
    secrets = [keys.admin.rpartition("_")[2], rejected_key]
    contents = {"metrics": (await http.get("/metrics")).text, "errors": "\n".join(errors)}
    stack = product.stack
    assert len(stack.pids) >= 5
    contents |= _told_by_processes(list(stack.pids.values()))
    files = _files_in(stack.logs.parent)
    contents |= {**files, "keys": keys.file.read_text()}
    assert any(secret_code in text for text in files.values()), "the program is stored"
    assert any(path.startswith(str(stack.logs)) and text for path, text in files.items())
    for where, text in contents.items():
        for secret in (*secrets, secret_input):
            assert secret not in text, where
        assert secret_code not in text or "/artifacts/" in where, where


def _told_by_processes(pids: list[int]) -> dict[str, str]:
    """What anybody of the same user sees of the processes and of those that they started."""
    found = {}
    for pid in {*pids, *(child for each in pids for child in descendants(each))}:
        for name in ("environ", "cmdline"):
            with suppress(OSError):  # it ended, or is not dumpable: nobody reads it
                found[f"/proc/{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    return found


def _files_in(directory: Path) -> dict[str, str]:
    return {str(path): path.read_bytes().decode("latin-1") for path in directory.rglob("*") if path.is_file()}
