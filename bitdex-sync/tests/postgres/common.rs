//! A Postgres of one's own: a fresh database on the server that `DATABASE_URL` names, or a server started from the
//! binaries on this machine, in a temporary folder, on a free port.

#![allow(unreachable_pub)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bitdex_proto::{definition::Definition, ops::Op, snapshot::PgCursor, value::Value};
use bitdex_sync::{
    capture::{Consumer, Plan, Polled, Poller, Request},
    deliver::{Batch, DeliverError, Sink},
    postgres::{Database, Purpose},
    setup::{Done, Setup},
};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

/// A server that is stopped when its last user is gone.
struct Server {
    url: String,
    process: Option<Child>,
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // SIGINT: fast shutdown.
            let _ = Command::new("kill").args(["-INT", &process.id().to_string()]).status();
            let _ = process.wait();
        }
    }
}

static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

fn server() -> Arc<Server> {
    let mut shared: MutexGuard<'_, Weak<Server>> = SERVER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(match std::env::var("DATABASE_URL") {
        Ok(url) => Server { url, process: None, _folder: None },
        Err(_) => start(),
    });
    *shared = Arc::downgrade(&server);
    server
}

fn binaries() -> PathBuf {
    if let Ok(folder) = std::env::var("PG_BIN") {
        return folder.into();
    }
    let installed = ["/usr/lib/postgresql", "/usr/pgsql", "/opt/homebrew/opt", "/usr/local/opt"]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .max();
    let in_path = || {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
    };
    installed.or_else(in_path).expect("no Postgres: set DATABASE_URL, or PG_BIN to the folder of initdb and postgres")
}

/// A command run without root's rights, which Postgres refuses.
fn unprivileged(program: &Path) -> Command {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0");
    if !is_root {
        return Command::new(program);
    }
    let user = if fs::read_to_string("/etc/passwd").is_ok_and(|users| users.contains("\npostgres:")) {
        "postgres"
    } else {
        "nobody"
    };
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", &group_of(user), "--clear-groups"]).arg(program);
    command
}

