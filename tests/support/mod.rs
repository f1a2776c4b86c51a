//! A node of its own for each test: user and mount namespace, kubelet directory, the real plugin on a real socket.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod container;
pub(crate) mod disk;
pub(crate) mod fuse;
pub(crate) mod seccomp;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use plan::record::{PathMounts, Record};
use seccomp::Refusal;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use wire::csi;
use wire::csi::identity_client::IdentityClient;
use wire::csi::node_client::NodeClient;

const INSIDE: &str = "HOSTMOUNT_TEST_INSIDE";

/// Runs a test's body in a user and mount namespace of its own, by running this very test again inside one:
/// unshare(2) takes no process that has threads, and a test is a thread.
pub(crate) fn in_namespace(body: impl FnOnce()) {
    in_namespaces(&["--user", "--map-root-user", "--mount"], body);
}

/// The same in a mount namespace alone, for what the kernel leaves to the real root. Skipped, with the reason printed,
/// for anybody else.
pub(crate) fn in_namespace_as_root(body: impl FnOnce()) {
    let mapped = fs::read_to_string("/proc/self/uid_map").unwrap();
    if !nix::unistd::geteuid().is_root() || !mapped.trim().ends_with("4294967295") {
        println!("SKIPPED: it needs root, in the first user namespace");
        return;
    }
    in_namespaces(&["--mount"], body);
}

