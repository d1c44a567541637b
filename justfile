# Short names for common commands. Each verb is one plain shell line, so that it also works pasted into a shell.
# Nothing depends on this file: `.ci/run` calls cargo and the suites itself.

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

# The gates of .ci/run that need neither root nor the network: format, lints, tests, simulation, loom models.
ci-quick:
    cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings && cargo clippy -p paddock-core --features sim --all-targets -- -D warnings && cargo test --workspace && cargo run --profile sim -p paddock-core --features sim --bin paddock-sim -- --mutations 60 && cargo run --profile sim -p paddock-core --features sim --bin paddock-sim -- --seeds 0..2000 --minutes 5 --jobs 2 && .ci/deep loom

# Every gate. Needs root for the network namespaces, and installs a JDK, Maven, a ZooKeeper and kazoo where they are missing.
ci-full:
    bash .ci/run

# Only the gate that needs root: kills, pauses, cuts and lost disks under checked load.
ci-root:
    cargo build --release --workspace --bins && .ci/chaos --minutes 2 --voters 3 --observers 1
