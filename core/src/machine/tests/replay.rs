//! Same log, same state: digests against their definition, replica against replica, and a restart from an
//! image in the middle.

use super::rig::*;
use crate::command::{Batch, Op};
use crate::commit::Outcome;
use crate::machine::Machine;
use crate::tree::{RestoredNode, Writer};
use paddock_transport::wire::{Acl, CreateOp, Multi, Request};
use proptest::prelude::*;

const PATHS: &[&str] = &["/a", "/a/b", "/a/b/c", "/d", "/d/e", "/zookeeper/x", "/", "/a/"];
const LISTS: &[&[Acl<'static>]] = &[
    OPEN,
    &[Acl::new(31, "world", "anyone"), Acl::new(1, "ip", "10.0.0.0/8")],
    &[Acl::new(27, "world", "anyone")],
    &[Acl::new(31, "auth", "")],
];

/// A drawn write: operation, path, and two small numbers.
type Draw = (u8, usize, i32, u8);

fn draw() -> impl Strategy<Value = Draw> {
    (0u8..12, 0..PATHS.len(), -1i32..4, any::<u8>())
}

fn write(&(what, at, small, byte): &Draw) -> Request<'static> {
    let path = PATHS[at];
    let acl = LISTS[usize::from(byte) % LISTS.len()];
    match what {
        0..=3 => create_with(CreateOp::Create2, path, i32::from(byte % 4), acl),
        4..=6 => Request::Delete { path: path.into(), version: if byte % 2 == 0 { -1 } else { small } },
        7..=9 => Request::SetData {
            path: path.into(),
            data: [None, Some(&b""[..]), Some(b"some data")][usize::from(byte) % 3],
            version: if byte % 2 == 0 { -1 } else { small },
        },
        _ => Request::SetAcl {
            path: path.into(),
            acl: paddock_transport::wire::List::new(acl),
            version: small,
        },
    }
}

fn op(draws: &[Draw]) -> Op {
    match draws {
        [only] => op_of(&write(only)),
        several => {
            let ops: Vec<_> =
                several.iter().map(write).filter(|op| !matches!(op, Request::SetAcl { .. })).collect();
            op_of(&Request::Multi(Multi::new(&ops)))
        }
    }
}

/// A step of a history: client, kind, and the writes.
type Step = (bool, u8, Vec<Draw>);

fn history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((any::<bool>(), 0u8..16, prop::collection::vec(draw(), 1..6)), 1..60)
}

/// The batches of a history, of up to three commands each, as one proposer would make them.
fn batches(rig: &mut Rig, steps: &[Step]) -> Vec<Batch> {
    rig.identities.push(id("digest", "bob:h"));
    let mut batches = Vec::new();
    for (number, steps) in steps.chunks(3).enumerate() {
        rig.time_ms = TIME_MS + number as i64;
        let mut commands = Vec::new();
        for (bob, what, draws) in steps {
            let session = if *bob { BOB } else { ALICE };
            let op = match what {
                0 => Op::CloseSession,
                1 => Op::ExpireSession,
                2 | 3 => Op::OpenSession { timeout_ms: 1_000, password: [draws[0].3; 16] },
                4 => {
                    Op::AttachSession { timeout_ms: 2_000, password: vec![draws[0].3; 16], last_zxid_seen: 0 }
                }
                _ => op(draws),
            };
            let mut command = rig.command(session, op);
            command.attachment = 1 + u32::from(what % 8 == 7);
            commands.push(command);
        }
        batches.push(rig.batch(commands));
    }
    batches
}

fn image(machine: &Machine) -> Vec<u8> {
    rkyv::to_bytes::<rkyv::rancor::Error>(&machine.image()).unwrap().to_vec()
}

/// Every znode as text, in the order of paths.
fn listing(tree: &mut Writer) -> Vec<String> {
    let held = hold(tree);
    let mut lines: Vec<_> =
        held.iter().map(|z| format!("{} {:?} {:?} {:?}", z.path(), z.data(), z.stat(), z.acl())).collect();
    lines.sort();
    lines
}

