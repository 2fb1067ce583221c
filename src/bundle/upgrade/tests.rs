use std::fs;

use super::*;
use crate::bundle::pack;
use crate::bundle::pack::tests::{Setup, open, quiet};
use crate::bundle::verify;

/// A packed file with arguments, a license and 200 kB of weights.
fn packed() -> Setup {
    let setup = Setup::new();
    pack(&setup.options(), &mut quiet).unwrap();
    setup
}

fn change(setup: &Setup, runtime: Option<&str>, args: Option<&[&str]>) -> Upgraded {
    let options = UpgradeOptions {
        file: setup.path("out"),
        runtime: runtime.map(|name| setup.path(name)),
        args: args.map(|args| args.iter().map(|arg| arg.to_string()).collect()),
    };
    upgrade(&options, &mut quiet).unwrap()
}

/// Whether all is as the manifest says and the weights are those that were packed.
fn check(setup: &Setup, args: &[&str], runtime: &str) {
    let bundle = open(&setup.path("out"));
    let verification = verify(&bundle, &mut quiet).unwrap();
    assert_eq!(verification.problems, Vec::<String>::new());
    assert_eq!(bundle.args().unwrap().defaults(), args);
    assert_eq!(bundle.runtime().unwrap()[..], fs::read(setup.path(runtime)).unwrap());
    assert_eq!(bundle.member("m.gguf").unwrap().unwrap()[..], fs::read(setup.path("m.gguf")).unwrap());
    assert_eq!(bundle.member("LICENSE").unwrap().unwrap()[..], *b"be nice\n");
    assert_eq!(bundle.archive.entry("m.gguf").unwrap().offset() % 65_536, 0);
    let manifest = bundle.manifest().unwrap().unwrap();
    assert_eq!(manifest.parameters.args.iter().filter(|arg| *arg != "...").count(), args.len());
}

fn new_program(setup: &Setup) {
    let mut program = fs::read(setup.path("program")).unwrap();
    program.resize(70_000, 3);
    program[40..48].copy_from_slice(&70_000u64.to_le_bytes());
    fs::write(setup.path("newer"), program).unwrap();
}

#[test]
fn other_arguments_are_appended_and_nothing_before_them_is_touched() {
    let setup = packed();
    let mut before = fs::read(setup.path("out")).unwrap();
    for args in [&["-c", "64", "--temp", "0"][..], &[], &["-n", "5"]] {
        let upgraded = change(&setup, None, Some(args));
        assert_eq!(upgraded.how, How::InPlace);
        check(&setup, args, "program");
        let after = fs::read(setup.path("out")).unwrap();
        assert_eq!(after.len() as u64, upgraded.size);
        let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
        let is_mark = |&at: &usize| before[at..].starts_with(b"PK\x03\x04") && after[at] == RETIRED;
        assert!(
            changed.len() <= 2 && changed.iter().all(is_mark),
            "only the end is written, and what is replaced marked"
        );
        assert!(after.len() < before.len() + 4_000);
        assert_eq!(change(&setup, None, Some(args)).how, How::Unchanged);
        before = after;
    }
}

#[test]
fn another_program_keeps_everything_else() {
    let setup = packed();
    new_program(&setup);
    change(&setup, None, Some(&["-c", "64"]));
    assert_eq!(change(&setup, Some("newer"), None).how, How::NewFile);
    check(&setup, &["-c", "64"], "newer");
    assert_eq!(change(&setup, Some("out"), None).how, How::Unchanged);
    assert_eq!(change(&setup, Some("program"), Some(&["-n", "1"])).how, How::NewFile);
    check(&setup, &["-n", "1"], "program");
    assert_eq!(setup.names(), ["LICENSE", "m.gguf", "newer", "out", "program"]);
}

