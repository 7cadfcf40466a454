//! One run of the oracle test.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{client::Client, definition::Definition, query::Consistency, schema::Origin};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{
    chaos::Chaos,
    documents::{self, Documents, differences},
    external::External,
    history::{self, History},
    metrics::Metrics,
    queries::{self, RandomQueries},
    transactions::{APPLICATION_TRIGGER, Script, Step, Transaction},
    upheaval,
};
use crate::{
    clickhouse::ClickHouse,
    folders, http,
    postgres::{self, Postgres, Wanted},
    processes::{self, Feed, Options as ProcessOptions, Pair},
    stage::sample,
    terminal::{count, say, step},
    wait,
    workload::{Workload, load::load},
};

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub images: u32,
    pub seed: u64,
    /// Major version of Postgres; `None`: whichever is here.
    pub postgres: Option<u32>,
    pub connections: u64,
    /// Of all connections together.
    pub transactions: u64,
    /// Quiet points.
    pub rounds: u64,
    /// Random queries at the end.
    pub queries: u64,
    /// Whether one transaction of the last round changes more keys than one batch takes.
    pub backlog: bool,
}

impl Options {
    /// What closes an issue.
    pub fn full(seed: u64) -> Self {
        Self {
            images: 20_000,
            seed,
            postgres: None,
            connections: 8,
            transactions: 6_000,
            rounds: 12,
            queries: 2_000,
            backlog: true,
        }
    }

    /// What every change is tested with.
    pub fn reduced(seed: u64) -> Self {
        Self {
            images: 2_000,
            seed,
            postgres: None,
            connections: 6,
            transactions: 900,
            rounds: 3,
            queries: 250,
            backlog: false,
        }
    }
}

impl Options {
    /// Small, so that a load has more than a thousand parts, and takes long enough to be killed midway.
    fn rows_per_part(&self) -> u32 {
        (self.images / 100).max(10)
    }

    /// The round in which the index is loaded anew.
    fn round_of_load(&self) -> u64 {
        self.rounds / 2 + 1
    }
}

/// What a run that found no difference did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    pub postgres: String,
    pub committed: u64,
    pub rolled_back: u64,
    pub kills: u64,
    pub quiet_points: u64,
    pub documents: u64,
    pub queries: u64,
    pub ids: u64,
}

/// How long the index may take to reach what was committed: a pod that was killed opens its store first.
const CATCH_UP: Duration = Duration::from_secs(60);

struct Run {
    options: Options,
    workload: Workload,
    definition: Definition,
    postgres: Postgres,
    clickhouse: ClickHouse,
    pair: Pair,
    clients: Vec<Client>,
    reader: PgConnection,
    history: Arc<History>,
    external: External,
    metrics: Metrics,
}

/// Runs it; an error tells the seed, the differences, and the ends of the logs.
pub async fn run(options: Options) -> Result<Summary> {
    let name = format!("oracle-{}", options.postgres.map_or("any".into(), |major| major.to_string()));
    let logs = folders::logs(&name)?;
    let outcome = Box::pin(run_in(options, &logs)).await;
    outcome.with_context(|| format!("the oracle test failed with {options:?}; logs in {}", logs.display()))
}

async fn run_in(options: Options, logs: &std::path::Path) -> Result<Summary> {
    let mut run = Run::start(options, logs).await?;
    let mut summary = Summary { postgres: run.postgres.version().to_owned(), ..Summary::default() };
    if let Err(error) = run.all(&mut summary).await {
        return Err(error.context(run.pair.tails()));
    }
    run.pair.terminate().await?;
    run.clickhouse.close().await?;
    drop(run.reader);
    run.postgres.close().await?;
    Ok(summary)
}

