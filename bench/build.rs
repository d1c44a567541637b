//! Passes the commit that the binary is built from to the compiler, for `Provenance` in every document.

use std::process::Command;

fn main() {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    // Outside a repository (a source archive) the commit is unknown, and the build goes on.
    let commit = git(&["describe", "--always", "--dirty", "--abbrev=10"]).unwrap_or_default();
    println!("cargo::rustc-env=PADDOCK_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    // Git appends a line to this file at each commit and checkout.
    if let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={path}");
    }
}
