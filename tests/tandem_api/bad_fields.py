"""Manifests with a mistake in one field, which needs no look at another."""

from tests.tandem_api.manifests import COMMIT, bad

FIELDS = (
    bad("policy: {}", "policy.model", "is missing; add it", "Required value"),
    bad(
        "policy: {model: {path: ''}}",
        "policy.model.path",
        "has 0 characters; write at least 1",
        "should be at least 1 chars long",
    ),
    bad(
        f"policy: {{model: {{huggingFace: {{repo: Qwen3, revision: {COMMIT}}}}}}}",
        "policy.model.huggingFace.repo",
        'is "Qwen3"; write the owner and the name, such as Qwen/Qwen3-8B',
        "should match '^[A-Za-z0-9]",
    ),
    bad(
        "policy: {model: {huggingFace: {repo: Qwen/Qwen3-8B, revision: main}}}",
        "policy.model.huggingFace.revision",
        'is "main"; write the commit in full, 40 digits of 0-9 and a-f',
        "should match '^[0-9a-f]{40}$'",
    ),
    bad(
        "policy: {model: {huggingFace: {repo: Qwen/Qwen3-8B}}}",
        "policy.model.huggingFace.revision",
        "is missing; add it",
        "Required value",
    ),
    bad(
        "policy: {model: {path: /m}, dtype: Float16}",
        "policy.dtype",
        'is "Float16"; use Float32 or BFloat16',
        'supported values: "Float32", "BFloat16"',
    ),
    bad(
        "policy: {model: {path: /m}, maxLengthTokens: 1}",
        "policy.maxLengthTokens",
        "is 1; use at least 2",
        "should be greater than or equal to 2",
    ),
    bad("data: {train: []}", "data.train", "has 0 items; write at least 1", "should have at least 1 items"),
    bad(
        "data: {train: [{name: a, path: a, weight: 0}]}",
        "data.train[0].weight",
        "is 0; use more than 0",
        "should be greater than 0",
    ),
    bad(
        "rewards: [{name: a, builtin: Code}]",
        "rewards[0].builtin",
        'is "Code"; use ExactMatch',
        'supported values: "ExactMatch"',
    ),
    bad("hybrid: {replicas: 0}", "hybrid.replicas", "is 0; use at least 1", "should be greater than or equal to 1"),
    bad("hybrid: {replicas: 1025}", "hybrid.replicas", "is 1025; use at most 1024", "less than or equal to 1024"),
    bad("hybrid: {gpusPerPod: 65}", "hybrid.gpusPerPod", "is 65; use at most 64", "less than or equal to 64"),
    bad(
        "hybrid: {replicas: two}",
        "hybrid.replicas",
        'is "two", wanted an integer; write a number such as 1',
        "must be of type integer",
    ),
    bad(
        "hybrid: {replicas: 1.5}",
        "hybrid.replicas",
        "is 1.5, wanted an integer; write a number such as 1",
        "must be of type integer",
    ),
    bad(
        "hybrid: {gpu: {sharing: MIG}}",
        "hybrid.gpu.sharing",
        'is "MIG"; use DRA, VisibleAll or None',
        'supported values: "DRA", "VisibleAll", "None"',
    ),
    bad(
        "hybrid: {gpu: {deviceClassName: GPU}}",
        "hybrid.gpu.deviceClassName",
        'is "GPU"; use lower-case letters, digits, - and ., beginning and ending with a letter or a digit',
        "should match",
    ),
    bad(
        "hybrid: {sharedMemory: 64 GB}",
        "hybrid.sharedMemory",
        'is "64 GB"; write a quantity such as 500m, 16 or 64Gi',
        "should match",
    ),
    bad(
        "hybrid: {resources: {limits: {memory: lots}}}",
        "hybrid.resources.limits.memory",
        'is "lots"; write a quantity such as 500m, 16 or 64Gi',
        "should match",
    ),
    bad(
        "hybrid: {resources: {requests: {cpu: 8}}}",
        "hybrid.resources.requests.cpu",
        'is 8, wanted text; put it in quotes: "8"',
        "must be of type string",
    ),
    bad(
        "hybrid: {rdma: {resourceName: hca 1}}",
        "hybrid.rdma.resourceName",
        'is "hca 1"; write a name with a domain, such as kubernetes.io/hostname or rdma/hca',
        "should match",
    ),
    bad("hybrid: {rdma: {count: 0}}", "hybrid.rdma.count", "is 0; use at least 1", "greater than or equal to 1"),
    bad(
        "hybrid: {rdma: {hostNetwork: maybe}}",
        "hybrid.rdma.hostNetwork",
        'is "maybe"; use true or false',
        "must be of type boolean",
    ),
    bad(
        "trainer: {parallelism: {tensor: 0}}",
        "trainer.parallelism.tensor",
        "is 0; use at least 1",
        "greater than or equal to 1",
    ),
    bad(
        "trainer: {parallelism: {pipeline: 128}}",
        "trainer.parallelism.pipeline",
        "is 128; use at most 64",
        "less than or equal to 64",
    ),
    bad(
        "trainer: {microBatchTokens: 0}",
        "trainer.microBatchTokens",
        "is 0; use at least 1",
        "greater than or equal to 1",
    ),
    bad(
        "trainer: {optimizer: {learningRate: 0}}",
        "trainer.optimizer.learningRate",
        "is 0; use more than 0",
        "should be greater than 0",
    ),
    bad(
        "trainer: {optimizer: {betas: [0.9, 1]}}",
        "trainer.optimizer.betas[1]",
        "is 1; use less than 1",
        "should be less than 1",
    ),
    bad(
        "trainer: {optimizer: {betas: [0.9, 0.95, 0.99]}}",
        "trainer.optimizer.betas",
        "has 3 items; keep at most 2",
        "must have at most 2 items",
    ),
    bad(
        "trainer: {optimizer: {schedule: Cosine}}",
        "trainer.optimizer.schedule",
        'is "Cosine"; use Constant',
        'supported values: "Constant"',
    ),
    bad(
        "rollout: {parallelism: {tensor: 3}}",
        "rollout.parallelism.tensor",
        "is 3; use 1, 2, 4 or 8",
        'supported values: "1", "2", "4", "8"',
    ),
    bad(
        "rollout: {parallelism: {tensor: true}}",
        "rollout.parallelism.tensor",
        "is true, wanted an integer; write a number such as 1",
        "must be of type integer",
    ),
    bad(
        "rollout: {parallelism: {tensor: '2'}}",
        "rollout.parallelism.tensor",
        'is "2", wanted an integer; write 2 without quotes',
        "must be of type integer",
    ),
    bad("rollout: {elastic: {replicas: -1}}", "rollout.elastic.replicas", "is -1; use at least 0", "equal to 0"),
    bad("rollout: {image: ''}", "rollout.image", "has 0 characters; write at least 1", "at least 1 chars long"),
    bad("recipe: {iterations: 0}", "recipe.iterations", "is 0; use at least 1", "greater than or equal to 1"),
    bad(
        "recipe: {samplesPerProblem: 1}",
        "recipe.samplesPerProblem",
        "is 1; use at least 2",
        "greater than or equal to 2",
    ),
    bad("recipe: {temperature: 0}", "recipe.temperature", "is 0; use more than 0", "should be greater than 0"),
    bad(
        "recipe: {temperature: warm}",
        "recipe.temperature",
        'is "warm", wanted a number; write one such as 1.0',
        "must be of type number",
    ),
    bad(
        "recipe: {partialRollout: {excludeOldSegments: false}}",
        "recipe.partialRollout.excludeOldSegments",
        "is false; use true",
        'supported values: "true"',
    ),
    bad(
        "recipe: {objective: {name: PPO}}",
        "recipe.objective.name",
        'is "PPO"; use MirrorDescent',
        'supported values: "MirrorDescent"',
    ),
    bad(
        "recipe: {sampling: {strategy: Best}}",
        "recipe.sampling.strategy",
        'is "Best"; use Uniform or Prioritized',
        'supported values: "Uniform", "Prioritized"',
    ),
    bad(
        "switch: {strategy: Reuse}",
        "switch.strategy",
        'is "Reuse"; use Restart, Sleep or Resident',
        'supported values: "Restart", "Sleep", "Resident"',
    ),
    bad(
        "switch: {trainToInferDeadlineSeconds: 0}",
        "switch.trainToInferDeadlineSeconds",
        "is 0; use more than 0",
        "should be greater than 0",
    ),
    bad(
        "checkpoints: {claimName: My Disk}",
        "checkpoints.claimName",
        'is "My Disk"; use lower-case letters, digits, - and ., beginning and ending with a letter or a digit',
        "should match",
    ),
    bad(
        "tls: {secretName: My Keys}",
        "tls.secretName",
        'is "My Keys"; use lower-case letters, digits, - and ., beginning and ending with a letter or a digit',
        "should match",
    ),
    bad("checkpoints: {keepLast: 0}", "checkpoints.keepLast", "is 0; use at least 1", "greater than or equal to 1"),
    bad("checkpoints: {keepEvery: -1}", "checkpoints.keepEvery", "is -1; use at least 0", "greater than or equal to 0"),
    bad(
        "failurePolicy: {maxRestarts: -1}",
        "failurePolicy.maxRestarts",
        "is -1; use at least 0",
        "greater than or equal to 0",
    ),
    bad(
        "failurePolicy: {rules: [{match: {container: vllm}, action: FailJob}]}",
        "failurePolicy.rules[0].match.container",
        'is "vllm"; use master, trainer or rollout',
        'supported values: "master", "trainer", "rollout"',
    ),
    bad(
        "failurePolicy: {rules: [{match: {exitCodes: [0]}, action: FailJob}]}",
        "failurePolicy.rules[0].match.exitCodes[0]",
        "is 0; use at least 1",
        "greater than or equal to 1",
    ),
    bad(
        "failurePolicy: {rules: [{match: {exitCodes: [256]}, action: FailJob}]}",
        "failurePolicy.rules[0].match.exitCodes[0]",
        "is 256; use at most 255",
        "less than or equal to 255",
    ),
    bad(
        "failurePolicy: {rules: [{match: {reason: Cosmic}, action: FailJob}]}",
        "failurePolicy.rules[0].match.reason",
        'is "Cosmic"; use Error, OOMKilled, ImagePull, DeviceUnresolvable, Unschedulable, Evicted, NodeLost, '
        "StuckTerminating or PodLost",
        'supported values: "Error", "OOMKilled"',
    ),
    bad(
        "failurePolicy: {rules: [{match: {reason: Error}, action: Retry}]}",
        "failurePolicy.rules[0].action",
        'is "Retry"; use RestartContainer, ReplacePod, RestartGang, FailJob or Ignore',
        'supported values: "RestartContainer"',
    ),
    bad(
        "failurePolicy: {rules: [{action: FailJob}]}",
        "failurePolicy.rules[0].match",
        "is missing; add it",
        "Required value",
    ),
    bad(
        "scheduling: {gang: Yunikorn}",
        "scheduling.gang",
        'is "Yunikorn"; use None, Native or Volcano',
        'supported values: "None", "Native", "Volcano"',
    ),
    bad(
        "scheduling: {queueName: The Queue}",
        "scheduling.queueName",
        'is "The Queue"; use lower-case letters, digits, - and ., beginning and ending with a letter or a digit',
        "should match",
    ),
    bad(
        "scheduling: {priorityClassName: Very High}",
        "scheduling.priorityClassName",
        'is "Very High"; use lower-case letters, digits, - and ., beginning and ending with a letter or a digit',
        "should match",
    ),
    bad(
        "scheduling: {topologyKey: a rack}",
        "scheduling.topologyKey",
        'is "a rack"; write a name with a domain, such as kubernetes.io/hostname or rdma/hca',
        "should match",
    ),
    bad("suspend: later", "suspend", 'is "later"; use true or false', "must be of type boolean"),
    bad("activeDeadlineSeconds: 0", "activeDeadlineSeconds", "is 0; use at least 1", "greater than or equal to 1"),
    bad(
        "ttlSecondsAfterFinished: -1",
        "ttlSecondsAfterFinished",
        "is -1; use at least 0",
        "greater than or equal to 0",
    ),
)
"""One mistake in one field: what a schema alone can say."""

