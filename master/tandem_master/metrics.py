"""The master's own numbers, for Prometheus: the same records that the diary gets."""

from prometheus_client import CollectorRegistry, Counter, Gauge, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tandem_api.history import (
    CheckpointRecord,
    EvaluationRecord,
    IterationRecord,
    PhaseEnd,
    PhaseRecord,
    Record,
    RunStarted,
    SwitchRecord,
)
from tandem_api.job.status import Direction
from tandem_api.metrics import (
    TOTAL,
    WAIT_OF_REASON,
    Activity,
    Interruption,
    SwitchReason,
    SwitchResult,
    Wait,
    stage_label,
)
from tandem_api.registry import FailureReason
from tandem_checkpoint.metrics import switch_histogram

__all__ = ["CONTENT_TYPE_LATEST", "MasterMetrics"]


class MasterMetrics:
    """Every series of one job's master, in a registry of its own. No label holds the name of a job, pod or node."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._stages = switch_histogram(self.registry)
        self._switches = self._counter(
            "switches", "Switches of the whole job, by how they ended.", "direction", "result", "reason"
        )
        self._deadlines = self._counter("missed_deadlines", "Waits that lasted past their deadline.", "wait")
        self._critical = self._counter(
            "critical_path_seconds",
            "Time of switches on their critical path, by stage; `unexplained`: on no stage.",
            "direction",
            "stage",
        )
        self._activities = self._counter("activity_seconds", "What the job's time went to.", "activity")
        self._iterations = self._counter("iterations", "Iterations that were committed.")
        self._tokens = self._counter("sampled_tokens", "Tokens sampled in committed iterations.")
        self._ends = self._counter("rollouts", "Infer phases of committed iterations, by why they ended.", "end")
        self._cut_tokens = self._counter("cut_tokens", "Tokens of answers that were cut as their Infer phase ended.")
        self._repeats = self._counter("repeats", "Trajectories that were stopped because they repeated themselves.")
        self._groups = self._counter(
            "groups", "Groups of committed iterations, by whether they had a gradient.", "signal"
        )
        self._refills = self._counter("refills", "Problems drawn in place of groups without signal.")
        self._checkpoints = self._counter("checkpoints", "Checkpoints, by how they ended.", "result")
        self._checkpoint_wait = self._counter("checkpoint_wait_seconds", "Time that the job waited for checkpoints.")
        for result in ("Done", "Failed"):
            self._checkpoints.labels(result)
        self._reward = self._gauge("reward", "Mean reward of the last committed iteration, without the length reward.")
        self._rate = self._gauge("learning_rate", "Learning rate of the last optimizer step.")
        self._evaluations = self._counter("evaluations", "Evaluations of held-out sets, by how they ended.", "result")
        self._evaluation = self._gauge(
            "evaluation",
            "Last evaluation of a held-out set, by what it tells.",
            "set",
            "metric",
        )
        for result in ("Done", "Failed"):
            self._evaluations.labels(result)
        self._iteration = self._gauge("iteration", "Complete iterations.")
        self._generation = self._gauge("generation", "Generation that the last switch was about.")
        self._epoch = self._gauge("epoch", "Number of the last switch.")
        for direction in Direction:
            self._switches.labels(direction, SwitchResult.DONE, Interruption.NONE)
        for signal in ("yes", "no"):
            self._groups.labels(signal)
        for end in PhaseEnd:
            self._ends.labels(end)
        for wait in Wait:
            self._deadlines.labels(wait)
        for activity in Activity:
            self._activities.labels(activity)

    def record(self, record: Record) -> None:
        """Take in one record of the diary; a run's end changes nothing."""
        match record:
            case RunStarted():
                self._iteration.set(record.iteration)
            case SwitchRecord():
                self._switch(record)
            case PhaseRecord():
                self._activities.labels(record.phase.value).inc(record.seconds)
            case IterationRecord():
                self._committed(record)
            case CheckpointRecord():
                self._checkpoints.labels("Failed" if record.error else "Done").inc()
                self._checkpoint_wait.inc(record.waited_seconds)
            case EvaluationRecord():
                self._evaluated(record)

    def switch_failed(self, direction: Direction, reason: SwitchReason) -> None:
        """Count a switch of the whole job that failed."""
        self._switches.labels(direction, SwitchResult.FAILED, reason).inc()
        wait = WAIT_OF_REASON.get(reason) if isinstance(reason, FailureReason) else None
        if wait is not None:
            self._deadlines.labels(wait).inc()

    def rendered(self) -> bytes:
        """Return every series in Prometheus' text format (CONTENT_TYPE_LATEST)."""
        return generate_latest(self.registry)

    def _switch(self, record: SwitchRecord) -> None:
        direction = record.direction
        self._switches.labels(direction, SwitchResult.DONE, Interruption.NONE).inc()
        self._stages.labels(direction, TOTAL).observe(record.seconds)
        for stage in record.stages:
            if stage.role == "master":
                self._stages.labels(direction, stage_label(stage.stage)).observe(stage.seconds)
        self._activities.labels(Activity.SWITCHING).inc(record.seconds)
        self._epoch.set(record.epoch)
        self._generation.set(record.generation)
        if record.critical_path is None or record.first:  # that one waits for processes, which no stage measures
            return
        for segment in record.critical_path.segments:
            # A notice has a label of its own among the stages: `notice`.
            label = segment.stage if segment.notice_of else stage_label(segment.stage)
            self._critical.labels(direction, label).inc(segment.seconds)
        self._critical.labels(direction, "unexplained").inc(record.critical_path.unexplained_seconds)

    def _committed(self, record: IterationRecord) -> None:
        self._iterations.inc()
        self._tokens.inc(record.sampled_tokens)
        self._ends.labels(record.rollout_end).inc()
        self._cut_tokens.inc(record.cut_tokens)
        self._repeats.inc(record.repeats)
        self._groups.labels("yes").inc(record.groups - record.groups_without_signal)
        self._groups.labels("no").inc(record.groups_without_signal)
        self._refills.inc(record.refills)
        self._reward.set(record.reward)
        if record.learning_rate is not None:
            self._rate.set(record.learning_rate)
        self._iteration.set(record.iteration)

    def _evaluated(self, record: EvaluationRecord) -> None:
        self._evaluations.labels("Failed" if record.error else "Done").inc()
        if record.error:
            return
        values = (record.pass_1, record.mean_reward, record.mean_tokens, record.cut_share)
        for name, value in zip(("pass_1", "reward", "tokens", "cut_share"), values, strict=True):
            self._evaluation.labels(record.name, name).set(value)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"tandem_job_{name}", help_text, labels, registry=self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"tandem_job_{name}", help_text, labels, registry=self.registry)
