-- The ledger's tables. Run in the database `ledger` as a superuser; safe to run again.
-- Role `ledger` appends and reads, role `scorer` reads; only `ledger_owner`, which cannot log in, owns them.
SET ROLE ledger_owner;

-- Records from before the chain (at, kind, subject, body): kept as they are, readable, closed for writing. The chain's
-- second record holds their digest. Empty where the ledger began with the chain.
DO $$
BEGIN
    IF to_regclass('public.evidence') IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.evidence') AND attname = 'record' AND NOT attisdropped
    ) THEN
        ALTER TABLE public.evidence RENAME TO evidence_unsigned;
        ALTER INDEX public.evidence_pkey RENAME TO evidence_unsigned_pkey;
        ALTER INDEX public.evidence_kind_subject RENAME TO evidence_unsigned_kind_subject;
        REVOKE INSERT ON public.evidence_unsigned FROM ledger;
    END IF;
END $$;
CREATE TABLE IF NOT EXISTS public.evidence_unsigned (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL,
    subject text NOT NULL,
    body jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS evidence_unsigned_kind_subject ON public.evidence_unsigned (kind, subject, seq DESC);

-- The chain. A writer gives the record's canonical text, its hash and its signature; every other column is made from the
-- text, so that they cannot disagree. The constraints allow one line without a fork, whoever writes: each record follows an
-- existing record (FOREIGN KEY), no two follow the same record (UNIQUE), and only the first follows none (NULLS NOT DISTINCT).
CREATE TABLE IF NOT EXISTS public.evidence (
    seq bigint GENERATED ALWAYS AS ((record::jsonb ->> 'seq')::bigint) STORED PRIMARY KEY,
    prev text GENERATED ALWAYS AS (record::jsonb ->> 'prev') STORED,
    prev_seq bigint GENERATED ALWAYS AS (nullif((record::jsonb ->> 'seq')::bigint - 1, 0)) STORED,
    kind text GENERATED ALWAYS AS (record::jsonb ->> 'kind') STORED NOT NULL,
    subject text GENERATED ALWAYS AS (record::jsonb ->> 'subject') STORED NOT NULL,
    record text NOT NULL,
    hash text NOT NULL CHECK (hash = encode(sha256(convert_to(record, 'UTF8')), 'hex')),
    sig text NOT NULL,
    CONSTRAINT evidence_begins_at_one CHECK (seq >= 1),
    CONSTRAINT evidence_seq_hash UNIQUE (seq, hash),
    CONSTRAINT evidence_no_fork UNIQUE NULLS NOT DISTINCT (prev),
    CONSTRAINT evidence_follows FOREIGN KEY (prev_seq, prev) REFERENCES public.evidence (seq, hash) MATCH FULL
);
CREATE INDEX IF NOT EXISTS evidence_kind_subject ON public.evidence (kind, subject, seq DESC);
CREATE INDEX IF NOT EXISTS evidence_kind ON public.evidence (kind, seq DESC);

-- Both, as one reads them: records from before the chain have numbers from 0 downwards, and no signature.
CREATE OR REPLACE VIEW public.evidence_all AS
SELECT seq, kind, subject, record, sig FROM public.evidence
UNION ALL
SELECT
    seq - (SELECT max(seq) FROM public.evidence_unsigned),
    kind,
    subject,
    jsonb_build_object(
        'seq', seq - (SELECT max(seq) FROM public.evidence_unsigned),
        'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'kind', kind,
        'subject', subject,
        'body', body
    )::text,
    NULL
FROM public.evidence_unsigned;

GRANT USAGE ON SCHEMA public TO ledger;
GRANT SELECT, INSERT ON public.evidence TO ledger;
GRANT SELECT ON public.evidence_unsigned, public.evidence_all TO ledger;
GRANT USAGE ON SCHEMA public TO scorer;
GRANT SELECT ON public.evidence, public.evidence_unsigned, public.evidence_all TO scorer;
RESET ROLE;
