"""Settings of the artifact store, read from ``LOOPAI_ARTIFACT_STORE_…``."""

from loopai_common.runtime.settings import ServiceSettings


class ArtifactStoreSettings(ServiceSettings):
    """What every service can be told; the catalog and the programs are kept below ``data_dir``."""
