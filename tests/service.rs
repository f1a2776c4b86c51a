//! The service itself, by a front-end that is none of ours: no socket, no kubelet, its own directory and its own users.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod kernel;

use std::fs;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use ::kernel::calls::Calls;
use ::kernel::namespace::Proc;
use allowlist::names::{AbsPath, EntryName, Target, User, VolumeRef};
use engine::mount_error::MountError;
use engine::site::Site;
use kernel::{bind, disk, in_namespace, order, tmpfs, unmount};
use mounts::propagation::{MountPropagation, PropagationKind};
use plan::layout::{Layout, Part};
use plan::record::{Argument, Asked};
use service::config_store::ConfigStore;
use service::error::Error;
use service::metrics::Metrics;
use service::request::{Publish, Stage, VolumeAt};
use service::source_health::SourceHealth;
use service::volume_count::Counter;
use service::{By, Namespace, Service};
use workers::Threads;
use workers::gate::Gate;

/// Where this front-end has its volumes.
const BASE: &str = "/tmp/front-end";

/// Volumes lie at `mounts/USER/volume`, staged ones at `staged/NAME`.
fn layout() -> Layout {
    Layout {
        base: AbsPath::parse(BASE).unwrap(),
        staging_area: vec!["area".to_owned()],
        target: vec![Part::is("mounts"), Part::Workload, Part::is("volume")],
        staging: vec![Part::is("staged"), Part::Any],
        workloads: Path::new(BASE).join("mounts"),
        files: Vec::new(),
        not_published: vec!["staged".into()],
        copies: None,
    }
}

fn service(list: &str) -> Service {
    fs::write("/tmp/entries.yaml", list).unwrap();
    let site = Site { proc: Arc::new(Proc::new().unwrap()), calls: Calls::probe(), layout: Arc::new(layout()) };
    let store = ConfigStore::start("/tmp/entries.yaml", AbsPath::parse(BASE).unwrap()).unwrap();
    Service {
        driver: "front.end".to_owned(),
        node_id: "n".to_owned(),
        deadline: Duration::from_secs(60),
        namespace: Namespace::Own,
        store,
        gate: Gate::default(),
        threads: Threads::new(site),
        devices: RwLock::default(),
        metrics: Arc::new(Metrics::new("front.end")),
        counter: Arc::new(Counter::new(|_| Some(true))),
        lookup: None,
    }
}

fn at(id: &str, relative: &str) -> VolumeAt {
    let path = Target::parse(&format!("{BASE}/{relative}"), &AbsPath::parse(BASE).unwrap()).unwrap();
    VolumeAt { id: id.to_owned(), path }
}

fn publish(id: &str, user: &str, propagation: MountPropagation) -> Publish {
    Publish {
        id: id.into(),
        volume: VolumeRef { entry: EntryName::parse("data").unwrap(), sub_path: None },
        target: at(id, &format!("mounts/{user}/volume")).path,
        staging: None,
        asked: Asked { propagation: Some(propagation), ..Asked::default() },
        single_writer: false,
        user: User::Named(user.into()),
        inline: false,
    }
}

/// A node with a source, which has a file system mounted in it, and the front-end's directory.
fn node() {
    tmpfs(Path::new("/tmp"), "tmp");
    tmpfs(Path::new("/tmp/data"), "source");
    order(Path::new("/tmp/data"), PropagationKind::Shared);
    tmpfs(Path::new("/tmp/data/nested"), "nested");
    tmpfs(Path::new(BASE), "front-end");
    disk::instead_of_tmpfs(Path::new(BASE));
    order(Path::new(BASE), PropagationKind::Shared);
    for user in ["a", "b"] {
        fs::create_dir_all(Path::new(BASE).join("mounts").join(user)).unwrap();
    }
    fs::create_dir_all(Path::new(BASE).join("staged/data")).unwrap();
}

const LIST: &str =
    "entries: [{name: data, path: /tmp/data, propagation: Bidirectional, allow: [{namespaces: [\"*\"]}]}]";

fn run(body: impl AsyncFnOnce()) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body());
}

