"""The stack that end-to-end tests break: what is killed stays down until it is restarted."""

from pathlib import Path

import httpx

from tests.support.processes import alive, wait_for
from tests.support.stack import LocalStack


def test_killed_service_stays_down_until_it_is_restarted(tmp_path: Path) -> None:
    with LocalStack(tmp_path) as stack:
        pids = stack.pids
        stack.kill("executor")
        assert "executor" not in stack.pids
        assert not alive(pids["executor"])
        wait_for(lambda: readiness(stack)["executor"]["status"] == "unhealthy", "the loss of the executor is not seen")

        stack.restart("executor")
        assert stack.pids["executor"] != pids["executor"]
        wait_for(lambda: readiness(stack)["executor"]["status"] == "healthy", "the new executor is not seen")

        stack.pause("artifact-store")
        assert stack.terminate("api")
        started = stack.pids
    assert not any(alive(pid) for pid in {*pids.values(), *started.values()})


def readiness(stack: LocalStack) -> dict[str, dict[str, str]]:
    """The checks of the api."""
    checks: dict[str, dict[str, str]] = httpx.get(f"{stack.base_url}/health/ready").json()["checks"]
    return checks
