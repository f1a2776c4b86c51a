//! The composition root: builds the plugin, binds its socket, serves until told to stop, drains.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use allowlist::names::{AbsPath, check_driver};
use engine::site::Site;
use frontend::csi::admission::Admission;
use frontend::csi::plugin::{Plugin, UnderWay};
use frontend::csi::server;
use frontend::registration::Registration;
use frontend::{admin, socket};
use kernel::calls::Calls;
use kernel::heap;
use kernel::namespace::Proc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pods::events::Events;
use pods::lookup::Lookup;
use service::config_store::ConfigStore;
use service::metrics::Metrics;
use service::volume_count::Counter;
use service::{Namespace, Service, containers, heal, source_health};
use tokio::runtime::{Builder, Runtime};
use workers::Threads;
use workers::gate::Gate;

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
/// What is wrong with an argument, or what the system refuses.
pub fn service(args: &ServeArgs) -> Result<Service, String> {
    check_driver(&args.driver_name)?;
    if args.node_id.is_empty() || args.node_id.len() > 256 {
        return Err("--node-id must have 1 to 256 bytes (CSI, NodeGetInfoResponse.node_id)".to_owned());
    }
    let kubelet_dir =
        AbsPath::parse(&args.kubelet_dir).map_err(|e| format!("--kubelet-dir {:?} {e}", args.kubelet_dir))?;
    let proc = Proc::new().map_err(|e| format!("/proc cannot be opened: {e}"))?;
    let calls = Calls::probe();
    tracing::info!(%calls, "system calls");
    let store = ConfigStore::start(&args.config, kubelet_dir.clone())
        .map_err(|e| format!("the allow-list cannot be watched: {e}"))?;
    let site = Site { proc: Arc::new(proc), calls, kubelet_dir };
    Ok(Service {
        lookup: None,
        metrics: Arc::new(Metrics::new(&args.driver_name)),
        counter: Arc::new(Counter::new(&args.driver_name)),
        threads: Threads::new(site, &args.driver_name),
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

/// A service as a plugin of the kubelet's.
#[must_use]
pub fn plugin(args: &ServeArgs, service: Service) -> Plugin {
    let registration = args.registration_dir.as_deref().map(|directory| {
        let default = || format!("{}/plugins/{}/csi.sock", service.threads.site().kubelet_dir, args.driver_name);
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
/// Why it can't start, or what the transport says.
pub fn run(args: &ServeArgs) -> Result<(), String> {
    heap::keep_little();
    let drain = seconds("drain-timeout", args.drain_timeout)?;
    let probe_interval = seconds("probe-interval", args.probe_interval)?;
    let mut service = service(args)?;
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
                Arc::new(Lookup::new(client, &args.driver_name, &args.node_id, deadline, service.metrics.clone()));
            around.spawn(Arc::clone(&lookup).watch());
            service.lookup = Some(lookup);
        }
    }
    let plugin = Arc::new(plugin(args, service));
    let service = &plugin.service;
    if let Some(address) = args.admin_address {
        let bound = admin::start(address, Arc::clone(&plugin)).map_err(|e| e.to_string())?;
        tracing::info!(address = %bound, "admin server");
    }
    let result = around.block_on(async {
        let stop = stop_signal(Arc::clone(service))?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"), driver = service.driver, node = service.node_id,
            endpoint = %path.display(), "serving"
        );
        // The kubelet calls the CSI socket as soon as it finds the other, so that one comes second, and goes first.
        let registering = match &plugin.registration {
            Some(registration) => Some(registration.start().map_err(|e| format!("no registration: {e}"))?),
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
        server::serve(Arc::clone(&plugin), bound, stop, drain).await
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
fn stop_signal(service: Arc<Service>) -> Result<impl Future<Output = ()> + Send, String> {
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
                _ = hangup.recv() => service.store.reload(),
            }
        }
        tracing::info!("stopping");
    })
}
