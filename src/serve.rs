//! The composition root: builds the plugin, binds its socket, serves until it is told to stop, drains.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use allowlist::names::{AbsPath, BadDriverName, BadName, check_driver};
use engine::site::Site;
use frontend::admin;
use frontend::csi::admission::Admission;
use frontend::csi::plugin::{Plugin, UnderWay};
use frontend::csi::server::{self, ServerError};
use frontend::kubelet::{self, VolData};
use frontend::registration::Registration;
use frontend::socket::{self, SocketError};
use kernel::calls::Calls;
use kernel::heap;
use kernel::namespace::Proc;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pods::client::ClientError;
use pods::events::Events;
use pods::lookup::Lookup;
use service::config_store::ConfigStore;
use service::metrics::Metrics;
use service::volume_count::Counter;
use service::{Namespace, Service, containers, heal, source_health};
use tokio::runtime::{Builder, Runtime};
use workers::Threads;
use workers::gate::Gate;

/// Interval at which free memory is returned to the kernel after a burst of calls. If nothing was freed, that costs a
/// few microseconds.
const TIDY: Duration = Duration::from_secs(5);

/// Containers are checked at every n-th health check of the sources, at most.
const PROBES_A_LOOK: u32 = 4;

/// The arguments of `hostmount serve`.
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

/// Why `hostmount serve` can't start, or has failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The driver's name is invalid.
    #[error(transparent)]
    Driver(#[from] BadDriverName),
    /// The node's name is empty or too long.
    #[error("--node-id must have 1 to 256 bytes (CSI, NodeGetInfoResponse.node_id)")]
    NodeId,
    /// The kubelet's directory is invalid.
    #[error("--kubelet-dir {path:?} {reason}")]
    KubeletDir {
        /// What was given.
        path: String,
        /// What is wrong with it.
        reason: BadName,
    },
    /// A number of seconds is not a valid time-out.
    #[error("--{option} {value} is no time: write seconds above 0")]
    Seconds {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: f64,
    },
    /// There is no `/proc`.
    #[error("/proc cannot be opened: {0}")]
    Proc(Errno),
    /// The allow-list can't be watched.
    #[error("the allow-list cannot be watched: {0}")]
    AllowList(io::Error),
    /// The socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// There are no threads.
    #[error("no threads: {0}")]
    Threads(io::Error),
    /// There is no API server.
    #[error("{option} needs an API server: {error}; run in a pod with a service account, or set KUBECONFIG")]
    ApiServer {
        /// The option that needs it.
        option: &'static str,
        /// Why there is none.
        error: ClientError,
    },
    /// The admin server can't start.
    #[error(transparent)]
    Admin(io::Error),
    /// Signals can't be received.
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    /// The registration with the kubelet can't start.
    #[error("no registration: {0}")]
    Registration(io::Error),
    /// Serving failed.
    #[error(transparent)]
    Server(#[from] ServerError),
}

fn seconds(option: &'static str, value: f64) -> Result<Duration, ServeError> {
    let time = Duration::try_from_secs_f64(value).ok().filter(|time| !time.is_zero());
    time.ok_or(ServeError::Seconds { option, value })
}

/// In whose mount namespace the mounts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum MountNamespaceOf {
    /// Of the process that calls: the kubelet.
    #[default]
    Caller,
    /// The plugin's own. The kubelet then sees the mounts only if its directory is shared with the plugin's.
    Own,
}

/// Builds the service from its arguments.
///
/// # Errors
/// [`ServeError`].
pub fn service(args: &ServeArgs) -> Result<Service, ServeError> {
    check_driver(&args.driver_name)?;
    if args.node_id.is_empty() || args.node_id.len() > 256 {
        return Err(ServeError::NodeId);
    }
    let kubelet_dir = AbsPath::parse(&args.kubelet_dir)
        .map_err(|reason| ServeError::KubeletDir { path: args.kubelet_dir.clone(), reason })?;
    let proc = Proc::new().map_err(ServeError::Proc)?;
    let calls = Calls::probe();
    tracing::info!(%calls, "system calls");
    let store = ConfigStore::start(&args.config, kubelet_dir.clone()).map_err(ServeError::AllowList)?;
    let layout = Arc::new(kubelet::layout(&kubelet_dir, &args.driver_name));
    let site = Site { proc: Arc::new(proc), calls, layout };
    let driver = args.driver_name.clone();
    Ok(Service {
        lookup: None,
        metrics: Arc::new(Metrics::new(&args.driver_name)),
        counter: Arc::new(Counter::new(move |target| VolData::is_of(target, &driver))),
        threads: Threads::new(site),
        driver: args.driver_name.clone(),
        node_id: args.node_id.clone(),
        deadline: seconds("call-timeout", args.call_timeout)?,
        namespace: match args.mount_namespace {
            MountNamespaceOf::Caller => Namespace::Callers,
            MountNamespaceOf::Own => Namespace::Own,
        },
        store,
        gate: Gate::default(),
        devices: RwLock::default(),
    })
}

