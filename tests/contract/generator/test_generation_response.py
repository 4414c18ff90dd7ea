"""The answer of the reference generator, key by key: other proxies than ours read it."""

import json

from loopai_common.contracts.generation import GenerationResponse
from loopai_generator.learners.__main__ import answer
from tests.support.sms import generation_request, messages


def test_every_documented_key_is_always_there() -> None:
    for request in (generation_request(messages()[:50]), generation_request(output_schema={"type": "string"})):
        body = json.loads(answer(request).model_dump_json())
        assert body.keys() == GenerationResponse.model_fields.keys()


def test_program_comes_with_its_kind_and_its_trust() -> None:
    body = json.loads(answer(generation_request(messages()[:50])).model_dump_json())
    assert body["success"] is True
    assert (body["language"], body["entry_point"]) == ("python", "run")
    assert body["synthesis_strategy"] in {"ml", "rule"}
    assert body["generation_cost"] == 0
    assert body["error_message"] is None
    assert body["complexity"]["lines_of_code"] == body["code"].count("\n")
    assert body["metadata"].keys() >= {"learner", "confidence", "cross_validation", "examples", "notes"}


def test_refusal_holds_a_reason_and_no_code() -> None:
    body = json.loads(answer(generation_request(output_schema={"type": "string"})).model_dump_json())
    assert (body["success"], body["code"]) == (False, None)
    assert body["error_message"]
