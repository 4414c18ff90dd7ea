"""Bodies as the API sends them, for servers that stand for it."""

from typing import Any

TASK: dict[str, Any] = {
    "id": "0199f1f0-0000-7000-8000-000000000001",
    "name": "mood",
    "description": "The mood of a message.",
    "input_schema": True,
    "output_schema": {"enum": ["happy", "angry"]},
    "total_examples": 0,
    "accuracy_target": 0.9,
    "latency_target_ms": 10,
    "sampling_rate": 0.1,
    "isolation": "call",
    "comparison": "exact",
    "comparison_threshold": 0.8,
    "status": "ready",
    "status_reason": None,
    "active_version": 1,
    "rollout": None,
    "total_versions": 1,
    "revision": 2,
    "created_at": "2026-01-02T03:04:05.000Z",
    "updated_at": "2026-01-02T03:04:06.000Z",
}
ARTIFACT: dict[str, Any] = {
    "id": "0199f1f0-0000-7000-8000-000000000002",
    "task_id": TASK["id"],
    "version": 1,
    "language": "python",
    "entry_point": "run",
    "code": None,
    "digest": "sha256:0123456789abcdef",
    "size_bytes": 12345,
    "synthesis_strategy": "ml",
    "confidence_score": 0.987,
    "complexity_metrics": {"cyclomatic_complexity": 1, "lines_of_code": 2, "estimated_latency_ms": None},
    "llm_provider": None,
    "llm_model": None,
    "generation_cost": 0.0,
    "generation_time_sec": 0.1,
    "validation": None,
    "status": "active",
    "deployment_percentage": 100.0,
    "created_at": "2026-01-02T03:04:05.000Z",
    "deployed_at": "2026-01-02T03:04:06.000Z",
    "parent_version": None,
}
EXECUTION: dict[str, Any] = {
    "execution_id": "0199f1f0-0000-7000-8000-000000000003",
    "task_id": TASK["id"],
    "program_id": ARTIFACT["id"],
    "version": 1,
    "status": "success",
    "output": "happy",
    "error_code": None,
    "error_message": None,
    "latency_ms": 0.02,
    "sampled_for_validation": False,
    "executed_at": "2026-01-02T03:04:07.000Z",
    "correlation_id": "c-1",
}
READINESS: dict[str, Any] = {
    "status": "healthy",
    "version": "1.0",
    "timestamp": "2026-01-02T03:04:07.000Z",
    "checks": {"nats": {"status": "healthy", "latency_ms": 0.1, "detail": None}},
}


def batch_line(number: int, output: Any = "happy") -> dict[str, Any]:
    """A line of the answer to a streamed batch."""
    return {
        "id": str(number),
        "status": "success",
        "output": output,
        "error_code": None,
        "error_message": None,
        "latency_ms": 0.02,
        "execution_id": EXECUTION["execution_id"],
        "sampled_for_validation": False,
        "line": number,
    }


def error_body(code: str, message: str = "it says why") -> dict[str, Any]:
    """An ``ErrorResponse``."""
    return {"code": code, "message": message, "details": [], "trace_id": "t-1", "timestamp": TASK["created_at"]}
