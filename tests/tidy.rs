//! The house rules that a test can hold (STYLE §2, §3, §7, §8): who may know whom, words, references, sizes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// STYLE §2. A module may use those of lower rank only; files inside one module are free.
const RANKS: &[(&str, u8)] = &[
    ("mail", 1),
    ("limits", 1),
    ("clock", 1),
    ("outcome", 2),
    ("config", 2),
    ("metrics", 2),
    ("sign", 3),
    ("check", 3),
    ("smtp::data", 3),
    ("smtp::reply", 3),
    ("smtp::server::session", 3),
    ("smtp::client::session", 3),
    ("event", 3),
    ("spool", 4),
    ("queue", 4),
    ("route", 4),
    ("classify", 4),
    ("account", 4),
    ("idempotency", 4),
    ("suppression", 4),
    ("smtp::client", 4),
    ("accept", 5),
    ("deliver", 5),
    ("inbound", 5),
    ("readers", 5),
    ("smtp::server", 6),
    ("smtp::sink", 6),
    ("http", 6),
    ("node", 7),
    ("cli", 8),
];

/// Uses that go sideways on purpose, with the reason.
const SIDEWAYS: &[(&str, &str, &str)] = &[
    (
        "smtp::server::session",
        "smtp::data",
        "the dialogue is made of its parts",
    ),
    (
        "smtp::server::session",
        "smtp::reply",
        "the dialogue is made of its parts",
    ),
    (
        "smtp::sink",
        "smtp::server",
        "the sink is a gate behind the same dialogue",
    ),
    (
        "metrics",
        "outcome",
        "same rank, vocabulary only: labels are its variants",
    ),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(dir)];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            let is_generated = path.components().any(|c| {
                ["target", "node_modules", "corpus"]
                    .iter()
                    .any(|g| c.as_os_str() == *g)
            });
            match path.is_dir() {
                _ if is_generated => {}
                true => todo.push(path),
                false if path.extension().is_some_and(|e| e == "rs") => {
                    let text = std::fs::read_to_string(&path).unwrap();
                    found.push((path, text));
                }
                false => {}
            }
        }
    }
    found.sort();
    found
}

/// The longest module name in [`RANKS`] that `path` (as `a::b::c`) is or lies in.
fn module_of(path: &str) -> Option<(&'static str, u8)> {
    let inside = |module: &str| {
        path == module
            || path
                .strip_prefix(module)
                .is_some_and(|rest| rest.starts_with("::"))
    };
    RANKS
        .iter()
        .filter(|(module, _)| inside(module))
        .max_by_key(|(module, _)| module.len())
        .copied()
}

fn module_path(file: &Path) -> String {
    let relative = file
        .strip_prefix(root().join("src"))
        .unwrap()
        .with_extension("");
    let parts: Vec<_> = relative
        .components()
        .map(|c| c.as_os_str().to_string_lossy().into_owned())
        .collect();
    parts
        .into_iter()
        .filter(|p| p != "mod")
        .collect::<Vec<_>>()
        .join("::")
}

/// Production code only: tests may look wherever they like. A test module of its own file cuts nothing off here.
fn without_tests(text: &str) -> &str {
    const MARK: &str = "\n#[cfg(test)]\nmod ";
    let inline = text.match_indices(MARK).find(|(at, _)| {
        let line = text[at + MARK.len()..].lines().next();
        line.is_some_and(|line| line.ends_with('{'))
    });
    inline.map_or(text, |(at, _)| &text[..at])
}

