//! The ZooKeeper client protocol: every record, both directions.
