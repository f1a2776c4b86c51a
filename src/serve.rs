//! The composition root: builds the plugin, binds its socket, serves until told to stop, drains.

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::admin;
use crate::config::reload::ConfigStore;
use crate::containers;
use crate::csi::caller::{Caller, MountNamespaceOf};
use crate::csi::connection::Connection;
use crate::csi::door::Door;
use crate::csi::services::Services;
use crate::csi::{identity, node};
use crate::events::Events;
use crate::gate::Gate;
use crate::heal;
use crate::held::Counter;
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::plugin::{Plugin, UnderWay};
use crate::registration::Registration;
use crate::site::Site;
use crate::socket::{self, Socket};
use crate::sys::calls::Calls;
use crate::sys::heap;
use crate::sys::namespace::Proc;
use crate::threads::{Lead, Threads};
use crate::vitals;
use crate::volume::AbsPath;
use crate::wire::csi::identity_server::IdentityServer;
use crate::wire::csi::node_server::NodeServer;

/// The largest message taken, in bytes. A request is a few paths and the pod's names; tokens are the largest part.
const MESSAGE_MAX: usize = 1 << 20;

/// The most calls at once on one connection; further ones wait. The kubelet makes one. Clients assume 100 until they are
/// told (RFC 9113, 6.5.2 recommends no less), and a lower number would have calls refused that came before.
const CALLS_MAX: u32 = 128;

/// How often a stopping plugin looks whether calls are under way, and how long it gives answers to be sent.
const SETTLE: Duration = Duration::from_millis(50);

/// How often free memory is given back to the kernel: how long a node has to do without what a burst of calls or of pods
/// took. Where nothing was freed meanwhile it costs a few microseconds.
const TIDY: Duration = Duration::from_secs(5);

/// Containers are looked into once in so many times that sources are asked.
const PROBES_A_LOOK: u32 = 4;

/// What `hostmount serve` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// The unix socket to serve CSI on.
    #[arg(long, env = "CSI_ENDPOINT", default_value = "unix:///csi/csi.sock")]
    pub endpoint: String,
    /// The allow-list: a YAML file of the directories that pods may use.
    #[arg(long, env = "HOSTMOUNT_CONFIG", default_value = "/etc/hostmount/entries.yaml")]
    pub config: PathBuf,
    /// The node's name in Kubernetes.
    #[arg(long, env = "NODE_NAME")]
    pub node_id: String,
    /// The driver's name, as in CSIDriver.metadata.name.
    #[arg(long, env = "HOSTMOUNT_DRIVER_NAME", default_value = "csi.hostmount.dev")]
    pub driver_name: String,
    /// The kubelet's --root-dir, as the kubelet sees it.
    #[arg(long, env = "HOSTMOUNT_KUBELET_DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: String,
    /// Register with the kubelet by a socket in this directory, the kubelet's plugins_registry.
    #[arg(long, env = "HOSTMOUNT_REGISTRATION_DIR")]
    pub registration_dir: Option<PathBuf>,
    /// Where the kubelet finds the CSI socket [default: KUBELET_DIR/plugins/DRIVER_NAME/csi.sock].
    #[arg(long, env = "HOSTMOUNT_KUBELET_ENDPOINT")]
    pub kubelet_endpoint: Option<String>,
    /// Whether a volume that does not say its propagation gets the one that its pod asks for.
    #[arg(long, env = "HOSTMOUNT_POD_LOOKUP", value_enum, default_value_t)]
    pub pod_lookup: PodLookup,
    /// How many seconds learning what a pod asks for may take.
    #[arg(long, env = "HOSTMOUNT_LOOKUP_TIMEOUT", default_value_t = 10.0)]
    pub lookup_timeout: f64,
    /// Tell pods by Kubernetes events when a volume's source dies, hangs, is deleted or comes back.
    #[arg(long, env = "HOSTMOUNT_EVENTS")]
    pub events: bool,
    /// Every how many seconds the sources of published volumes are asked whether they live; each fourth time at most it is
    /// looked which mount flags running containers have.
    #[arg(long, env = "HOSTMOUNT_PROBE_INTERVAL", default_value_t = 15.0)]
    pub probe_interval: f64,
    /// In whose mount namespace the mounts are made.
    #[arg(long, env = "HOSTMOUNT_MOUNT_NAMESPACE", value_enum, default_value_t)]
    pub mount_namespace: MountNamespaceOf,
    /// How many seconds a call may take before it is given up.
    #[arg(long, env = "HOSTMOUNT_CALL_TIMEOUT", default_value_t = 30.0)]
    pub call_timeout: f64,
    /// How many seconds calls under way may take to end on SIGTERM.
    #[arg(long, env = "HOSTMOUNT_DRAIN_TIMEOUT", default_value_t = 10.0)]
    pub drain_timeout: f64,
    /// How many connections may be open at once. The kubelet opens one for each call.
    #[arg(long, env = "HOSTMOUNT_MAX_CONNECTIONS", default_value_t = 512, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=65536))]
    pub max_connections: usize,
    /// Serve /metrics, /healthz and /readyz on this address, such as 0.0.0.0:9809.
    #[arg(long, env = "HOSTMOUNT_ADMIN_ADDRESS")]
    pub admin_address: Option<SocketAddr>,
    /// Do as if the kernel had none of the newer mount calls, to see the fall-backs work.
    #[arg(long, hide = true)]
    pub old_calls: bool,
}

