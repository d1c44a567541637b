//! Multi: several operations, all or none (spec 01 §6.6). Each operation sees the tree as the previous ones
//! left it, and a failing one rolls back to the savepoint. The request cannot be malformed here: decoding
//! refused that before.
#![forbid(unsafe_code)]

use super::write::{Code, Transaction};
use crate::client_stat::answers_stat;
use paddock_transport::wire::{Multi, MultiResult, Request, error};
use std::borrow::Cow;

/// One result for each operation of a multi.
pub(super) struct Results(Vec<MultiResult<'static>>);

impl Results {
    /// Appends the wire form of the results, terminator included.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        Multi::new(&self.0).put(out);
    }
}

pub(super) fn run<'r>(transaction: &mut Transaction<'_>, ops: Multi<'r, Request<'r>>) -> Results {
    transaction.savepoint();
    let mut results = Vec::with_capacity(ops.len());
    for (index, op) in ops.iter().enumerate() {
        match run_one(transaction, &op) {
            Ok(result) => results.push(result),
            Err(code) => {
                transaction.rollback();
                return Results((0..ops.len()).map(|at| MultiResult::of_failed(at, index, code)).collect());
            }
        }
    }
    transaction.release();
    Results(results)
}

fn run_one(transaction: &mut Transaction<'_>, op: &Request<'_>) -> Result<MultiResult<'static>, Code> {
    Ok(match op {
        Request::Create(create) => {
            let created = transaction.create(create)?;
            let path = Cow::Owned(created.to_string());
            match answers_stat(create) {
                true => MultiResult::Create2 { path, stat: transaction.stat(&created) },
                false => MultiResult::Create { path },
            }
        }
        Request::Delete { path, version } => {
            transaction.delete(path, *version)?;
            MultiResult::Delete
        }
        Request::SetData { path, data, version } => {
            transaction.set_data(path, *data, *version)?;
            MultiResult::SetData { stat: transaction.stat(path) }
        }
        Request::Check { path, version } => {
            transaction.check(path, *version)?;
            MultiResult::Check
        }
        // The decoder refuses other operations in a multi.
        _ => return Err(error::MARSHALLING_ERROR),
    })
}