/// A copy of the tree, and a machine from its image, as after a restart.
fn restart(rig: &mut Rig) -> (Writer, Machine) {
    let bytes = image(&rig.machine);
    let read = rkyv::from_bytes::<crate::machine::MachineImage, rkyv::rancor::Error>(&bytes).unwrap();
    let mut machine = Machine::from_image(read);
    let (mut tree, _) = crate::tree::tree(0);
    let held = hold(&mut rig.tree);
    let mut nodes: Vec<_> = held.iter().collect();
    nodes.sort_by_key(|z| z.path());
    for z in nodes {
        let acl = machine.intern_acl((**z.acl()).clone());
        tree.restore(RestoredNode { path: z.path(), data: z.data(), acl, stat: z.stat() }).unwrap();
    }
    (tree, machine)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn digests_kept_are_digests_recomputed(steps in history()) {
        let mut rig = Rig::new();
        for batch in batches(&mut rig, &steps) {
            rig.apply(&batch).unwrap();
            rig.verify();
        }
        // The ephemerals in the table are exactly those in the tree.
        let held = hold(&mut rig.tree);
        let mut in_tree: Vec<_> = held
            .iter()
            .filter_map(|z| crate::client_stat::session_owner(z.stat().ephemeral_owner).map(|s| (s, z.path().to_string())))
            .collect();
        in_tree.sort();
        let mut in_table: Vec<_> = rig.machine.sessions().iter()
            .flat_map(|(id, s)| s.ephemerals.iter().map(move |path| (id, path.to_string())))
            .collect();
        in_table.sort();
        prop_assert_eq!(in_tree, in_table);
    }

    #[test]
    fn replicas_agree_and_repeats_change_nothing(steps in history(), again in any::<prop::sample::Index>()) {
        let (mut one, mut two) = (Rig::new(), Rig::new());
        let batches = batches(&mut one, &steps);
        for (number, batch) in batches.iter().enumerate() {
            let results = one.apply(batch).unwrap().to_vec();
            prop_assert_eq!(two.apply(batch).unwrap(), &results[..]);
            // A proposal repeated after a failover.
            let repeated = &batches[again.index(number + 1)];
            prop_assert_eq!(two.apply(repeated).unwrap(), &[]);
            prop_assert_eq!(one.machine.digest(), two.machine.digest());
        }
        prop_assert_eq!(image(&one.machine), image(&two.machine));
        prop_assert_eq!(listing(&mut one.tree), listing(&mut two.tree));
    }

    #[test]
    fn a_restart_in_the_middle_ends_the_same(steps in history(), at in any::<prop::sample::Index>()) {
        let (mut whole, mut halved) = (Rig::new(), Rig::new());
        let batches = batches(&mut whole, &steps);
        let at = at.index(batches.len());
        for (number, batch) in batches.iter().enumerate() {
            if number == at {
                (halved.tree, halved.machine) = restart(&mut halved);
                halved.verify();
            }
            let results = whole.apply(batch).unwrap().to_vec();
            prop_assert_eq!(halved.apply(batch).unwrap(), &results[..]);
            prop_assert_eq!(whole.machine.stamp(), halved.machine.stamp());
        }
        prop_assert_eq!(image(&whole.machine), image(&halved.machine));
        prop_assert_eq!(whole.machine.digest(), halved.machine.digest());
        prop_assert_eq!(listing(&mut whole.tree), listing(&mut halved.tree));
    }

    /// Any bytes of a request in the log have an outcome: no panic, and the sums stay right.
    #[test]
    fn bytes_of_any_kind_end_in_an_outcome(
        steps in prop::collection::vec(
            (prop::collection::vec(draw(), 1..5), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)),
            1..40,
        ),
        opcodes in prop::collection::vec(-12i32..24, 40),
    ) {
        let mut rig = Rig::new();
        for ((draws, flips), other_opcode) in steps.iter().zip(opcodes) {
            let Op::Request { mut opcode, mut body } = op(draws) else { unreachable!() };
            for (at, byte) in flips {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            if flips.len() == 3 {
                opcode = other_opcode;
            }
            let outcome = rig.run(ALICE, Op::Request { opcode, body });
            prop_assert!(matches!(outcome, Outcome::Ok(_) | Outcome::Err(_)), "{:?}", outcome);
        }
        rig.verify();
    }
}

/// Spec 02 §12 implemented a second time, byte by byte.
#[test]
fn the_tree_digest_is_zookeepers() {
    let mut rig = Rig::new();
    rig.create("/a", 0).unwrap();
    rig.create("/a/e", 1).unwrap();
    rig.create("/zookeeper/q", 0).unwrap();
    rig.set("/a", None, -1).unwrap();
    rig.set("/", Some(b"r"), -1).unwrap();
    let mut sum = 0u64;
    for (path, name) in [("/", ""), ("/zookeeper", "/zookeeper"), ("/a", "/a"), ("/a/e", "/a/e")] {
        let stat = rig.stat(path);
        let mut bytes = name.as_bytes().to_vec();
        bytes.extend(rig.data(path).unwrap_or_default());
        for field in [stat.czxid, stat.mzxid, stat.pzxid, stat.ctime, stat.mtime] {
            bytes.extend(field.to_be_bytes());
        }
        for field in [stat.version, stat.cversion, stat.aversion] {
            bytes.extend(field.to_be_bytes());
        }
        bytes.extend(stat.ephemeral_owner.to_be_bytes());
        sum = sum.wrapping_add(u64::from(crc_fast::crc32_iso_hdlc(&bytes)));
    }
    assert_eq!(rig.machine.tree_digest(), sum);
}

#[test]
fn a_damaged_tree_is_noticed() {
    let mut rig = Rig::new();
    rig.create("/a", 0).unwrap();
    let acl = rig.machine.intern_acl(crate::acl::AclList::world(1));
    rig.tree.set_acl("/a", acl).unwrap();
    let held = hold(&mut rig.tree);
    assert!(rig.machine.verify(held.iter()).is_err());
    drop(held);
    let mut rig = Rig::new();
    rig.tree.set_data("/", Some(b"flipped"), 0, 0).unwrap();
    let held = hold(&mut rig.tree);
    assert!(rig.machine.verify(held.iter()).is_err());
}