/// Whether pods are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PodLookup {
    /// A volume that does not say its propagation gets None.
    #[default]
    Off,
    /// By the API server of KUBECONFIG, or of the cluster that this runs in.
    Api,
}

fn seconds(name: &str, value: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|d| !d.is_zero())
        .ok_or_else(|| format!("--{name} {value} is no time: write seconds above 0"))
}

/// A driver's name: a domain name of at most 63 bytes (CSI, GetPluginInfoResponse.name).
pub(crate) fn check_driver(name: &str) -> Result<(), String> {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('-')
            && !p.ends_with('-')
            && p.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if name.len() <= 63 && name.split('.').all(part) {
        Ok(())
    } else {
        Err(format!("--driver-name {name:?} is not a domain name of at most 63 letters, digits, '-' and '.'"))
    }
}

/// Builds a plugin from its arguments.
///
/// # Errors
/// What is wrong with an argument, or what the system refuses.
pub fn build(args: &ServeArgs) -> Result<Plugin, String> {
    check_driver(&args.driver_name)?;
    if args.node_id.is_empty() || args.node_id.len() > 256 {
        return Err("--node-id must have 1 to 256 bytes (CSI, NodeGetInfoResponse.node_id)".to_owned());
    }
    let kubelet_dir =
        AbsPath::parse(&args.kubelet_dir).map_err(|e| format!("--kubelet-dir {:?} {e}", args.kubelet_dir))?;
    let proc = Proc::new().map_err(|e| format!("/proc cannot be opened: {e}"))?;
    let calls = if args.old_calls { Calls::NONE } else { Calls::probe() };
    tracing::info!(%calls, "system calls");
    let store = ConfigStore::start(&args.config, kubelet_dir.clone())
        .map_err(|e| format!("the allow-list cannot be watched: {e}"))?;
    let registration = args.registration_dir.as_deref().map(|directory| {
        let default = || format!("{kubelet_dir}/plugins/{}/csi.sock", args.driver_name);
        let endpoint = args.kubelet_endpoint.clone().unwrap_or_else(default);
        Arc::new(Registration::new(&args.driver_name, &endpoint, directory))
    });
    let site = Site { proc: Arc::new(proc), calls, kubelet_dir };
    Ok(Plugin {
        lookup: None,
        registration,
        metrics: Arc::new(Metrics::new(&args.driver_name)),
        counter: Arc::new(Counter::new(&args.driver_name)),
        threads: Threads::new(site, &args.driver_name),
        driver: args.driver_name.clone(),
        node_id: args.node_id.clone(),
        deadline: seconds("call-timeout", args.call_timeout)?,
        whose: args.mount_namespace,
        store,
        gate: Gate::default(),
        devices: RwLock::default(),
        door: Door::new(args.max_connections),
        under_way: UnderWay::default(),
    })
}

