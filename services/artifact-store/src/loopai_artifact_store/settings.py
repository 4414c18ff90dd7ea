"""Settings of the artifact store, read from ``LOOPAI_ARTIFACT_STORE_…``."""

from pydantic import Field

from loopai_common.runtime.settings import ServiceSettings


class ArtifactStoreSettings(ServiceSettings):
    """What every service can be told; the catalog and the programs are kept below ``data_dir``."""

    executions_kept_days: int = Field(default=30, ge=1, description="Days after which records of executions go.")
