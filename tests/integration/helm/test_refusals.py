"""Values that cannot work are refused before anything reaches a cluster, with what to do instead."""

from typing import Any

import pytest

from tests.support.helm import Chart, Refused

MONGO: dict[str, Any] = {"mongodb": {"url": "mongodb://m/?replicaSet=rs0", "peers": [{"podSelector": {}}]}}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"connections": {"nats": {"url": ""}}}, "say where NATS is"),
        ({"connections": {"nats": {"perService": True}}}, "needs connections.nats.existingSecret"),
        ({"connections": {"nats": {"existingSecret": "x"}}, "nats": {"enabled": True}}, "choose one"),
        ({"connections": {"nats": {"peers": []}}}, "say in connections.nats.peers where NATS is"),
        ({"artifactStore": {"replicas": 2}}, "set replicas to 1, or the catalog to mongodb"),
        (
            {"artifactStore": {"replicas": 2, "catalog": "mongodb"}, "connections": MONGO},
            "catalog `mongodb` with programs `files` is on one volume",
        ),
        ({"artifactStore": {"catalog": "mongodb", "programs": "mongodb"}}, "give connections.mongodb.url"),
        ({"connections": MONGO}, "nothing is kept in it"),
        ({"mongodb": {"enabled": True}}, "nothing is kept in it"),
        ({"artifactStore": {"cache": "redis"}}, "give connections.redis.url"),
        ({"connections": {"redis": {"url": "redis://r"}}}, "the cache is not in it"),
        (
            {"artifactStore": {"cache": "redis"}, "connections": {"redis": {"url": "redis://r"}}},
            "say in connections.redis.peers where Redis is",
        ),
        (
            {
                "artifactStore": {"cache": "redis"},
                "connections": {"redis": {"url": "redis://r"}},
                "valkey": {"enabled": True},
            },
            "choose one",
        ),
        ({"artifactStore": {"programs": "azure"}}, "give exactly one of connections.azure.accountUrl"),
        (
            {
                "artifactStore": {"programs": "azure"},
                "connections": {"azure": {"accountUrl": "https://a", "existingSecret": "b"}},
            },
            "give exactly one of connections.azure.accountUrl",
        ),
        ({"connections": {"azure": {"existingSecret": "b"}}}, "artifactStore.programs is not azure"),
        ({"generator": {"enabled": False}}, "say in generatorProxy.generatorUrl"),
        (
            {"executor": {"autoscaling": {"enabled": True}, "keda": {"enabled": True}}},
            "enable one",
        ),
        ({"api": {"autoscaling": {"enabled": True, "minReplicas": 20}}}, "api.autoscaling.minReplicas is above"),
        ({"ingress": {"enabled": True}}, "ingress.host and ingress.tlsSecret"),
        ({"ingress": {"enabled": True, "host": "a.example", "tlsSecret": "t"}}, "say in api.trustedProxies"),
        ({"api": {"service": {"type": "LoadBalancer"}}}, "give api.tls.existingSecret"),
        ({"executor": {"settings": {"port": 1}}}, "executor.settings.port: the chart sets this field itself"),
        (
            {"artifactStore": {"secretSettings": {"mongo_url": {"secret": "a", "key": "b"}}}},
            "artifactStore.secretSettings.mongo_url: the chart sets this field itself",
        ),
    ],
)
def test_a_combination_that_cannot_work_is_refused(chart: Chart, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        chart.render(values)
    assert sentence in " ".join(str(refused.value).split())


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": 3},
        {"api": {"replica": 3}},
        {"api": {"replicas": 0}},
        {"api": {"replicas": "3"}},
        {"api": {"autoscaling": {"targetCPUPercent": 101}}},
        {"api": {"trustedProxies": ["everybody"]}},
        {"api": {"service": {"type": "ExternalName"}}},
        {"executor": {"sandbox": "off"}},
        {"executor": {"settings": {"MAX_PROGRAMS": 1}}},
        {"executor": {"settings": {"limits": {"memory": 1}}}},
        {"executor": {"secretSettings": {"x": {"secret": "a"}}}},
        {"executor": {"seccompProfile": {"type": "Unconfined"}}},
        {"executor": {"resources": {"limit": {"memory": "1Gi"}}}},
        {"artifactStore": {"catalog": "postgres"}},
        {"artifactStore": {"cache": "valkey"}},
        {"artifactStore": {"persistence": {"size": "much"}}},
        {"connections": {"nats": {"url": "http://nats:4222"}}},
        {"connections": {"nats": {"ports": []}}},
        {"connections": {"mongodb": {"url": "mongo:27017"}}},
        {"connections": {"redis": {"existingSecret": "Not A Name"}}},
        {"networkPolicies": {"monitoring": [{}]}},
        {"networkPolicies": {"monitoring": [{"namespaces": ["monitoring"]}]}},
        {"image": {"pullPolicy": "Sometimes"}},
        {"logLevel": "loud"},
        {"ingress": {"host": "https://loopai.example.com"}},
        {"monitoring": {"interval": 30}},
    ],
    ids=str,
)
def test_a_value_that_the_schema_does_not_know_is_refused(chart: Chart, values: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"values don't meet the specifications"):
        chart.render(values)
