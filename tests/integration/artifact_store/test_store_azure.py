"""Programs in Azure Blob Storage: an account that stops, freezes, refuses or lies; and the service on top of it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobServiceClient, ContainerClient

from loopai_artifact_store.backends import open_backends
from loopai_artifact_store.domain import digest_of
from loopai_artifact_store.ports import Labels
from loopai_artifact_store.settings import ArtifactStoreSettings, ProgramsBackend
from loopai_client.local.nats_server import NatsServer
from loopai_common.contracts import subjects
from loopai_common.contracts.artifacts import FetchProgram, ProgramArtifact, ProgramCode
from loopai_common.contracts.base import TaskId, Version
from loopai_common.contracts.tasks import TaskSpecification
from loopai_common.errors import ArtifactCorrupt, ArtifactNotFound, StoreUnavailable
from loopai_common.identifiers import new_uuid
from loopai_common.runtime.service import StartRefused
from tests.contract.artifact_store.builders import CODE, creating, metrics, open_azure, publishing
from tests.support.servers import AZURITE_KEY, Azurite
from tests.support.service_process import ServiceProcess

CONTENT = b"def run(input):\n    return 1\n"
DIGEST = digest_of(CONTENT)
BOUND_SECONDS = 20.0
"""Twice what an operation may take: more means that it hangs."""


@pytest.fixture
def task_id() -> TaskId:
    return TaskId(new_uuid())


@pytest.fixture
def own_azurite(tmp_path: Path) -> "Azurite":
    """One that the test may stop."""
    return Azurite(tmp_path / "azurite")


@pytest.fixture
async def container(azurite: Azurite) -> AsyncIterator[ContainerClient]:
    """A container as another program sees it."""
    name = f"test-{new_uuid()}"
    async with ContainerClient.from_connection_string(azurite.connection_string, name) as client:
        yield client


async def container_names(server: Azurite) -> list[str]:
    async with BlobServiceClient.from_connection_string(server.connection_string) as account:
        return [str(found.name) async for found in account.list_containers()]


async def test_account_that_freezes_is_an_error_within_the_bound_and_recovers_unaided(
    own_azurite: Azurite, task_id: TaskId
) -> None:
    with own_azurite:
        storage = open_azure(own_azurite.connection_string)
        await storage.put(task_id, DIGEST, CONTENT)
        own_azurite.pause()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"in time|cannot be used"):
            await storage.get(task_id, DIGEST)
        assert time.monotonic() - started < BOUND_SECONDS
        own_azurite.resume()
        assert await storage.get(task_id, DIGEST) == CONTENT
        await storage.close()


async def test_account_that_stops_is_an_error_and_recovers_unaided(own_azurite: Azurite, task_id: TaskId) -> None:
    storage = open_azure(own_azurite.connection_string)
    with own_azurite:
        await storage.put(task_id, DIGEST, CONTENT)
    outcomes = await asyncio.gather(
        storage.get(task_id, DIGEST),
        storage.put(task_id, DIGEST, CONTENT),
        storage.label(task_id, Labels(digests={Version(1): DIGEST}, documents={Version(1): "{}"}), since={}),
        storage.check(),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 4
    with own_azurite:
        assert await storage.get(task_id, DIGEST) == CONTENT
        await storage.check()
    await storage.close()


@pytest.mark.parametrize("damaged", [b"def run(input):\n    return 2\n", CONTENT[:-1], b""])
async def test_other_bytes_than_were_put_are_never_served_and_a_new_put_mends_them(
    azurite: Azurite, container: ContainerClient, task_id: TaskId, damaged: bytes
) -> None:
    storage = open_azure(azurite.connection_string, container.container_name)
    await storage.put(task_id, DIGEST, CONTENT)
    await container.upload_blob(f"{task_id}/{DIGEST}", damaged, overwrite=True)
    with pytest.raises(ArtifactCorrupt, match=DIGEST):
        await storage.get(task_id, DIGEST)
    await storage.put(task_id, DIGEST, CONTENT)
    assert await storage.get(task_id, DIGEST) == CONTENT
    await storage.close()


async def test_people_find_versions_and_the_active_one(
    azurite: Azurite, container: ContainerClient, task_id: TaskId
) -> None:
    storage = open_azure(azurite.connection_string, container.container_name)
    digests = []
    for version, content in enumerate((CONTENT, b"second"), start=1):
        digests.append(digest_of(content))
        await storage.put(task_id, digests[-1], content)
        one = Version(version)
        labels = Labels(digests={one: digests[-1]}, documents={one: "{}"}, active=one)
        await storage.label(task_id, labels, since=await storage.label_tags(task_id, [one]))
    await storage.label(task_id, Labels(active=Version(1)), since=await storage.label_tags(task_id))

    async def text(name: str) -> str:
        return (await (await container.download_blob(f"{task_id}/{name}")).readall()).decode()

    assert [await text("versions/000001"), await text("versions/000002")] == digests
    assert await text("active") == "versions/000001"
    found = [(await container.get_blob_client(f"{task_id}/{d}").get_blob_properties()).metadata for d in digests]
    assert found == [
        {"digest": digests[0], "version": "1", "status": "active"},
        {"digest": digests[1], "version": "2", "status": "deprecated"},
    ]
    await storage.close()


async def test_what_others_keep_in_the_container_is_no_program(
    azurite: Azurite, container: ContainerClient, task_id: TaskId
) -> None:
    storage = open_azure(azurite.connection_string, container.container_name)
    await storage.put(task_id, DIGEST, CONTENT)
    for name in ("notes.txt", f"{task_id}/readme", f"x/{DIGEST}", f"{task_id}/{DIGEST}/more"):
        await container.upload_blob(name, b"x", content_settings=ContentSettings(content_type="text/plain"))
    assert [program.digest async for program in storage.stored()] == [DIGEST]
    await storage.close()


async def test_container_that_somebody_deleted_is_made_again(
    azurite: Azurite, container: ContainerClient, task_id: TaskId
) -> None:
    storage = open_azure(azurite.connection_string, container.container_name)
    await storage.put(task_id, DIGEST, CONTENT)
    await container.delete_container()
    with pytest.raises(ArtifactNotFound):
        await storage.get(task_id, DIGEST)
    await storage.put(task_id, DIGEST, CONTENT)
    assert await storage.get(task_id, DIGEST) == CONTENT
    await storage.close()


async def test_refused_name_of_a_container_and_refused_key_are_told_and_reveal_nothing(
    azurite: Azurite, task_id: TaskId
) -> None:
    named = open_azure(azurite.connection_string, "No_Such-Name")
    with pytest.raises(StoreUnavailable, match=r"refuses the request .*container"):
        await named.put(task_id, DIGEST, CONTENT)
    await named.close()
    other_key = "B" + AZURITE_KEY[1:]
    keyed = open_azure(azurite.connection_string.replace(AZURITE_KEY, other_key))
    with pytest.raises(StoreUnavailable, match="refuses this identity") as refused:
        await keyed.put(task_id, DIGEST, CONTENT)
    assert other_key not in refused.value.message
    await keyed.close()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ({"azure_connection_string": "nonsense"}, "Connection string"),
        ({"azure_account_url": "http://account.blob.core.windows.net"}, "https://"),
    ],
)
def test_address_that_cannot_work_is_refused_at_start(tmp_path: Path, address: dict[str, str], why: str) -> None:
    settings = ArtifactStoreSettings.model_validate(
        {"data_dir": tmp_path, "programs": ProgramsBackend.AZURE, **address}
    )
    with pytest.raises(StartRefused, match=why):
        open_backends(settings, metrics())


async def test_identity_that_nobody_gives_is_an_error_within_the_bound(
    tmp_path: Path, task_id: TaskId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1/token")
    monkeypatch.setenv("IDENTITY_HEADER", "x")
    settings = ArtifactStoreSettings.model_validate(
        {"data_dir": tmp_path, "programs": ProgramsBackend.AZURE, "azure_account_url": "https://127.0.0.1:1/account"}
    )
    async with open_backends(settings, metrics()) as backends:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"identity|in time"):
            await backends.storage.put(task_id, DIGEST, CONTENT)
        assert time.monotonic() - started < BOUND_SECONDS


def test_only_who_chooses_azure_loads_its_sdk() -> None:
    code = "import sys, loopai_artifact_store.main; print([name for name in sys.modules if name.startswith('azure')])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == "[]\n"


async def test_service_publishes_and_serves_with_its_programs_in_azure(
    own_azurite: Azurite, nats_server: NatsServer, tmp_path: Path
) -> None:
    with own_azurite:
        environment = {
            "LOOPAI_NATS_URL": nats_server.url,
            "LOOPAI_DATA_DIR": str(tmp_path / "data"),
            "LOOPAI_ARTIFACT_STORE_PROGRAMS": "azure",
            "LOOPAI_ARTIFACT_STORE_AZURE_CONNECTION_STRING": own_azurite.connection_string,
        }
        client = await nats.connect(nats_server.url)
        module = "loopai_artifact_store.main"
        with ServiceProcess(module, "LOOPAI_ARTIFACT_STORE_", tmp_path / "log", environment):

            async def call(subject: str, body: str) -> bytes:
                return bytes((await client.request(subject, body.encode(), timeout=30)).data)

            created = await call(subjects.TASKS_CREATE, creating().model_dump_json())
            task = TaskSpecification.model_validate_json(created)
            published = await call(subjects.ARTIFACTS_PUBLISH, publishing(task.id).model_dump_json())
            artifact = ProgramArtifact.model_validate_json(published)
            fetch = FetchProgram(task_id=task.id, digest=artifact.digest)
            code = ProgramCode.model_validate_json(await call(subjects.PROGRAMS_FETCH, fetch.model_dump_json()))
            assert code.code == CODE
            assert await container_names(own_azurite) == ["loopai"]
            assert [path.name for path in (tmp_path / "data").glob("artifacts")] == []
        await client.close()