/// Serves a plugin on a listening socket until `stop`, then lets the calls under way end within `drain`, removes the
/// socket and what the mount threads made for themselves.
///
/// # Errors
/// What the transport says.
pub async fn serve(
    plugin: Arc<Plugin>,
    (listener, socket): (UnixListener, Socket),
    stop: impl Future<Output = ()> + Send,
    drain: Duration,
) -> Result<(), String> {
    let serving = Lead::start(Arc::clone(plugin.threads.site())).map_err(|e| format!("no threads: {e}"))?;
    let lead = serving.share();
    let (stopping, stopped) = oneshot::channel::<()>();
    let transport = transport(Arc::clone(&plugin), Arc::clone(&lead), listener, stopped.map(drop));
    let transport = lead.handle().spawn(transport);
    let under_way = plugin.under_way.clone();
    // A client that keeps its connection open and doesn't look at it holds up the transport, but not us.
    let drained = async move {
        stop.await;
        // The transport may have ended by itself; its own result counts then.
        let _ = stopping.send(());
        let until = Instant::now() + drain;
        tokio::time::sleep(SETTLE).await;
        while under_way.count() > 1 && Instant::now() < until {
            tokio::time::sleep(SETTLE).await;
        }
        let left = under_way.count() - 1;
        if left > 0 {
            tracing::warn!(calls = left, ?drain, "calls under way did not end in time and are given up");
        }
    };
    let result = tokio::select! {
        ended = transport => ended.unwrap_or_else(|e| Err(e.to_string())),
        () = drained => Ok(()),
    };
    drop(serving);
    drop(socket);
    plugin.threads.close().await;
    result
}

/// Takes connections and answers calls in the runtime that `lead` drives, until `stop`.
async fn transport(
    plugin: Arc<Plugin>,
    lead: Arc<Lead>,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), String> {
    let listener = tokio::net::UnixListener::from_std(listener).map_err(|e| e.to_string())?;
    let accepting = Arc::clone(&plugin);
    let incoming = UnixListenerStream::new(listener)
        .then(|accepted| async {
            if accepted.is_err() {
                // Out of descriptors or memory: it will still be so at once.
                tokio::time::sleep(SETTLE).await;
            }
            accepted
        })
        .filter_map(move |accepted| match accepted {
            Ok(stream) => match accepting.door.admit(&stream) {
                Ok(place) => {
                    let caller = Caller::of(&stream, &accepting.threads, accepting.whose);
                    Some(Connection::new(stream, caller, place))
                }
                Err(refusal) => {
                    tracing::warn!(%refusal, "connection closed");
                    None
                }
            },
            Err(error) => Some(Err(error)),
        });
    let services = Services {
        named: IdentityServer::new(identity::Identity(Arc::clone(&plugin))).max_decoding_message_size(MESSAGE_MAX),
        other: NodeServer::new(node::Node { plugin, lead }).max_decoding_message_size(MESSAGE_MAX),
    };
    let server = Server::builder().max_concurrent_streams(CALLS_MAX);
    server.serve_with_incoming_shutdown(services, incoming, stop).await.map_err(|e| e.to_string())
}

