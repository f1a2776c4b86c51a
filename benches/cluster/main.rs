//! What the drivers of a cluster cost its API server: the real client code of many nodes against a real API server.
//!
//! `cargo bench --bench cluster -- --bin-dir DIR` with etcd and kube-apiserver in DIR (`tests/e2e/node/node build`
//! makes them). It starts both for itself, on free ports of 127.0.0.1, fills them with pods, and takes everything down
//! again. What is counted is counted by the API server itself, so that the load of the machine changes times but no
//! numbers. docs/scale.md tells what the figures mean.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, reason = "a benchmark")]

mod fleet;
mod pods;
mod scrape;
mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ::pods::events::Events;
use clap::Parser;
use fleet::{Fleet, Way};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::iter;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pods::{DRIVER, namespace};
use scrape::{Between, Scrape};
use serde_json::json;
use server::{Server, User};

#[derive(Parser)]
struct Args {
    /// Where etcd and kube-apiserver are.
    #[arg(long, env = "HOSTMOUNT_BENCH_BIN_DIR")]
    bin_dir: PathBuf,
    /// How many nodes.
    #[arg(long, default_value_t = 500)]
    nodes: usize,
    /// How many pods on each.
    #[arg(long, default_value_t = 110)]
    pods: usize,
    /// How many pods come and go, to see what one costs.
    #[arg(long, default_value_t = 500)]
    lives: usize,
    /// For how many seconds an idle fleet is looked at.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Of how many pods a node tells that their source died.
    #[arg(long, default_value_t = 30)]
    told: usize,
    /// How many seconds the API server is away.
    #[arg(long, default_value_t = 10)]
    away: u64,
    /// The parts to run, all if none is named: start, idle, lives, node, claims, events, restart.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<String>,
    /// The API server's --feature-gates: WatchList=false,ListFromCacheSnapshot=false is what an older one does.
    #[arg(long)]
    feature_gates: Option<String>,
    /// By cargo bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn has(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|p| p == part)
    }
}

fn main() {
    let args = Args::parse();
    // Each node has a connection, and the servers inherit the limit.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(&args));
}

struct Cluster {
    server: Server,
    admin: Client,
}

impl Cluster {
    async fn scrape(&self) -> Scrape {
        Scrape::take(&self.server, &self.admin).await
    }

    fn pods_of(&self, node: usize) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), &namespace(node))
    }
}

async fn run(args: &Args) {
    let server = Server::start(&args.bin_dir, args.feature_gates.clone()).await;
    let admin = server.client(User::Admin).await;
    let version = admin.apiserver_version().await.unwrap().git_version;
    let mut cluster = Cluster { server, admin };
    println!("Kubernetes {version}, {} nodes of {} pods", args.nodes, args.pods);
    fill(&cluster, args).await;
    if args.has("start") {
        start(&cluster, args).await;
    }
    let before = cluster.scrape().await;
    let without = if args.has("lives") { Some(lives(&cluster, args).await) } else { None };
    if ["idle", "lives", "node", "claims", "restart"].iter().any(|part| args.has(part)) {
        let (fleet, _) = fleet::start(&cluster.server, args.nodes, Way::Chosen).await;
        let after = cluster.scrape().await;
        let lists = Between(&before, &after).requests("LIST", "pods");
        println!("\nall {} are there, {lists:.0} lists, {:.0} watches open", args.nodes, watches(&after));
        if args.has("idle") {
            idle(&cluster, args).await;
        }
        if let Some(without) = without {
            compare_lives(args, &without, &lives(&cluster, args).await);
        }
        if args.has("node") {
            node_at_once(&cluster, args, &fleet).await;
        }
        if args.has("claims") {
            claims_that_differ(&cluster, args, &fleet).await;
        }
        if args.has("restart") {
            restart(&mut cluster, args, &fleet, watches(&before)).await;
        }
    }
    if args.has("events") {
        events(&cluster, args).await;
    }
}

fn watches(scrape: &Scrape) -> f64 {
    scrape.sum("apiserver_longrunning_requests", &["verb=\"WATCH\"", "resource=\"pods\""])
}

fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

fn float(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap())
}

