-- Roles of least privilege for the catalog. Run once, as a superuser, in the catalog's own database:
--
--     psql postgresql://postgres@db.acme.example:5432/lake -f deploy/roles.sql
--
-- Once more does no harm. Then give each role its password with \password.

\set ON_ERROR_STOP on
select current_database() as lake \gset

select 'create role lakeward_writer login'
where not exists (select from pg_roles where rolname = 'lakeward_writer') \gexec
select 'create role lakeward_reader login'
where not exists (select from pg_roles where rolname = 'lakeward_reader') \gexec

begin;

revoke all on database :"lake" from public;
revoke all on schema public from public;

-- Feeds, refreshes, syncs and builds. It owns the catalog's tables, because it makes them.
grant connect on database :"lake" to lakeward_writer;
grant usage, create on schema public to lakeward_writer;

-- Queries and `lakeward status`. DuckLake makes tables as it goes: what the writer makes, the reader may read.
grant connect on database :"lake" to lakeward_reader;
grant usage on schema public to lakeward_reader;
grant select on all tables in schema public to lakeward_reader;
alter default privileges for role lakeward_writer in schema public grant select on tables to lakeward_reader;
alter role lakeward_reader in database :"lake" set default_transaction_read_only = on;

commit;
