"""A learner process: reads one request from standard input, writes one response to standard output, and ends.

Imports come first, so that a process that is kept waiting has paid for them.
"""

import sys

from loopai_common.contracts.generation import GeneratedComplexity, GenerationRequest, GenerationResponse
from loopai_generator.domain import CannotLearn, Learned
from loopai_generator.learners.choice import learn


def answer(request: GenerationRequest) -> GenerationResponse:
    """The program for the request, or why there is none."""
    try:
        return _response(learn(request), len(request.examples))
    except CannotLearn as reason:
        return GenerationResponse(success=False, error_message=reason.message, generation_cost=0.0)


def _response(learned: Learned, examples: int) -> GenerationResponse:
    measured = learned.cross_validation
    return GenerationResponse(
        success=True,
        code=learned.code,
        entry_point="run",
        complexity=GeneratedComplexity(lines_of_code=learned.code.count("\n")),
        synthesis_strategy=learned.strategy,
        generation_cost=0.0,
        metadata={
            "learner": learned.learner,
            "confidence": round(learned.confidence, 6),
            "cross_validation": {
                "folds": measured.folds,
                "examples": measured.examples,
                "accuracy": round(measured.accuracy, 6),
            }
            if measured
            else None,
            "examples": examples,
            "notes": list(learned.notes),
            **learned.figures,
        },
    )


def main() -> None:
    """Serves one request; an empty one means that nobody needs this process any more."""
    body = sys.stdin.buffer.read()
    if body:
        response = answer(GenerationRequest.model_validate_json(body))
        sys.stdout.buffer.write(response.model_dump_json().encode())


if __name__ == "__main__":
    main()