UNKNOWN = (
    bad("recpie: {}", "recpie", "unknown field; did you mean spec.recipe?", "unknown field"),
    bad(
        "scheduling: {queue: research}",
        "scheduling.queue",
        "unknown field; did you mean spec.scheduling.queueName?",
        "unknown field",
    ),
    bad("data: {train: [{name: a, path: a}], evaluation: []}", "data.evaluation", "unknown field; use one of train",
        "unknown field"),
    bad(
        "hybrid: {gpus_per_pod: 2}",
        "hybrid.gpus_per_pod",
        "unknown field; did you mean spec.hybrid.gpusPerPod?",
        "unknown field",
    ),
)  # fmt: skip
"""Fields that do not exist; kubectl asks the API server to refuse them."""

REPEATED = (
    (
        "rewards: [{name: a, builtin: ExactMatch}, {name: a, builtin: ExactMatch}]",
        "spec.rewards: the name a is used twice; give each its own",
        "spec.rewards[1]: Duplicate value",
    ),
    (
        "data: {train: [{name: a, path: a.jsonl}, {name: a, path: b.jsonl}]}",
        "spec.data.train: the name a is used twice; give each its own",
        "spec.data.train[1]: Duplicate value",
    ),
)
"""Lists by name: parse_job names the list, an API server the second item."""
