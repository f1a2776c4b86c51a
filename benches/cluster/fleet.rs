//! The drivers of all nodes, as far as they meet the API server: the real client code, a client for each node.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use allowlist::names::{AbsPath, EntryName, PodIdentity, Target};
use futures_util::StreamExt;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use pods::events::Told;
use pods::lookup::Lookup;
use service::metrics::Metrics;
use service::refusals::ForAuthor;
use service::source_health::SourceHealth;
use tokio::task::JoinHandle;

use crate::pods::{DRIVER, namespace, node_name};
use crate::server::{Server, User};

/// How long a pod is waited for, as by default.
const DEADLINE: Duration = Duration::from_secs(10);

/// How the pods of a node are asked for.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// Not at all: one request that costs nothing, for the price of a connection.
    Connection,
    /// Pages of 50, of the newest version: what kube's watcher does by itself.
    Pages,
    /// A watch that begins with the state.
    Streaming,
    /// As hostmount does.
    Chosen,
}

impl Way {
    /// The cheap ones first: what the others do to the server doesn't end at once.
    pub(crate) const ALL: [(Self, &str); 4] = [
        (Self::Connection, "only connecting"),
        (Self::Chosen, "hostmount"),
        (Self::Pages, "paged list, newest version"),
        (Self::Streaming, "streaming list"),
    ];
}

pub(crate) struct Fleet {
    pub(crate) lookups: Vec<Arc<Lookup>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One client for each node.
pub(crate) async fn clients(server: &Server, nodes: usize) -> Vec<Client> {
    join_all((0..nodes).map(|_| server.client(User::Driver))).await
}

async fn until(true_now: impl Fn() -> bool, at_most: Duration) -> bool {
    let begun = Instant::now();
    while !true_now() {
        if begun.elapsed() > at_most {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

/// Starts all at once, and waits until each knows its node's pods: how long each needed, in seconds.
pub(crate) async fn start(server: &Server, nodes: usize, way: Way) -> (Fleet, Vec<f64>) {
    let clients = clients(server, nodes).await;
    let begun = Instant::now();
    let mut fleet = Fleet { lookups: Vec::new(), tasks: Vec::new() };
    let mut waiting = Vec::new();
    for (node, client) in clients.into_iter().enumerate() {
        let synced: Box<dyn Fn() -> bool + Send> = match way {
            Way::Chosen => {
                let metrics = Arc::new(Metrics::new(DRIVER));
                let lookup = Arc::new(Lookup::new(client, DRIVER, &node_name(node), DEADLINE, metrics));
                fleet.lookups.push(Arc::clone(&lookup));
                fleet.tasks.push(tokio::spawn(Arc::clone(&lookup).watch()));
                Box::new(move || lookup.ready().is_ok())
            }
            other => {
                let done = Arc::new(AtomicBool::new(false));
                let set = Arc::clone(&done);
                fleet.tasks.push(tokio::spawn(watch_otherwise(other, client, node, set)));
                Box::new(move || done.load(Ordering::Relaxed))
            }
        };
        waiting.push(async move {
            assert!(until(synced, Duration::from_secs(600)).await, "node {node} does not get its pods");
            begun.elapsed().as_secs_f64()
        });
    }
    let took = join_all(waiting).await;
    (fleet, took)
}

async fn watch_otherwise(way: Way, client: Client, node: usize, synced: Arc<AtomicBool>) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", node_name(node)));
    let config = match way {
        Way::Streaming => config.streaming_lists(),
        Way::Pages => config.page_size(50),
        Way::Connection | Way::Chosen => {
            while client.apiserver_version().await.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            return synced.store(true, Ordering::Relaxed);
        }
    };
    watcher(Api::<Pod>::all(client), config)
        .default_backoff()
        .for_each(|event| {
            if matches!(event, Ok(Event::InitDone)) {
                synced.store(true, Ordering::Relaxed);
            }
            ready(())
        })
        .await;
}

impl Fleet {
    /// Waits until all have noticed a failure, or none has one any more: how many were late.
    pub(crate) async fn until_failing(&self, failing: bool, at_most: Duration) -> usize {
        let others = || self.lookups.iter().filter(|lookup| lookup.error().is_some() != failing).count();
        until(|| others() == 0, at_most).await;
        others()
    }
}

/// Who a pod is, as the kubelet says.
pub(crate) fn identity(meta: &ObjectMeta) -> Arc<PodIdentity> {
    let [namespace, name, uid] = [&meta.namespace, &meta.name, &meta.uid].map(|part| part.clone().unwrap());
    Arc::new(PodIdentity { namespace, name, uid, service_account: "service".to_owned() })
}

/// The target path of a pod's volume, as the kubelet makes it.
pub(crate) fn target(uid: &str, volume: &str) -> Target {
    let path = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~csi/{volume}/mount");
    Target::parse(&path, &AbsPath::parse("/var/lib/kubelet").unwrap()).unwrap()
}

/// What one of the node's pods is told of its volume when a file server has died.
pub(crate) fn told(node: usize, n: usize) -> Told {
    let uid = format!("00000000-0000-4000-8000-{node:06}{n:06}");
    let pod = PodIdentity {
        namespace: namespace(node),
        name: format!("service-7d4b9c6f5d-{node:04}-{n:03}"),
        uid: uid.clone(),
        service_account: "service".to_owned(),
    };
    let dead = SourceHealth::Dead(mounts::Errno::ESTALE);
    Told {
        target: target(&uid, "data"),
        entry: EntryName::parse("data").unwrap(),
        device: (0, 40),
        root: "/".into(),
        pod: Arc::new(pod),
        reason: dead.reason(),
        text: dead.for_author(),
        warning: true,
    }
}
