//! Starts `bitdex-query` on free ports, reads its log, ends it; waits for conditions.

use std::{
    fs,
    future::Future,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bitdex_proto::{client::Client, definition::Definition, schema::Schema};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;
use tempfile::TempDir;

pub(crate) const DEFINITION: &str = include_str!("items.yaml");
/// Generous, because the machine may be busy; nothing waits that long where all is well.
const PATIENCE: Duration = Duration::from_secs(30);

/// A data folder and a definition.
#[derive(Debug)]
pub(crate) struct Folder {
    root: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self::with_definition(DEFINITION)
    }

    pub(crate) fn with_definition(yaml: &str) -> Self {
        let root = TempDir::new().unwrap();
        fs::write(root.path().join("items.yaml"), yaml).unwrap();
        Self { root }
    }

    pub(crate) fn definition(&self) -> PathBuf {
        self.root.path().join("items.yaml")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub(crate) fn schema(&self) -> Arc<Schema> {
        Arc::clone(Definition::load(self.definition()).unwrap().schema())
    }

    /// `bitdex-query serve` on this folder, not started yet.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitdex-query"));
        command.arg("serve").arg("--definition").arg(self.definition()).arg("--data").arg(self.data()).args([
            "--grpc-listen=127.0.0.1:0",
            "--http-listen=127.0.0.1:0",
            "--log-format=json",
        ]);
        command
    }

    /// Starts a process that answers (not necessarily ready) with no lame-duck time.
    pub(crate) fn start(&self) -> Process {
        self.start_with(&["--drain-seconds=0"])
    }

    pub(crate) fn start_with(&self, options: &[&str]) -> Process {
        let mut command = self.command();
        command.args(options);
        Process::start(command)
    }

    /// Files below the data folder whose name ends so.
    pub(crate) fn files(&self, ending: &str) -> Vec<PathBuf> {
        fn walk(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, ending, found);
                } else if path.to_string_lossy().ends_with(ending) {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.data(), ending, &mut found);
        found.sort();
        found
    }
}

/// A running `bitdex-query serve`; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// host:port
    pub(crate) grpc: String,
    pub(crate) http: String,
}

/// A client for plain HTTP. Built with the whole workspace, its library wants TLS set up all the same.
pub(crate) fn http() -> reqwest::Client {
    // An error means that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        thread::spawn({
            let log = Arc::clone(&log);
            move || lines.map_while(Result::ok).for_each(|line| log.lock().unwrap().push(line))
        });
        let mut process = Self { child, log, grpc: String::new(), http: String::new() };
        let start = Instant::now();
        while process.grpc.is_empty() {
            assert!(start.elapsed() < PATIENCE, "it does not start: {}", process.log());
            assert!(process.child.try_wait().unwrap().is_none(), "it ended: {}", process.log());
            let lines = (process.line("listening"), process.line("store opened"));
            if let (Some(line), Some(_)) = lines {
                process.grpc = line["grpc"].as_str().unwrap().into();
                process.http = line["http"].as_str().unwrap().into();
            } else {
                thread::yield_now();
            }
        }
        process
    }

    fn line(&self, message: &str) -> Option<Json> {
        let log = self.log.lock().unwrap();
        log.iter().filter_map(|line| serde_json::from_str::<Json>(line).ok()).find(|line| line["message"] == message)
    }

    /// Everything it wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(vec![self.grpc.clone()]).unwrap().with_deadline(Duration::from_secs(5))
    }

    /// POSTs JSON text; the status and the answer.
    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Json) {
        let url = format!("http://{}{path}", self.http);
        let answer = http().post(url).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The status and the text.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = http().get(format!("http://{}{path}", self.http)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until the answer is there; panics with `what` where it does not come.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
