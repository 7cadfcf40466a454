//! The tables, as statements. Keys and indexes are made after the rows are in, as `pg_dump` does, because that is
//! quicker; the outcome is the schema that the application declares.

/// The tables, in the order in which rows may be loaded.
pub const TABLES: [Table; 10] = [
    Table { name: "\"User\"", columns: "id int, username text NOT NULL" },
    Table { name: "\"Model\"", columns: "id int, type text NOT NULL, poi bool NOT NULL" },
    Table { name: "\"ModelVersion\"", columns: "id int, \"baseModel\" text NOT NULL, \"modelId\" int NOT NULL" },
    Table {
        name: "\"Post\"",
        columns: "id int, \"userId\" int NOT NULL, \"publishedAt\" timestamptz, availability text NOT NULL, \
                  \"modelVersionId\" int",
    },
    Table {
        name: "\"Image\"",
        columns: "id int, url text NOT NULL, hash text, \"nsfwLevel\" int NOT NULL, flags int NOT NULL, \
                  type text NOT NULL, \"userId\" int NOT NULL, \"blockedFor\" text, \"scannedAt\" timestamptz, \
                  \"createdAt\" timestamptz NOT NULL, \"postId\" int, width int, height int, meta jsonb",
    },
    Table {
        name: "\"TagsOnImage\"",
        columns: "\"imageId\" int NOT NULL, \"tagId\" int NOT NULL, attributes int NOT NULL DEFAULT 0",
    },
    Table { name: "\"ImageTool\"", columns: "\"imageId\" int NOT NULL, \"toolId\" int NOT NULL" },
    Table { name: "\"ImageTechnique\"", columns: "\"imageId\" int NOT NULL, \"techniqueId\" int NOT NULL" },
    Table {
        name: "\"ImageResource\"",
        columns: "\"imageId\" int NOT NULL, \"modelVersionId\" int NOT NULL, detected bool NOT NULL",
    },
    Table {
        name: "\"CollectionItem\"",
        columns: "id int, \"collectionId\" int NOT NULL, \"imageId\" int, status text NOT NULL",
    },
];

#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Quoted, as SQL takes it.
    pub name: &'static str,
    pub columns: &'static str,
}

/// Primary keys, then what refers to them, then the application's own index.
pub const CONSTRAINTS: [&str; 19] = [
    "ALTER TABLE \"User\" ADD PRIMARY KEY (id)",
    "ALTER TABLE \"Model\" ADD PRIMARY KEY (id)",
    "ALTER TABLE \"ModelVersion\" ADD PRIMARY KEY (id)",
    "ALTER TABLE \"Post\" ADD PRIMARY KEY (id)",
    "ALTER TABLE \"Image\" ADD PRIMARY KEY (id)",
    "ALTER TABLE \"TagsOnImage\" ADD PRIMARY KEY (\"imageId\", \"tagId\")",
    "ALTER TABLE \"ImageTool\" ADD PRIMARY KEY (\"imageId\", \"toolId\")",
    "ALTER TABLE \"ImageTechnique\" ADD PRIMARY KEY (\"imageId\", \"techniqueId\")",
    "ALTER TABLE \"ImageResource\" ADD PRIMARY KEY (\"imageId\", \"modelVersionId\")",
    "ALTER TABLE \"CollectionItem\" ADD PRIMARY KEY (id)",
    "ALTER TABLE \"ModelVersion\" ADD FOREIGN KEY (\"modelId\") REFERENCES \"Model\" ON DELETE CASCADE",
    "ALTER TABLE \"Image\" ADD FOREIGN KEY (\"postId\") REFERENCES \"Post\" ON DELETE SET NULL",
    "ALTER TABLE \"TagsOnImage\" ADD FOREIGN KEY (\"imageId\") REFERENCES \"Image\" ON DELETE CASCADE",
    "ALTER TABLE \"ImageTool\" ADD FOREIGN KEY (\"imageId\") REFERENCES \"Image\" ON DELETE CASCADE",
    "ALTER TABLE \"ImageTechnique\" ADD FOREIGN KEY (\"imageId\") REFERENCES \"Image\" ON DELETE CASCADE",
    "ALTER TABLE \"CollectionItem\" ADD FOREIGN KEY (\"imageId\") REFERENCES \"Image\" ON DELETE CASCADE",
    "CREATE INDEX ON \"CollectionItem\" (\"imageId\", \"collectionId\")",
    // Deleting a post looks for its images, deleting a model for its versions.
    "CREATE INDEX ON \"Image\" (\"postId\")",
    "CREATE INDEX ON \"ModelVersion\" (\"modelId\")",
];

/// The table of metric events in ClickHouse; a metric's value is the sum of its deltas.
pub const METRICS: &str = "CREATE TABLE imageMetricEvents (imageId UInt32, metric LowCardinality(String), delta Int32, \
    createdAt DateTime64(3), insertedAt DateTime DEFAULT now()) ENGINE = MergeTree ORDER BY (imageId, metric)";

pub fn create(table: &Table) -> String {
    format!("CREATE TABLE {} ({})", table.name, table.columns)
}