/// Runs `hostmount serve` to its end: SIGTERM or SIGINT.
///
/// # Errors
/// Why it can't start, or what the transport says.
pub fn run(args: &ServeArgs) -> Result<(), String> {
    heap::keep_little();
    let drain = seconds("drain-timeout", args.drain_timeout)?;
    let probe_interval = seconds("probe-interval", args.probe_interval)?;
    let mut plugin = build(args)?;
    let path = socket::path_of(&args.endpoint).map_err(|e| e.to_string())?;
    let bound = socket::bind(&path).map_err(|e| e.to_string())?;
    raise_descriptors();
    let around = around().map_err(|e| format!("no threads: {e}"))?;
    let lookup = args.pod_lookup == PodLookup::Api;
    let mut events = None;
    if lookup || args.events {
        let client = around.block_on(api_client()).map_err(|e| {
            let option = if lookup { "--pod-lookup api" } else { "--events" };
            format!("{option} needs an API server: {e}; run in a pod with a service account, or set KUBECONFIG")
        })?;
        events = args.events.then(|| Events::new(client.clone(), &args.driver_name, &args.node_id));
        if lookup {
            let deadline = seconds("lookup-timeout", args.lookup_timeout)?;
            let _inside = around.enter();
            let lookup =
                Arc::new(Lookup::new(client, &args.driver_name, &args.node_id, deadline, Arc::clone(&plugin.metrics)));
            around.spawn(Arc::clone(&lookup).watch());
            plugin.lookup = Some(lookup);
        }
    }
    let plugin = Arc::new(plugin);
    if let Some(address) = args.admin_address {
        let bound = admin::start(address, Arc::clone(&plugin)).map_err(|e| e.to_string())?;
        tracing::info!(address = %bound, "admin server");
    }
    let result = around.block_on(async {
        let stop = stop_signal(Arc::clone(&plugin))?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), driver = plugin.driver, node = plugin.node_id,
            endpoint = %path.display(), "serving"
        );
        // The kubelet calls the CSI socket as soon as it finds the other, so that one comes second, and goes first.
        let registering = match &plugin.registration {
            Some(registration) => Some(registration.start().map_err(|e| format!("no registration: {e}"))?),
            None => None,
        };
        let (volumes, known) = tokio::sync::watch::channel(Arc::default());
        let healing = around.spawn(heal::watch(Arc::clone(&plugin), volumes, events.clone()));
        let comparing = containers::watch::watch(Arc::clone(&plugin), known.clone(), probe_interval * PROBES_A_LOOK);
        let comparing = around.spawn(comparing);
        let looking = around.spawn(vitals::watch(Arc::clone(&plugin), known, events, probe_interval));
        let tidying = around.spawn(tidy());
        let telling = Arc::clone(&plugin);
        let stop = async move {
            stop.await;
            drop(registering);
            healing.abort();
            looking.abort();
            comparing.abort();
            tidying.abort();
            say_what_stays(&telling).await;
        };
        serve(Arc::clone(&plugin), bound, stop, drain).await
    });
    // A hung mount thread must not hold up the end of the process.
    around.shutdown_background();
    tracing::info!("stopped");
    result
}

/// Gives free memory back now and then, for ever.
async fn tidy() {
    loop {
        tokio::time::sleep(TIDY).await;
        heap::give_back();
    }
}

/// A thread for what goes on around the calls, which have their own ([`Lead`]): a list of pods that is read, or a TLS handshake
/// with the API server, isn't to be done where a call waits, nor in the kubelet's mount namespace.
fn around() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("around")
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()
}

/// As many descriptors as this process may have. Where the soft limit is 1024, as for services of systemd, the
/// connections of a node full of pods that start at once would need them all; we use no select(2), for which it is low.
fn raise_descriptors() {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    if let Err(error) = limits.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard)) {
        tracing::warn!(%error, "the limit of open descriptors stays as it is");
    }
}

/// For whoever uninstalls while volumes are in use: nothing is taken from the pods, but they need a plugin to end.
async fn say_what_stays(plugin: &Plugin) {
    match plugin.count_held().await {
        Some(held) if held.published + held.staged > 0 => tracing::warn!(
            published = held.published,
            staged = held.staged,
            "volumes stay mounted: their pods keep them, and can end once a plugin of this name is back"
        ),
        _ => {}
    }
}

async fn api_client() -> Result<kube::Client, String> {
    client_of(kube::Config::infer().await.map_err(|e| e.to_string())?)
}

/// A client of the API server. It fails at once: the watch has a back-off of its own, and so has the kubelet; a client
/// that retries for half a minute would only hide why nothing comes.
///
/// # Errors
/// What the configuration is not good for.
pub fn client_of(mut config: kube::Config) -> Result<kube::Client, String> {
    config.default_retry = false;
    kube::Client::try_from(config).map_err(|e| e.to_string())
}

/// Ends at SIGTERM or SIGINT; SIGHUP reads the allow-list anew.
fn stop_signal(plugin: Arc<Plugin>) -> Result<impl Future<Output = ()> + Send, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|e| format!("signals cannot be received: {e}"));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => plugin.store.reload(),
            }
        }
        tracing::info!("stopping");
    })
}
