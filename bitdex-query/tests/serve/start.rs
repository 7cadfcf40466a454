//! What stops a process from starting, and what it says.

use std::{
    fs,
    process::{Command, Output},
};

use crate::{
    feed::{batch, ingest, load, open, upsert},
    process::{DEFINITION, Folder, Process},
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

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let folder = Folder::new();
    let first = folder.start();
    let mut command = folder.command();
    command.args([format!("--grpc-listen={}", first.grpc)]);
    let output = command.output().unwrap();
    assert_ne!(output.status.code(), Some(0));
    drop(first);
    let output = Process::start(folder.command());
    assert!(!output.grpc.is_empty());
}
