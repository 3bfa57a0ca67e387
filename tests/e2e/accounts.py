"""Whether a replay buffer accounts for everything: nothing lost, nothing trained twice, all told as it is there."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from string import Template

from tandem_api.history import IterationRecord

BREACHES: Mapping[str, str] = {
    "is missing among the committed iterations": """
        SELECT place FROM (SELECT iteration, ROW_NUMBER() OVER (ORDER BY iteration) AS place FROM iterations)
        WHERE iteration != place LIMIT 1""",
    "was drawn, and is not there": """
        SELECT iteration, value, COUNT(*) * $samples FROM draws, json_each(problem_ids) GROUP BY 1, 2
        EXCEPT SELECT iteration, problem_id, COUNT(*) FROM trajectories GROUP BY 1, 2""",
    "is there, and was not drawn": """
        SELECT iteration, problem_id, COUNT(*) FROM trajectories GROUP BY 1, 2
        EXCEPT SELECT iteration, value, COUNT(*) * $samples FROM draws, json_each(problem_ids) GROUP BY 1, 2""",
    "is in a state that its own columns contradict": """
        SELECT id, state FROM trajectories
        WHERE (state = 'Unfinished') != (finished_iteration IS NULL)
        OR (state IN ('Trained', 'Rejected')) != (trained_iteration IS NOT NULL)
        OR (state IN ('Unfinished', 'Unscored')) != (correct IS NULL)
        OR (finished_iteration IS NULL) != (finish_reason IS NULL)
        OR finished_iteration < iteration OR trained_iteration < finished_iteration""",
    "is trained or left out by an iteration that is not committed": """
        SELECT id FROM trajectories WHERE trained_iteration NOT IN (SELECT iteration FROM iterations)""",
    "is trained in parts": """
        SELECT group_id FROM trajectories WHERE state != 'Unscored'
        GROUP BY group_id HAVING COUNT(DISTINCT COALESCE(trained_iteration, 0)) > 1
        OR COUNT(DISTINCT state = 'Trained') > 1""",
    "was complete, and was never trained": """
        SELECT group_id FROM trajectories WHERE state != 'Unscored' GROUP BY group_id HAVING MIN(state = 'Finished')""",
    "has tokens without log-probabilities, or none": """
        SELECT id FROM trajectories LEFT JOIN segments ON trajectory_id = id
        WHERE LENGTH(token_ids) != 4 * num_tokens OR LENGTH(logprobs) != 8 * num_tokens
        OR num_tokens = 0 OR (trajectory_id IS NULL AND state != 'Unfinished')""",
    "lacks a segment": """
        SELECT trajectory_id FROM segments GROUP BY trajectory_id HAVING MAX(position) != COUNT(*) - 1""",
    "was sampled by a generation that came before it or after its end": """
        SELECT id, generation FROM segments JOIN trajectories ON id = trajectory_id
        WHERE generation < iteration - 1 OR generation >= finished_iteration""",
    "has sampled more than an iteration's budget": """
        SELECT trajectory_id, generation FROM segments
        GROUP BY trajectory_id, generation HAVING SUM(num_tokens) > $budget""",
    "is not tallied as it was scored": """
        SELECT * FROM (SELECT problem_id, COUNT(correct), SUM(correct) FROM trajectories
        WHERE finished_iteration IN (SELECT iteration FROM iterations) GROUP BY 1 HAVING COUNT(correct) > 0
        EXCEPT SELECT * FROM tallies)""",
    "is tallied, and was never scored": """
        SELECT problem_id FROM tallies EXCEPT SELECT problem_id FROM trajectories
        WHERE finished_iteration IN (SELECT iteration FROM iterations) AND correct IS NOT NULL""",
}
"""What must not be, and the query that finds who it is true of."""
FIGURES: Mapping[str, str] = {
    "finished": "SELECT COUNT(*) FROM trajectories WHERE finished_iteration = $iteration",
    "unfinished": """
        SELECT COUNT(*) FROM trajectories
        WHERE iteration <= $iteration AND COALESCE(finished_iteration > $iteration, TRUE)""",
    "trained": """
        SELECT COUNT(DISTINCT id) FROM trajectories JOIN segments ON trajectory_id = id AND generation = $iteration - 1
        WHERE state = 'Trained' AND trained_iteration = $iteration""",  # older segments are not in the loss
    "sampled_tokens": "SELECT COALESCE(SUM(num_tokens), 0) FROM segments WHERE generation = $iteration - 1",
}
"""Fields of an iteration's record, and what the buffer says of them."""


def unaccounted(buffer: Path, records: Sequence[IterationRecord], *, samples: int, budget: int) -> list[str]:
    """Return everything that does not add up in the buffer of a job that has ended, in sentences.

    `records`: the last of each iteration; `samples` of a problem; `budget`: tokens of a trajectory and an iteration.
    """
    with closing(sqlite3.connect(buffer)) as connection:
        found = [
            f"{', '.join(map(str, row))} {breach}"
            for breach, query in BREACHES.items()
            for row in connection.execute(Template(query).substitute(samples=samples, budget=budget))
        ]
        committed = {iteration for (iteration,) in connection.execute("SELECT iteration FROM iterations")}
        for record in records:
            committed.discard(record.iteration)
            for field, query in FIGURES.items():
                [there] = connection.execute(Template(query).substitute(iteration=record.iteration)).fetchone()
                told = getattr(record, field)
                found += [f"iteration {record.iteration}: {field}: {told} told, {there} there"] if told != there else []
    return found + [f"iteration {iteration} was not told of" for iteration in sorted(committed)]
