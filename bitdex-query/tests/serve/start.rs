//! What stops a process from starting, and what it says.

use std::{
    fs,
    net::TcpStream,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Output},
};

use rustix::process::Signal;

use crate::{
    feed::{batch, ingest, load, open, upsert},
    process::{DEFINITION, Folder, Process, eventually, http},
    queries::ready,
};

fn serve(folder: &Folder) -> Output {
    folder.command().output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_definition_is_told_by_line() {
    let folder = Folder::with_definition(&DEFINITION.replace("by: categoryId", "by: categorieId"));
    let output = serve(&folder);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("line 12") && stderr(&output).contains("categorieId"), "{}", stderr(&output));
    assert!(!folder.data().exists(), "nothing was written");

    let output = Command::new(env!("CARGO_BIN_EXE_bitdex-query"))
        .args(["validate", "--definition"])
        .arg(folder.definition())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("line 12"), "{}", stderr(&output));
}

#[test]
fn a_wrong_command_line_is_told() {
    let folder = Folder::new();
    for (arguments, says) in [
        (vec!["--grpc-listen=nowhere"], "--grpc-listen"),
        (vec!["--unflushed-mb=0"], "--unflushed-mb"),
        (vec!["--log=bitdex_query=loudest"], "--log"),
        (vec!["--no-such-option"], "--no-such-option"),
        (vec!["--definition=/no/such/file.yaml"], "/no/such/file.yaml"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitdex-query"));
        command.arg("serve").arg("--data").arg(folder.data());
        if !arguments[0].starts_with("--definition") {
            command.arg("--definition").arg(folder.definition());
        }
        let output = command.args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{arguments:?}: {}", stderr(&output));
    }
    let help = Command::new(env!("CARGO_BIN_EXE_bitdex-query")).args(["serve", "--help"]).output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    let options = help.matches("--").count();
    assert!(help.matches("[env: BITDEX_").count() >= 11 && options > 11, "each option has its variable: {help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_definition_is_refused() {
    let folder = Folder::new();
    {
        let writer = folder.start();
        load(&folder, &[&writer]).await;
    }
    let old = folder.schema().hash.clone();
    fs::write(folder.definition(), DEFINITION.replace("pinned: { type: int", "pinned: { type: float")).unwrap();
    let output = serve(&folder);
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
    for hash in [&old, &folder.schema().hash] {
        assert!(stderr(&output).contains(hash), "{}", stderr(&output));
    }
    fs::write(folder.definition(), DEFINITION).unwrap();
    let writer = folder.start();
    ready(&writer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_a_log_file_is_named() {
    let folder = Folder::new();
    {
        let mut writer = folder.start();
        load(&folder, &[&writer]).await;
        let mut session = open(&ingest(&[&writer]), &folder.schema(), "postgres").await;
        for n in 1..10 {
            batch(&mut session, n, vec![upsert(&folder.schema(), 1, "x")]).await;
        }
        writer.kill();
    }
    let segments = folder.files(".seg");
    let last = segments.last().unwrap_or_else(|| panic!("no log in {:?}", folder.files("")));
    let mut bytes = fs::read(last).unwrap();
    // In the midst of what is durable.
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written / 2..][..16].copy_from_slice(b"garbage garbage!");
    fs::write(last, bytes).unwrap();
    let output = serve(&folder);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains(last.file_name().unwrap().to_str().unwrap()), "{}", stderr(&output));
}

/// Starts the writer with a limit of open files, as `ulimit` sets it, and many connections that say nothing.
async fn flooded(limit: &str) -> (Folder, Process, Vec<TcpStream>) {
    let folder = Folder::new();
    let inner = folder.command();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let process = Process::start(command);
    let idle = (0..100).map(|_| TcpStream::connect(&process.http).unwrap()).collect();
    (folder, process, idle)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_survives_more_connections_than_it_may_have_files_open() {
    let (folder, process, idle) = flooded("-n 64").await;
    eventually("all files that it may have open are", || async {
        process.log().contains("Too many open files").then_some(())
    })
    .await;
    drop(idle);
    // It could not have been the writer any more.
    load(&folder, &[&process]).await;
    ready(&process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_becomes_shorter_under_a_process_is_named() {
    let folder = Folder::new();
    let writer = folder.start();
    load(&folder, &[&writer]).await;
    // It looks at this file all the time.
    let mut reader = folder.start_with(&["--reader-only"]);
    ready(&reader).await;
    let file = folder.files("FRONTIER").pop().unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
    let status = reader.ended().await;
    assert_eq!(status.signal(), Some(Signal::BUS.as_raw()), "{}", reader.log());
    let named = format!("cannot read a page of {}", file.display());
    eventually("the file's name", || async { reader.log().contains(&named).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_soft_limit_of_open_files_is_raised() {
    let (_folder, process, idle) = flooded("-S -n 64").await;
    let answer = http().get(format!("http://{}/healthz", process.http)).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    assert!(!process.log().contains("Too many open files"), "{}", process.log());
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let folder = Folder::new();
    let first = folder.start();
    let ports = folder.command();
    let on_the_same = ports.get_args().map(|argument| match argument.to_str() {
        Some("--grpc-listen=127.0.0.1:0") => format!("--grpc-listen={}", first.grpc).into(),
        _ => argument.to_owned(),
    });
    let output = Command::new(ports.get_program()).args(on_the_same).output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(stderr(&output).contains(&first.grpc), "{}", stderr(&output));
    drop(first);
    let output = Process::start(folder.command());
    assert!(!output.grpc.is_empty());
}
