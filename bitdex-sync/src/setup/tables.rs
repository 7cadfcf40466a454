//! The tables of an index's own schema. Creating them again changes nothing.

use crate::postgres::{quote_identifier, quote_literal, schema_name};

/// Version of the tables below; `setup` refuses a schema that a newer release made.
pub(super) const TABLES_VERSION: i32 = 1;

/// Statements that create what is not there yet, in one transaction.
pub(super) fn create(index: &str) -> String {
    let schema = quote_identifier(&schema_name(index));
    let about = quote_literal(&format!("Change capture of the BitDex index {index}; made by bitdex-sync setup"));
    format!(
        r#"CREATE SCHEMA IF NOT EXISTS {schema};
COMMENT ON SCHEMA {schema} IS {about};
CREATE TABLE IF NOT EXISTS {schema}.meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.sources (
    id   int2 PRIMARY KEY,
    name text NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS {schema}.ops (
    xid        xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    source     int2 NOT NULL,
    key        int8,
    value      int8,
    value_text text,
    truncate   bool NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX IF NOT EXISTS ops_xid ON {schema}.ops (xid);
CREATE TABLE IF NOT EXISTS {schema}.external_ops (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid      xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    document int8,
    op       jsonb NOT NULL,
    error    text
);
CREATE INDEX IF NOT EXISTS external_ops_xid ON {schema}.external_ops (xid);
CREATE TABLE IF NOT EXISTS {schema}.consumers (
    name       text PRIMARY KEY,
    cursor     text NOT NULL,
    tokens     text[] NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (fillfactor = 10);
CREATE TABLE IF NOT EXISTS {schema}.marks (
    at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
    snapshot text NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.triggers (
    table_oid    oid NOT NULL,
    source       text NOT NULL,
    content_hash text NOT NULL,
    live_hash    text NOT NULL,
    PRIMARY KEY (table_oid, source)
);
INSERT INTO {schema}.meta (key, value) VALUES ('tables_version', '{TABLES_VERSION}'), ('horizon', '1:1:')
    ON CONFLICT (key) DO NOTHING;
"#
    )
}

/// What the role that runs bitdex-sync needs on the index's own tables.
pub(super) fn grants(index: &str, role: &str) -> String {
    let (schema, role) = (quote_identifier(&schema_name(index)), quote_identifier(role));
    format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT ON {schema}.meta, {schema}.sources, {schema}.triggers TO {role};
GRANT UPDATE ON {schema}.meta TO {role};
GRANT SELECT, DELETE ON {schema}.ops, {schema}.external_ops TO {role};
GRANT UPDATE (error) ON {schema}.external_ops TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.consumers, {schema}.marks TO {role};
"
    )
}

/// What a service needs to write external fields in its own transactions.
pub(super) fn writer_grants(index: &str, role: &str) -> String {
    let (schema, role) = (quote_identifier(&schema_name(index)), quote_identifier(role));
    format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT INSERT (document, op) ON {schema}.external_ops TO {role};
"
    )
}
