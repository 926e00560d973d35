-- How imports went: one row an import, for operators and their dashboards.
-- A projection like any other: dropped and refilled from the log at will.
CREATE TABLE outcomes (
    task         uuid PRIMARY KEY,
    image        uuid NOT NULL,
    image_id     text NOT NULL,
    owner        text,
    method       text NOT NULL,
    stores       text[] NOT NULL,
    failed       text[] NOT NULL,
    status       text NOT NULL,              -- pending, processing, success, failure
    reason       text,
    bytes        bigint,
    take_overs   int  NOT NULL,
    requested_at timestamptz NOT NULL,
    started_at   timestamptz,
    ended_at     timestamptz
) WITH (fillfactor = 70);
CREATE INDEX outcomes_newest ON outcomes (requested_at DESC);
