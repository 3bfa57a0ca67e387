"""Tables of the replay buffer.

Whatever a rollback must undo carries the iteration or the generation that made it: undoing is deleting by number.
"""

VERSION = 3
"""PRAGMA user_version of a file that this module reads."""
FROM_1 = """
ALTER TABLE trajectories ADD COLUMN terms TEXT;
CREATE INDEX IF NOT EXISTS trajectories_by_training ON trajectories (trained_iteration);
"""
"""Makes version 2 of version 1."""
FROM_2 = """
DROP INDEX trajectories_by_state;
DROP INDEX trajectories_by_finish;
DROP INDEX segments_by_generation;
ALTER TABLE iterations ADD COLUMN record TEXT;
"""
"""Makes version 3 of version 2, with INDICES and TALLIES, which are then to be filled."""

TABLES = """
CREATE TABLE draws (
    iteration   INTEGER PRIMARY KEY,
    problem_ids TEXT NOT NULL,              -- JSON list: what the iteration samples, written before it asks
    positions   TEXT NOT NULL               -- JSON object: problem set -> problems drawn from it so far
) STRICT;

CREATE TABLE trajectories (
    id                 TEXT PRIMARY KEY,
    ordinal            INTEGER NOT NULL,    -- order of creation
    iteration          INTEGER NOT NULL,    -- iteration that drew it
    group_id           TEXT NOT NULL,
    problem_id         TEXT NOT NULL,
    state              TEXT NOT NULL,       -- TrajectoryState
    prompt_token_ids   BLOB NOT NULL,       -- int32, little endian
    finished_iteration INTEGER,
    finish_reason      TEXT,
    reward             REAL,
    correct            INTEGER,             -- 1: full marks
    terms              TEXT,                -- JSON object: reward term -> what it said
    trained_iteration  INTEGER              -- iteration that trained it, or rejected it
) STRICT;
CREATE INDEX trajectories_by_group ON trajectories (group_id);
CREATE INDEX trajectories_by_training ON trajectories (trained_iteration);

CREATE TABLE segments (
    trajectory_id TEXT NOT NULL REFERENCES trajectories (id) ON DELETE CASCADE,
    position      INTEGER NOT NULL,
    generation    INTEGER NOT NULL,
    token_ids     BLOB NOT NULL,            -- int32, little endian
    logprobs      BLOB NOT NULL,            -- float64, little endian, nats
    num_tokens    INTEGER NOT NULL,
    PRIMARY KEY (trajectory_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE iterations (
    iteration  INTEGER PRIMARY KEY,         -- committed
    generation INTEGER NOT NULL,            -- of the policy after it
    checkpoint TEXT,                        -- folder name, NULL where none is kept
    record     TEXT                         -- JSON: what the diary says of it, so that no kill comes between
) STRICT;
"""

INDICES = """
CREATE INDEX trajectories_by_state ON trajectories (state, group_id);
CREATE INDEX trajectories_by_finish ON trajectories (finished_iteration, problem_id, correct);
CREATE INDEX segments_by_generation ON segments (generation, num_tokens);
CREATE INDEX segments_by_length ON segments (trajectory_id, num_tokens);
"""
"""They hold what is counted and summed, since a row is long: behind its blobs a number costs as much as the blobs."""

TALLIES = """
CREATE TABLE tallies (
    problem_id  TEXT PRIMARY KEY,
    num_tried   INTEGER NOT NULL,           -- scored trajectories of committed iterations
    num_correct INTEGER NOT NULL            -- with full marks
) STRICT, WITHOUT ROWID;
"""
"""What the sampler knows of each problem: a sum over `trajectories`, kept up at each commit."""
