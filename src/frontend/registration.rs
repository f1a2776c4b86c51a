//! Registration with the kubelet, through a socket in its directory `plugins_registry`.
//!
//! The kubelet is the client. It sees the socket appear, asks for the plugin's data, calls the CSI socket, and reports
//! whether it has registered the plugin. If one of these fails, it tries again after a back-off. That doubles up to two
//! minutes, and is kept *by the path of the socket* (pkg/kubelet/pluginmanager/operationexecutor). A socket left behind
//! by a reboot may have used it up before the plugin has even started. So if the kubelet doesn't call a socket, it is
//! replaced by one of another name, which starts without back-off. A socket that works keeps its name: with two names
//! at once, the end of the old one could deregister the new one.
//!
//! The `@` in the name is for HTTP/2. The kubelet's gRPC client sends the path of this socket, with its slashes as
//! `%2F`, as the `:authority` of its requests. Our server (h2, through http::uri::Authority) refuses a percent sign in
//! a host as a protocol error. It accepts one in a user name, which is the part before an `@`.
//!
//! Registration has its own thread and runtime, where examining a directory may block.

use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use service::health::{Effect, Finding, Part};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use wire::registration::registration_server::{self, RegistrationServer};
use wire::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

use crate::socket::{self, Socket};

/// Interval of the checks that the socket exists. A check costs 2 µs and, unlike an inotify watch, misses nothing.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long the kubelet has to call the first socket. It looks every second, and allows one second for each of its
/// calls.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest time that a socket is kept without a call. The time doubles with each socket up to this limit, because
/// the kubelet may not be running.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The state of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// There is no socket, for this reason.
    NoSocket(String),
    /// The kubelet has not called yet.
    Waiting,
    /// The kubelet has registered the plugin.
    Registered,
    /// The kubelet refused, for this reason.
    Refused(String),
}

/// Why the kubelet sends no volumes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRegistered {
    /// It has not called yet.
    #[error("the kubelet has not registered the plugin yet")]
    Waiting,
    /// There is no socket, for this reason.
    #[error("the kubelet cannot find the plugin: {0}")]
    NoSocket(String),
    /// The kubelet refused, for this reason.
    #[error("the kubelet refused to register the plugin: {0}")]
    Refused(String),
}

impl State {
    /// Whether the kubelet can send volumes.
    ///
    /// # Errors
    /// [`NotRegistered`].
    pub fn ready(&self) -> Result<(), NotRegistered> {
        match self {
            Self::Registered => Ok(()),
            Self::Waiting => Err(NotRegistered::Waiting),
            Self::NoSocket(why) => Err(NotRegistered::NoSocket(why.clone())),
            Self::Refused(why) => Err(NotRegistered::Refused(why.clone())),
        }
    }
}

#[derive(Debug)]
struct Progress {
    state: State,
    /// When the kubelet last called, or the socket was created.
    since: Instant,
    registered: u64,
    refused: u64,
}

/// The registration of a plugin.
#[derive(Debug)]
pub struct Registration {
    info: PluginInfo,
    directory: PathBuf,
    progress: Mutex<Progress>,
}

/// The number in the name of a driver's registration socket. None for other names.
pub fn socket_number(driver: &str, name: &str) -> Option<u32> {
    let middle = name.strip_prefix(driver)?.strip_prefix("@reg")?.strip_suffix(".sock")?;
    match middle.strip_prefix('-') {
        Some(number) => number.parse().ok(),
        None => middle.is_empty().then_some(0),
    }
}

/// Why a socket is no longer served.
enum End {
    Vanished,
    Unanswered,
    Stopped,
}

