//! The operator, who adds, removes and changes members.
//!
//! Owns the choice of reconfigurations, and starts nodes that are to join, some with an empty disk. Never
//! does what an operator would not: at least two participants remain, and one change ends before the next.

use super::super::client::ClientMode;
use super::super::node::SimNode;
use super::super::workload::encode;
use super::{Happening, SECOND, World};
use crate::members::{Member, MemberRole, Members};
use paddock_storage::fault::FaultDisk;
use paddock_transport::wire::Request;
use std::collections::BTreeMap;

/// A node's entry in the operator's configuration.
pub(super) fn member(number: u8, role: MemberRole) -> Member {
    Member {
        host: format!("10.0.1.{number}"),
        peer_port: 2888,
        election_port: 3888,
        role,
        client: Some("0.0.0.0:2181".to_owned()),
        identity: None,
    }
}

impl World {
    /// Asks for one reconfiguration, if one makes sense.
    pub(super) fn reconfigure(&mut self) {
        let Some(operator) = self.operator.filter(|_| self.facts.calm_since.is_none()) else { return };
        let next = self.now + self.rng.range(SECOND / 2, 6 * SECOND);
        self.at(next, Happening::Reconfigure);
        let ensemble = &self.facts.model.ensemble;
        let idle = matches!(&self.clients[operator].mode, ClientMode::Operate(todo) if todo.is_empty());
        if ensemble.members.members.is_empty() || ensemble.is_changing() || !idle {
            return;
        }
        let now = ensemble.members.clone();
        let mut wanted: BTreeMap<u8, MemberRole> = now.members.iter().map(|(n, m)| (*n, m.role)).collect();
        let stranger = self.pick_node(|number| now.get(number).is_none());
        let member_now = self.pick_node(|number| now.get(number).is_some());
        let role = if self.rng.one_in(3) { MemberRole::Observer } else { MemberRole::Participant };
        match self.rng.below(4) {
            // A node is added, or replaces a member.
            0 | 1 => {
                let Some(stranger) = stranger else { return self.drop_one(operator, &now, member_now) };
                wanted.insert(stranger, role);
                if let Some(old) = member_now.filter(|_| self.rng.one_in(2)) {
                    wanted.remove(&old);
                }
            }
            2 => return self.drop_one(operator, &now, member_now),
            // A member is promoted or demoted.
            _ => {
                let Some(number) = member_now else { return };
                let other = match now.get(number).map(|m| m.role) {
                    Some(MemberRole::Observer) => MemberRole::Participant,
                    _ => MemberRole::Observer,
                };
                wanted.insert(number, other);
            }
        }
        self.order(operator, &now, &wanted);
    }

    fn drop_one(&mut self, operator: usize, now: &Members, number: Option<u8>) {
        let mut wanted: BTreeMap<u8, MemberRole> = now.members.iter().map(|(n, m)| (*n, m.role)).collect();
        if let Some(number) = number {
            wanted.remove(&number);
            self.order(operator, now, &wanted);
        }
    }

    fn pick_node(&mut self, fits: impl Fn(u8) -> bool) -> Option<u8> {
        let numbers = self.nodes.iter().map(|node| node.setup.consensus.node);
        let fit: Vec<u8> = numbers.filter(|number| fits(*number)).collect();
        (!fit.is_empty()).then(|| *self.rng.pick(&fit))
    }

    fn order(&mut self, operator: usize, now: &Members, wanted: &BTreeMap<u8, MemberRole>) {
        if wanted.values().filter(|role| **role == MemberRole::Participant).count() < 2 {
            return;
        }
        let line =
            |(number, role): (&u8, &MemberRole)| format!("server.{number}={}", member(*number, *role).spec());
        let changed =
            |(number, role): &(&u8, &MemberRole)| now.get(**number).is_none_or(|m| m.role != **role);
        let joining: Vec<String> = wanted.iter().filter(changed).map(line).collect();
        let gone = now.members.keys().filter(|number| !wanted.contains_key(*number));
        let leaving: Vec<String> = gone.map(u8::to_string).collect();
        let all: Vec<String> = wanted.iter().map(line).collect();
        let config_id = match self.rng.below(6) {
            0 => now.version,
            1 => now.version - 1,
            _ => -1,
        };
        let strangers: Vec<u8> = wanted.keys().copied().filter(|number| now.get(*number).is_none()).collect();
        for number in strangers {
            self.prepare(number);
        }
        let (joining, leaving, all) = (joining.join(","), leaving.join(","), all.join(","));
        let text = |text: &String| (!text.is_empty()).then(|| text.clone().into());
        let request = match self.rng.one_in(4) {
            true => Request::Reconfig { joining: None, leaving: None, new_members: text(&all), config_id },
            false => Request::Reconfig {
                joining: text(&joining),
                leaving: text(&leaving),
                new_members: None,
                config_id,
            },
        };
        self.next_op += 1;
        let asked = encode(&request, Some(self.next_op));
        self.count_change();
        self.note(|| format!("the operator wants {all} (leaving {leaving})"));
        if let ClientMode::Operate(todo) = &mut self.clients[operator].mode {
            todo.push_back(asked);
        }
    }

    /// Starts a node that is to join, perhaps with another disk than it had.
    fn prepare(&mut self, number: u8) {
        let Some(n) = self.nodes.iter().position(|node| node.setup.consensus.node == number) else { return };
        let wiped = self.rng.one_in(2);
        let node = &mut self.nodes[n];
        node.wanted = true;
        if node.process.is_none() {
            if wiped {
                node.disk = FaultDisk::new();
                // The nodes in its old configuration may all be gone.
                node.founder = false;
                self.faults.forget_damage(n);
            }
            self.at(self.now, Happening::Start(n));
        }
    }

    /// Makes every member run, and no other node.
    pub(super) fn want_members(&mut self) {
        let ensemble = &self.facts.model.ensemble;
        if ensemble.members.members.is_empty() {
            return;
        }
        for node in &mut self.nodes {
            node.wanted = ensemble.wants(node.setup.consensus.node);
        }
        // An operator starts a joining node again that stopped before its change was accepted.
        for n in 0..self.nodes.len() {
            self.at(self.now, Happening::Start(n));
        }
    }
}

impl SimNode {
    /// Configures a node that starts with the present members. This holds for a node that joins the run
    /// later, or that has another disk. If it is not a member yet, it starts as an observer.
    pub(super) fn joins_with(&mut self, members: &Members) {
        let number = self.setup.consensus.node;
        if self.founder || members.members.is_empty() {
            return;
        }
        let mut known = members.members.clone();
        known.values_mut().for_each(|member| member.identity = None);
        known.entry(number).or_insert_with(|| member(number, MemberRole::Observer));
        self.setup.consensus.members = Some(Members { members: known, ..Members::default() });
    }
}
