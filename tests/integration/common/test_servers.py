"""The servers that other tests stand on: real, and breakable."""

import pytest
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobServiceClient
from pymongo import MongoClient
from redis import Redis

from tests.support.servers import Azurite, Mongo, Valkey


def test_mongo_commits_a_transaction(mongo: Mongo) -> None:
    with MongoClient[dict[str, object]](mongo.url) as client, client.start_session() as session:
        with session.start_transaction():
            client.servers_test.things.insert_one({"_id": 1}, session=session)
        assert client.servers_test.things.count_documents({}) == 1
        client.drop_database("servers_test")


def test_valkey_speaks_the_third_protocol_of_redis(valkey: Valkey) -> None:
    with Redis.from_url(valkey.url, protocol=3) as client:
        client.set("servers-test", "value", px=60_000)
        assert client.get("servers-test") == b"value"
        client.delete("servers-test")


def test_azurite_creates_a_blob_only_once(azurite: Azurite) -> None:
    with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        container = service.create_container("servers-test")
        container.upload_blob("a", b"1")
        with pytest.raises(ResourceExistsError):
            container.upload_blob("a", b"2")
        container.delete_container()