/// Namespaces, the driver's rights, and all pods.
async fn fill(cluster: &Cluster, args: &Args) {
    let post = PostParams::default();
    let namespaces: Api<Namespace> = Api::all(cluster.admin.clone());
    for name in pods::namespaces() {
        let object = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&post, &object).await.unwrap();
    }
    // As the chart's.
    let role: ClusterRole = serde_json::from_value(json!({"metadata": {"name": DRIVER}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]}))
    .unwrap();
    Api::<ClusterRole>::all(cluster.admin.clone()).create(&post, &role).await.unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({"metadata": {"name": DRIVER},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": DRIVER},
        "subjects": [{"kind": "ServiceAccount", "namespace": "hostmount", "name": "hostmount"}]}))
    .unwrap();
    Api::<ClusterRoleBinding>::all(cluster.admin.clone()).create(&post, &binding).await.unwrap();

    let (before, begun) = (cluster.scrape().await, Instant::now());
    let all = (0..args.nodes).flat_map(|node| (0..args.pods).map(move |n| (node, n)));
    iter(all)
        .for_each_concurrent(32, |(node, n)| async move {
            let pod = pods::inline(node, &format!("service-7d4b9c6f5d-{node:04}-{n:03}"));
            cluster.pods_of(node).create(&PostParams::default(), &pod).await.unwrap();
        })
        .await;
    let one = serde_json::to_string(
        &cluster.pods_of(0).list(&kube::api::ListParams::default().limit(1)).await.unwrap().items,
    );
    let after = cluster.scrape().await;
    println!(
        "filled in {:.0} s; a pod has {:.1} KiB as JSON; API server {:.0} MiB resident, {:.0} CPU s, etcd {:.0} CPU s",
        begun.elapsed().as_secs_f64(),
        float(one.unwrap().len()) / 1024.0,
        Between(&before, &after).resident(),
        Between(&before, &after).cpu(),
        Between(&before, &after).etcd_cpu(),
    );
}

