# Short names for common commands. Each verb is one plain shell line, so that it also works pasted into a shell.
# Nothing depends on this file: `.ci/run` has the gates.

# Lists the verbs.
default:
    @just --list

# Format and lints, as in .ci/run.
check:
    cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings && cargo clippy -p paddock-core --features sim --all-targets -- -D warnings

# The README's test command.
test:
    cargo test --workspace

# One seed of the simulation; the same seed is the same run.
sim SEED:
    cargo run --profile sim -p paddock-core --features sim --bin paddock-sim -- --seed {{SEED}}

# The criterion benches: codec, storage, tree.
bench:
    cargo bench -p paddock-bench

# The gates that need neither root nor the network: format, lints, tests, simulation, loom models.
ci-quick:
    bash .ci/run quick

# Every gate. Needs root for the network namespaces, and installs a JDK, Maven, a ZooKeeper and kazoo where they are missing.
ci-full:
    bash .ci/run

# Only the gate that needs root: kills, pauses, cuts and lost disks under checked load.
ci-root:
    bash .ci/run root
