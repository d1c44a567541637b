//! From a client's write to its outcome.
//!
//! Owns the session check, the choice of operation and the form of each reply.
//! Never answers reads.
//! Correct for malformed bytes because the same decoder runs here and on the shard: a request that it
//! refuses becomes an error code.
#![forbid(unsafe_code)]

use super::write::{Code, Context, Transaction};
use super::{Applied, Machine, ReconfigRequest, multi};
use crate::client_stat::answers_stat;
use crate::command::{ArchivedBatch, ArchivedCommand};
use crate::commit::Outcome;
use crate::mutation::{Mutation, mutated};
use crate::tree::Writer;
use paddock_transport::wire::primitives::put_text;
use paddock_transport::wire::{Limits, Request, error};

impl Machine {
    #[expect(clippy::too_many_arguments, reason = "the command, taken apart once, and where its effects go")]
    pub(super) fn apply_request(
        &mut self,
        tree: &mut Writer,
        term: u64,
        batch: &ArchivedBatch,
        command: &ArchivedCommand,
        opcode: i32,
        body: &[u8],
        out: &mut Applied,
    ) -> Outcome {
        match self.sessions.get(command.session.to_native()) {
            Some(session) if session.attachment == command.attachment.to_native() => {}
            // The session is closed, or attached to another connection: no client waits for the reply, and
            // nothing was changed.
            _ => return Outcome::Drop,
        }
        // The shard that received the request has limited the lengths.
        let request = Request::decode(opcode, body, Limits::NONE);
        if let Ok(Request::Reconfig { joining, leaving, new_members, config_id }) = &request {
            let [joining, leaving, new_members] = [joining, leaving, new_members].map(Option::as_deref);
            let request = ReconfigRequest { joining, leaving, new_members, config_id: *config_id };
            return self.apply_reconfig(tree, term, batch, command, &request, out);
        }
        let zxid = self.take_zxid(term);
        let context = Context::of(batch, command, zxid);
        let mut transaction = Transaction::new(tree, self, context, &mut out.changes);
        let answer =
            request.map_err(|refused| refused.code()).and_then(|request| answer(&mut transaction, &request));
        match answer {
            Ok(record) => Outcome::Ok(record),
            Err(code) => Outcome::Err(code),
        }
    }
}

/// Runs a write and gives the record of its reply.
fn answer(transaction: &mut Transaction<'_>, request: &Request<'_>) -> Result<Vec<u8>, Code> {
    let mut record = Vec::new();
    match request {
        Request::Create(create) => {
            let path = transaction.create(create)?;
            put_text(&mut record, &path);
            if answers_stat(create) {
                transaction.stat(&path).put(&mut record);
            }
        }
        Request::Delete { path, version } => transaction.delete(path, *version)?,
        Request::SetData { path, data, version } => {
            transaction.set_data(path, *data, *version)?;
            let mut stat = transaction.stat(path);
            stat.version += i32::from(mutated(Mutation::WrongVersion));
            stat.put(&mut record);
        }
        Request::SetAcl { path, acl, version } => {
            transaction.set_acl(path, *acl, *version)?;
            transaction.stat(path).put(&mut record);
        }
        Request::Multi(ops) => multi::run(transaction, *ops).put(&mut record),
        // Containers, a check outside a multi, and reads.
        _ => return Err(error::UNIMPLEMENTED),
    }
    Ok(record)
}
