//! Hazard: names get lost or out of order when chunks split, join and grow in height; or many children are
//! slow.

use super::{Numbers, acl};
use crate::tree::{NewNode, Writer, tree};
use std::collections::BTreeSet;

fn create(writer: &mut Writer, path: &str, zxid: i64) {
    let new = NewNode { path, data: None, acl: acl(31), ephemeral_owner: 0, zxid, time_ms: 0 };
    writer.create(&new).expect("the parent is there and the name is new");
}

fn check(writer: &Writer, model: &BTreeSet<String>) {
    let family = writer.get("/family").expect("created first");
    assert!(family.children().eq(model.iter().map(String::as_str)));
    assert_eq!(family.stat().num_children as usize, model.len());
}

/// Names of 1 to 3 000 bytes, so that both bounds of a chunk split it, in versions and savepoints.
#[test]
fn random_names_stay_complete_and_sorted() {
    for seed in 0..6 {
        let mut numbers = Numbers(seed);
        let (mut writer, mut readers) = tree(1);
        create(&mut writer, "/family", 1);
        let mut model = BTreeSet::new();
        let long = if seed % 2 == 0 { 3_000 } else { 6 };
        for round in 0..6_000u64 {
            // Growing first, then shrinking to nothing.
            let grow = numbers.below(6_000) >= round;
            if grow || model.is_empty() {
                let length = if numbers.below(50) == 0 { long } else { 1 + numbers.below(12) };
                let name: String = (0..length).map(|_| (b'a' + numbers.below(26) as u8) as char).collect();
                if model.insert(name.clone()) {
                    create(&mut writer, &format!("/family/{name}"), 2);
                }
            } else {
                let from: String = ((b'a' + numbers.below(26) as u8) as char).into();
                let name = model.range(from..).next().or(model.first()).expect("not empty").clone();
                model.remove(&name);
                writer.delete(&format!("/family/{name}"), 3).expect("it is there");
            }
            if round % 64 == 63 {
                let published = writer.publish();
                readers[0].move_to(&published);
                writer.reclaim();
            }
            if round % 500 == 499 {
                check(&writer, &model);
                writer.savepoint();
                for name in model.iter().step_by(3) {
                    writer.delete(&format!("/family/{name}"), 4).expect("it is there");
                }
                writer.rollback();
                check(&writer, &model);
            }
        }
        for name in std::mem::take(&mut model) {
            writer.delete(&format!("/family/{name}"), 5).expect("it is there");
        }
        check(&writer, &model);
    }
}

/// Queue recipes create at the end and delete at the front.
#[test]
fn a_queue_does_not_leave_empty_chunks_behind() {
    let (mut writer, mut readers) = tree(1);
    create(&mut writer, "/family", 1);
    let name = |n: u32| format!("/family/item-{n:010}");
    for n in 0..20_000u32 {
        create(&mut writer, &name(n), 2);
        if n >= 100 {
            writer.delete(&name(n - 100), 3).expect("it is there");
        }
        if n % 100 == 0 {
            let published = writer.publish();
            readers[0].move_to(&published);
            writer.reclaim();
        }
    }
    let family = writer.get("/family").expect("created first");
    assert!(family.children().map(str::to_string).eq((19_900..20_000).map(|n| format!("item-{n:010}"))));
}
