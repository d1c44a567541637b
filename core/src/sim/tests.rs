//! A few seeds of the simulation for `cargo test`; `paddock-sim` runs many.

use super::run;
use super::world::{Plan, World};
use crate::mutation::Mutation;

#[test]
fn a_seed_is_the_same_run_twice() {
    for voters in [1, 3] {
        let plan = Plan { seed: 7, trace: false, faulty_ns: run::FAULTY_NS / 6, voters: Some(voters) };
        let (one, two) = (World::run(&plan), World::run(&plan));
        assert_eq!(one, two);
        assert!(one.answered > 100 && one.events > 1000);
    }
}

#[test]
fn a_handful_of_seeds_breaks_no_promise() {
    for seed in 0..3 {
        let report = run::seed(seed, Some(1), None);
        assert!(report.violation.is_none(), "{}", run::failure(&report, Some(1), None).join("\n"));
    }
}

#[test]
fn a_defect_is_caught_by_its_checker() {
    for mutation in [Mutation::DropNotification, Mutation::ReuseSequence] {
        assert!(run::catch(mutation, 4).is_some(), "{} was not caught", mutation.name());
    }
}
