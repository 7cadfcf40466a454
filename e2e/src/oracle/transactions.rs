//! Random transactions over the workload's tables, of every kind that change capture must survive. What a connection
//! does depends on the seed and on its number alone, never on what the database answers.

use std::{fmt::Write as _, time::Duration};

use rand::{RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::workload::{
    Workload, base_model,
    rows::{DISABLED, timestamp},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Sql(String),
    /// COPY's text format.
    Copy {
        table: &'static str,
        rows: String,
    },
    /// The transaction stays open meanwhile.
    Pause(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub steps: Vec<Step>,
    /// Else it is rolled back.
    pub commits: bool,
}

/// Run once before the first transaction: the application's own trigger, which updates the row again.
pub const APPLICATION_TRIGGER: &str = r#"
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF pg_trigger_depth() = 1 THEN
    UPDATE "Image" SET flags = flags # 8, hash = coalesce(hash, '') || '+' WHERE id = NEW.id;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER again AFTER UPDATE OF "nsfwLevel" ON "Image" FOR EACH ROW
  WHEN (NEW."nsfwLevel" = 32) EXECUTE FUNCTION again();
"#;

/// Endless transactions of one connection.
#[derive(Debug)]
pub struct Script {
    random: ChaCha8Rng,
    workload: Workload,
    /// MERGE came with Postgres 15.
    merge: bool,
}

/// Ids that transactions meet on.
const HOT: u32 = 60;

impl Script {
    pub fn new(workload: Workload, connection: u64, major: u32) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(workload.seed);
        random.set_stream(2_000 + connection);
        Self { random, workload, merge: major >= 15 }
    }

    /// Images that exist at first, and some that do not; 0 is one of them.
    pub fn ids(workload: &Workload) -> u32 {
        workload.images + workload.images / 10
    }

    fn number(&mut self, below: u32) -> u32 {
        self.random.random_range(0..below.max(1))
    }

    fn odds(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn image(&mut self) -> u32 {
        let ids = if self.odds(0.5) { HOT } else { Self::ids(&self.workload) };
        self.number(ids)
    }

    fn post(&mut self) -> u32 {
        let posts = if self.odds(0.5) { HOT / 2 } else { self.workload.images / 4 };
        1 + self.number(posts)
    }

    fn version(&mut self) -> u32 {
        let versions = self.workload.versions() + 3;
        1 + self.number(versions)
    }

    fn model(&mut self) -> u32 {
        let models = self.workload.models() + 2;
        1 + self.number(models)
    }

    fn tag(&mut self) -> u32 {
        1 + self.number(40)
    }

    fn time(&mut self) -> String {
        if self.odds(0.2) {
            return "NULL".into();
        }
        let days = self.random.random_range(-700..=20_i64);
        format!("'{}'", timestamp(self.workload.now_us + days * 86_400_000_000 + i64::from(self.number(1_000_000))))
    }

    fn text(&mut self) -> String {
        if self.odds(0.3) {
            return "NULL".into();
        }
        // Order by bytes, escapes, quotes, the empty text and what is not ASCII.
        let texts = ["tos", "", "Ä", "a''b", "back\\slash", "tab\there", "😀", "CSAM", "ab", "aB"];
        format!("'{}'", texts.choose(&mut self.random).copied().unwrap_or("x"))
    }

    fn level(&mut self) -> u32 {
        1 << self.number(6)
    }
}

impl Iterator for Script {
    type Item = Transaction;

    fn next(&mut self) -> Option<Transaction> {
        let mut steps = Vec::new();
        let mut savepoints = 0;
        for _ in 0..=self.number(5) {
            if self.odds(0.06) {
                steps.push(Step::Pause(Duration::from_millis(self.random.random_range(1..250))));
            }
            if self.odds(0.12) {
                // Rolled back or kept, with what stands within.
                savepoints += 1;
                steps.push(Step::Sql(format!("SAVEPOINT s{savepoints}")));
                self.change(&mut steps);
                let end = if self.odds(0.5) { "ROLLBACK TO" } else { "RELEASE" };
                steps.push(Step::Sql(format!("{end} SAVEPOINT s{savepoints}")));
            } else {
                self.change(&mut steps);
            }
        }
        if self.odds(0.015) {
            steps.push(Step::Pause(Duration::from_millis(self.random.random_range(500..2_500))));
        }
        Some(Transaction { steps, commits: self.odds(0.9) })
    }
}

impl Script {
    fn change(&mut self, steps: &mut Vec<Step>) {
        match self.number(100) {
            0..=21 => self.change_image(steps),
            22..=51 => self.change_members(steps),
            52..=69 => self.change_lookup(steps),
            70..=79 => self.reparent(steps),
            80..=89 => self.change_collection(steps),
            90..=97 => self.change_key(steps),
            _ => self.truncate(steps),
        }
    }

    fn values(&mut self, id: u32) -> String {
        let (post, width) = (self.post(), self.number(4_000));
        let (flags, kind) = (self.number(1 << 15), if self.odds(0.9) { "image" } else { "video" });
        format!(
            "({id}, 'u{width}', {}, {}, {flags}, '{kind}', {}, {}, {}, '{}', (SELECT id FROM \"Post\" WHERE id = {post}), \
             {width}, NULL, '{{\"seed\": 1}}')",
            self.text(),
            self.level(),
            1 + self.number(50),
            self.text(),
            self.time(),
            timestamp(self.workload.now_us - i64::from(self.number(1_000_000_000))),
        )
    }

    fn change_image(&mut self, steps: &mut Vec<Step>) {
        let id = self.image();
        let mut sql = |sql: String| steps.push(Step::Sql(sql));
        match self.number(10) {
            0 => sql(format!("INSERT INTO \"Image\" VALUES {} ON CONFLICT DO NOTHING", self.values(id))),
            1 => sql(format!(
                "INSERT INTO \"Image\" VALUES {} ON CONFLICT (id) DO UPDATE SET flags = EXCLUDED.flags, \
                 \"blockedFor\" = EXCLUDED.\"blockedFor\", \"postId\" = EXCLUDED.\"postId\"",
                self.values(id)
            )),
            2 if self.merge => {
                let (level, values) = (self.level(), self.values(id));
                sql(format!(
                    "MERGE INTO \"Image\" i USING (VALUES ({id})) n(id) ON i.id = n.id \
                     WHEN MATCHED AND i.\"nsfwLevel\" = {level} THEN DELETE \
                     WHEN MATCHED THEN UPDATE SET \"nsfwLevel\" = {level} \
                     WHEN NOT MATCHED THEN INSERT VALUES {values}"
                ));
            }
            // Goes through the foreign keys' cascades.
            3 => sql(format!("DELETE FROM \"Image\" WHERE id = {id}")),
            4 => {
                sql(format!("DELETE FROM \"Image\" WHERE id = {id}"));
                sql(format!("INSERT INTO \"Image\" VALUES {}", self.values(id)));
            }
            5 => sql(format!("UPDATE \"Image\" SET \"nsfwLevel\" = {} WHERE id = {id}", self.level())),
            6 => sql(format!("UPDATE \"Image\" SET flags = {}, url = 'again' WHERE id = {id}", self.number(1 << 15))),
            // No column of the index.
            7 => sql(format!("UPDATE \"Image\" SET meta = NULL WHERE id = {id}")),
            8 => sql(format!(
                "UPDATE \"Image\" SET \"scannedAt\" = {}, \"blockedFor\" = {} WHERE id BETWEEN {id} AND {id} + {}",
                self.time(),
                self.text(),
                self.number(30)
            )),
            _ => sql(format!("UPDATE \"Image\" SET hash = {}, height = NULL WHERE id = {id}", self.text())),
        }
    }

    fn change_members(&mut self, steps: &mut Vec<Step>) {
        let (id, tag, version) = (self.image(), self.tag(), self.version());
        let attributes = if self.odds(0.3) { DISABLED } else { 0 };
        let mut sql = |sql: String| steps.push(Step::Sql(sql));
        match self.number(12) {
            0 | 1 => sql(format!(
                "INSERT INTO \"TagsOnImage\" SELECT id, {tag}, {attributes} FROM \"Image\" WHERE id = {id} \
                 ON CONFLICT (\"imageId\", \"tagId\") DO UPDATE SET attributes = EXCLUDED.attributes"
            )),
            2 => sql(format!("DELETE FROM \"TagsOnImage\" WHERE \"imageId\" = {id} AND \"tagId\" <= {tag}")),
            3 => {
                sql(format!("UPDATE \"TagsOnImage\" SET attributes = attributes # {DISABLED} WHERE \"imageId\" = {id}"))
            }
            // A key of two columns, one of them changes.
            4 => sql(format!(
                "UPDATE \"TagsOnImage\" t SET \"tagId\" = {tag} WHERE \"imageId\" = {id} AND \"tagId\" = {} \
                 AND NOT EXISTS (SELECT FROM \"TagsOnImage\" o WHERE o.\"imageId\" = {id} AND o.\"tagId\" = {tag})",
                self.tag()
            )),
            // Of a document that may come later or never.
            5 | 6 => sql(format!(
                "INSERT INTO \"ImageResource\" VALUES ({id}, {version}, {}) ON CONFLICT (\"imageId\", \"modelVersionId\") \
                 DO UPDATE SET detected = EXCLUDED.detected",
                self.odds(0.7)
            )),
            7 => sql(format!("DELETE FROM \"ImageResource\" WHERE \"imageId\" = {id}")),
            8 => sql(format!(
                "UPDATE \"ImageResource\" SET detected = NOT detected WHERE \"modelVersionId\" = {version}"
            )),
            9 => sql(format!("DELETE FROM \"ImageTool\" WHERE \"imageId\" BETWEEN {id} AND {id} + 5")),
            10 => sql(format!(
                "INSERT INTO \"ImageTechnique\" SELECT id, {} FROM \"Image\" WHERE id BETWEEN {id} AND {id} + 9 \
                 ON CONFLICT DO NOTHING",
                1 + self.number(20)
            )),
            _ => {
                let first = self.workload.versions() + 1_000 + self.number(100_000);
                let mut rows = String::new();
                for more in 0..=self.number(5) {
                    let image = self.image();
                    // Writing to a String cannot fail.
                    let _ = writeln!(rows, "{image}\t{}\tt", first + more);
                }
                steps.push(Step::Copy { table: "\"ImageResource\"", rows });
            }
        }
    }

    fn change_lookup(&mut self, steps: &mut Vec<Step>) {
        let (post, version, model) = (self.post(), self.version(), self.model());
        let base = base_model(1 + self.number(5));
        let sql = match self.number(12) {
            0..=2 => format!("UPDATE \"Post\" SET \"publishedAt\" = {} WHERE id = {post}", self.time()),
            3 => format!(
                "UPDATE \"Post\" SET availability = 'Private', \"modelVersionId\" = {version} WHERE id = {post}"
            ),
            4 => format!("UPDATE \"Post\" SET availability = 'Public', \"modelVersionId\" = NULL WHERE id = {post}"),
            5 => format!("DELETE FROM \"Post\" WHERE id = {post}"),
            6 | 7 => format!(
                "INSERT INTO \"Post\" VALUES ({post}, 1, {}, 'Public', {version}) ON CONFLICT (id) DO UPDATE \
                 SET \"publishedAt\" = EXCLUDED.\"publishedAt\"",
                self.time()
            ),
            8 => format!("UPDATE \"ModelVersion\" SET \"baseModel\" = '{base}' WHERE id = {version}"),
            9 => format!("UPDATE \"Model\" SET poi = NOT poi WHERE id = {model}"),
            // Its versions go with it.
            10 => format!("DELETE FROM \"Model\" WHERE id = {model}"),
            _ => {
                steps.push(Step::Sql(format!(
                    "INSERT INTO \"Model\" VALUES ({model}, 'LORA', {}) ON CONFLICT DO NOTHING",
                    self.odds(0.5)
                )));
                format!(
                    "INSERT INTO \"ModelVersion\" VALUES ({version}, '{base}', {model}) ON CONFLICT (id) DO UPDATE \
                     SET \"baseModel\" = EXCLUDED.\"baseModel\""
                )
            }
        };
        steps.push(Step::Sql(sql));
    }

    fn reparent(&mut self, steps: &mut Vec<Step>) {
        let (id, post, version, model) = (self.image(), self.post(), self.version(), self.model());
        let sql = match self.number(4) {
            0 => format!("UPDATE \"Image\" SET \"postId\" = NULL WHERE id = {id}"),
            1 => format!(
                "UPDATE \"ModelVersion\" SET \"modelId\" = {model} WHERE id = {version} \
                 AND EXISTS (SELECT FROM \"Model\" WHERE id = {model})"
            ),
            2 => format!(
                "UPDATE \"Image\" SET \"postId\" = {post} WHERE \"postId\" = {} \
                 AND EXISTS (SELECT FROM \"Post\" WHERE id = {post})",
                self.post()
            ),
            _ => format!(
                "UPDATE \"Image\" SET \"postId\" = {post} WHERE id BETWEEN {id} AND {id} + 3 \
                 AND EXISTS (SELECT FROM \"Post\" WHERE id = {post})"
            ),
        };
        steps.push(Step::Sql(sql));
    }

    /// Rows whose pair of document and value may stand there twice.
    fn change_collection(&mut self, steps: &mut Vec<Step>) {
        let (image, collection) = (self.image(), 1 + self.number(10));
        let id = 1_000_000 + self.number(500);
        let status = if self.odds(0.7) { "ACCEPTED" } else { "REVIEW" };
        let sql = match self.number(5) {
            0 | 1 => format!(
                "INSERT INTO \"CollectionItem\" SELECT {id}, {collection}, id, '{status}' FROM \"Image\" \
                 WHERE id = {image} ON CONFLICT (id) DO UPDATE SET \"imageId\" = EXCLUDED.\"imageId\", \
                 \"collectionId\" = EXCLUDED.\"collectionId\""
            ),
            2 => format!("UPDATE \"CollectionItem\" SET status = '{status}' WHERE \"imageId\" = {image}"),
            3 => format!("DELETE FROM \"CollectionItem\" WHERE id = {id}"),
            _ => format!("UPDATE \"CollectionItem\" SET \"imageId\" = NULL WHERE id = {id}"),
        };
        steps.push(Step::Sql(sql));
    }

    fn change_key(&mut self, steps: &mut Vec<Step>) {
        let (from, to) = (self.image(), self.image());
        let mut sql = |sql: String| steps.push(Step::Sql(sql));
        match self.number(4) {
            0 | 1 => {
                for table in ["\"TagsOnImage\"", "\"ImageTool\"", "\"ImageTechnique\"", "\"CollectionItem\""] {
                    sql(format!("DELETE FROM {table} WHERE \"imageId\" = {from}"));
                }
                sql(format!(
                    "UPDATE \"Image\" SET id = {to} WHERE id = {from} \
                     AND NOT EXISTS (SELECT FROM \"Image\" WHERE id = {to})"
                ));
            }
            2 => sql(format!(
                "UPDATE \"ImageResource\" SET \"imageId\" = {to} WHERE \"imageId\" = {from} \
                 AND NOT EXISTS (SELECT FROM \"ImageResource\" WHERE \"imageId\" = {to})"
            )),
            _ => {
                let (from, to) = (self.version(), self.version());
                sql(format!(
                    "UPDATE \"ModelVersion\" SET id = {to} WHERE id = {from} \
                     AND NOT EXISTS (SELECT FROM \"ModelVersion\" WHERE id = {to})"
                ));
            }
        }
    }

    fn truncate(&mut self, steps: &mut Vec<Step>) {
        // Rare, and filled again: an empty table tests little.
        if self.odds(0.8) {
            return self.change_members(steps);
        }
        let (table, value) = [
            ("\"ImageTool\"", "1 + id % 60"),
            ("\"ImageTechnique\"", "1 + id % 20"),
            ("\"TagsOnImage\"", "1 + id % 40"),
            ("\"ImageResource\"", "1 + id % 15, id % 5 <> 0"),
        ]
        .choose(&mut self.random)
        .copied()
        .unwrap_or(("\"ImageTool\"", "1"));
        steps.push(Step::Sql(format!("TRUNCATE {table}")));
        steps.push(Step::Sql(format!(
            "INSERT INTO {table} SELECT id, {value} FROM \"Image\" WHERE id % {} = 0",
            2 + self.number(4)
        )));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_script() {
        let workload = Workload { images: 2_000, seed: 3, now_us: 1_767_225_600_000_000 };
        let script = |connection| Script::new(workload, connection, 18).take(300).collect::<Vec<_>>();
        assert_eq!(script(0), script(0));
        assert_ne!(script(0), script(1));
        let all = format!("{:?}", Script::new(workload, 0, 18).take(3_000).collect::<Vec<_>>());
        for kind in [
            "INSERT",
            "UPDATE",
            "DELETE",
            "TRUNCATE",
            "MERGE",
            "ON CONFLICT",
            "Copy",
            "ROLLBACK TO",
            "RELEASE",
            "SET id = ",
            "Pause",
            "commits: false",
        ] {
            assert!(all.contains(kind), "{kind}");
        }
        assert!(!format!("{:?}", Script::new(workload, 0, 14).take(3_000).collect::<Vec<_>>()).contains("MERGE"));
    }
}
