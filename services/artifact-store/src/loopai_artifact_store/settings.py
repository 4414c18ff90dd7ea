"""Settings of the artifact store, read from ``LOOPAI_ARTIFACT_STORE_…``."""

from enum import StrEnum
from typing import Self

from pydantic import Field, HttpUrl, SecretStr, model_validator

from loopai_common.runtime.settings import ServiceSettings


class CatalogBackend(StrEnum):
    """Where tasks, versions and records of executions are kept."""

    SQLITE = "sqlite"
    MONGODB = "mongodb"


class ProgramsBackend(StrEnum):
    """Where the bytes of programs are kept."""

    FILES = "files"
    MONGODB = "mongodb"
    AZURE = "azure"


class CacheBackend(StrEnum):
    """What is in front of both."""

    MEMORY = "memory"
    REDIS = "redis"


class ArtifactStoreSettings(ServiceSettings):
    """What every service can be told, and which backends keep the data.

    SQLite and files are below ``data_dir``. An address is needed for each backend that is chosen, and refused for one
    that is not: it would be a mistake that nobody notices.
    """

    catalog: CatalogBackend = Field(
        default=CatalogBackend.SQLITE, description="Where tasks, versions and records of executions are kept."
    )
    programs: ProgramsBackend = Field(
        default=ProgramsBackend.FILES, description="Where the bytes of programs are kept."
    )
    cache: CacheBackend = Field(default=CacheBackend.MEMORY, description="What is in front of both.")
    mongo_url: SecretStr | None = Field(
        default=None, description="Connection string of MongoDB, which must be a replica set or a sharded cluster."
    )
    mongo_database: str = Field(
        default="loopai", pattern=r"^[A-Za-z0-9_-]{1,63}$", description="Database that everything is kept in."
    )
    redis_url: SecretStr | None = Field(default=None, description="Connection string of Redis or Valkey.")
    azure_connection_string: SecretStr | None = Field(
        default=None, description="Connection string of the Azure storage account."
    )
    azure_account_url: HttpUrl | None = Field(
        default=None, description="URL of the Azure storage account, to which a managed identity opens the way."
    )
    azure_container: str = Field(
        default="loopai",
        pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$",
        description="Container that programs are kept in; made at start where it is missing.",
    )
    environment: str = Field(
        default="default",
        pattern=r"^[a-z0-9-]{1,32}$",
        description="Keeps the keys of several installations apart that share one Redis.",
    )
    executions_kept_days: int = Field(
        default=30, ge=1, le=10_000, description="Days after which records of executions go."
    )

    @model_validator(mode="after")
    def _addresses_fit_backends(self) -> Self:
        mongo = CatalogBackend.MONGODB in (self.catalog, self.programs)
        azure = self.programs is ProgramsBackend.AZURE
        self._check("mongo_url", self.mongo_url, mongo, "the catalog or the programs are kept in MongoDB")
        self._check("redis_url", self.redis_url, self.cache is CacheBackend.REDIS, "the cache is Redis")
        addresses = [self.azure_connection_string, self.azure_account_url]
        if all(addresses):
            raise ValueError("give either azure_connection_string or azure_account_url, not both")
        given = next(filter(None, addresses), None)
        self._check("azure_connection_string or azure_account_url", given, azure, "programs are kept in Azure")
        return self

    @staticmethod
    def _check(name: str, value: object, needed: bool, when: str) -> None:
        if needed and value is None:
            raise ValueError(f"{name} is needed when {when}")
        if value is not None and not needed:
            raise ValueError(f"{name} is set, and used only when {when}; choose that backend or leave the address out")
