use std::fs;

use super::*;
use crate::{
    log::disk::{Disk, RealDisk},
    mapping::frontier,
    store::{
        Folder, checkpoint_name, format,
        manifest::{CheckpointRef, Manifest, SegmentRef},
        pack::{PackKind, PackWriter, SectionId, SectionKind},
        segment_name,
    },
};

fn pack(folder: &Folder, name: &str, kind: PackKind, sections: &[(SectionKind, u16, usize)]) {
    let disk: std::sync::Arc<dyn Disk> = std::sync::Arc::new(RealDisk);
    let mut writer = PackWriter::create(&disk, &folder.named(name), kind, 1).unwrap();
    for (kind, place, length) in sections {
        writer.section(SectionId { kind: *kind, place: *place }).unwrap();
        writer.write(&vec![7; *length]).unwrap();
    }
    writer.finish().unwrap();
}

/// A folder whose packs are of the right kinds, with contents that no state has.
fn example(folder: &Folder) -> Manifest {
    let segment = |number| SegmentRef { number, file: segment_name(number, 1, 8), sequence: 8 };
    let manifest = Manifest {
        format: format::NEWEST,
        store: 1,
        definition: "abc".into(),
        epoch: 1,
        first_segment: 1,
        next_sequence: 9,
        checkpoint: Some(CheckpointRef { file: checkpoint_name(8), sequence: 8, generation: 1 }),
        segments: vec![segment(0), segment(1)],
        tables: Vec::new(),
        staged: Vec::new(),
        prepared: None,
    };
    manifest.publish(&RealDisk, &folder.manifest()).unwrap();
    fs::write(folder.frontier(), frontier::initial()).unwrap();
    pack(folder, &checkpoint_name(8), PackKind::Checkpoint, &[(SectionKind::Header, 0, 5)]);
    for number in [0, 1] {
        let sections = [(SectionKind::Held, 3, 100), (SectionKind::Held, 4, 10)];
        pack(folder, &segment_name(number, 1, 8), PackKind::Segment, &sections);
    }
    manifest
}

#[test]
fn adds_up_sections_and_dead_files() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), false).unwrap();
    assert!(Report::read(&folder, None).unwrap_err().to_string().contains("holds no store"));
    example(&folder);
    pack(&folder, &segment_name(1, 1, 5), PackKind::Segment, &[(SectionKind::Held, 3, 1000)]);
    fs::write(root.path().join("staged-1.pack.tmp"), "12345").unwrap();
    let report = Report::read(&folder, None).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let dead = fs::metadata(folder.segment(1, 1, 5)).unwrap().len() + 5;
    assert_eq!(report.dead_bytes, dead);
    let held = report.sections.iter().find(|section| section.field.as_deref() == Some("field 3")).unwrap();
    assert_eq!((held.file.as_str(), held.section.as_str(), held.bytes), ("segment", "sets", 200));
    let text = report.to_string();
    for part in ["segment: sets of field 3", "(dead)", "segment 1 at record 8", "checkpoint  at record 8"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["dead_bytes"], dead);
    assert_eq!(json["files"][1]["name"], "MANIFEST");
}

#[test]
fn tells_what_is_missing_or_damaged() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), false).unwrap();
    example(&folder);
    fs::remove_file(folder.segment(0, 1, 8)).unwrap();
    let path = folder.segment(1, 1, 8);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let problems = Report::read(&folder, None).unwrap().problems;
    assert!(problems[0].contains(&segment_name(0, 1, 8)) && problems[0].contains("missing"), "{problems:?}");
    assert!(problems[1].contains(&segment_name(1, 1, 8)), "{problems:?}");
}
