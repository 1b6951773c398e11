-- The ledger's table. Run in the database `ledger` as a superuser; safe to run again.
-- Role `ledger` appends and reads; only `ledger_owner`, which cannot log in, owns the table.
SET ROLE ledger_owner;
CREATE TABLE IF NOT EXISTS evidence (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL,
    subject text NOT NULL,
    body jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS evidence_kind_subject ON evidence (kind, subject, seq DESC);
GRANT USAGE ON SCHEMA public TO ledger;
GRANT SELECT, INSERT ON evidence TO ledger;
RESET ROLE;
