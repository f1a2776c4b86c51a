//! The command line. A peer's options follow its `--peer-endpoint`, so that several peers can be given.

use std::path::PathBuf;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use crate::Outcome;
use crate::driver::Peer;

/// What a publish costs: the bare system calls, hostmount, and other CSI drivers, in one run.
///
/// Without a peer no privilege is needed: all happens in user and mount namespaces of the bench's own.
///
/// With a peer: as root, start the driver in a mount namespace of its own (`unshare --mount --propagation private DRIVER
/// ...`), one for each driver, and give its socket. The bench enters that namespace, covers a directory there with a tmpfs
/// (--peer-target-dir) and publishes beneath it; hostmount runs in such a namespace too. The socket's path, and whatever the
/// driver needs, must not lie in the covered directory. Everything is unpublished at the end.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo bench --bench node --")]
pub(crate) struct Args {
    /// Numbers of volumes held [default: 0,1000,10000]. 0 is always among them.
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    pub(crate) held: Option<Vec<usize>>,
    /// How many rounds are measured [default: 40].
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// How many callers many are.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..=256))]
    pub(crate) callers: usize,
    /// Mounts that have nothing to do with the volumes, for the case that there are many [default: 10000]; 0 leaves it out.
    #[arg(long, value_name = "N")]
    pub(crate) crowd: Option<usize>,
    /// Mounts that each driver's namespace has besides what is measured. A node that runs pods has some hundreds, a namespace that
    /// was just made some dozens (0 leaves it at these). Drivers that read the mount table pay for them.
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub(crate) others: usize,
    /// Another driver's socket, unix:///PATH, whose driver runs in a mount namespace that isn't the machine's own.
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) peer_endpoint: Vec<String>,
    /// An entry of the volume context that the peer wants.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) peer_context: Vec<String>,
    /// A directory in the peer's mount namespace that is covered during the run [default: one that is likely not needed].
    #[arg(long, value_name = "DIR")]
    pub(crate) peer_target_dir: Vec<PathBuf>,
    /// Whether the peer's volumes are written in the pod (inline), or made by CreateVolume and staged (created) [default: inline].
    #[arg(long, value_name = "KIND", value_parser = ["inline", "created"])]
    pub(crate) peer_volumes: Vec<String>,
    /// Whether the peer's volumes are asked for read-only [default: false].
    #[arg(long, value_name = "BOOL")]
    pub(crate) peer_read_only: Vec<bool>,
    /// The most volumes that a peer shall hold: drivers that read the whole mount table take hours for more.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub(crate) peer_held_max: usize,
    /// How many seconds a driver may take to publish what it shall hold.
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub(crate) fill_seconds: u64,
    /// The hostmount to measure [default: the one that was built with the bench].
    #[arg(long, value_name = "FILE")]
    pub(crate) plugin: Option<PathBuf>,
    /// An archive of the image, whose size is told.
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Write the result for machines; its fields are told in benches/node/report.rs.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw the cost over the number of volumes held.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// A full run, as cargo bench asks for; without it only whether everything works.
    #[arg(long)]
    pub(crate) bench: bool,
}

impl Args {
    /// Reads the command line.
    pub(crate) fn read() -> Outcome<(Self, Vec<Peer>)> {
        let matches = Self::command().get_matches();
        let args = Self::from_arg_matches(&matches)?;
        let peers = args.peers(&matches)?;
        Ok((args, peers))
    }

    fn peers(&self, matches: &ArgMatches) -> Outcome<Vec<Peer>> {
        let places = |name: &str| matches.indices_of(name).into_iter().flatten();
        let first: Vec<usize> = places("peer_endpoint").collect();
        let mut peers = Vec::new();
        for endpoint in &self.peer_endpoint {
            let socket = endpoint.strip_prefix("unix://").filter(|path| path.starts_with('/'));
            let socket = socket.ok_or_else(|| format!("--peer-endpoint {endpoint:?} is no unix:///PATH"))?;
            peers.push(Peer { socket: socket.into(), ..Peer::default() });
        }
        // Whose option one at some place is: of the last peer before it.
        let whose = |place: usize| {
            let before = first.iter().filter(|&&endpoint| endpoint < place).count();
            before.checked_sub(1).ok_or("an option of a peer stands before any --peer-endpoint")
        };
        for (place, entry) in places("peer_context").zip(&self.peer_context) {
            let (key, value) = entry.split_once('=').ok_or("--peer-context is KEY=VALUE")?;
            peers[whose(place)?].context.insert(key.to_owned(), value.to_owned());
        }
        for (place, dir) in places("peer_target_dir").zip(&self.peer_target_dir) {
            peers[whose(place)?].dir = Some(dir.clone());
        }
        for (place, kind) in places("peer_volumes").zip(&self.peer_volumes) {
            peers[whose(place)?].create = kind == "created";
        }
        for (place, read_only) in places("peer_read_only").zip(&self.peer_read_only) {
            peers[whose(place)?].read_only = *read_only;
        }
        Ok(peers)
    }
}