impl Run {
    async fn start(options: Options, logs: &std::path::Path) -> Result<Self> {
        let definition_file: PathBuf = folders::workspace().join("docs/examples/images.yaml");
        let definition = Definition::load(&definition_file)?;
        let binaries = processes::build().await?;
        let wanted = Wanted { major: options.postgres, ..Wanted::default() };
        let postgres = Postgres::start(&wanted, logs).await?;
        let clickhouse = ClickHouse::start(logs).await?;
        step(&format!("Oracle test on Postgres {}, seed {}", postgres.version(), options.seed));
        let now_us = chrono::Utc::now().timestamp_micros();
        let workload = Workload { images: options.images, seed: options.seed, now_us };
        load(workload, &postgres, &clickhouse).await?;
        let mut reader = postgres.connect().await?;
        postgres::execute(&mut reader, APPLICATION_TRIGGER).await?;
        documents::pin(&mut reader).await?;
        let feed = Feed {
            definition: definition_file,
            database_url: postgres.url().into(),
            clickhouse_url: clickhouse.url().into(),
            clickhouse_database: clickhouse.database().into(),
        };
        let rows_per_part = options.rows_per_part().to_string();
        let options_of_processes = ProcessOptions {
            // Small checkpoints, so that opening from them is tested too.
            query: &["--unflushed-mb", "4", "--drain-seconds", "0"],
            sync: &["--metrics-interval-ms", "200", "--load-rows-per-part", &rows_per_part, "--load-connections", "2"],
        };
        let mut pair = Pair::new(&binaries, &feed, logs, 2, options_of_processes)?;
        say(pair.command("check").await?.trim());
        pair.command("setup").await?;
        pair.start_pods()?;
        let clients = pair
            .grpc()
            .into_iter()
            .map(|address| Ok(Client::connect(vec![address])?.with_deadline(CATCH_UP)))
            .collect::<Result<Vec<_>>>()?;
        let external = External::new(options.seed, Script::ids(&workload), &definition.pg_schema());
        let metrics = Metrics::new(&workload, Script::ids(&workload));
        let history = Arc::new(History::default());
        Ok(Self {
            options,
            workload,
            definition,
            postgres,
            clickhouse,
            pair,
            clients,
            reader,
            history,
            external,
            metrics,
        })
    }

    async fn all(&mut self, summary: &mut Summary) -> Result<()> {
        let mut chaos = Chaos::new(self.options.seed);
        let scripts = (0..self.options.connections).map(|n| Script::new(self.workload, n, self.postgres.major()));
        let mut scripts: Vec<Script> = scripts.collect();
        for round in 1..=self.options.rounds {
            scripts = self.round(round, scripts, &mut chaos, summary).await?;
            self.quiet_point(summary).await.with_context(|| format!("at quiet point {round}"))?;
            say(format!(
                "round {round}/{}: {} transactions, {} rolled back, {} kills, {} documents equal on each pod",
                self.options.rounds,
                summary.committed,
                summary.rolled_back,
                chaos.kills,
                count(summary.documents)
            ));
        }
        summary.kills = chaos.kills;
        self.external.finish(&self.history).await?;
        self.random_queries(summary).await?;
        self.a_lost_op_is_seen().await
    }

    /// Sync loads the index while others write, and it and the pods are killed midway.
    async fn load(&mut self, chaos: &mut Chaos) -> Result<()> {
        // What services wrote since setup counts, though no index was there yet.
        let mut side = self.postgres.connect().await?;
        for _ in 0..20 {
            self.external.step(&self.postgres, &mut side, &self.history).await?;
        }
        self.external.leave_open(&self.postgres, &self.history).await?;
        self.pair.sync.start()?;
        self.rows_are_read().await?;
        chaos.strike_sync(&mut self.pair, &self.history, 30).await?;
        chaos.strike_pods(&mut self.pair, &self.history, 150).await?;
        wait::until("a load that goes on with another's parts", CATCH_UP, || async {
            let log = std::fs::read_to_string(self.pair.sync.log())?;
            let resumed = log.contains("going on with a load");
            Ok(if resumed { Ok(()) } else { Err("no load was interrupted".into()) })
        })
        .await
    }

