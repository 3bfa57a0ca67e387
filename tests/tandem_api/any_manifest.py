"""Manifests that break relations between fields, or keep them, as chance has it."""

from typing import Any

from hypothesis import strategies as st

from tests.tandem_api.manifests import COMMIT

GPUS = st.sampled_from([1, 8, 32, 33, 64])
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        part: st.dictionaries(
            st.sampled_from(["cpu", "memory", "nvidia.com/gpu", "rdma/hca"]),
            st.sampled_from(["500m", "0.5", "1", "1k", "1Ki", "1.5G", "2Gi"]),
        )
        for part in ("requests", "limits")
    },
)
MODEL = st.fixed_dictionaries(
    {}, optional={"path": st.just("/m"), "huggingFace": st.just({"repo": "a/b", "revision": COMMIT})}
)
MATCH = st.fixed_dictionaries(
    {},
    optional={
        "container": st.sampled_from(["trainer", "master"]),
        "exitCodes": st.lists(st.integers(1, 3), max_size=3),
        "reason": st.sampled_from(["Error", "OOMKilled", "NodeLost"]),
    },
)
RULE = st.fixed_dictionaries({"match": MATCH, "action": st.sampled_from(["RestartContainer", "FailJob"])})
SPECS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "policy": st.fixed_dictionaries({"model": MODEL}, optional={"maxLengthTokens": st.integers(2, 9000)}),
        "rewards": st.lists(
            st.fixed_dictionaries({"builtin": st.just("ExactMatch"), "weight": st.sampled_from([0, 0.0, 1, -0.5])}),
            min_size=1,
            max_size=2,
        ).map(lambda terms: [{"name": str(index), **term} for index, term in enumerate(terms)]),
        "hybrid": st.fixed_dictionaries(
            {},
            optional={
                "gpusPerPod": GPUS,
                "gpu": st.fixed_dictionaries(
                    {"sharing": st.sampled_from(["DRA", "VisibleAll", "None"])},
                    optional={"selectors": st.just(["true"]), "deviceClassName": st.just("mig.nvidia.com")},
                ),
                "rdma": st.none()
                | st.fixed_dictionaries({}, optional={"hostNetwork": st.booleans(), "network": st.just("net")}),
                "resources": RESOURCES,
            },
        ),
        "trainer": st.fixed_dictionaries(
            {},
            optional={
                "parallelism": st.fixed_dictionaries(
                    {},
                    optional={
                        "tensor": st.integers(1, 4),
                        "pipeline": st.integers(1, 2),
                        "virtualPipeline": st.integers(1, 2),
                        "context": st.integers(1, 2),
                        "expert": st.sampled_from([1, 2, 4]),
                        "firstStageLayers": st.integers(1, 3),
                    },
                ),
                "optimizer": st.fixed_dictionaries(
                    {},
                    optional={
                        "schedule": st.sampled_from(["Constant", "Linear"]),
                        "warmupIterations": st.sampled_from([0, 50]),
                        "endShare": st.sampled_from([0, 0.5]),
                    },
                ),
            },
        ),
        "rollout": st.fixed_dictionaries(
            {},
            optional={
                "parallelism": st.fixed_dictionaries({"tensor": st.sampled_from([1, 2, 4, 8])}),
                "resources": RESOURCES,
                "elastic": st.fixed_dictionaries(
                    {},
                    optional={
                        "replicas": st.integers(0, 3),
                        "minReplicas": st.integers(0, 3),
                        "maxReplicas": st.integers(0, 3),
                        "gpusPerPod": GPUS,
                    },
                ),
            },
        ),
        "recipe": st.fixed_dictionaries(
            {},
            optional={
                "iterations": st.sampled_from([1, 50, 51]),
                "lengthReward": st.fixed_dictionaries(
                    {}, optional={"weight": st.sampled_from([0, 0.1, 1]), "warmupIterations": st.sampled_from([0, 50])}
                ),
                "repeats": st.fixed_dictionaries(
                    {}, optional={"windowTokens": st.sampled_from([0, 8, 16]), "ngramTokens": st.sampled_from([8, 16])}
                ),
                "sampling": st.fixed_dictionaries(
                    {},
                    optional={
                        "strategy": st.sampled_from(["Uniform", "Curriculum", "Mixture"]),
                        "shares": st.fixed_dictionaries(
                            {}, optional={"uniform": st.sampled_from([0, 1]), "curriculum": st.sampled_from([0, 0.5])}
                        ),
                    },
                ),
                "partialRollout": st.fixed_dictionaries(
                    {"tokenBudget": st.sampled_from([1, 8191, 8192, 8193])},
                    optional={
                        "stopWhenCompleteShare": st.sampled_from([0.1, 0.5, 1]),
                        "deadlineSeconds": st.sampled_from([0.5, 604_800]),
                    },
                ),
            },
        ),
        "failurePolicy": st.fixed_dictionaries({"rules": st.lists(RULE, max_size=2)}),
    },
)
