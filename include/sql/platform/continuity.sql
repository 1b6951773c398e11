-- What replication and failover know. Run in the database `continuity` as a superuser; safe to run again.
SET ROLE continuity;

-- Leases: who may do what only one process may do at a time. `generation` grows with each holder. Each write of a
-- holder is checked against it, so a holder that was paused past `until` writes nothing. Only this server's clock counts.
CREATE TABLE IF NOT EXISTS public.lease (
    name text PRIMARY KEY,
    generation bigint NOT NULL,
    holder text NOT NULL,
    until timestamptz NOT NULL
);

-- The catalogue of a pair: what stands at the target, verified. One row for each version of each object at the source.
-- It saves work and is no proof by itself: what is lost here is read at the target again.
CREATE TABLE IF NOT EXISTS public.replica (
    source text NOT NULL,
    target text NOT NULL,
    bucket text NOT NULL,
    key text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,      -- at the source; empty where it keeps no versions
    place bigint NOT NULL,                  -- orders the versions of a key as they were put at the target
    marker boolean NOT NULL,                -- a delete marker: no body
    size bigint NOT NULL,
    sha256 text NOT NULL,                   -- of the bytes that were read at the source; empty for a marker
    etag text NOT NULL,                     -- the source's, only ever compared with the source's
    modified timestamptz NOT NULL,
    target_version text NOT NULL,
    target_etag text NOT NULL,
    basis text NOT NULL,                    -- how it was verified
    copied timestamptz NOT NULL,
    verified timestamptz NOT NULL,
    missing_since timestamptz,              -- the first complete listing of the source without it
    sightings integer NOT NULL DEFAULT 0,   -- how many complete listings did not have it, one after another
    hidden timestamptz,                     -- since when a delete marker of ours hides it at the target
    vouched text NOT NULL DEFAULT 'none',   -- who vouches for the bytes that the source gave
    PRIMARY KEY (source, target, bucket, key, version)
);
-- When all versions of all keys of a bucket were compared last.
CREATE TABLE IF NOT EXISTS public.comparison (
    source text NOT NULL,
    target text NOT NULL,
    bucket text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (source, target, bucket)
);
CREATE INDEX IF NOT EXISTS replica_oldest_proof ON public.replica (source, target, bucket, verified) WHERE NOT marker;
CREATE INDEX IF NOT EXISTS replica_copied ON public.replica (source, target, bucket, copied);
CREATE INDEX IF NOT EXISTS replica_unread ON public.replica (source, target, bucket, copied)
    WHERE basis = 'checked on arrival';
CREATE INDEX IF NOT EXISTS replica_missing ON public.replica (source, target, bucket, missing_since)
    WHERE missing_since IS NOT NULL;

-- Which site is the active one: one row for each generation, the newest is what holds. A switchover is a failover or a
-- failback; while it goes on, the newest row is `fenced`, and its steps so far stand in that row.
CREATE TABLE IF NOT EXISTS public.active_site (
    generation bigint PRIMARY KEY,
    site text NOT NULL,                     -- where pipelines read and write; of a fenced row: where they did
    state text NOT NULL CHECK (state IN ('active', 'fenced')),
    switchover jsonb,                          -- null only where a person wrote the row
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The scorer asks the active site first for a model.
GRANT USAGE ON SCHEMA public TO scorer;
GRANT SELECT ON public.active_site TO scorer;