    /// Waits until sync has read rows of a load; looks often, because a load is quick.
    async fn rows_are_read(&self) -> Result<()> {
        let http = http::client(Duration::from_secs(10))?;
        let url = format!("http://{}/metrics", self.pair.sync.http());
        let read = async {
            loop {
                if let Ok(answer) = http.get(&url).send().await
                    && let Ok(page) = answer.text().await
                    && sample(&page, "bitdex_sync_load_rows_total").is_some_and(|rows| rows > 0)
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(CATCH_UP, read).await.context("sync reads no rows of a load")
    }

    /// Transactions from all connections, metrics and external ops, while processes are killed. In the first round the
    /// index is loaded meanwhile, in a later one it is loaded anew.
    async fn round(
        &mut self,
        round: u64,
        scripts: Vec<Script>,
        chaos: &mut Chaos,
        summary: &mut Summary,
    ) -> Result<Vec<Script>> {
        let each = (self.options.transactions / self.options.rounds / self.options.connections).max(1);
        let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let mut writers = Vec::new();
        for (number, mut script) in scripts.into_iter().enumerate() {
            let mut connection = self.postgres.connect().await?;
            let (history, counts) = (Arc::clone(&self.history), Arc::clone(&counts));
            writers.push(tokio::spawn(async move {
                prepare(&mut connection).await?;
                for n in 0..each {
                    let who = format!("c{number} t{round}.{n}");
                    let Some(transaction) = script.next() else { break };
                    let committed = perform(&mut connection, &transaction, &who, &history).await?;
                    let counter = if committed { &counts.0 } else { &counts.1 };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(script)
            }));
        }
        let mut side = self.postgres.connect().await?;
        if round == 1 {
            wait::until("a first transaction", CATCH_UP, || async {
                let committed = counts.0.load(Ordering::Relaxed) > 0;
                Ok(if committed { Ok(()) } else { Err("none".into()) })
            })
            .await?;
            self.load(chaos).await?;
        }
        let load_anew = (round == self.options.round_of_load()).then(|| self.load_anew()).transpose()?;
        if self.options.backlog && round == self.options.rounds {
            upheaval::backlog(&mut side, &self.definition.pg_schema(), &self.history).await?;
            chaos.strike_sync(&mut self.pair, &self.history, 300).await?;
        }
        while writers.iter().any(|writer| !writer.is_finished()) {
            let strike = chaos.strike(&mut self.pair, &self.history);
            let side_changes = async {
                for _ in 0..5 {
                    self.external.step(&self.postgres, &mut side, &self.history).await?;
                }
                self.metrics.step(&self.clickhouse).await
            };
            tokio::try_join!(strike, side_changes)?;
        }
        if let Some(load) = load_anew {
            load.await.context("a load anew panicked")??;
        }
        let mut scripts = Vec::new();
        for writer in writers {
            scripts.push(writer.await.context("a writer panicked")??);
        }
        summary.committed += counts.0.load(Ordering::Relaxed);
        summary.rolled_back += counts.1.load(Ordering::Relaxed);
        Ok(scripts)
    }

    fn load_anew(&self) -> Result<tokio::task::JoinHandle<Result<()>>> {
        let client = Client::connect(self.pair.grpc())?.with_deadline(CATCH_UP);
        let index = self.definition.index().to_owned();
        let rows = self.options.rows_per_part();
        let load = upheaval::load_anew(self.pair.commands(), client, index, rows, Arc::clone(&self.history));
        Ok(tokio::spawn(load))
    }

    /// A transaction that commits after everything before it; the index that has it has all.
    async fn mark(&mut self) -> Result<Consistency> {
        let xid = postgres::scalar(&mut self.reader, "SELECT pg_catalog.pg_current_xact_id()::text").await?;
        Ok(Consistency::PostgresXid(xid.parse()?))
    }

    /// Nobody writes: each pod must equal the oracle.
    async fn quiet_point(&mut self, summary: &mut Summary) -> Result<()> {
        self.history.add("quiet point", "");
        self.pair.ready(CATCH_UP).await?;
        let mark = self.mark().await?;
        self.compare(&mark).await?;
        // And an op by query, whose matches are known now.
        let documents = documents::of_view(&mut self.reader, &self.definition).await?;
        let schema = Arc::clone(self.definition.schema());
        self.external.step_by_query(&mut self.reader, &documents, &schema).await?;
        let mark = self.mark().await?;
        let documents = self.compare(&mark).await?;
        self.same_hash().await?;
        summary.quiet_points += 1;
        summary.documents = documents.len() as u64;
        Ok(())
    }

    /// Every document of every pod at `mark`, with metrics as soon as they have come.
    async fn compare(&mut self, mark: &Consistency) -> Result<Documents> {
        let schema = Arc::clone(self.definition.schema());
        let mut wanted = documents::of_view(&mut self.reader, &self.definition).await?;
        self.external.fill(&mut wanted, &schema);
        documents::add_metrics(&mut wanted, &self.definition, &self.clickhouse).await?;
        let is_metric = |field: &bitdex_proto::schema::Field| matches!(field.origin, Origin::Metric { .. });
        for (number, client) in self.clients.iter().enumerate() {
            let found = documents::of_pod(client, &schema, mark).await.with_context(|| format!("pod {number}"))?;
            let wrong = differences(&wanted, &found, &schema, |field| !is_metric(field));
            if !wrong.is_empty() {
                let ops = self.definition.pg_schema();
                let report = history::report(&wrong, &self.history, &mut self.reader, &ops).await?;
                bail!("pod {number} at {mark:?}: {report}");
            }
            // ClickHouse has no transactions to wait for: its rows are polled.
            wait::until("the metrics of ClickHouse", CATCH_UP, || async {
                let found = documents::of_pod(client, &schema, mark).await?;
                let wrong = differences(&wanted, &found, &schema, is_metric);
                Ok(match wrong.first() {
                    None => Ok(()),
                    Some(first) => Err(format!("pod {number}: {} differences, first {first:?}", wrong.len())),
                })
            })
            .await?;
        }
        Ok(wanted)
    }

    /// Writer and reader hold the same state at the same sequence number.
    async fn same_hash(&self) -> Result<()> {
        let index = self.definition.index();
        wait::until("the pods at one sequence number", CATCH_UP, || async {
            let mut all = Vec::new();
            for client in &self.clients {
                all.push(client.describe(index).await?);
            }
            let [first, rest @ ..] = all.as_slice() else { return Ok(Ok(())) };
            if let Some(other) = rest.iter().find(|other| other.sequence != first.sequence) {
                return Ok(Err(format!("{} and {}", first.sequence, other.sequence)));
            }
            match rest.iter().find(|other| other.state_hash != first.state_hash) {
                Some(other) => bail!("at sequence {} the states differ: {first:?} and {other:?}", first.sequence),
                None => Ok(Ok(())),
            }
        })
        .await
    }

    async fn random_queries(&mut self, summary: &mut Summary) -> Result<()> {
        let schema = Arc::clone(self.definition.schema());
        let mark = self.mark().await?;
        let documents = self.compare(&mark).await?;
        let table = "pg_temp.flat";
        documents::materialise(&mut self.reader, &self.definition, &self.clickhouse, table).await?;
        self.fill_external(table, &documents).await?;
        let now_us = chrono::Utc::now().timestamp_micros();
        let requests = RandomQueries::new(self.options.seed, &schema, &documents, now_us);
        for (number, request) in requests.take(self.options.queries as usize).enumerate() {
            let client = &self.clients[number % self.clients.len()];
            let ids = queries::compare(&request, client, &mut self.reader, table, &self.definition)
                .await
                .with_context(|| format!("random query {number}"))?;
            summary.ids += ids;
            summary.queries += 1;
        }
        say(format!("{} random queries gave the same {} ids", summary.queries, count(summary.ids)));
        Ok(())
    }

    async fn fill_external(&mut self, table: &str, documents: &Documents) -> Result<()> {
        use bitdex_proto::value::{FieldValue, Value};
        let schema = self.definition.schema();
        let fields: Vec<usize> =
            (0..schema.fields.len()).filter(|id| schema.fields[*id].origin == Origin::External).collect();
        for (id, values) in documents {
            for field in &fields {
                let value = match &values[*field] {
                    FieldValue::One(Value::Int(int)) => int.to_string(),
                    FieldValue::Many(texts) => {
                        let texts = texts.iter().filter_map(|value| match value {
                            Value::Text(text) => Some(format!("'{text}'")),
                            _ => None,
                        });
                        format!("ARRAY[{}]", texts.collect::<Vec<_>>().join(", "))
                    }
                    _ => continue,
                };
                let name = crate::sql::quote(&schema.fields[*field].name);
                postgres::execute(&mut self.reader, &format!("UPDATE {table} SET {name} = {value} WHERE id = {id}"))
                    .await?;
            }
        }
        Ok(())
    }

    /// The test of the test: an op taken away behind the index's back must show as a difference.
    async fn a_lost_op_is_seen(&mut self) -> Result<()> {
        let ops = self.definition.pg_schema();
        let lost = format!(
            "BEGIN; UPDATE public.\"Image\" SET width = 123456 WHERE id = (SELECT min(id) FROM public.\"Image\"); \
             DELETE FROM {ops}.ops WHERE xid = pg_catalog.pg_current_xact_id(); COMMIT"
        );
        postgres::execute(&mut self.reader, &lost).await?;
        let mark = self.mark().await?;
        match self.compare(&mark).await {
            Ok(_) => bail!("an op was lost, and no difference was found"),
            Err(error) if error.to_string().contains("width: should be 123456") => Ok(()),
            Err(error) => Err(error.context("after an op was lost")),
        }
    }
}

/// Waits of a writer end soon, so that deadlocks and locks behind a TRUNCATE do not stall the run.
async fn prepare(connection: &mut PgConnection) -> Result<()> {
    postgres::execute(connection, "SET lock_timeout = '3s'").await?;
    // Only a superuser may; without it deadlocks take a second each.
    let _ = postgres::execute(connection, "SET deadlock_timeout = '50ms'").await;
    Ok(())
}

/// SQLSTATEs that colliding transactions meet: unique, foreign key, serialization, deadlock, lock timeout.
const COLLISIONS: [&str; 6] = ["23505", "23503", "40001", "40P01", "55P03", "21000"];

/// Whether it committed.
async fn perform(
    connection: &mut PgConnection,
    transaction: &Transaction,
    who: &str,
    history: &History,
) -> Result<bool> {
    postgres::execute(connection, "BEGIN").await?;
    for step in &transaction.steps {
        let (what, outcome) = match step {
            Step::Sql(sql) => {
                let outcome = sqlx::raw_sql(AssertSqlSafe(sql.as_str())).execute(&mut *connection).await.map(|_| ());
                (sql.clone(), outcome)
            }
            Step::Copy { table, rows } => (format!("COPY {table}: {rows:?}"), copy(connection, table, rows).await),
            Step::Pause(pause) => {
                tokio::time::sleep(*pause).await;
                continue;
            }
        };
        match outcome {
            Ok(()) => history.add(who, what),
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| COLLISIONS.contains(&&*code)) => {
                history.add(who, format!("{what} -- failed: {error}; ROLLBACK"));
                postgres::execute(connection, "ROLLBACK").await?;
                return Ok(false);
            }
            Err(error) => return Err(error).with_context(|| format!("{who}: {what}")),
        }
    }
    let end = if transaction.commits { "COMMIT" } else { "ROLLBACK" };
    postgres::execute(connection, end).await?;
    history.add(who, end);
    Ok(transaction.commits)
}

async fn copy(connection: &mut PgConnection, table: &str, rows: &str) -> Result<(), sqlx::Error> {
    let mut copy = connection.copy_in_raw(&format!("COPY {table} FROM STDIN")).await?;
    copy.send(rows.as_bytes()).await?;
    copy.finish().await.map(|_| ())
}
