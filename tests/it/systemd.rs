//! The unit file, as systemd itself reads it.

use std::process::Command;

use tempfile::TempDir;

#[test]
fn systemd_finds_nothing_to_complain_of_in_the_unit() {
    let unit = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/systemd/posthaste.service"
    ))
    .unwrap();
    // The binary has to be there: the one under test stands for the installed one.
    let installed = "ExecStart=/usr/bin/posthaste serve ";
    assert!(unit.contains(installed));
    let unit = unit.replace(
        installed,
        concat!("ExecStart=", env!("CARGO_BIN_EXE_posthaste"), " serve "),
    );
    assert_eq!(verify(&unit), "");
    // It does look.
    assert_ne!(verify(&unit.replace("RestartSec=", "RestartSecs=")), "");
}

/// What `systemd-analyze verify` says.
fn verify(unit: &str) -> String {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("posthaste.service");
    std::fs::write(&file, unit).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&file)
        .output();
    let output = output.unwrap_or_else(|e| {
        panic!("systemd-analyze: {e}; scripts/test installs what the tests need")
    });
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return format!("{}: {said}", output.status);
    }
    // Of the machine's own units we say nothing.
    said.lines()
        .filter(|line| line.contains("posthaste"))
        .collect()
}
