//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tools::check::CheckArgs;
use tools::explain::ExplainArgs;
use tools::inspect::InspectArgs;
use tools::try_out::{RoleArgs, TryArgs};
use tools::volumes::VolumesArgs;
use tools::watch::WatchArgs;

use crate::serve::ServeArgs;
use crate::telemetry::LogFormat;

/// Kubernetes CSI node plugin: directories of the node in pods, with exactly the mount propagation asked for.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    /// What to log: error, warn, info, debug, or a filter.
    #[arg(long, global = true, env = "HOSTMOUNT_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// How to log.
    #[arg(long, global = true, env = "HOSTMOUNT_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `hostmount` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See mount propagation work: the plugin, a kubelet and containers in namespaces of their own, without root.
    Try(TryArgs),
    /// One of the processes that `try` is made of.
    #[command(hide = true)]
    TryRole(RoleArgs),
    /// Run the node plugin: serve CSI to the kubelet.
    Serve(ServeArgs),
    /// Look whether volumes would work on this node: kernel, kubelet, and the directories of the allow-list.
    Check(CheckArgs),
    /// See the volumes that are published on this node, as with `docker volume`.
    Volumes(VolumesArgs),
    /// See every mount namespace of the machine, and how mounts pass from one to another.
    Inspect(InspectArgs),
    /// Say who will see a mount that is made here, and what keeps it from the others.
    Explain(ExplainArgs),
    /// See mounts and unmounts as they happen in every mount namespace, each with the way on which it came there.
    Watch(WatchArgs),
    /// Check an allow-list and print all its faults.
    Validate {
        /// The file.
        file: PathBuf,
        /// The kubelet's --root-dir, which no entry may contain or lie in.
        #[arg(long, env = "HOSTMOUNT_KUBELET_DIR", default_value = "/var/lib/kubelet")]
        kubelet_dir: String,
    },
    /// Print the JSON Schema of the allow-list.
    Schema,
}