#[test]
fn an_upgraded_file_is_the_one_that_would_have_been_packed() {
    let setup = packed();
    new_program(&setup);
    change(&setup, None, Some(&["-n", "1"]));
    change(&setup, Some("newer"), Some(&["-c", "0", "..."]));
    let upgraded = fs::read(setup.path("out")).unwrap();
    let options = crate::bundle::PackOptions { runtime: Some(setup.path("newer")), overwrite: true, ..setup.options() };
    pack(&options, &mut quiet).unwrap();
    assert!(upgraded == fs::read(setup.path("out")).unwrap());
}

#[test]
fn whatever_part_of_the_new_end_was_written_the_file_is_the_old_or_the_new_one() {
    let setup = packed();
    let old = fs::read(setup.path("out")).unwrap();
    change(&setup, None, Some(&["-c", "64"]));
    let new = fs::read(setup.path("out")).unwrap();
    let written = |length: usize| [&old, &new[old.len()..length]].concat();
    for length in old.len()..=new.len() {
        let bundle = Bundle::from_bytes(Path::new("x"), written(length).into()).unwrap().unwrap();
        let expected = if length == new.len() { "64" } else { "0" };
        assert_eq!(bundle.args().unwrap().defaults()[1], expected, "{length}");
        let verification = verify(&bundle, &mut quiet).unwrap();
        assert_eq!(verification.problems, Vec::<String>::new(), "{length}");
        let n_left = if length == new.len() { 0 } else { length - old.len() };
        assert_eq!(verification.unfinished_tail, n_left as u64);
    }
    // The next change takes away what is left of this one.
    fs::write(setup.path("out"), written(new.len() - 9)).unwrap();
    change(&setup, None, Some(&["-c", "64"]));
    assert!(fs::read(setup.path("out")).unwrap() == new);
}

#[test]
fn a_file_of_another_tool_gets_a_manifest() {
    let setup = Setup::new();
    let weights = fs::read(setup.path("m.gguf")).unwrap();
    let members: [(&str, &[u8]); 3] = [(".args", b"-c\n64\n"), ("m.gguf", &weights), ("LICENSE", b"be nice\n")];
    let program = fs::read(setup.path("program")).unwrap();
    let mut file = crate::bundle::zip::tests::file_with_archive(program.len(), &members);
    file[..program.len()].copy_from_slice(&program);
    fs::write(setup.path("out"), file).unwrap();
    assert_eq!(change(&setup, None, Some(&["-n", "3"])).how, How::NewFile);
    check(&setup, &["-n", "3"], "program");
}

#[test]
#[cfg(unix)]
fn permissions_and_links_stay_as_they_are() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let setup = packed();
    new_program(&setup);
    fs::rename(setup.path("out"), setup.path("real")).unwrap();
    fs::set_permissions(setup.path("real"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("real", setup.path("out")).unwrap();
    change(&setup, Some("newer"), None);
    check(&setup, &["-c", "0"], "newer");
    assert!(setup.path("out").is_symlink());
    assert_eq!(fs::metadata(setup.path("real")).unwrap().permissions().mode() & 0o777, 0o750);
}

#[test]
fn two_changes_at_once_do_not_mix() {
    let setup = packed();
    let other = OpenOptions::new().write(true).open(setup.path("out")).unwrap();
    other.lock().unwrap();
    let options = UpgradeOptions { file: setup.path("out"), runtime: None, args: Some(vec!["-n".into(), "1".into()]) };
    assert!(matches!(upgrade(&options, &mut quiet), Err(PackError::Busy(_))));
    drop(other);
    change(&setup, None, Some(&["-n", "1"]));
}

#[test]
fn what_is_no_packed_file_is_refused() {
    let setup = packed();
    for (file, runtime) in [("program", "program"), ("missing", "program"), ("out", "LICENSE")] {
        let options =
            UpgradeOptions { file: setup.path(file), runtime: Some(setup.path(runtime)), args: Some(Vec::new()) };
        assert!(upgrade(&options, &mut quiet).is_err(), "{file} {runtime}");
    }
}