#[test]
fn modules_know_only_those_below_them() {
    let mut offenders = Vec::new();
    let mut excuses_used = BTreeSet::new();
    for (file, text) in sources("src") {
        let path = module_path(&file);
        if path.split("::").any(|part| part == "tests") {
            continue;
        }
        let Some((module, rank)) = module_of(&path) else {
            continue;
        };
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for used in code.split("crate::").skip(1) {
                let used: String = used
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
                    .collect();
                let Some((target, target_rank)) = module_of(used.trim_end_matches(':')) else {
                    continue;
                };
                let same_module =
                    target.split("::").take(2).eq(module.split("::").take(2)) || target == module;
                if target_rank < rank || same_module {
                    continue;
                }
                let excuse = SIDEWAYS
                    .iter()
                    .position(|(from, to, _)| *from == module && *to == target);
                excuses_used.extend(excuse);
                if excuse.is_none() {
                    offenders.push(format!(
                        "{}:{}: {module} (rank {rank}) uses {target} (rank {target_rank})",
                        file.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(offenders.is_empty(), "{}", offenders.join("\n"));
    let needless: Vec<_> = (0..SIDEWAYS.len())
        .filter(|index| !excuses_used.contains(index))
        .map(|index| SIDEWAYS[index])
        .collect();
    assert!(needless.is_empty(), "excuses for nothing: {needless:?}");
}

#[test]
fn every_module_has_a_rank() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for line in lib.lines().filter_map(|l| l.strip_prefix("pub mod ")) {
        let module = line.trim_end_matches(';');
        assert!(
            RANKS
                .iter()
                .any(|(m, _)| m.split("::").next() == Some(module)),
            "src/{module} has no rank in tests/tidy.rs"
        );
    }
}

#[test]
fn unsafe_stays_in_the_spools_memory() {
    for (file, text) in sources("src") {
        let has_unsafe = text.lines().any(|l| {
            l.contains("unsafe {") || l.contains("unsafe fn") || l.contains("unsafe impl")
        });
        assert!(
            !has_unsafe || file.ends_with("spool/memory.rs"),
            "{} has unsafe code",
            file.display()
        );
    }
}

#[test]
fn every_file_of_the_source_begins_with_what_it_is() {
    for (file, text) in sources("src")
        .into_iter()
        .chain(sources("spool-format/src"))
    {
        assert!(
            text.starts_with("//! ") || text.starts_with("#!"),
            "{} has no module comment",
            file.display()
        );
        assert!(
            !text.contains("(being built)"),
            "{} is a stub",
            file.display()
        );
    }
}

#[test]
fn rfcs_are_named_by_number_and_section_sign() {
    let mut offenders = Vec::new();
    for (file, text) in sources("src")
        .into_iter()
        .chain(sources("spool-format/src"))
    {
        for (number, line) in text.lines().enumerate() {
            let wrong = ["RFC-", "rfc 5", "RFC5", "RFC3", "RFC6", " section "]
                .iter()
                .any(|w| line.contains(w) && line.contains("RFC"));
            if wrong
                && !line.contains("RFC 5321 section")
                && !line.contains("header section")
                && !line.contains("section of")
            {
                offenders.push(format!(
                    "{}:{}: write `RFC 5321 §4.5.3`: {line}",
                    file.display(),
                    number + 1
                ));
            }
        }
    }
    assert!(offenders.is_empty(), "{}", offenders.join("\n"));
}

/// Not the length itself is the point: a long file usually tells two stories (STYLE §1).
#[test]
fn files_stay_readable() {
    let mut long = BTreeMap::new();
    let limits = [
        ("src", 700),
        ("spool-format/src", 700),
        ("tests", 900),
        ("spool-format/tests", 900),
    ];
    for (dir, limit) in limits {
        for (file, text) in sources(dir) {
            let lines = text.lines().count();
            if lines > limit {
                long.insert(file, lines);
            }
        }
    }
    assert!(long.is_empty(), "split these: {long:?}");
}

#[test]
fn nothing_names_one_machine() {
    let output = std::process::Command::new("git")
        .args(["ls-files"])
        .current_dir(root())
        .output();
    let Ok(output) = output else { return };
    for file in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(text) = std::fs::read_to_string(root().join(file)) else {
            continue;
        };
        // Put together here, so that this file does not name them either.
        for word in [
            concat!("/wo", "rk/"),
            concat!("/ro", "ot/"),
            concat!("registry.npm", "js"),
            concat!("index.crates", ".io"),
        ] {
            assert!(!text.contains(word), "{file} contains {word}");
        }
    }
}

/// `scripts/mutants` takes long; that its patches still fit is checked here.
#[test]
fn every_planted_defect_still_fits_its_place() {
    let checked = std::process::Command::new("python3")
        .args([
            root().join("scripts/mutants").as_os_str(),
            "--check".as_ref(),
        ])
        .output()
        .unwrap_or_else(|e| panic!("python3: {e}; scripts/test installs what the tests need"));
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}