/// All drivers start at once, by each way of asking.
async fn start(cluster: &Cluster, args: &Args) {
    println!(
        "\nall start at once\n{:28} {:>7} {:>7} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9} {:>9} {:>8} {:>6}",
        "",
        "p50 s",
        "last s",
        "requests",
        "429",
        "CPU s",
        "etcd CPU",
        "alloc MiB",
        "resident",
        "from etcd",
        "of cache",
        "listed MB",
        "watch MB",
        "seats"
    );
    for (way, name) in Way::ALL {
        if matches!(way, Way::Streaming) && args.feature_gates.as_ref().is_some_and(|g| g.contains("WatchList=false")) {
            println!("{name:28} the API server does not know it");
            continue;
        }
        let before = cluster.scrape().await;
        let (fleet, took) = fleet::start(&cluster.server, args.nodes, way).await;
        let after = cluster.scrape().await;
        let between = Between(&before, &after);
        let (_, sent) = between.watched();
        println!(
            "{name:28} {:7.2} {:7.2} {:9.0} {:6.0} {:9.2} {:9.2} {:9.0} {:9.0} {:10.0} {:9.0} {:9.1} {:8.1} {:6.1}",
            percentile(&took, 50),
            percentile(&took, 100),
            between.requests("LIST", "pods") + watches(&after) - watches(&before),
            between.turned_away(),
            between.cpu(),
            between.etcd_cpu(),
            between.allocated(),
            between.resident(),
            between.fetched("etcd"),
            between.fetched("watchcache"),
            between.listed_bytes() / 1e6,
            sent / 1e6,
            between.seats(),
        );
        drop(fleet);
        // Until all its watches have ended.
        while watches(&cluster.scrape().await) > watches(&before) + 0.5 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Nothing happens in the cluster.
async fn idle(cluster: &Cluster, args: &Args) {
    let before = cluster.scrape().await;
    tokio::time::sleep(Duration::from_secs(args.idle)).await;
    let after = cluster.scrape().await;
    let between = Between(&before, &after);
    println!(
        "\nnothing happens for {} s: {:.0} lists, {:.0} watches ended, {:.0} events, API server {:.2} CPU s",
        args.idle,
        between.requests("LIST", "pods"),
        between.requests("WATCH", "pods"),
        between.watched().0,
        between.cpu(),
    );
}

/// Pods come, run and go, eight at a time. Counted until the last has gone.
async fn lives(cluster: &Cluster, args: &Args) -> (Scrape, Scrape) {
    let before = cluster.scrape().await;
    iter(0..args.lives)
        .for_each_concurrent(8, |n| async move {
            let node = n % args.nodes;
            let (api, name) = (cluster.pods_of(node), format!("comes-and-goes-{n}"));
            api.create(&PostParams::default(), &pods::inline(node, &name)).await.unwrap();
            let patch = PatchParams::default();
            for status in pods::statuses() {
                api.patch_status(&name, &patch, &Patch::Merge(status)).await.unwrap();
            }
            api.delete(&name, &DeleteParams::default()).await.unwrap();
            api.patch_status(&name, &patch, &Patch::Merge(pods::ended())).await.unwrap();
            api.delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
        })
        .await;
    (before, cluster.scrape().await)
}

fn compare_lives(args: &Args, without: &(Scrape, Scrape), with: &(Scrape, Scrape)) {
    let (without, with) = (Between(&without.0, &without.1), Between(&with.0, &with.1));
    let per = |value: f64| value / float(args.lives);
    let (events, bytes) = (with.watched().0 - without.watched().0, with.watched().1 - without.watched().1);
    println!(
        "\n{} pods come and go (7 writes each): to the drivers {:.2} events and {:.1} KiB for each pod, {:.0} lists, \
         {:.0} PersistentVolumes asked for\n  API server {:.2} ms CPU for each pod without drivers, {:.2} with them; \
         {:.0} and {:.0} KiB allocated",
        args.lives,
        per(events),
        per(bytes) / 1024.0,
        with.requests("LIST", "pods"),
        with.requests("GET", "persistentvolumes"),
        per(without.cpu()) * 1e3,
        per(with.cpu()) * 1e3,
        per(without.allocated()) * 1024.0,
        per(with.allocated()) * 1024.0,
    );
}

/// As many pods as a node has are bound to one node at once, and each is looked up as soon as the API server has it.
async fn node_at_once(cluster: &Cluster, args: &Args, fleet: &Fleet) {
    let (node, lookup) = (0, &fleet.lookups[0]);
    let before = cluster.scrape().await;
    let made = (0..args.pods).map(|n| async move {
        let pod = pods::inline(node, &format!("at-once-{n}"));
        let made = cluster.pods_of(node).create(&PostParams::default(), &pod).await.unwrap();
        let begun = Instant::now();
        let pod = fleet::identity(&made.metadata);
        lookup.wish(&fleet::target(&pod.uid, "data"), true, &pod).await.unwrap();
        begun.elapsed().as_secs_f64() * 1e3
    });
    let took = join_all(made).await;
    let after = cluster.scrape().await;
    println!(
        "\n{} pods at once on one node: looked up p50 {:.2} ms, p99 {:.2} ms, last {:.2} ms after they were bound; \
         {:.0} lists, {:.0} PersistentVolumes asked for",
        args.pods,
        percentile(&took, 50),
        percentile(&took, 99),
        percentile(&took, 100),
        Between(&before, &after).requests("LIST", "pods"),
        Between(&before, &after).requests("GET", "persistentvolumes"),
    );
}

/// The same with pods of which a PersistentVolume has to be asked for, spread over all nodes.
async fn claims_that_differ(cluster: &Cluster, args: &Args, fleet: &Fleet) {
    let volumes: Api<PersistentVolume> = Api::all(cluster.admin.clone());
    let made = (0..args.lives).map(|n| {
        let (volumes, node) = (&volumes, n % args.nodes);
        async move {
            let name = format!("claims-{n}");
            volumes.create(&PostParams::default(), &pods::persistent_volume(node, &name)).await.unwrap();
            let made =
                cluster.pods_of(node).create(&PostParams::default(), &pods::claiming(node, &name)).await.unwrap();
            (node, fleet::identity(&made.metadata), format!("pv-{name}"))
        }
    });
    let made: Vec<_> = iter(made).buffer_unordered(16).collect().await;
    let before = cluster.scrape().await;
    let asked = made.into_iter().map(|(node, pod, volume)| async move {
        let begun = Instant::now();
        fleet.lookups[node].wish(&fleet::target(&pod.uid, &volume), false, &pod).await.unwrap();
        begun.elapsed().as_secs_f64() * 1e3
    });
    let took: Vec<f64> = iter(asked).buffer_unordered(16).collect().await;
    let after = cluster.scrape().await;
    let between = Between(&before, &after);
    println!(
        "\n{} pods whose claims differ, 16 at a time: {:.0} PersistentVolumes asked for, p50 {:.2} ms, p99 {:.2} ms; \
         API server {:.2} ms CPU for each",
        args.lives,
        between.requests("GET", "persistentvolumes"),
        percentile(&took, 50),
        percentile(&took, 99),
        between.cpu() / float(args.lives) * 1e3,
    );
}

/// The API server is killed, stays away, and comes back to all drivers.
async fn restart(cluster: &mut Cluster, args: &Args, fleet: &Fleet, others: f64) {
    cluster.server.kill_api();
    let unaware = fleet.until_failing(true, Duration::from_secs(args.away)).await;
    tokio::time::sleep(Duration::from_secs(args.away)).await;
    let starting = Instant::now();
    cluster.server.start_api().await;
    let (ready, zero) = (Instant::now(), Scrape::default());
    cluster.admin = cluster.server.client(User::Admin).await;
    println!(
        "\nthe API server was away for {:.0} s ({unaware} drivers did not notice), ready again {:.1} s after its start",
        (starting.elapsed() + Duration::from_secs(args.away)).as_secs_f64(),
        (ready - starting).as_secs_f64()
    );
    println!("{:>8} {:>8} {:>8} {:>10} {:>8} {:>10}", "s", "failing", "lists", "watches", "429", "CPU s");
    loop {
        let scrape = cluster.scrape().await;
        // As the drivers know it; one whose watch goes on quietly learns it later.
        let failing = fleet.lookups.iter().filter(|lookup| lookup.error().is_some()).count();
        let open = watches(&scrape) - others;
        let since = Between(&zero, &scrape);
        println!(
            "{:8.1} {failing:8} {:8.0} {:10.0} {:8.0} {:10.2}",
            ready.elapsed().as_secs_f64(),
            since.requests("LIST", "pods"),
            open,
            since.turned_away(),
            since.cpu(),
        );
        if open >= float(args.nodes) || ready.elapsed() > Duration::from_secs(180) {
            break;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// One file server dies, and every node has pods with volumes of it.
async fn events(cluster: &Cluster, args: &Args) {
    let clients = fleet::clients(&cluster.server, args.nodes).await;
    let tellers: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(node, client)| {
            let told: Vec<_> = (0..args.told).map(|n| fleet::told(node, n)).collect();
            (Events::new(client, DRIVER, &pods::node_name(node)), told)
        })
        .collect();
    let before = cluster.scrape().await;
    let begun = Instant::now();
    let telling = join_all(tellers.iter().map(|(events, told)| events.tell(told.clone())));
    let mut rates: BTreeMap<u64, f64> = BTreeMap::new();
    let watching = async {
        let mut last = 0.0;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let made = Between(&before, &cluster.scrape().await).requests("POST", "events");
            rates.insert(begun.elapsed().as_secs(), made - last);
            last = made;
        }
    };
    tokio::select! {
        _ = telling => {}
        () = watching => {}
    }
    let took = begun.elapsed().as_secs_f64();
    let after = cluster.scrape().await;
    let between = Between(&before, &after);
    let made = between.sum("apiserver_request_total", &["verb=\"POST\"", "resource=\"events\"", "code=\"201\""]);
    println!(
        "\na source dies for {} pods on each node: {made:.0} events of {:.0} made in {took:.0} s, {:.0} turned away\n  \
         for each: API server {:.2} ms CPU, etcd {:.2} ms CPU; etcd's file has grown by {:.0} bytes\n  \
         events made in each second: {:?}",
        args.told,
        float(args.nodes * args.told),
        between.turned_away(),
        between.cpu() / made * 1e3,
        between.etcd_cpu() / made * 1e3,
        between.sum("apiserver_storage_size_bytes", &[]) / made,
        rates.values().map(|rate| rate.round()).collect::<Vec<_>>(),
    );
}
