"""Updates of a job that is there: what may change when."""

from tandem_api.job.immutability import NEVER, WHILE_SUSPENDED

JOB = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: kept}
spec:
  policy: {model: {path: /models/tiny}, dtype: Float32, maxLengthTokens: 32}
  data: {train: [{name: math, path: /data/math.jsonl}]}
  rewards: [{name: answer, builtin: ExactMatch}]
  rollout: {engineArgs: {max_num_seqs: 256, seed: 1}, elastic: {replicas: 1, minReplicas: 0, maxReplicas: 4}}
  checkpoints: {claimName: disk}
  tls: {secretName: keys}
  podTemplate: {spec: {nodeSelector: {pool: a}}}
"""

WHILE_SUSPENDED_ONLY = (
    ("policy: {dtype: BFloat16}", "policy"),
    ("policy: {maxLengthTokens: 64}", "policy"),
    ("data: {train: [{name: math, path: /data/other.jsonl}]}", "data"),
    ("data: {train: [{name: math, path: /data/math.jsonl}, {name: more, path: /data/more.jsonl}]}", "data"),
    ("rewards: [{name: answer, builtin: ExactMatch, weight: 2}]", "rewards"),
    ("hybrid: {replicas: 2}", "hybrid"),
    ("hybrid: {gpusPerPod: 4}", "hybrid"),
    ("hybrid: {gpu: {sharing: None}}", "hybrid"),
    ("hybrid: {sharedMemory: 1Gi}", "hybrid"),
    ("hybrid: {rdma: {count: 2}}", "hybrid"),
    ("hybrid: {resources: {requests: {cpu: '1'}}}", "hybrid"),
    ("trainer: {image: 'mine:2'}", "trainer"),
    ("trainer: {optimizer: {learningRate: 0.001}}", "trainer"),
    ("rollout: {image: 'mine:2'}", "rollout"),
    ("rollout: {engineArgs: {max_num_seqs: 128}}", "rollout"),
    ("rollout: {engineArgs: {max_model_len: 32}}", "rollout"),
    ("rollout: {deterministic: true}", "rollout"),
    ("rollout: {resources: {limits: {memory: 1Gi}}}", "rollout"),
    ("rollout: {elastic: {maxReplicas: 5}}", "rollout.elastic"),
    ("rollout: {elastic: {minReplicas: 1}}", "rollout.elastic"),
    ("rollout: {elastic: {gpusPerPod: 4}}", "rollout.elastic"),
    ("recipe: {iterations: 1000}", "recipe"),
    ("recipe: {objective: {tau: 0.2}}", "recipe"),
    ("switch: {trainToInferDeadlineSeconds: 10}", "switch"),
    ("checkpoints: {everyIterations: 1}", "checkpoints"),
    ("checkpoints: {keepLast: 1}", "checkpoints"),
    ("tls: {secretName: other}", "tls.secretName"),
    ("tls: {secretName: null}", "tls.secretName"),
    ("scheduling: {topologyKey: kubernetes.io/hostname}", "scheduling"),
    ("scheduling: {gang: Native}", "scheduling"),
    ("scheduling: {queueName: other}", "scheduling"),
    ("podTemplate: {spec: {nodeSelector: {pool: b}}}", "podTemplate"),
    ("podTemplate: {spec: {nodeSelector: null, tolerations: []}}", "podTemplate"),
    ("podTemplate: {metadata: {labels: {team: math}}}", "podTemplate"),
    ("podTemplate: {metadata: {}, spec: null}", "podTemplate"),
)
"""Merge patches of the spec, and the field that the API server names."""

NEVER_ALLOWED = (
    ("policy: {model: {path: /models/other}}", "policy.model"),
    (
        "policy: {model: {path: null, huggingFace: {repo: a/b, revision: 0123456789abcdef0123456789abcdef01234567}}}",
        "policy.model",
    ),
    ("checkpoints: {claimName: other}", "checkpoints.claimName"),
    ("checkpoints: {claimName: null}", "checkpoints.claimName"),
)

ALWAYS_ALLOWED = (
    "suspend: true",
    "activeDeadlineSeconds: 60",
    "ttlSecondsAfterFinished: 0",
    "failurePolicy: {maxRestarts: 1, rules: [{match: {reason: NodeLost}, action: FailJob}]}",
    "rollout: {elastic: {replicas: 4}}",
    "scheduling: {priorityClassName: low}",
)

REFUSED_WHILE_RUNNING = (
    *((patch, field, WHILE_SUSPENDED) for patch, field in WHILE_SUSPENDED_ONLY),
    *((patch, field, NEVER) for patch, field in NEVER_ALLOWED),
    ("{suspend: true, recipe: {iterations: 1000}}", "recipe", WHILE_SUSPENDED),
    ("rollout: {elastic: {replicas: 5}}", "rollout.elastic.replicas", "is more than maxReplicas"),
)
