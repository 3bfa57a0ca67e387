"""Manifests for both judges of an RLJob, `parse_job` and an API server: good ones, and bad ones with the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

BASE = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: math-8b}
spec:
  policy: {model: {path: /models/tiny}}
  data: {train: [{name: math, path: /data/math.jsonl}]}
  rewards: [{name: answer, builtin: ExactMatch}]
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True, slots=True)
class Bad:
    """A manifest with one mistake."""

    patch: str
    """YAML of the sections of the spec that replace those of the base."""
    field: str
    """Field that both judges name."""
    text: str
    """`problem; fix` of parse_job."""
    words: str
    """Words of the API server's message."""


def bad(patch: str, field: str, text: str, words: str | None = None) -> Bad:
    """Return a row; without words of its own the API server says what parse_job says, from the same relation."""
    return Bad(patch, f"spec.{field}", text, text if words is None else words)


def manifest(patch: str) -> dict[str, Any]:
    """Return the base with sections of its spec replaced."""
    document: dict[str, Any] = yaml.safe_load(BASE)
    return patched(document, yaml.safe_load(patch))


def patched(document: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with sections of its spec replaced."""
    return {**document, "spec": {**document["spec"], **spec}}


GOOD = (
    "{}",
    f"policy: {{model: {{huggingFace: {{repo: Qwen/Qwen3-8B, revision: {COMMIT}}}}}}}",
    "policy: {model: {path: /models/tiny}, maxLengthTokens: 32}",
    "{policy: {model: {path: /models/tiny}, maxLengthTokens: 64}, recipe: {partialRollout: {tokenBudget: 64}}}",
    "recipe: {partialRollout: {stopWhenCompleteShare: 0.9, deadlineSeconds: 600}}",
    "rewards: [{name: a, builtin: ExactMatch, weight: 0}, {name: b, builtin: ExactMatch, weight: -1}]",
    "hybrid: {gpu: {sharing: DRA, deviceClassName: mig.nvidia.com, selectors: ['device.driver == \"gpu\"']}}",
    "hybrid: {gpu: {sharing: VisibleAll}, gpusPerPod: 64}",
    "{hybrid: {gpu: {sharing: VisibleAll}}, rollout: {elastic: {gpusPerPod: 64}}}",
    "hybrid: {gpu: {sharing: None}, gpusPerPod: 64, rdma: null}",
    "hybrid: {rdma: {resourceName: rdma/hca_a, count: 8, hostNetwork: true}}",
    "hybrid: {rdma: {network: rdma-net-1}}",
    "hybrid: {resources: {requests: {cpu: 500m, memory: 1Gi}, limits: {cpu: '1', memory: 1024Mi}}}",
    "rollout: {resources: {requests: {cpu: '1.5'}, limits: {memory: 64Gi}}}",
    "rollout: {elastic: {replicas: 2, minReplicas: 2, maxReplicas: 2}}",
    "{hybrid: {gpusPerPod: 4}, rollout: {parallelism: {tensor: 4}, elastic: {gpusPerPod: 4}}}",
    "trainer: {parallelism: {tensor: 2, pipeline: 2, virtualPipeline: 3, expert: 4, firstStageLayers: 3}}",
    "{hybrid: {replicas: 4, gpusPerPod: 8}, trainer: {parallelism: {tensor: 8, pipeline: 4, expert: 8}}}",
    "{hybrid: {replicas: 2, gpusPerPod: 1}, trainer: {parallelism: {tensor: 2}}}",
    "rollout: {engineArgs: {gpu_memory_utilization: 0.9, max_num_seqs: 256, enforce_eager: true, tags: [a]}}",
    "rollout: {deterministic: true, engineArgs: {max_num_seqs: 256}}",
    "recipe: {iterations: 51, lengthReward: {weight: 1, warmupIterations: 50}}",
    "{recipe: {iterations: 6}, trainer: {optimizer: {schedule: Cosine, warmupIterations: 5, endShare: 0.1}}}",
    "failurePolicy: {maxRestarts: 2}",
    "recipe: {temperature: 1, seed: 0, objective: {tau: 0}}",
    "recipe: {repeats: {windowTokens: 0, penalty: 0}}",
    "recipe: {sampling: {strategy: Mixture, shares: {uniform: 1, curriculum: 0.5}, dynamic: {enabled: true}}}",
    "trainer: {optimizer: {learningRate: 1.0e-06, betas: [0, 0.95], weightDecay: 0}}",
    "checkpoints: {claimName: math-8b, everyIterations: 1, keepLast: 1}",
    "tls: {secretName: math-8b.tls}",
    "failurePolicy: {maxRestarts: 0, rules: [{match: {container: rollout}, action: RestartContainer}]}",
    "failurePolicy: {rules: [{match: {container: trainer, exitCodes: [137, 139]}, action: FailJob}]}",
    "failurePolicy: {rules: [{match: {exitCodes: [1], reason: Error}, action: RestartGang}]}",
    "failurePolicy: {rules: [{match: {reason: NodeLost}, action: ReplacePod}]}",
    "failurePolicy: {rules: [{match: {reason: OOMKilled}, action: RestartContainer}]}",
    "scheduling: {gang: None, priorityClassName: high, topologyKey: topology.kubernetes.io/rack}",
    "scheduling: {gang: Native, queueName: research}",
    "{scheduling: {gang: Volcano, queueName: research}, rollout: {elastic: {replicas: 2}}}",
    "{scheduling: {queueName: research}, rollout: {elastic: {replicas: 2, maxReplicas: 4}}}",
    "{suspend: true, activeDeadlineSeconds: 1, ttlSecondsAfterFinished: 0}",
    "podTemplate: {metadata: {labels: {team: math}}, spec: {tolerations: [{key: nvidia.com/gpu, operator: Exists}]}}",
)
"""What both judges accept: every relation at its edge, and numbers without a point where a number may have one."""

RELATIONS = (
    bad(
        "{scheduling: {queueName: research}, rollout: {elastic: {replicas: 1}}}",
        "rollout.elastic.maxReplicas",
        "is what scheduling.queueName reserves room for; set it to the most rollout-only pods there shall be",
    ),
    bad(
        "policy: {model: {}}", "policy.model", "wants exactly one of path and huggingFace; write one, remove the other"
    ),
    bad(
        f"policy: {{model: {{path: /models/tiny, huggingFace: {{repo: Qwen/Qwen3-8B, revision: {COMMIT}}}}}}}",
        "policy.model",
        "wants exactly one of path and huggingFace; write one, remove the other",
    ),
    bad(
        "rewards: [{name: a}]",
        "rewards[0]",
        "wants exactly one of builtin, python and http; write one, remove the others",
    ),
    bad(
        "rewards: [{name: a, builtin: ExactMatch, http: {url: 'http://judge/score'}}]",
        "rewards[0]",
        "wants exactly one of builtin, python and http; write one, remove the others",
    ),
    bad(
        "rewards: [{name: a, builtin: ExactMatch, weight: 0}]",
        "rewards",
        "have weight 0, every one; give one of them another weight",
    ),
    bad(
        "hybrid: {gpu: {sharing: VisibleAll, selectors: ['true']}}",
        "hybrid.gpu.selectors",
        "select the devices of a claim, and only sharing DRA makes one; remove them or use DRA",
    ),
    bad(
        "hybrid: {gpu: {sharing: None, deviceClassName: mig.nvidia.com}}",
        "hybrid.gpu.deviceClassName",
        "is the class of a claim, and only sharing DRA makes one; remove it or use DRA",
    ),
    bad(
        "hybrid: {gpusPerPod: 33}",
        "hybrid.gpusPerPod",
        "is more than one ResourceClaim holds; use at most 32, or sharing VisibleAll",
    ),
    bad(
        "rollout: {elastic: {gpusPerPod: 33}}",
        "rollout.elastic.gpusPerPod",
        "is more than one ResourceClaim holds; use at most 32, or sharing VisibleAll",
    ),
    bad(
        "{hybrid: {gpusPerPod: 6}, trainer: {parallelism: {tensor: 2, pipeline: 2}}}",
        "hybrid.gpusPerPod",
        "times hybrid.replicas is no multiple of trainer.parallelism.tensor * pipeline * context; choose ones that are",
    ),
    bad(
        "{hybrid: {replicas: 3, gpusPerPod: 2}, trainer: {parallelism: {tensor: 4}}}",
        "hybrid.gpusPerPod",
        "times hybrid.replicas is no multiple of trainer.parallelism.tensor * pipeline * context; choose ones that are",
    ),
    bad(
        "{hybrid: {gpusPerPod: 6}, trainer: {parallelism: {expert: 4}}}",
        "hybrid.gpusPerPod",
        "times hybrid.replicas is no multiple of trainer.parallelism.expertTensor * expert * pipeline; choose ones "
        "that are",
    ),
    bad(
        "trainer: {parallelism: {context: 2}}",
        "trainer.parallelism.context",
        "needs the attention of Transformer Engine, which this release does not use; set 1, and cut long sequences' "
        "memory by tensor",
    ),
    bad(
        "trainer: {parallelism: {virtualPipeline: 2}}",
        "trainer.parallelism.virtualPipeline",
        "are the chunks of a stage, and there is one stage only; remove it or raise pipeline",
    ),
    bad(
        "trainer: {parallelism: {firstStageLayers: 3}}",
        "trainer.parallelism.firstStageLayers",
        "makes stages uneven, and there is one stage only; remove it or raise pipeline",
    ),
    bad(
        "trainer: {parallelism: {lastStageLayers: 3}}",
        "trainer.parallelism.lastStageLayers",
        "makes stages uneven, and there is one stage only; remove it or raise pipeline",
    ),
    bad(
        "{hybrid: {gpusPerPod: 6}, rollout: {parallelism: {tensor: 4}, elastic: {gpusPerPod: 4}}}",
        "hybrid.gpusPerPod",
        "is no multiple of rollout.parallelism.tensor * pipeline; choose one that is",
    ),
    bad(
        "rollout: {parallelism: {tensor: 2, pipeline: 2}, elastic: {gpusPerPod: 6}}",
        "rollout.elastic.gpusPerPod",
        "is no multiple of rollout.parallelism.tensor * pipeline; choose one that is",
    ),
    bad(
        "hybrid: {gpu: {sharing: None}, rdma: {}}",
        "hybrid.rdma",
        "moves the weights of GPUs, and gpu.sharing None has none; remove it, or use DRA or VisibleAll",
    ),
    bad(
        "hybrid: {rdma: {hostNetwork: true, network: rdma-net}}",
        "hybrid.rdma.network",
        "is not there for a pod in its node's network; remove it or set hostNetwork: false",
    ),
    bad(
        "hybrid: {resources: {requests: {cpu: '2'}, limits: {cpu: 1500m}}}",
        "hybrid.resources.requests",
        "are more than limits for one name; lower the request or raise the limit",
    ),
    bad(
        "rollout: {resources: {requests: {memory: 2Gi}, limits: {memory: 2G}}}",
        "rollout.resources.requests",
        "are more than limits for one name; lower the request or raise the limit",
    ),
    bad(
        "hybrid: {resources: {limits: {nvidia.com/gpu: '8'}}}",
        "hybrid.resources",
        "names nvidia.com/gpu, which gpusPerPod asks for; remove it there",
    ),
    bad(
        "rollout: {resources: {requests: {nvidia.com/gpu: '8'}}}",
        "rollout.resources",
        "names nvidia.com/gpu, which gpusPerPod asks for; remove it there",
    ),
    bad(
        "hybrid: {rdma: {resourceName: rdma/a}, resources: {limits: {rdma/a: '1'}}}",
        "hybrid.resources",
        "names the adapters that hybrid.rdma asks for; remove them there",
    ),
    bad(
        "{hybrid: {rdma: {}}, rollout: {resources: {requests: {rdma/hca: '1'}}}}",
        "rollout.resources",
        "names the adapters that hybrid.rdma asks for; remove them there",
    ),
    bad(
        "rollout: {elastic: {replicas: 3, minReplicas: 3, maxReplicas: 2}}",
        "rollout.elastic.minReplicas",
        "is more than maxReplicas; lower it or raise maxReplicas",
    ),
    bad(
        "rollout: {elastic: {minReplicas: 1}}",
        "rollout.elastic.replicas",
        "is less than minReplicas; raise it or lower minReplicas",
    ),
    bad(
        "rollout: {elastic: {replicas: 3, maxReplicas: 2}}",
        "rollout.elastic.replicas",
        "is more than maxReplicas; lower it or raise maxReplicas",
    ),
    bad(
        "{rollout: {deterministic: true}, recipe: {partialRollout: {deadlineSeconds: 60}}}",
        "rollout.deterministic",
        "is true, and recipe.partialRollout ends Infer phases by the clock; remove stopWhenCompleteShare and "
        "deadlineSeconds there",
    ),
    bad(
        "{policy: {model: {path: /m}, maxLengthTokens: 64}, recipe: {partialRollout: {tokenBudget: 65}}}",
        "recipe.partialRollout.tokenBudget",
        "is more than policy.maxLengthTokens; lower it or raise maxLengthTokens",
    ),
    bad(
        "checkpoints: {keepBest: {}}",
        "checkpoints.keepBest",
        "wants held-out problems to tell what is best; add a set to data.evaluation, or remove keepBest",
    ),
    bad(
        "{data: {train: [{name: a, path: a}], evaluation: [{name: b, path: b}]},"
        " checkpoints: {keepBest: {evaluation: a}}}",
        "checkpoints.keepBest.evaluation",
        "names no set of data.evaluation; use the name of one",
    ),
    bad(
        "data: {train: [{name: a, path: a}], evaluation: [{name: b, path: b, temperature: 0, samplesPerProblem: 2}]}",
        "data.evaluation[0].samplesPerProblem",
        "samples would all be the same at temperature 0; use 1, or a temperature above 0",
    ),
    bad(
        "recipe: {repeats: {windowTokens: 16}}",
        "recipe.repeats.ngramTokens",
        "is not less than windowTokens; lower it, or raise windowTokens",
    ),
    bad(
        "recipe: {sampling: {strategy: Mixture}}",
        "recipe.sampling.shares",
        "count with strategy Mixture alone, which wants one above 0; set strategy: Mixture, or no share",
    ),
    bad(
        "recipe: {sampling: {shares: {uniform: 1}}}",
        "recipe.sampling.shares",
        "count with strategy Mixture alone, which wants one above 0; set strategy: Mixture, or no share",
    ),
    bad(
        "recipe: {iterations: 50, lengthReward: {weight: 0.5}}",
        "recipe.lengthReward.warmupIterations",
        "is not less than recipe.iterations, so the length reward never counts; lower it or set weight: 0",
    ),
    bad(
        "trainer: {optimizer: {endShare: 0.1}}",
        "trainer.optimizer.endShare",
        "is where a schedule ends, and schedule Constant has no end; remove it or use Linear or Cosine",
    ),
    bad(
        "{recipe: {iterations: 5}, trainer: {optimizer: {warmupIterations: 5}}}",
        "trainer.optimizer.warmupIterations",
        "is not less than recipe.iterations, so the learning rate never gets there; lower it or raise iterations",
    ),
    bad(
        "failurePolicy: {rules: [{match: {}, action: FailJob}]}",
        "failurePolicy.rules[0].match",
        "matches every failure; name a container, exitCodes or a reason",
    ),
    bad(
        "failurePolicy: {rules: [{match: {reason: NodeLost, exitCodes: [1]}, action: FailJob}]}",
        "failurePolicy.rules[0].match.exitCodes",
        "never match, because with this reason no container has ended; remove them or use reason Error",
    ),
    bad(
        "failurePolicy: {rules: [{match: {exitCodes: [1, 2, 1]}, action: FailJob}]}",
        "failurePolicy.rules[0].match.exitCodes",
        "holds a code twice; write each once",
    ),
    bad(
        "failurePolicy: {rules: [{match: {reason: Evicted}, action: RestartContainer}]}",
        "failurePolicy.rules[0].action",
        "is RestartContainer, but with this reason there is no pod to restart it in; use ReplacePod",
    ),
)
"""One bad manifest, or more, for each relation between fields."""