/// Makes the service a plugin of the kubelet.
#[must_use]
pub fn plugin(args: &ServeArgs, service: Service) -> Plugin {
    let registration = args.registration_dir.as_deref().map(|directory| {
        let default = || format!("{}/plugins/{}/csi.sock", service.threads.site().layout.base, args.driver_name);
        let endpoint = args.kubelet_endpoint.clone().unwrap_or_else(default);
        Arc::new(Registration::new(&args.driver_name, &endpoint, directory))
    });
    Plugin {
        service: Arc::new(service),
        admission: Admission::new(args.max_connections),
        under_way: UnderWay::default(),
        registration,
    }
}

/// Runs `hostmount serve` to its end: SIGTERM or SIGINT.
///
/// # Errors
/// [`ServeError`].
pub fn run(args: &ServeArgs) -> Result<(), ServeError> {
    heap::keep_little();
    let drain = seconds("drain-timeout", args.drain_timeout)?;
    let probe_interval = seconds("probe-interval", args.probe_interval)?;
    let mut service = service(args)?;
    let path = socket::path_of(&args.endpoint)?;
    let bound = socket::bind(&path)?;
    raise_descriptors();
    let around = around().map_err(ServeError::Threads)?;
    let lookup = args.pod_lookup == PodLookup::Api;
    let mut events = None;
    if lookup || args.events {
        let option = if lookup { "--pod-lookup api" } else { "--events" };
        let client = around.block_on(pods::client::infer()).map_err(|error| ServeError::ApiServer { option, error })?;
        events = args.events.then(|| Events::new(client.clone(), &args.driver_name, &args.node_id));
        if lookup {
            let deadline = seconds("lookup-timeout", args.lookup_timeout)?;
            let _inside = around.enter();
            let lookup =
                Arc::new(Lookup::new(client, &args.driver_name, &args.node_id, deadline, service.metrics.clone()));
            around.spawn(Arc::clone(&lookup).watch());
            service.lookup = Some(lookup);
        }
    }
    let plugin = Arc::new(plugin(args, service));
    let service = &plugin.service;
    if let Some(address) = args.admin_address {
        let bound = admin::start(address, Arc::clone(&plugin)).map_err(ServeError::Admin)?;
        tracing::info!(address = %bound, "admin server");
    }
    let result = around.block_on(async {
        let stop = stop_signal(Arc::clone(service))?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), driver = service.driver, node = service.node_id,
            endpoint = %path.display(), "serving"
        );
        // The kubelet calls the CSI socket as soon as it finds the registration socket. So registration starts after
        // it, and ends before it.
        let registering = match &plugin.registration {
            Some(registration) => Some(registration.start().map_err(ServeError::Registration)?),
            None => None,
        };
        let (volumes, known) = tokio::sync::watch::channel(Arc::default());
        let healing = around.spawn(heal::watch(Arc::clone(service), volumes, events.clone()));
        let comparing = containers::watch::watch(Arc::clone(service), known.clone(), probe_interval * PROBES_A_LOOK);
        let comparing = around.spawn(comparing);
        let looking = around.spawn(source_health::watch(Arc::clone(service), known, events, probe_interval));
        let tidying = around.spawn(tidy());
        let telling = Arc::clone(service);
        let stop = async move {
            stop.await;
            drop(registering);
            healing.abort();
            looking.abort();
            comparing.abort();
            tidying.abort();
            say_what_stays(&telling).await;
        };
        Ok(server::serve(Arc::clone(&plugin), bound, stop, drain).await?)
    });
    // A hung mount thread must not hold up the end of the process.
    around.shutdown_background();
    tracing::info!("stopped");
    result
}

/// Returns free memory to the kernel periodically, forever.
async fn tidy() {
    loop {
        tokio::time::sleep(TIDY).await;
        heap::give_back();
    }
}

/// A runtime with one thread for background work. Calls have threads of their own ([`workers::CallRuntime`]). Parsing a
/// list of pods or a TLS handshake with the API server must not delay a call, and must not run in the kubelet's mount
/// namespace.
fn around() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("around")
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()
}

/// Raises the limit of open descriptors to the hard limit. systemd sets a soft limit of 1024. If all pods of a node
/// start at once, their connections would need all of it. The low limit exists for select(2), which we do not use.
fn raise_descriptors() {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    if let Err(error) = limits.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard)) {
        tracing::warn!(%error, "the limit of open descriptors stays as it is");
    }
}

/// Warns if volumes are still mounted, in case the plugin is being uninstalled: they stay mounted, and their pods need
/// a plugin to terminate.
async fn say_what_stays(service: &Service) {
    match service.count_held().await {
        Some(held) if held.published + held.staged > 0 => tracing::warn!(
            published = held.published,
            staged = held.staged,
            "volumes stay mounted: their pods keep them, and can end once a plugin of this name is back"
        ),
        _ => {}
    }
}

/// Completes at SIGTERM or SIGINT. SIGHUP reloads the allow-list.
fn stop_signal(service: Arc<Service>) -> Result<impl Future<Output = ()> + Send, ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(ServeError::Signals);
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => service.store.reload(),
            }
        }
        tracing::info!("stopping");
    })
}