fn in_namespaces(which: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let name = std::thread::current().name().expect("a test's thread has its name").to_owned();
    let output = Command::new("unshare")
        .args(which)
        .args(["--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args([&name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "in its namespace:\n{text}");
    print!("{text}");
}

/// A node with a running plugin. The test plays the kubelet.
pub(crate) struct Node {
    pub(crate) root: PathBuf,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) plugin: Child,
    args: Vec<String>,
    env: Vec<(String, String)>,
    refusal: Refusal,
}

pub(crate) const ENTRIES: &str = "
  - {name: data, path: ROOT/data, propagation: Bidirectional, subPaths: true, allow: [{namespaces: ['*']}]}
  - {name: team, path: ROOT/team, allow: [{namespaces: [ml]}]}
  - {name: flat, path: ROOT/flat, propagation: HostToContainer, readOnly: true, allow: [{namespaces: ['*']}]}
  - {name: warned, path: ROOT/warned, propagation: HostToContainer, readOnly: true, readOnlyPropagation: warn, allow: [{namespaces: ['*']}]}
  - {name: gone, path: ROOT/gone, allow: [{namespaces: ['*']}]}
  - {name: file, path: ROOT/file, allow: [{namespaces: ['*']}]}
  - {name: made, path: ROOT/made/deep, missing: {create: {mode: '0711'}}, propagation: Bidirectional, allow: [{namespaces: ['*']}]}
  - {name: private, path: ROOT/private, propagation: Bidirectional, allow: [{namespaces: ['*']}]}
  - {name: unbindable, path: ROOT/unbindable, allow: [{namespaces: ['*']}]}
  - {name: link, path: ROOT/link, allow: [{namespaces: ['*']}]}
";

pub(crate) fn tmpfs(at: &Path) {
    fs::create_dir_all(at).unwrap();
    mount(Some("t"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

pub(crate) fn change(at: &Path, flags: MsFlags) {
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).unwrap();
}

pub(crate) fn unmount(at: &Path) {
    umount2(at, MntFlags::MNT_DETACH).unwrap();
}

/// Every mount of this namespace: where, what, and how it propagates (with group numbers left out).
pub(crate) fn table() -> BTreeSet<String> {
    let table = mounts::mountinfo::parse(&fs::read("/proc/self/mountinfo").unwrap());
    table
        .mounts
        .iter()
        .map(|m| {
            format!(
                "{} {}:{} {:?} {} {}{}{}",
                m.id,
                m.device.0,
                m.device.1,
                m.root,
                m.mount_point.display(),
                u8::from(m.propagation.is_shared()),
                u8::from(m.propagation.is_slave()),
                m.options
            )
        })
        .collect()
}

/// Every mount point beneath a directory, in order, as often as something is mounted there.
pub(crate) fn mounts_beneath(at: &Path) -> Vec<PathBuf> {
    let table = mounts::mountinfo::parse(&fs::read("/proc/self/mountinfo").unwrap());
    let mut found: Vec<_> =
        table.mounts.into_iter().map(|m| m.mount_point).filter(|p| p.starts_with(at) && p != at).collect();
    found.sort();
    found
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(args: &[&str]) -> Self {
        Self::start_with_env(args, &[])
    }

    pub(crate) fn start_with_env(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_under(&Refusal::of_environment(), args, env)
    }

    /// With a plugin to which these calls are refused.
    pub(crate) fn start_refusing(refusal: &Refusal, args: &[&str]) -> Self {
        Self::start_under(refusal, args, &[])
    }

    fn start_under(refusal: &Refusal, args: &[&str], env: &[(&str, &str)]) -> Self {
        let root = PathBuf::from("/mnt");
        tmpfs(&root);
        disk::instead_of_tmpfs(&root);
        change(&root, MsFlags::MS_SHARED | MsFlags::MS_REC);
        for name in [
            "data/sub",
            "team",
            "flat/x",
            "warned",
            "private",
            "unbindable",
            "kubelet/pods",
            "kubelet/plugins",
            "kubelet/plugins_registry",
            "secret",
        ] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["data", "data/sub", "flat", "secret"] {
            fs::write(root.join(name).join("marker"), name).unwrap();
        }
        fs::write(root.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(root.join("secret"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(root.join("secret"), root.join("data/link")).unwrap();
        tmpfs(&root.join("private"));
        change(&root.join("private"), MsFlags::MS_PRIVATE);
        tmpfs(&root.join("unbindable"));
        change(&root.join("unbindable"), MsFlags::MS_UNBINDABLE);
        fs::write(root.join("entries.yaml"), format!("entries:{}", ENTRIES.replace("ROOT", "/mnt"))).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let args: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        let env: Vec<_> = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let refusal = refusal.clone();
        let plugin = Self::spawn(&root, &args, &env, &refusal);
        let node = Self { root, runtime, plugin, args, env, refusal };
        node.until_ready(true);
        // A plugin that is told to say nothing of it doesn't.
        if !node.args.iter().any(|arg| arg == "--log-level=error") {
            let log = node.log();
            let line = log.lines().find(|line| line.contains("system calls")).expect("its system calls");
            println!("{}", &line[line.find("system calls").unwrap()..]);
            node.refusal.is_told_by(line);
        }
        node
    }

    fn spawn(root: &Path, args: &[String], env: &[(String, String)], refusal: &Refusal) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(root.join("plugin.log")).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "slave", env!("CARGO_BIN_EXE_hostmount"), "serve", "--node-id", "n1"])
            .arg(format!("--endpoint=unix://{}", root.join("csi.sock").display()))
            .arg(format!("--config={}", root.join("entries.yaml").display()))
            .arg(format!("--kubelet-dir={}", root.join("kubelet").display()))
            .args(args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        refusal.put_on(&mut command);
        command.spawn().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root.join("plugin.log")).unwrap()
    }

    /// SIGKILL, then a new one, which the kubelet registers.
    pub(crate) fn kill_and_restart(&mut self) {
        self.plugin.kill().unwrap();
        self.plugin.wait().unwrap();
        self.plugin = Self::spawn(&self.root, &self.args, &self.env, &self.refusal);
        self.until_ready(true);
        let mut client = self.client();
        self.runtime.block_on(client.node_get_info(csi::NodeGetInfoRequest {})).unwrap();
    }

    /// The same with an allow-list that can't be used.
    pub(crate) fn kill_and_restart_unready(&mut self) {
        self.plugin.kill().unwrap();
        self.plugin.wait().unwrap();
        self.plugin = Self::spawn(&self.root, &self.args, &self.env, &self.refusal);
        self.until_ready(false);
    }

    /// What the admin server answers to GET, started by `--admin-address 127.0.0.1:0`: status code and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let log = self.log();
        let started = log.lines().rfind(|line| line.contains("admin server")).expect("an admin server");
        let address = started.split("address=").nth(1).unwrap().trim();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The value of a metric, by its name and labels as they are printed; 0 if it isn't there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        found.unwrap_or(0.0)
    }

    pub(crate) fn channel(&self) -> Channel {
        let _inside = self.runtime.enter();
        Endpoint::from_shared(format!("unix://{}", self.root.join("csi.sock").display())).unwrap().connect_lazy()
    }

    pub(crate) fn ready(&self) -> Option<bool> {
        let channel = self.channel();
        self.runtime.block_on(IdentityClient::new(channel).probe(csi::ProbeRequest {})).ok()?.into_inner().ready
    }

    pub(crate) fn until_ready(&self, ready: bool) {
        let start = Instant::now();
        while self.ready() != Some(ready) {
            assert!(start.elapsed() < Duration::from_secs(10), "not ready: {ready}; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A new client for each call, as the kubelet does it.
    pub(crate) fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel())
    }

    pub(crate) fn target(&self, pod: &str) -> PathBuf {
        self.root.join(format!("kubelet/pods/{pod}/volumes/kubernetes.io~csi/v/mount"))
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("kubelet/plugins/kubernetes.io/csi/csi.hostmount.dev/h/globalmount")
    }

    /// An inline volume for a pod of namespace `ml`; its target's parent is made, as the kubelet does.
    pub(crate) fn inline(&self, pod: &str, attributes: &[(&str, &str)]) -> csi::NodePublishVolumeRequest {
        let target = self.target(pod);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let mut context = self.pod_info(pod, "ml");
        context.insert("csi.storage.k8s.io/ephemeral".into(), "true".into());
        context.extend(attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        csi::NodePublishVolumeRequest {
            volume_id: format!("csi-{pod}"),
            target_path: target.to_str().unwrap().to_owned(),
            volume_capability: capability(7),
            volume_context: context,
            ..Default::default()
        }
    }

    pub(crate) fn pod_info(&self, pod: &str, namespace: &str) -> HashMap<String, String> {
        let key = |k: &str| format!("csi.storage.k8s.io/{k}");
        HashMap::from([
            (key("pod.name"), format!("pod-{pod}")),
            (key("pod.namespace"), namespace.to_owned()),
            (key("pod.uid"), pod.to_owned()),
            (key("serviceAccount.name"), "default".to_owned()),
        ])
    }

    /// A persistent volume, staged.
    pub(crate) fn persistent(
        &self,
        pod: &str,
        handle: &str,
        attributes: &[(&str, &str)],
    ) -> csi::NodePublishVolumeRequest {
        let mut request = self.inline(pod, attributes);
        request.volume_context.insert("csi.storage.k8s.io/ephemeral".into(), "false".into());
        request.volume_id = handle.to_owned();
        request.staging_target_path = self.staging().to_str().unwrap().to_owned();
        request
    }

    pub(crate) fn publish(&self, request: &csi::NodePublishVolumeRequest) -> Result<(), Status> {
        let mut client = self.client();
        let answer = self.runtime.block_on(client.node_publish_volume(request.clone())).map(drop);
        let attributes = request.volume_context.iter().filter(|(key, _)| !key.starts_with("csi.storage.k8s.io/"));
        let given: Vec<_> = attributes.map(|(_, value)| value.as_str()).chain([request.volume_id.as_str()]).collect();
        self.fit_for_events(answer, &given)
    }

    /// What a status says goes into the pod's events: no path of the node may be in it, but what the volume's author has
    /// `given`. That is so of every refusal in every test.
    #[track_caller]
    fn fit_for_events<T>(&self, answer: Result<T, Status>, given: &[&str]) -> Result<T, Status> {
        if let Err(status) = &answer {
            let given = given.iter().filter(|given| !given.is_empty());
            let rest = given.fold(status.message().to_owned(), |rest, given| rest.replace(given, "(given)"));
            let root = self.root.to_str().unwrap();
            assert!(
                !rest.contains(root) && !rest.contains("/kubelet"),
                "a path of the node for a pod's event: {status:?}"
            );
        }
        answer
    }

    /// The log line that a status refers the administrator to must have these words.
    #[track_caller]
    pub(crate) fn logged(&self, status: &Status, words: &[&str]) {
        let reference = status.message().split("reference \"").nth(1).and_then(|rest| rest.split('"').next());
        let reference = format!("reference=\"{}\"", reference.expect("a reference"));
        let log = self.log();
        let line = log.lines().rfind(|line| line.contains(&reference)).expect("a line in the log");
        for word in words {
            assert!(line.contains(word), "{word:?} is not in: {line}");
        }
    }

    /// Publishes, and waits until the plugin has noted what is mounted on the way to the source: before it has, healing
    /// gives the volume nothing of another mount.
    pub(crate) fn publish_noted(&self, request: &csi::NodePublishVolumeRequest) {
        self.publish(request).unwrap();
        eventually("the way to the source is noted", || self.noted(request).is_some());
    }

    /// What the plugin has noted of the way to a volume's source.
    pub(crate) fn noted(&self, request: &csi::NodePublishVolumeRequest) -> Option<Arc<PathMounts>> {
        let parent = fs::File::open(Path::new(&request.target_path).parent().unwrap()).unwrap();
        // As the mount threads have it: the calls for attributes know descriptors by their numbers there.
        std::env::set_current_dir("/proc/self/fd").unwrap();
        let note = ::kernel::path::attribute(&parent, c"user.hostmount.volume", 1 << 16).unwrap()?;
        Record::parse(&note)?.path_mounts
    }

    pub(crate) fn unpublish(&self, request: &csi::NodePublishVolumeRequest) -> Result<(), Status> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: request.volume_id.clone(),
            target_path: request.target_path.clone(),
        };
        let mut client = self.client();
        let answer = self.runtime.block_on(client.node_unpublish_volume(request)).map(drop);
        self.fit_for_events(answer, &[])
    }

    /// As the kubelet does: it comes again while healing still has the volume.
    pub(crate) fn unpublish_again(&self, request: &csi::NodePublishVolumeRequest) {
        eventually("the volume is unpublished", || match self.unpublish(request) {
            Ok(()) => true,
            Err(status) if status.code() == Code::Aborted => false,
            Err(status) => panic!("{status}"),
        });
    }

    pub(crate) fn stage(&self, handle: &str) -> Result<(), Status> {
        fs::create_dir_all(self.staging()).unwrap();
        let request = csi::NodeStageVolumeRequest {
            volume_id: handle.to_owned(),
            staging_target_path: self.staging().to_str().unwrap().to_owned(),
            volume_capability: capability(7),
            ..Default::default()
        };
        let mut client = self.client();
        let answer = self.runtime.block_on(client.node_stage_volume(request)).map(drop);
        self.fit_for_events(answer, &[handle])
    }

    pub(crate) fn unstage(&self, handle: &str) -> Result<(), Status> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: handle.to_owned(),
            staging_target_path: self.staging().to_str().unwrap().to_owned(),
        };
        let mut client = self.client();
        let answer = self.runtime.block_on(client.node_unstage_volume(request)).map(drop);
        self.fit_for_events(answer, &[handle])
    }

    pub(crate) fn stats(&self, id: &str, path: &str) -> Result<csi::NodeGetVolumeStatsResponse, Status> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: id.to_owned(),
            volume_path: path.to_owned(),
            ..Default::default()
        };
        let mut client = self.client();
        let answer = self.runtime.block_on(client.node_get_volume_stats(request)).map(tonic::Response::into_inner);
        self.fit_for_events(answer, &[id])
    }

    /// What is wrong with a published volume, as (status, reason).
    pub(crate) fn health(&self, request: &csi::NodePublishVolumeRequest) -> Result<Option<(i32, String)>, Status> {
        let request = csi::NodeGetVolumeHealthRequest {
            volume_id: request.volume_id.clone(),
            volume_publish_path: request.target_path.clone(),
            ..Default::default()
        };
        let mut client = self.client();
        let answer = self.runtime.block_on(client.node_get_volume_health(request));
        let answer = self.fit_for_events(answer, &[])?.into_inner();
        let found = answer.volume_health.unwrap().health_statuses.pop();
        // Its text is for pods as well.
        let text = found.as_ref().map_or("", |found| found.message.as_str());
        assert!(!text.contains(self.root.to_str().unwrap()), "{text}");
        Ok(found.map(|s| (s.status, s.reason)))
    }

    /// The request must be refused with this code and a message that has these words, and change nothing.
    pub(crate) fn refused(&self, request: &csi::NodePublishVolumeRequest, code: Code, words: &[&str]) -> Status {
        let before = (table(), Path::new(&request.target_path).exists());
        let status = self.publish(request).expect_err("it should be refused");
        assert_eq!(status.code(), code, "{status:?}");
        for word in words {
            assert!(status.message().contains(word), "{word:?} is not in: {}", status.message());
        }
        assert_eq!((table(), Path::new(&request.target_path).exists()), before, "a refused call changed something");
        status
    }
}

/// Waits until it is so, for as long as a slow machine may need.
#[track_caller]
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn capability(mode: i32) -> Option<csi::VolumeCapability> {
    Some(csi::VolumeCapability {
        access_mode: Some(csi::volume_capability::AccessMode { mode }),
        access_type: Some(csi::volume_capability::AccessType::Mount(csi::volume_capability::MountVolume::default())),
    })
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.plugin.kill();
        let _ = self.plugin.wait();
        if std::thread::panicking() {
            eprintln!("the plugin's log:\n{}", self.log());
        }
    }
}
