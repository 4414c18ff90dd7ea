"""Fisher's irises, as scikit-learn ships them: measures of a flower, and its species."""

from functools import cache

from sklearn.datasets import load_iris

from loopai_common.contracts.generation import GenerationRequest
from loopai_common.contracts.tasks import Example
from tests.support.sms import generation_request

_MEASURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")


@cache
def flowers() -> tuple[Example, ...]:
    """All 150."""
    iris = load_iris()
    return tuple(
        Example(input=dict(zip(_MEASURES, map(float, row), strict=True)), output=str(iris.target_names[species]))
        for row, species in zip(iris.data, iris.target, strict=True)
    )


def objects_request(examples: tuple[Example, ...], *, output: str = "string") -> GenerationRequest:
    """A valid request for a program over objects, whose outputs have the type ``output``."""
    return generation_request(examples, input_schema={"type": "object"}, output_schema={"type": output})