impl Registration {
    /// Current problems.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Err(why) = self.state().ready() {
            let detail = why.to_string();
            found.push(Finding { part: Part::Registration, effect: Effect::NotReady, detail });
        }
        if self.directory_deleted() {
            let detail = "it was deleted; a restart finds the one that is there now".to_owned();
            found.push(Finding { part: Part::RegistrationDirectory, effect: Effect::Failed, detail });
        }
        found
    }

    /// A registration of `driver`, whose CSI socket the kubelet finds at `endpoint`, by a socket in `directory`.
    #[must_use]
    pub fn new(driver: &str, endpoint: &str, directory: &Path) -> Self {
        let info = PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: driver.to_owned(),
            endpoint: endpoint.to_owned(),
            supported_versions: vec!["1.0.0".to_owned()],
        };
        let progress = Progress { state: State::Waiting, since: Instant::now(), registered: 0, refused: 0 };
        Self { info, directory: directory.to_owned(), progress: Mutex::new(progress) }
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> State {
        self.with(|progress| progress.state.clone())
    }

    /// How often the kubelet has registered and refused the plugin.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        self.with(|progress| (progress.registered, progress.refused))
    }

    /// Whether the directory was deleted, so that the kubelet can't find sockets in it. In a container only a restart
    /// helps: its hostPath volume refers to the deleted directory until then.
    #[must_use]
    pub fn directory_deleted(&self) -> bool {
        std::fs::metadata(&self.directory).is_ok_and(|found| found.st_nlink() == 0)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Progress) -> T) -> T {
        look(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, state: State) {
        self.with(|progress| {
            progress.state = state;
            progress.since = Instant::now();
        });
    }

    fn path(&self, number: u32) -> PathBuf {
        let name = &self.info.name;
        let file = if number == 0 { format!("{name}@reg.sock") } else { format!("{name}@reg-{number}.sock") };
        self.directory.join(file)
    }

    /// The number of the newest socket that an earlier process has left. Older ones are removed. Its name is reused,
    /// because the kubelet may have a registration under it.
    fn left_behind(&self) -> u32 {
        let mut found: Option<(std::time::SystemTime, u32)> = None;
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| socket_number(&self.info.name, name));
            let made = entry.metadata().and_then(|m| m.modified());
            let (Some(number), Ok(made)) = (number, made) else { continue };
            if let Some((_, older)) = found.filter(|(when, _)| *when <= made) {
                socket::remove_stale(&self.path(older));
            }
            match found {
                Some((when, _)) if when > made => socket::remove_stale(&self.path(number)),
                _ => found = Some((made, number)),
            }
        }
        found.map_or(0, |(_, number)| number)
    }

    /// Creates the socket, recreates it when needed until `stop`, and then removes it.
    async fn keep(self: &Arc<Self>, stop: CancellationToken) {
        let mut number = self.left_behind();
        let mut wait = FIRST_WAIT;
        loop {
            let path = self.path(number);
            match socket::bind(&path) {
                Ok((listener, socket)) => {
                    self.set(State::Waiting);
                    tracing::info!(path = %path.display(), "registration socket is up");
                    match self.present(listener, &socket, wait, &stop).await {
                        End::Stopped => return,
                        End::Vanished => {
                            tracing::warn!(path = %path.display(), "registration socket vanished; making it anew");
                        }
                        End::Unanswered => {
                            let why = self.state().ready().err().map_or_else(String::new, |why| why.to_string());
                            number = number.wrapping_add(1);
                            wait = (wait * 2).min(LONGEST_WAIT);
                            tracing::warn!(why, "not registered; trying again with a socket of another name");
                        }
                    }
                }
                Err(error) => {
                    if !matches!(self.state(), State::NoSocket(_)) {
                        tracing::error!(%error, "no registration socket; trying again");
                    }
                    self.set(State::NoSocket(error.to_string()));
                    tokio::select! {
                        () = tokio::time::sleep(CHECK_EVERY) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
            if self.state() == State::Registered {
                wait = FIRST_WAIT;
            }
        }
    }

    /// Serves a socket while it exists and the kubelet calls.
    async fn present(
        self: &Arc<Self>,
        listener: UnixListener,
        socket: &Socket,
        wait: Duration,
        stop: &CancellationToken,
    ) -> End {
        let listener = match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the registration socket cannot be served");
                return End::Unanswered;
            }
        };
        let service = RegistrationServer::new(Service(Arc::clone(self)));
        let serving = Server::builder().serve_with_incoming(service, UnixListenerStream::new(listener));
        let looking = async {
            loop {
                tokio::time::sleep(CHECK_EVERY).await;
                if !socket.is_there() {
                    return End::Vanished;
                }
                let overdue = |p: &mut Progress| p.state != State::Registered && p.since.elapsed() >= wait;
                if self.with(overdue) {
                    return End::Unanswered;
                }
            }
        };
        tokio::select! {
            ended = serving => {
                if let Err(error) = ended {
                    tracing::error!(%error, "serving the registration socket ended");
                }
                End::Vanished
            }
            end = looking => end,
            () = stop.cancelled() => End::Stopped,
        }
    }

    /// Keeps the plugin registered until the returned value is dropped.
    ///
    /// # Errors
    /// The thread or its runtime can't be created.
    pub fn start(self: &Arc<Self>) -> std::io::Result<Registering> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let (this, stopped) = (Arc::clone(self), stop.clone());
        let thread = std::thread::Builder::new()
            .name("registration".to_owned())
            .stack_size(512 * 1024)
            .spawn(move || runtime.block_on(this.keep(stopped)))?;
        Ok(Registering { stop, thread: Some(thread) })
    }
}

/// A running registration. Dropping it removes the socket, and waits until that is done.
#[derive(Debug)]
pub struct Registering {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Registering {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // An error is a panic of the thread, which has been reported.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Service(Arc<Registration>);

#[tonic::async_trait]
impl registration_server::Registration for Service {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        // This call shows that the kubelet is alive. What follows may take it a while.
        self.0.with(|progress| progress.since = Instant::now());
        Ok(Response::new(self.0.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            tracing::info!("registered with the kubelet");
            self.0.with(|progress| progress.registered += 1);
            self.0.set(State::Registered);
        } else {
            tracing::error!(error, "the kubelet refused the registration");
            self.0.with(|progress| progress.refused += 1);
            self.0.set(State::Refused(error));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
