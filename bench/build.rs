//! Tells the binary which commit it is built from: every figure that it prints carries it.

use std::process::Command;

fn main() {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    // Outside a repository (a source archive) the commit is unknown, which is no reason not to build.
    let commit = git(&["describe", "--always", "--dirty", "--abbrev=10"]).unwrap_or_default();
    println!("cargo::rustc-env=PADDOCK_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    // The file that grows by a line at each commit and checkout.
    if let Some(path) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={path}");
    }
}
