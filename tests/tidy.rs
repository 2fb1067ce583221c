//! Holds the module dependency table of the crate docs (`src/lib.rs`) against every `crate::…` path in the sources, and a
//! few habits that no lint knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module's row of the table: what it may use besides itself and `error`.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let docs = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let modules: BTreeSet<String> =
        docs.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(|m| m.trim_end_matches(';').to_owned()).collect();
    let mut table = BTreeMap::new();
    for row in docs.lines().filter_map(|l| l.strip_prefix("//! | [`")) {
        let cells: Vec<&str> = row.split('|').collect();
        let names = cells[0].split("[`").map(|n| n.split('`').next().unwrap_or_default().trim().to_owned());
        let may: BTreeSet<String> = match cells[2].trim() {
            "everything" => modules.clone(),
            list => list.split(',').map(|m| m.trim().to_owned()).filter(|m| !m.is_empty()).collect(),
        };
        for name in names {
            assert!(modules.contains(&name), "the table has a row for `{name}`, which is no module");
            table.insert(name, may.clone());
        }
    }
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), modules, "every module has a row in the table");
    table
}

#[test]
fn modules_use_only_what_the_table_in_the_crate_docs_allows() {
    let table = table();
    let mut wrong = Vec::new();
    for file in rust_files(&root().join("src")) {
        let relative = file.strip_prefix(root().join("src")).expect("under src").to_owned();
        let module = relative
            .components()
            .next()
            .expect("a file")
            .as_os_str()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_owned();
        let is_test = relative.components().any(|c| c.as_os_str() == "tests.rs" || c.as_os_str() == "tests");
        let Some(allowed) = table.get(&module) else { continue };
        if is_test {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file");
        // Unit tests stand at the end of a file and may use everything.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if table.contains_key(&used) && used != module && used != "error" && !allowed.contains(&used) {
                    wrong.push(format!("src/{}:{}: {module} uses {used}", relative.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not in the table of src/lib.rs:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_allowed_in_the_kernels_the_driver_the_mapping_and_for_windows_consoles_only() {
    let allowed = |file: &Path| {
        let files = ["src/bundle/map.rs", "src/gpu/driver.rs", "src/cli/console.rs"].map(|name| root().join(name));
        ["src/kernels", "src/gpu/metal"].iter().any(|folder| file.starts_with(root().join(folder)))
            || files.iter().any(|one| one == file)
    };
    for file in rust_files(&root().join("src")).into_iter().filter(|f| !allowed(f)) {
        let text = fs::read_to_string(&file).expect("a source file");
        assert!(!text.contains("(unsafe_code)"), "{} allows unsafe code", file.display());
    }
}

#[test]
fn no_build_file_asks_for_one_machine_s_instructions() {
    for file in ["Cargo.toml", ".cargo/config.toml", ".cargo/config", "build.rs"] {
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        assert!(!text.contains("target-cpu"), "{file} sets target-cpu");
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() {
            files.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|e| e == "rs") {
            files.push(entry);
        }
    }
    files.sort();
    files
}