fn group_of(user: &str) -> String {
    let out = Command::new("id").args(["-g", user]).output().expect("id");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn start() -> Server {
    let binaries = binaries();
    let folder = tempfile::Builder::new().prefix("bitdex-sync-test").tempdir().expect("a temporary folder");
    make_accessible(folder.path());
    let data = folder.path().join("data");
    let initdb = unprivileged(&binaries.join("initdb"))
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
        .arg(&data)
        .current_dir(folder.path())
        .output()
        .expect("initdb");
    assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
    for _ in 0..20 {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let log = fs::File::create(folder.path().join("log")).expect("a log file");
        let mut process = unprivileged(&binaries.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-k", "", "-h", "127.0.0.1"])
            .args(["-c", "fsync=off", "-c", "max_connections=60", "-c", "shared_buffers=32MB"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            // It listens before it lets anybody in; whoever connects tries again.
            let ready = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
            if ready {
                let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
                return Server { url, process: Some(process), _folder: Some(folder) };
            }
            if process.try_wait().expect("the server's state").is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = process.kill();
        let _ = process.wait();
    }
    panic!("Postgres does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
}

fn make_accessible(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("permissions");
}

/// A fresh database. Dropped with its server, or when the next run of the tests begins.
pub struct TestDatabase {
    pub url: String,
    pub database: Database,
    _server: Arc<Server>,
}

impl TestDatabase {
    pub async fn new() -> Self {
        let server = tokio::task::spawn_blocking(server).await.expect("a server");
        let name = format!("bitdex_test_{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::Relaxed));
        let admin = Database::new(&server.url).expect("a URL");
        let began = Instant::now();
        let mut admin = loop {
            match admin.connect(Purpose::Admin).await {
                Ok(connection) => break connection,
                Err(error) if began.elapsed() > Duration::from_secs(60) => panic!("{error:#}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name}")))
            .execute(&mut admin)
            .await
            .expect("drop");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.expect("create");
        let (base, _) = server.url.rsplit_once('/').expect("a URL with a database");
        let url = format!("{base}/{name}");
        Self { database: Database::new(&url).expect("a URL"), url, _server: server }
    }

    /// A session as an application has it: its own search path.
    pub async fn connect(&self) -> PgConnection {
        let mut connection = self.database.connect(Purpose::Admin).await.expect("Postgres");
        execute(&mut connection, "SET search_path TO public").await;
        connection
    }

    pub async fn with_schema(sql: &str) -> (Self, PgConnection) {
        let database = Self::new().await;
        let mut connection = database.connect().await;
        execute(&mut connection, sql).await;
        (database, connection)
    }

    pub async fn set_up(&self, definition: &Definition) -> Done {
        self.setup(definition).apply(&mut |_, _| {}).await.expect("setup")
    }

    pub fn setup<'a>(&'a self, definition: &'a Definition) -> Setup<'a> {
        Setup {
            definition,
            database: &self.database,
            runtime_role: None,
            writer_role: None,
            patience: Duration::from_secs(20),
        }
    }
}

pub async fn execute(connection: &mut PgConnection, sql: &str) {
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await {
        panic!("{error}: {sql}");
    }
}

pub async fn text(connection: &mut PgConnection, sql: &str) -> String {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await.expect(sql);
    let cell = |row: &sqlx::postgres::PgRow| row.try_get::<Option<String>, _>(0).expect("text").unwrap_or_default();
    rows.iter().map(cell).collect::<Vec<_>>().join(" ")
}

/// A shop, whose tables have little to do with images.
pub const SHOP_TABLES: &str = r#"
CREATE TABLE category (id int PRIMARY KEY, name text NOT NULL, hidden bool NOT NULL DEFAULT false);
CREATE TABLE product (id int PRIMARY KEY, title text NOT NULL, price numeric(10, 2), category_id int REFERENCES category,
    note text, seen int NOT NULL DEFAULT 0, released_at timestamptz);
CREATE TABLE product_tag (product_id int NOT NULL REFERENCES product ON DELETE CASCADE, tag text NOT NULL,
    weight int NOT NULL DEFAULT 1, PRIMARY KEY (product_id, tag));
CREATE TABLE stock (product_id int, store int, count int NOT NULL DEFAULT 1);
CREATE INDEX ON stock (product_id, store);
"#;

pub const SHOP: &str = r#"
index: shop
document: { table: product, key: id }
fields:
  title:       { type: string, filter: true }
  price:       { type: decimal(2), sort: true }
  expensive:   { type: bool, filter: true, sql: 'price > 100' }
  category_id: { type: int, filter: true }
  released_at: { type: timestamp }
lookups:
  category: { table: category, key: id, by: category_id, fields: { name: { type: string, filter: true } } }
members:
  tags:   { table: product_tag, key: product_id, value: tag, type: string, filter: true, where: 'weight > 0' }
  stores: { table: stock, key: product_id, value: store, type: int, filter: true, where: '"count" > 0' }
external:
  rank:   { type: int, sort: true }
  labels: { type: int, filter: true, many: true }
"#;

pub fn shop() -> Arc<Definition> {
    Arc::new(Definition::parse(SHOP).expect("the shop's definition"))
}

/// Takes everything and keeps it.
#[derive(Debug, Default)]
pub struct Collect {
    pub batches: Vec<Batch>,
}

impl Collect {
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.batches.iter().flat_map(|batch| &batch.ops)
    }
}

impl Sink for Collect {
    async fn deliver(&mut self, batch: Batch) -> Result<(), DeliverError> {
        self.batches.push(batch);
        Ok(())
    }
}

/// Follows a database as the daemon does, into memory.
pub struct Follower {
    pub poller: Poller,
    pub cursor: PgCursor,
}

impl Follower {
    pub async fn new(database: &TestDatabase, definition: &Arc<Definition>) -> Self {
        let consumer = Consumer::new(definition.index(), "test");
        let mut connection = database.database.connect(Purpose::Poll).await.expect("Postgres");
        let snapshot = text(&mut connection, "SELECT pg_current_snapshot()::text").await.parse().expect("a snapshot");
        let cursor = consumer.register(&mut connection, &snapshot).await.expect("a consumer");
        let plan = Arc::new(Plan::new(Arc::clone(definition), "test").expect("a plan"));
        Self { poller: Poller::connect(&database.database, plan).await.expect("a poller"), cursor }
    }

    /// The ops since the last poll, in a form to compare.
    pub async fn poll(&mut self, definition: &Definition) -> Vec<String> {
        let mut collect = Collect::default();
        let request = Request { progress: true, caught_up: false };
        match self.poller.poll(&self.cursor, request, &mut collect).await.expect("a poll") {
            Polled::Moved { cursor, .. } => self.cursor = cursor,
            Polled::Idle => panic!("progress was asked for"),
        }
        let mut ops: Vec<_> = collect.ops().map(|op| show(op, definition)).collect();
        // Within a batch only the order of truncates and of external ops means anything.
        ops.sort_by_key(|op| (!op.starts_with("truncate"), op.starts_with("external").then_some(()), op.clone()));
        ops
    }
}

/// `product 5: a | 1.50`, `product 5: gone`, `tags 5 +x`, `truncate tags`.
pub fn show(op: &Op, definition: &Definition) -> String {
    let schema = definition.schema();
    let value = |value: &Value| match value {
        Value::Bool(bool) => bool.to_string(),
        Value::Int(int) => int.to_string(),
        Value::Float(float) => float.get().to_string(),
        Value::Text(text) => text.to_string(),
    };
    match op {
        Op::Upsert { source, key, row } => {
            let row = row.as_ref().map_or("gone".to_owned(), |row| {
                row.iter().map(|cell| cell.as_ref().map_or("-".into(), value)).collect::<Vec<_>>().join(" | ")
            });
            format!("{} {key}: {row}", schema.sources[*source].name)
        }
        Op::Member { source, document, value: member, present } => {
            let sign = if *present { '+' } else { '-' };
            format!("{} {document} {sign}{}", schema.sources[*source].name, value(member))
        }
        Op::Truncate { source } => format!("truncate {}", schema.sources[*source].name),
        Op::Retain { source, first, last, keys } => {
            format!("retain {} {first} to {last}: {keys:?}", schema.sources[*source].name)
        }
        Op::Field { document, field, change } => {
            format!("external {document} {} {change:?}", schema.fields[*field].name)
        }
        Op::QueryOpSet { changes, .. } => format!("external query {}", changes.len()),
    }
}
