"""The documents that the service gives about itself."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.product import Product


@pytest.mark.parametrize(
    ("page", "assets"),
    [
        ("/swagger", ["/swagger/static/swagger-ui-bundle.js", "/swagger/static/swagger-ui.css"]),
        ("/redoc", ["/redoc/static/redoc.standalone.js"]),
    ],
)
async def test_documentation_pages_need_nothing_from_elsewhere(
    http: httpx.AsyncClient, page: str, assets: list[str]
) -> None:
    html = (await http.get(page)).text
    assert "http://" not in html
    assert "https://" not in html
    for asset in assets:
        assert asset in html
        assert (await http.get(asset)).status_code == 200


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_health_answers_with_and_without_the_prefix(http: httpx.AsyncClient, prefix: str) -> None:
    assert (await http.get(f"{prefix}/health")).json().keys() == {"status", "version", "timestamp"}
    assert (await http.get(f"{prefix}/health/live")).status_code == 200
    ready = (await http.get(f"{prefix}/health/ready")).json()
    assert ready["status"] == "healthy", ready
    assert ready["checks"].keys() == {"nats", "artifact-store", "executor", "generator-proxy"}


async def test_metrics_are_prometheus_text_and_count(product: Product) -> None:
    task = await product.program("def run(input):\n    return 1\n")
    await product.output(task["id"], 1)
    text = (await product.http.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counted = {
        (s.labels["method"], s.labels["route"], s.labels["status"]): s.value
        for s in families["loopai_http_requests"].samples
    }
    assert counted["POST", "/api/v1/tasks/{task}/execute", "200"] >= 1
    assert families["loopai_frames"].samples[0].value >= 1
    assert task["id"] not in text
