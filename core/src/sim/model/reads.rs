//! The answer to a read at a zxid. Owns nothing, and never changes the model.

use super::access::{self, allows};
use super::{Code, Model};
use crate::command::Identity;
use paddock_transport::wire::multi::MultiOp;
use paddock_transport::wire::{Acl, List, MultiResult, Request, Response, Text, error, perms, put_multi_end};

impl Model {
    /// The body that a read returns at a zxid, or its error code. `None` if the request is no read.
    pub fn read(&self, request: &Request<'_>, zxid: i64, who: &[Identity]) -> Option<Result<Vec<u8>, Code>> {
        let mut body = Vec::new();
        let granted = |path: &str, needed: i32| {
            let znode = self.at(path, zxid).ok_or(error::NO_NODE)?;
            if allows(&znode.acl, needed, who) { Ok(znode) } else { Err(error::NO_AUTH) }
        };
        let there = |path: &str| granted(path, perms::READ);
        let found = match request {
            Request::Exists { path, .. } => granted(path, perms::READ).map(|z| z.wire_stat().put(&mut body)),
            Request::GetData { path, .. } => {
                there(path).map(|z| Response::Data(z.data.as_deref(), z.wire_stat()).put(&mut body))
            }
            Request::GetAcl { path } => granted(path, perms::READ | perms::ADMIN).map(|z| {
                let shown = access::shown(&z.acl, who);
                let acl: Vec<Acl<'_>> = shown.iter().map(|(p, s, i)| Acl::new(*p, s, i)).collect();
                Response::Acl(List::new(&acl), z.wire_stat()).put(&mut body);
            }),
            Request::GetChildren { path, .. } => there(path).map(|_| self.put_names(path, zxid, &mut body)),
            Request::GetChildren2 { path, .. } => there(path).map(|z| {
                self.put_names(path, zxid, &mut body);
                z.wire_stat().put(&mut body);
            }),
            Request::GetAllChildrenNumber { path } => {
                there(path).map(|_| Response::Number(self.descendants(path, zxid)).put(&mut body))
            }
            Request::MultiRead(ops) => {
                for op in ops.iter() {
                    match &op {
                        Request::GetData { path, .. } => match there(path) {
                            Ok(z) => MultiResult::GetData { data: z.data.as_deref(), stat: z.wire_stat() }
                                .put(&mut body),
                            Err(code) => MultiResult::Error { code }.put(&mut body),
                        },
                        Request::GetChildren { path, .. } => match there(path) {
                            Ok(_) => {
                                let names = self.children(path, zxid);
                                let names: Vec<Text<'_>> = names.iter().map(|n| n.as_str().into()).collect();
                                MultiResult::GetChildren { children: List::new(&names) }.put(&mut body);
                            }
                            Err(code) => MultiResult::Error { code }.put(&mut body),
                        },
                        _ => {}
                    }
                }
                put_multi_end(&mut body);
                Ok(())
            }
            _ => return None,
        };
        Some(found.map(|()| body))
    }

    fn put_names(&self, path: &str, zxid: i64, body: &mut Vec<u8>) {
        let names = self.children(path, zxid);
        let names: Vec<Text<'_>> = names.iter().map(|n| n.as_str().into()).collect();
        Response::Names(List::new(&names)).put(body);
    }
}