#[test]
fn a_volume_is_staged_published_looked_at_and_taken_away() {
    in_namespace("a_volume_is_staged_published_looked_at_and_taken_away", || {
        node();
        run(async || {
            let service = service(LIST);
            let pool = service.threads.pool(service.threads.site().proc.own_mount_namespace().unwrap());
            let by = By { pool: &pool, runtime: None };
            let (staged, target) = (at("v", "staged/data"), at("v", "mounts/a/volume"));
            let volume = VolumeRef { entry: EntryName::parse("data").unwrap(), sub_path: None };
            service.stage(by, &Stage { volume: volume.clone(), staging: staged.path.clone() }).await.unwrap();
            let asked =
                Publish { staging: Some(staged.path.clone()), ..publish("v", "a", MountPropagation::HostToContainer) };
            service.publish(by, &asked).await.unwrap();
            service.publish(by, &asked).await.expect("the same call again is done");
            let seen = |file: &str| target.path.as_path().join(file).exists();
            assert!(seen("source") && seen("nested/nested"));

            // What is mounted later crosses.
            tmpfs(Path::new("/tmp/data/later"), "later");
            assert!(seen("later/later"));
            unmount(Path::new("/tmp/data/later")).unwrap();
            assert!(!seen("later/later"));

            assert!(service.stats(by, &target).await.unwrap().bytes[0] > 0);
            assert_eq!(service.health(by, &target).await.unwrap().0, SourceHealth::Live);
            assert_eq!(service.source_health(by, volume).await.unwrap().0, SourceHealth::Live);
            let count = service.count_held().await.unwrap();
            assert_eq!((count.published, count.staged), (1, 1));

            service.unpublish(by, &target).await.unwrap();
            service.unpublish(by, &target).await.expect("the same call again is done");
            service.unstage(by, &staged).await.unwrap();
            assert!(!target.path.as_path().exists() && staged.path.as_path().read_dir().unwrap().next().is_none());
            assert!(Path::new("/tmp/data/nested/nested").exists(), "the source keeps what is mounted in it");
            service.threads.close().await;
            assert!(!Path::new(BASE).join("area").exists());
        });
    });
}

#[test]
fn what_one_user_has_is_not_another_s() {
    in_namespace("what_one_user_has_is_not_another_s", || {
        node();
        run(async || {
            let service = service(LIST);
            let pool = service.threads.pool(service.threads.site().proc.own_mount_namespace().unwrap());
            let by = By { pool: &pool, runtime: None };
            let asked = publish("v", "a", MountPropagation::None);
            service.publish(by, &asked).await.unwrap();
            let other = Publish { user: User::Named("b".into()), ..asked.clone() };
            match service.publish(by, &other).await {
                Err(Error::Mount(MountError::OtherArguments { argument: Argument::User { found }, .. })) => {
                    assert_eq!(&*found, "a");
                }
                other => panic!("{other:?}"),
            }
            let writable = Publish { single_writer: true, ..publish("w", "b", MountPropagation::None) };
            match service.publish(by, &writable).await {
                Err(Error::Mount(MountError::SecondWriter { other })) => assert_eq!(other, asked.target.as_path()),
                other => panic!("{other:?}"),
            }
            // A bind outside of the front-end's directory is no publication.
            service.unpublish(by, &at("v", "mounts/a/volume")).await.unwrap();
            bind(Path::new("/tmp/data"), Path::new("/tmp/elsewhere"));
            service.publish(by, &writable).await.unwrap();
        });
    });
}

#[test]
fn a_refusal_is_typed_and_changes_nothing() {
    in_namespace("a_refusal_is_typed_and_changes_nothing", || {
        node();
        run(async || {
            let service = service("entries: [{name: data, path: /tmp/data, allow: [{namespaces: [\"*\"]}]}]");
            let pool = service.threads.pool(service.threads.site().proc.own_mount_namespace().unwrap());
            let by = By { pool: &pool, runtime: None };
            let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let refused = service.publish(by, &publish("v", "a", MountPropagation::Bidirectional)).await;
            assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
            assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
            let nothing = service.stats(by, &at("v", "mounts/a/volume")).await;
            assert!(matches!(nothing, Err(Error::Mount(MountError::NotPublished { .. }))), "{nothing:?}");
        });
    });
}
