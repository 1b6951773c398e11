-- Rights in the online store, whose tables its own role makes. Run in the database `feast_online` as a superuser; safe to run
-- again. Role `scorer` reads every table and view, those that are made later as well.
SET ROLE feast_online;
GRANT USAGE ON SCHEMA public TO scorer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO scorer;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO scorer;
RESET ROLE;
