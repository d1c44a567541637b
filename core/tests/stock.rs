//! A foreign client, the crate `zookeeper-client`, against the real binary, across a restart.

mod common;

use common::{PATIENCE, Process, scratch, transports};
use std::future::Future;
use zookeeper_client as zk;

const OPEN: zk::Acls<'static> = zk::Acls::anyone_all();

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("the client waits for ever") })
}

async fn connect(server: &Process) -> zk::Client {
    zk::Client::connector().with_detached().connect(&server.address.to_string()).await.unwrap()
}

async fn nodes(client: &zk::Client) {
    let persistent = zk::CreateMode::Persistent.with_acls(OPEN);
    let (stat, _) = client.create("/app", b"root", &persistent).await.unwrap();
    assert_eq!((stat.version, stat.data_length), (0, 4));
    assert_eq!(client.create("/app", b"", &persistent).await.unwrap_err(), zk::Error::NodeExists);
    assert_eq!(client.create("/no/parent", b"", &persistent).await.unwrap_err(), zk::Error::NoNode);
    let stat = client.set_data("/app", b"more", Some(0)).await.unwrap();
    assert_eq!(client.get_data("/app").await.unwrap(), (b"more".to_vec(), stat));
    assert_eq!(client.set_data("/app", b"x", Some(0)).await.unwrap_err(), zk::Error::BadVersion);
    assert_eq!(client.check_stat("/none").await.unwrap(), None);
    client.create("/app/child", b"", &persistent).await.unwrap();
    assert_eq!(client.list_children("/app").await.unwrap(), ["child"]);
    assert_eq!(client.delete("/app", None).await.unwrap_err(), zk::Error::NotEmpty);
    client.delete("/app/child", None).await.unwrap();
    client.sync("/app").await.unwrap();
}

async fn sequences_and_watches(client: &zk::Client) {
    let sequential = zk::CreateMode::EphemeralSequential.with_acls(OPEN);
    let (_, _, children) = client.get_and_watch_children("/app").await.unwrap();
    let (_, first) = client.create("/app/n-", b"", &sequential).await.unwrap();
    let (stat, second) = client.create("/app/n-", b"", &sequential).await.unwrap();
    assert_eq!(second.into_i64(), first.into_i64() + 1);
    assert_eq!(stat.ephemeral_owner, client.session_id().0);
    let event = children.changed().await;
    assert_eq!((event.event_type, event.path.as_str()), (zk::EventType::NodeChildrenChanged, "/app"));
    let (_, _, data) = client.get_and_watch_data("/app").await.unwrap();
    let (missing, created) = client.check_and_watch_stat("/later").await.unwrap();
    assert!(missing.is_none());
    client.set_data("/app", b"again", None).await.unwrap();
    assert_eq!(data.changed().await.event_type, zk::EventType::NodeDataChanged);
    client.create("/later", b"", &zk::CreateMode::Persistent.with_acls(OPEN)).await.unwrap();
    assert_eq!(created.changed().await.event_type, zk::EventType::NodeCreated);
}

async fn transactions(client: &zk::Client) {
    let persistent = zk::CreateMode::Persistent.with_acls(OPEN);
    let mut all = client.new_multi_writer();
    all.add_create("/multi", b"1", &persistent).unwrap();
    all.add_set_data("/multi", b"2", Some(0)).unwrap();
    all.add_check_version("/multi", 1).unwrap();
    let results = all.commit().await.unwrap();
    assert!(matches!(&results[0], zk::MultiWriteResult::Create { path, .. } if path == "/multi"));
    assert!(matches!(&results[1], zk::MultiWriteResult::SetData { stat } if stat.version == 1));
    let mut none = client.new_multi_writer();
    none.add_create("/multi/never", b"", &persistent).unwrap();
    none.add_delete("/multi", Some(9)).unwrap();
    let failed = none.commit().await.unwrap_err();
    assert_eq!(failed, zk::MultiWriteError::OperationFailed { index: 1, source: zk::Error::BadVersion });
    assert_eq!(client.list_children("/multi").await.unwrap(), Vec::<String>::new());
}

fn a_stock_client_works(transport: &str) {
    let (_guard, dir) = scratch();
    let config = "tickTime=2000\n";
    let server = Process::start(&dir, config, &["--transport", transport]);
    let session = run(async {
        let client = connect(&server).await;
        nodes(&client).await;
        sequences_and_watches(&client).await;
        transactions(&client).await;
        client.into_session()
    });
    let id = session.id();
    assert_eq!(server.terminate(), Some(0));
    let server = Process::start(&dir, config, &["--transport", transport]);
    run(async {
        let connector = zk::Client::connector().with_session(session);
        let client = connector.connect(&server.address.to_string()).await.unwrap();
        assert_eq!(client.session_id(), id, "the session survives the restart");
        assert_eq!(client.get_data("/app").await.unwrap().0, b"again");
        assert_eq!(client.list_children("/app").await.unwrap().len(), 2, "and so do its ephemerals");
        client.auth("digest", b"bob:pw").await.unwrap();
        let mine = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
        client.create("/mine", b"secret", &mine).await.unwrap();
        let stranger = connect(&server).await;
        assert_eq!(stranger.get_data("/mine").await.unwrap_err(), zk::Error::NoAuth);
    });
    server.kill();
}

#[test]
fn the_crate_zookeeper_client_works_on_the_default_loop() {
    a_stock_client_works(transports()[0]);
}

#[test]
fn the_crate_zookeeper_client_works_on_epoll() {
    a_stock_client_works(transports()[1]);
}
